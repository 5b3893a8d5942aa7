/** `torus ctl block ...`: what is in volumes. */
import { formatSize } from "../../base";
import { group, leaf, metaArgs, withMetadata } from "../cli";
import { outputArgs } from "../output";
import { dumpCommand } from "./dump";
import { exportDiffCommand } from "./export-diff";
import { importDiffCommand } from "./import-diff";
import { loadCommand } from "./load";
import { snapshotCommand } from "./snapshot";
import { parseSnapshotName } from "./snapshot-making";
import { volumeCreateCommand } from "./volume";

const cloneCommand = leaf({
  name: "clone",
  description:
    "Make a volume that starts as a snapshot is; instant, and it takes no space until it is written",
  examples: ["torus ctl block clone data@monday data-test"],
  args: {
    from: { type: "positional", description: "VOLUME@SNAPSHOT", required: true },
    name: { type: "positional", description: "Name of the new volume", required: true },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.from);
    await withMetadata(args, async (metadata) => {
      const made = await metadata.snapshots.clone(volume, snapshot, args.name);
      console.log(
        args.json
          ? JSON.stringify(made)
          : `Created volume ${made.name} of ${formatSize(made.sizeBytes)} from ${volume}@${snapshot}`,
      );
    });
  },
});

export const blockCommand = group("block", "Volumes' contents: create, dump, load, clone, snapshots", {
  create: volumeCreateCommand,
  dump: dumpCommand,
  load: loadCommand,
  "export-diff": exportDiffCommand,
  "import-diff": importDiffCommand,
  clone: cloneCommand,
  snapshot: snapshotCommand,
});
