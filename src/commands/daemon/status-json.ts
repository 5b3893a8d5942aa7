/**
 * What the status page shows, as JSON: the cluster as `torus ctl status` judges it, and what this daemon does now.
 * Rates come from two readings of the daemon's own counters; the page asks again every second or two.
 */
import type { Metadata } from "../cli";
import { clusterStatus } from "../ctl";
import { type DataPlaneStatus, LATENCY_BOUNDS_MS } from "../data-plane";
import { buildInfo } from "../executable";

/** Many pages may be open; the metadata is read at most this often. */
const CLUSTER_FRESH_MS = 1_000;

export interface ThroughputStatus {
  readonly readBytesPerSecond: number;
  readonly writtenBytesPerSecond: number;
  readonly operationsPerSecond: number;
  /** Of the requests since the reading before; null when there was none. */
  readonly latencyMsP50: number | null;
  readonly latencyMsP99: number | null;
}

interface Reading {
  readonly atMs: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly operations: number;
  readonly counts: readonly number[];
}

function readingOf(status: DataPlaneStatus, nowMs: number): Reading {
  const requests = status.latencies.filter((one) => one.family === "peerRequest");
  const counts = new Array<number>(LATENCY_BOUNDS_MS.length + 1).fill(0);
  for (const { counts: each } of requests)
    for (const [index, count] of each.entries()) counts[index] = (counts[index] ?? 0) + count;
  const { server } = status.storage ?? {};
  return {
    atMs: nowMs,
    readBytes: server?.readBytes ?? 0,
    writtenBytes: server?.putBytes ?? 0,
    operations: (server?.readCount ?? 0) + (server?.putCount ?? 0),
    counts,
  };
}

/** The upper bound of the bucket that holds this share of the requests; null without requests. */
export function quantileMs(counts: readonly number[], share: number): number | null {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let below = 0;
  for (const [index, count] of counts.entries()) {
    below += count;
    if (below >= total * share) return LATENCY_BOUNDS_MS[index] ?? LATENCY_BOUNDS_MS.at(-1) ?? null;
  }
  return null;
}

export class StatusReport {
  #cluster: Promise<Awaited<ReturnType<typeof clusterStatus>>> | undefined;
  #clusterUntilMs = 0;
  #before: Reading | undefined;
  #throughput: ThroughputStatus | undefined;

  constructor(
    private readonly metadata: Metadata,
    private readonly plane: () => Promise<DataPlaneStatus | undefined>,
    private readonly nowMs: () => number,
  ) {}

  async report(): Promise<unknown> {
    const nowMs = this.nowMs();
    if (this.#cluster === undefined || nowMs >= this.#clusterUntilMs) {
      this.#clusterUntilMs = nowMs + CLUSTER_FRESH_MS;
      this.#cluster = clusterStatus(this.metadata);
    }
    const [cluster, plane] = await Promise.all([this.#cluster, this.plane()]);
    const { peer } = plane?.storage ?? {};
    return {
      version: buildInfo.version,
      cluster,
      here: {
        peerId: peer?.peerId ?? null,
        throughput: plane === undefined ? null : this.#rate(readingOf(plane, nowMs)),
        volumes: (plane?.volumes ?? []).map(({ name, health, statistics }) => ({
          name,
          state: health?.state ?? null,
          degraded: health?.degraded ?? false,
          readBytes: statistics?.readBytes ?? 0,
          writtenBytes: statistics?.writeBytes ?? 0,
        })),
      },
    };
  }

  /** Between this reading and one at least half a second older: several pages may ask at once. */
  #rate(now: Reading): ThroughputStatus | null {
    const before = this.#before;
    const seconds = before === undefined ? 0 : (now.atMs - before.atMs) / 1000;
    if (before !== undefined && seconds < 0.5) return this.#throughput ?? null;
    this.#before = now;
    if (before === undefined) return null;
    const counts = now.counts.map((count, index) => count - (before.counts[index] ?? 0));
    this.#throughput = {
      readBytesPerSecond: (now.readBytes - before.readBytes) / seconds,
      writtenBytesPerSecond: (now.writtenBytes - before.writtenBytes) / seconds,
      operationsPerSecond: (now.operations - before.operations) / seconds,
      latencyMsP50: quantileMs(counts, 0.5),
      latencyMsP99: quantileMs(counts, 0.99),
    };
    return this.#throughput;
  }
}
