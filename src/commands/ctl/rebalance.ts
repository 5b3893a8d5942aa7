/** `torus ctl rebalance ...`: how far blocks are on their way to where the ring wants them, and how fast they may go. */
import { formatDuration, formatRate, formatSize, parseRate } from "../../base";
import type { JobOrders, UpkeepOrders } from "../../meta";
import { group, leaf, type Metadata, metaArgs, UsageError, withMetadata } from "../cli";
import { type Column, outputArgs, outputStyle, type OutputStyle, renderJson, renderList } from "../output";
import { type PeerRow, peerRows } from "./peer";
import { isSafeToRemove, peerProgress, type RebalanceReport } from "./progress";

interface Row {
  readonly peer: PeerRow;
  readonly progress: RebalanceReport | undefined;
  readonly safe: boolean;
}

const UNKNOWN = "-";

function timeLeft(progress: RebalanceReport): string {
  if (progress.bytesLeft === 0 && progress.blocksLeft === 0) return UNKNOWN;
  return progress.secondsLeft === null ? "?" : formatDuration(progress.secondsLeft * 1000);
}

function stateText({ peer, progress, safe }: Row): string {
  if (!peer.live) return "down";
  if (progress === undefined) return "unknown";
  if (safe) return "safe to remove";
  if (progress.lastError !== null) return `${progress.state}: ${progress.lastError}`;
  return progress.blocksWaiting > 0 && progress.state === "waiting"
    ? `waiting (${progress.blocksWaiting} blocks)`
    : progress.state;
}

function sizeColumn(name: string, title: string, value: (progress: RebalanceReport) => number): Column<Row> {
  return {
    name,
    title,
    align: "right",
    value: (row) => (row.progress === undefined ? null : value(row.progress)),
    text: (row, style) => (row.progress === undefined ? UNKNOWN : formatSize(value(row.progress), style)),
  };
}

const columns: readonly Column<Row>[] = [
  { name: "address", title: "ADDRESS", value: (row) => row.peer.address },
  { name: "peerId", title: "UUID", value: (row) => row.peer.peerId },
  {
    name: "state",
    title: "STATE",
    value: (row) => (row.peer.live ? (row.progress?.state ?? "unknown") : "down"),
    text: stateText,
  },
  sizeColumn("bytesLeft", "LEFT", (progress) => progress.bytesLeft),
  {
    name: "secondsLeft",
    title: "TIME",
    align: "right",
    value: (row) => row.progress?.secondsLeft ?? null,
    text: (row) => (row.progress === undefined ? UNKNOWN : timeLeft(row.progress)),
  },
  sizeColumn("bytesMoved", "MOVED", (progress) => progress.bytesMoved),
  {
    name: "blocksWaiting",
    title: "WAITING",
    align: "right",
    value: (row) => row.progress?.blocksWaiting ?? null,
  },
  {
    name: "blocksSurplus",
    title: "SURPLUS",
    align: "right",
    value: (row) => row.progress?.blocksSurplus ?? null,
  },
  {
    name: "blocksYoung",
    title: "YOUNG",
    align: "right",
    value: (row) => row.progress?.blocksYoung ?? null,
  },
  {
    name: "bytesPerSecond",
    title: "SPEED",
    align: "right",
    value: (row) => row.progress?.bytesPerSecond ?? null,
    text: (row, style) =>
      row.progress === undefined ? UNKNOWN : formatRate(row.progress.bytesPerSecond, style),
  },
  {
    name: "rateBytesPerSecond",
    title: "LIMIT",
    align: "right",
    value: (row) => row.progress?.rateBytesPerSecond ?? null,
    text: (row, style) =>
      row.progress === undefined ? UNKNOWN : formatRate(row.progress.rateBytesPerSecond, style),
  },
  {
    name: "ringVersion",
    title: "RING",
    align: "right",
    value: (row) => row.progress?.ringVersion ?? null,
  },
  {
    name: "isSafeToRemove",
    title: "SAFE TO REMOVE",
    value: (row) => row.safe,
    text: (row) => (row.safe ? "yes" : ""),
  },
];

export interface MovementSummary {
  readonly bytesLeft: number;
  readonly bytesPerSecond: number;
  /** Of the slowest peer; null while nobody knows. */
  readonly secondsLeft: number | null;
  readonly blocksWaiting: number;
  /**
   * Every live peer is at the ring's version and has nothing left to do but to drop needless copies of a log's tail
   * when the next checkpoint has covered it: while a volume is written to, there are always some.
   */
  readonly settled: boolean;
}

/** The work of all live peers as one. */
export function movementOf(rows: readonly PeerRow[], ringVersion: number): MovementSummary {
  const live = rows.filter((row) => row.live);
  const all = live.map((row) => peerProgress(row));
  const known = all.filter((progress) => progress !== undefined);
  const sum = (value: (progress: RebalanceReport) => number) =>
    known.reduce((total, progress) => total + value(progress), 0);
  const moving = known.filter((progress) => progress.bytesLeft > 0);
  const times = moving.map((progress) => progress.secondsLeft);
  return {
    bytesLeft: sum((progress) => progress.bytesLeft),
    bytesPerSecond: sum((progress) => progress.bytesPerSecond),
    secondsLeft: times.some((time) => time === null) ? null : Math.max(0, ...times.map((time) => time ?? 0)),
    blocksWaiting: sum((progress) => progress.blocksWaiting),
    settled: all.every(
      (progress) =>
        progress !== undefined &&
        progress.state === "idle" &&
        progress.ringVersion === ringVersion &&
        progress.blocksLeft === 0 &&
        progress.blocksWaiting === 0 &&
        progress.blocksSurplus <= progress.blocksYoung,
    ),
  };
}

