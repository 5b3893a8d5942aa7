/** What the conditions look at: CPU and memory of processes as the kernel counts them, and torus' own metrics. */
import { readFileSync } from "node:fs";
import type { Cluster, NbdServer, Scene } from "../../e2e/harness";

const CLOCK_TICKS_PER_SECOND = 100;
const METRICS_MS_MAX = 5_000;

/** What every condition gets. */
export interface Stage {
  readonly scene: Scene;
  /** Seconds of load for each figure. */
  readonly seconds: number;
  readonly say: (name: string, figure: string) => void;
  /** Written sizes of volumes to compare. */
  readonly volumeSizesMib: readonly number[];
  /** Blocks in the stores that are started. */
  readonly blockCounts: readonly number[];
  readonly delaysMs: readonly number[];
}

/** CPU that a process has used, in seconds, to a hundredth. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_SECOND;
}

/** CPU that processes use from now on until the function that this returns is called, in seconds each. */
export function cpuFromNow(pids: readonly number[]): () => number[] {
  const before = pids.map(cpuSeconds);
  return () => pids.map((pid, index) => cpuSeconds(pid) - (before[index] as number));
}

export const sum = (values: readonly number[]): number => values.reduce((total, one) => total + one, 0);

/** Memory of its own: what maps the stores' files or the executable is not counted. */
export function anonymousMebibytes(pid: number): number {
  const line = readFileSync(`/proc/${pid}/status`, "utf8").match(/RssAnon:\s+(\d+) kB/);
  return Math.round(Number(line?.[1] ?? 0) / 1024);
}

export const daemonPids = (cluster: Cluster) => cluster.daemons.map((daemon) => daemon.pid);
export const pidsOf = (cluster: Cluster, server: NbdServer) => [server.pid, ...daemonPids(cluster)];

/** The metrics of a process that serves them on this port of loopback. */
export class Metrics {
  private constructor(private readonly text: string) {}

  static async read(port: number): Promise<Metrics> {
    const url = `http://127.0.0.1:${port}/metrics`;
    const answer = await fetch(url, { signal: AbortSignal.timeout(METRICS_MS_MAX) });
    return new Metrics(await answer.text());
  }

  /** The sum over all series of that name whose labels hold `label`. */
  value(name: string, label = ""): number {
    const series = [...this.text.matchAll(/^(\w+)(\{.*\})? (\S+)$/gm)];
    return sum(
      series
        .filter(([, found, labels = ""]) => found === name && labels.includes(label))
        .map((line) => Number(line[3])),
    );
  }
}
