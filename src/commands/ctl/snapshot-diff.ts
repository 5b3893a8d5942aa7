/** `torus ctl block snapshot diff`: which parts of a volume changed between two snapshots, or since one. */
import { formatSize } from "../../base";
import { startClient, volumeArgs } from "../client";
import { leaf, metaArgs, UsageError } from "../cli";
import type { DeviceDifference } from "../data-plane";
import { type Column, outputArgs, outputStyle, renderList } from "../output";
import { withReadable, withSnapshot } from "./readable";
import { parseSnapshotName } from "./snapshot-making";

const columns: readonly Column<DeviceDifference>[] = [
  {
    name: "offsetBytes",
    title: "OFFSET",
    align: "right",
    value: (row) => row.offsetBytes,
    text: (row) => String(row.offsetBytes),
  },
  {
    name: "lengthBytes",
    title: "LENGTH",
    align: "right",
    value: (row) => row.lengthBytes,
    text: (row) => String(row.lengthBytes),
  },
  { name: "kind", title: "NOW", value: (row) => (row.hole ? "hole" : "data") },
];

export const diffCommand = leaf({
  name: "diff",
  description:
    "List the extents in which a volume or snapshot differs from an earlier snapshot; only maps are read, so data that was merely moved by cleaning is listed too",
  examples: [
    "torus ctl block snapshot diff data@monday data@tuesday",
    "torus ctl block snapshot diff data@monday --json",
  ],
  args: {
    from: { type: "positional", description: "VOLUME@SNAPSHOT, the earlier state", required: true },
    to: {
      type: "positional",
      description: "VOLUME@SNAPSHOT or VOLUME, the later state (default: the volume as it is now)",
      required: false,
    },
    ...outputArgs,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.from);
    const later = args.to ?? volume;
    if (later === "") throw new UsageError("Cannot compare with nothing: give VOLUME@SNAPSHOT or VOLUME");
    const style = outputStyle(args);
    const client = await startClient(args);
    try {
      const rows = await withReadable(client, later, (device) =>
        withSnapshot(client, volume, snapshot, (base) => Array.fromAsync(device.differences(base))),
      );
      process.stdout.write(renderList(columns, rows, style));
      const sum = (hole: boolean) =>
        rows.reduce((bytes, row) => bytes + (row.hole === hole ? row.lengthBytes : 0), 0);
      if (style.format === "table")
        console.error(
          `${rows.length} extents: ${formatSize(sum(false), style)} of data, ${formatSize(sum(true), style)} became holes`,
        );
    } finally {
      await client.close();
    }
  },
});
