/** `torus ctl gc ...`: giving back the space of blocks that nothing refers to any more. */
import { formatSize } from "../../base";
import { group, leaf, metaArgs, withMetadata } from "../cli";
import { type Column, outputArgs, outputStyle, renderList } from "../output";
import { type PeerRow, peerRows } from "./peer";
import { type CollectionReport, collectionProgress } from "./progress";

interface Row {
  readonly peer: PeerRow;
  readonly gc: CollectionReport | undefined;
}

function count(name: string, title: string, value: (gc: CollectionReport) => number): Column<Row> {
  return {
    name,
    title,
    align: "right",
    value: (row) => (row.gc === undefined ? null : Math.round(value(row.gc))),
  };
}

function size(name: string, title: string, value: (gc: CollectionReport) => number): Column<Row> {
  return {
    ...count(name, title, value),
    text: (row, style) => (row.gc === undefined ? "-" : formatSize(value(row.gc), style)),
  };
}

const columns: readonly Column<Row>[] = [
  { name: "address", title: "ADDRESS", value: (row) => row.peer.address },
  { name: "peerId", title: "UUID", value: (row) => row.peer.peerId },
  { name: "state", title: "STATE", value: (row) => (row.peer.live ? (row.gc?.state ?? "unknown") : "down") },
  count("runs", "RUNS", (gc) => gc.runs),
  {
    name: "finishedWallMs",
    title: "LAST",
    value: (row) => row.gc?.finishedWallMs ?? null,
    text: ({ gc }) =>
      gc === undefined || gc.finishedWallMs === 0
        ? "never"
        : new Date(gc.finishedWallMs).toISOString().replace("T", " ").slice(0, 19),
  },
  count("tookMs", "MS", (gc) => gc.tookMs),
  count("blocksListed", "BLOCKS", (gc) => gc.blocksListed),
  count("blocksDeletedTotal", "DELETED", (gc) => gc.blocksDeletedTotal),
  size("bytesDeletedTotal", "FREED", (gc) => gc.bytesDeletedTotal),
  count("nodesRead", "NODES READ", (gc) => gc.nodesRead),
  size("memoryBytes", "MEMORY", (gc) => gc.memoryBytes),
  count("keptCount", "KEPT WHOLE", (gc) => gc.keptCount),
  {
    name: "lastError",
    title: "ERROR",
    value: (row) => row.gc?.lastError ?? null,
    text: (row) => row.gc?.lastError ?? "",
  },
];

export const gcStatusCommand = leaf({
  name: "status",
  description: "Show what collection did on every peer, and what it had to keep",
  examples: ["torus ctl gc status"],
  args: { ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const { rows: peers } = await peerRows(metadata);
      const rows = peers.map((peer) => ({ peer, gc: collectionProgress(peer) }));
      process.stdout.write(renderList(columns, rows, style));
      if (style.format !== "table") return;
      for (const { peer, gc } of rows)
        for (const { lineageId, reason } of gc?.kept ?? [])
          console.log(
            `Peer ${peer.address} keeps every block of ${lineageId === null ? "all volumes" : `lineage ${lineageId}`}: ${reason}`,
          );
    });
  },
});

export const gcCommand = group("gc", "Giving back the space of blocks that nothing refers to", {
  run: leaf({
    name: "run",
    description: "Collect on every peer now",
    examples: ["torus ctl gc run"],
    args: { json: outputArgs.json, ...metaArgs },
    async run(args) {
      await withMetadata(args, async (metadata) => {
        const { gc } = await metadata.upkeep.change((orders) => ({
          ...orders,
          gc: { requests: orders.gc.requests + 1 },
        }));
        console.log(args.json ? JSON.stringify(gc) : "Every peer collects: see torus ctl gc status");
      });
    },
  }),
  status: gcStatusCommand,
});
