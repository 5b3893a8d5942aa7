/** `torus ctl scrub ...`: reading every block and mending what rotted. */
import { formatDuration, formatRate, formatSize } from "../../base";
import { group, leaf, metaArgs, withMetadata } from "../cli";
import { type Column, outputArgs, outputStyle, renderJson, renderList } from "../output";
import { type PeerRow, peerRows } from "./peer";
import { type ScrubReport, scrubProgress } from "./progress";
import { orderJob, paceCommands } from "./rebalance";

interface Row {
  readonly peer: PeerRow;
  readonly scrub: ScrubReport | undefined;
}

function count(name: string, title: string, value: (scrub: ScrubReport) => number | null): Column<Row> {
  return {
    name,
    title,
    align: "right",
    value: (row) => (row.scrub === undefined ? null : value(row.scrub)),
  };
}

function whenText(wallMs: number): string {
  return wallMs === 0 ? "never" : new Date(wallMs).toISOString().replace("T", " ").slice(0, 19);
}

const columns: readonly Column<Row>[] = [
  { name: "address", title: "ADDRESS", value: (row) => row.peer.address },
  { name: "peerId", title: "UUID", value: (row) => row.peer.peerId },
  {
    name: "state",
    title: "STATE",
    value: (row) => (row.peer.live ? (row.scrub?.state ?? "unknown") : "down"),
  },
  count("blocksChecked", "CHECKED", (scrub) => scrub.blocksChecked),
  {
    name: "bytesChecked",
    title: "BYTES",
    align: "right",
    value: (row) => row.scrub?.bytesChecked ?? null,
    text: (row, style) => formatSize(row.scrub?.bytesChecked ?? 0, style),
  },
  count("blocksLeft", "LEFT", (scrub) => scrub.blocksLeft),
  {
    name: "secondsLeft",
    title: "TIME",
    align: "right",
    value: (row) => row.scrub?.secondsLeft ?? null,
    text: ({ scrub }) =>
      typeof scrub?.secondsLeft === "number" ? formatDuration(scrub.secondsLeft * 1000) : "-",
  },
  count("blocksCorrupt", "DAMAGED", (scrub) => scrub.blocksCorrupt),
  count("blocksRepaired", "REPAIRED", (scrub) => scrub.blocksRepaired),
  {
    name: "rateBytesPerSecond",
    title: "LIMIT",
    align: "right",
    value: (row) => row.scrub?.rateBytesPerSecond ?? null,
    text: (row, style) => formatRate(row.scrub?.rateBytesPerSecond ?? 0, style),
  },
  {
    name: "startedWallMs",
    title: "STARTED",
    value: (row) => row.scrub?.startedWallMs ?? null,
    text: (row) => whenText(row.scrub?.startedWallMs ?? 0),
  },
  {
    name: "finishedWallMs",
    title: "FINISHED",
    value: (row) => row.scrub?.finishedWallMs ?? null,
    text: (row) => whenText(row.scrub?.finishedWallMs ?? 0),
  },
];

export const scrubStatusCommand = leaf({
  name: "status",
  description: "Show how far every peer's scrub is and what it found",
  examples: ["torus ctl scrub status"],
  args: { ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const [{ rows: peers }, { scrub: orders }] = await Promise.all([
        peerRows(metadata),
        metadata.upkeep.get(),
      ]);
      const rows = peers.map((peer) => ({ peer, scrub: scrubProgress(peer) }));
      const list = renderList(columns, rows, style);
      const unrepaired = rows.flatMap(({ peer, scrub }) =>
        (scrub?.unrepaired ?? []).map((block) => ({ peerId: peer.peerId, block })),
      );
      if (style.format === "json")
        return void process.stdout.write(
          renderJson({ ...orders, peers: JSON.parse(list) as unknown, unrepaired }),
        );
      process.stdout.write(list);
      if (style.format === "csv") return;
      for (const { peerId, block } of unrepaired)
        console.log(`No good copy was found of block ${block}, damaged on peer ${peerId}`);
      if (orders.paused) console.log("Paused: torus ctl scrub resume goes on");
    });
  },
});

export const scrubCommand = group("scrub", "Reading every block, and mending what rotted", {
  start: leaf({
    name: "start",
    description: "Begin a scrub on every peer that is not in one",
    examples: ["torus ctl scrub start"],
    args: { json: outputArgs.json, ...metaArgs },
    run: (args) =>
      orderJob(
        args,
        "scrub",
        (orders) => ({ ...orders, paused: false, requests: orders.requests + 1 }),
        "Every peer scrubs: see torus ctl scrub status",
      ),
  }),
  status: scrubStatusCommand,
  ...paceCommands("scrub", "scrubbing"),
});
