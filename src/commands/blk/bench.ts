/**
 * `torus blk bench VOLUME`: how fast this volume is from this machine, in about ten seconds. It measures on a
 * temporary clone, so that what is in the volume is neither read nor changed and it may be attached meanwhile; it goes
 * through the whole data path (network, replicas, syncs) but no NBD socket.
 */
import { formatRate, parseDuration } from "../../base";
import { systemRandom } from "../../base/io";
import { CommandError, leaf, metaArgs, parseVolumeSize, UsageError } from "../cli";
import { type Client, startClient, volumeArgs } from "../client";
import { withTemporarySnapshot } from "../ctl";
import type { BenchFigures, BenchLoad, CommandDevice } from "../data-plane";
import { type Column, outputArgs, outputStyle, renderList } from "../output";

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const SPAN_DEFAULT = "256MiB";
const PHASE_DEFAULT = "2s";
const PHASE_MS_MAX = 60_000;

type Case = Omit<BenchLoad, "spanBytes" | "durationMs" | "bytesMax"> & { readonly name: string };

/** In this order: the first fills the span, so that reads find data. */
const CASES: readonly Case[] = [
  { name: "write 1 MiB in a row, 4 at once", ...row("write", MEBIBYTE, 4) },
  { name: "read 1 MiB in a row, 4 at once", ...row("read", MEBIBYTE, 4) },
  { name: "write 4 KiB, flush each", ...random("write", 1), flushEach: true },
  { name: "write 4 KiB, 16 at once", ...random("write", 16) },
  { name: "read 4 KiB", ...random("read", 1) },
  { name: "read 4 KiB, 16 at once", ...random("read", 16) },
];

function row(kind: BenchLoad["kind"], requestBytes: number, depth: number): Omit<Case, "name"> {
  return { kind, requestBytes, depth, isRandom: false, flushEach: false };
}

function random(kind: BenchLoad["kind"], depth: number): Omit<Case, "name"> {
  return { kind, requestBytes: 4 * KIBIBYTE, depth, isRandom: true, flushEach: false };
}

interface Row extends BenchFigures {
  readonly name: string;
  readonly requestBytes: number;
}

const rateOf = (row: Row) => (row.requestCount / Math.max(1e-3, row.elapsedMs)) * 1000;
const milliseconds = (value: number) => value.toFixed(3);

const columns: readonly Column<Row>[] = [
  { name: "case", title: "CASE", value: (row) => row.name },
  { name: "requestCount", title: "REQUESTS", align: "right", value: (row) => row.requestCount },
  { name: "requestsPerSecond", title: "PER SECOND", align: "right", value: (row) => Math.round(rateOf(row)) },
  {
    name: "bytesPerSecond",
    title: "BYTES",
    align: "right",
    value: (row) => Math.round(rateOf(row) * row.requestBytes),
    text: (row, style) => formatRate(Math.round(rateOf(row) * row.requestBytes), style),
  },
  ...(["latencyMsMedian", "latencyMsP99", "latencyMsMax"] as const).map(
    (name): Column<Row> => ({
      name,
      title: { latencyMsMedian: "MEDIAN MS", latencyMsP99: "P99 MS", latencyMsMax: "MAX MS" }[name],
      align: "right",
      value: (row) => Number(milliseconds(row[name])),
      text: (row) => milliseconds(row[name]),
    }),
  ),
];

/** Makes the clone, has it measured and takes it away again, whatever happens. */
async function withClone<T>(
  client: Client,
  volume: string,
  work: (device: CommandDevice) => Promise<T>,
): Promise<T> {
  const { snapshots, volumes } = client.metadata;
  const clone = `${volume}.bench-${systemRandom.hex(4)}`;
  await withTemporarySnapshot(client, volume, (snapshot) => snapshots.clone(volume, snapshot, clone));
  try {
    const device = await client.plane.openDevice({ volume: clone });
    try {
      return await work(device);
    } finally {
      await device.close();
    }
  } finally {
    await volumes.delete(clone);
  }
}

async function measure(
  device: CommandDevice,
  limits: Pick<BenchLoad, "spanBytes" | "durationMs" | "bytesMax">,
  isStopped: () => boolean,
): Promise<Row[]> {
  const rows: Row[] = [];
  let { spanBytes } = limits;
  for (const { name, ...load } of CASES) {
    if (isStopped()) throw new CommandError("io", "Cannot finish the measurement: it was interrupted");
    if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${name} ...`);
    const figures = await device.bench({ ...load, ...limits, spanBytes });
    rows.push({ name, requestBytes: load.requestBytes, ...figures });
    // Holes would be read for nothing: the cases that follow stay where the first one came to.
    if (rows.length === 1) spanBytes = Math.min(spanBytes, figures.requestCount * load.requestBytes);
  }
  return rows;
}

export const benchCommand = leaf({
  name: "bench",
  description:
    "Measure a volume from this machine in about ten seconds, on a temporary clone: what is in the volume is not touched, and it may be attached",
  examples: ["torus blk bench data", "torus blk bench data --write-level quorum --json"],
  args: {
    volume: { type: "positional", description: "Volume whose clone is measured", required: true },
    time: {
      type: "string",
      description: `Longest time of a case (default ${PHASE_DEFAULT})`,
      valueHint: "T",
    },
    span: {
      type: "string",
      description: `Use so much of the clone, and write at most twice that in a case (default ${SPAN_DEFAULT})`,
      valueHint: "SIZE",
    },
    ...outputArgs,
    ...volumeArgs,
    "read-cache-size": { ...volumeArgs["read-cache-size"], description: "Memory for pages read (default 0)" },
    ...metaArgs,
  },
  async run(args) {
    const durationMs = parseDuration(args.time ?? PHASE_DEFAULT);
    if (!(durationMs > 0 && durationMs <= PHASE_MS_MAX))
      throw new UsageError(`Cannot use --time ${args.time}: give more than 0 and at most 1m`);
    const askedBytes = parseVolumeSize(args.span ?? SPAN_DEFAULT);
    const style = outputStyle(args);
    const client = await startClient({ ...args, "read-cache-size": args["read-cache-size"] ?? "0" });
    let stopped = false;
    const stop = () => {
      stopped = true;
    };
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, stop);
    try {
      const rows = await withClone(client, args.volume, (device) => {
        const spanBytes = Math.min(askedBytes, device.sizeBytes);
        if (spanBytes < MEBIBYTE)
          throw new UsageError(`Cannot measure volume "${args.volume}": it takes 1 MiB at least`);
        return measure(device, { spanBytes, durationMs, bytesMax: spanBytes * 2 }, () => stopped);
      });
      if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
      process.stdout.write(renderList(columns, rows, style));
    } finally {
      await client.close();
    }
  },
});