export function movementLine(summary: MovementSummary, style: OutputStyle): string {
  const { bytesLeft, bytesPerSecond, secondsLeft, blocksWaiting } = summary;
  if (summary.settled) return "Every block is where the ring wants it";
  if (bytesLeft === 0)
    return blocksWaiting > 0
      ? `${blocksWaiting} blocks wait for peers that are down, full or busy`
      : "Peers are looking at what the ring asks for";
  const left = secondsLeft === null ? "" : `, about ${formatDuration(secondsLeft * 1000)} left`;
  return `${formatSize(bytesLeft, style)} to look at or move, at ${formatRate(bytesPerSecond, style)}${left}`;
}

const WATCH_INTERVAL_MS = 1_000;

export const rebalanceStatusCommand = leaf({
  name: "status",
  description: "Show what every peer still has to move or copy",
  examples: ["torus ctl rebalance status", "torus ctl rebalance status --watch"],
  args: {
    watch: { type: "boolean", alias: "w", description: "Show it anew every second until interrupted" },
    ...outputArgs,
    ...metaArgs,
  },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      for (;;) {
        const text = await statusText(metadata, style);
        process.stdout.write(args.watch && process.stdout.isTTY ? `\u001b[H\u001b[2J${text}` : text);
        if (!args.watch) return;
        await Bun.sleep(WATCH_INTERVAL_MS);
      }
    });
  },
});

async function statusText(metadata: Metadata, style: OutputStyle): Promise<string> {
  const [{ rows: peers, ring }, { rebalance }] = await Promise.all([
    peerRows(metadata),
    metadata.upkeep.get(),
  ]);
  const rows = peers.map((peer) => ({
    peer,
    progress: peerProgress(peer),
    safe: peer.live && isSafeToRemove(peer, ring.version),
  }));
  const list = renderList(columns, rows, style);
  const summary = movementOf(peers, ring.version);
  if (style.format === "json")
    return renderJson({
      ...summary,
      ringVersion: ring.version,
      // The orders' own bytesPerSecond is a limit, and would hide the speed.
      paused: rebalance.paused,
      limitBytesPerSecond: rebalance.bytesPerSecond,
      requests: rebalance.requests,
      peers: JSON.parse(list) as unknown,
    });
  if (style.format === "csv") return list;
  const paused = rebalance.paused ? " (paused: torus ctl rebalance resume)" : "";
  return `${movementLine(summary, style)}${paused}\n${list}`;
}

type JobName = "rebalance" | "scrub";

const jobArgs = { json: outputArgs.json, ...metaArgs };

/** Changes the orders of one job on all peers. */
export async function orderJob(
  flags: Parameters<typeof withMetadata>[0] & { readonly json?: boolean | undefined },
  job: JobName,
  change: (orders: JobOrders) => JobOrders,
  done: string,
): Promise<void> {
  await withMetadata(flags, async (metadata) => {
    const orders: UpkeepOrders = await metadata.upkeep.change((present) => ({
      ...present,
      [job]: change(present[job]),
    }));
    console.log(flags.json ? JSON.stringify(orders[job]) : done);
  });
}

/** Pause, resume and rate, which are the same for every job that has a pace. */
export function paceCommands(job: JobName, noun: string) {
  return {
    pause: leaf({
      name: "pause",
      description: `Hold ${noun} on all peers until resumed`,
      examples: [`torus ctl ${job} pause`],
      args: jobArgs,
      run: (args) =>
        orderJob(
          args,
          job,
          (orders) => ({ ...orders, paused: true }),
          `Paused: torus ctl ${job} resume goes on`,
        ),
    }),
    resume: leaf({
      name: "resume",
      description: `Go on with ${noun}`,
      examples: [`torus ctl ${job} resume`],
      args: jobArgs,
      run: (args) => orderJob(args, job, (orders) => ({ ...orders, paused: false }), "Resumed"),
    }),
    rate: leaf({
      name: "rate",
      description: `Limit ${noun} on each peer; a quarter of it is used while clients are busy`,
      examples: [`torus ctl ${job} rate 50MiB`, `torus ctl ${job} rate default`],
      args: {
        rate: {
          type: "positional",
          description: "Bytes per second on each peer; default: as its daemon was started",
          required: true,
        },
        ...jobArgs,
      },
      run: (args) => {
        const bytesPerSecond = args.rate === "default" ? null : parseRate(args.rate);
        if (bytesPerSecond !== null && bytesPerSecond < 1)
          throw new UsageError(
            `Cannot limit ${noun} to "${args.rate}": give 1 byte per second or more, or hold it (torus ctl ${job} pause)`,
          );
        const said =
          bytesPerSecond === null
            ? "as each daemon was started"
            : `${formatRate(bytesPerSecond)} on each peer`;
        return orderJob(args, job, (orders) => ({ ...orders, bytesPerSecond }), `The limit is ${said}`);
      },
    }),
  };
}

export const rebalanceCommand = group("rebalance", "Moving blocks to where the ring wants them", {
  status: rebalanceStatusCommand,
  ...paceCommands("rebalance", "moving and copying blocks"),
  recheck: leaf({
    name: "recheck",
    description: "Let every peer look at all its blocks again now",
    examples: ["torus ctl rebalance recheck"],
    args: jobArgs,
    run: (args) =>
      orderJob(
        args,
        "rebalance",
        (orders) => ({ ...orders, requests: orders.requests + 1 }),
        "Every peer looks at all its blocks again: see torus ctl rebalance status",
      ),
  }),
});
