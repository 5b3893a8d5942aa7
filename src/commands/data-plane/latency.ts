/**
 * Latencies gathered on the data path's thread: counts in fixed buckets, so that observing one costs a few
 * comparisons and no memory, and a copy of all of them is small enough to cross threads at every scrape.
 */
import type { Clock, Timer } from "../../base";
import type { Syncer } from "../../base/io";

/** Upper bounds of the buckets in milliseconds, from a memory access to a disk that hangs; one more bucket follows. */
export const LATENCY_BOUNDS_MS = [
  0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000,
] as const;

/** What is measured, and by whom. */
export type LatencyFamily = "volumeStage" | "nbdRequest" | "peerRequest" | "storeSync" | "loopLag";

export interface LatencySnapshot {
  readonly family: LatencyFamily;
  /** Stage, command or operation; the thread for loopLag. */
  readonly label: string;
  /** One per bound, and one for what was slower; not cumulative. */
  readonly counts: readonly number[];
  readonly sumMs: number;
}

export class LatencyHistogram {
  readonly #counts = new Float64Array(LATENCY_BOUNDS_MS.length + 1);
  #sumMs = 0;

  observe(milliseconds: number): void {
    let bucket = 0;
    while (bucket < LATENCY_BOUNDS_MS.length && milliseconds > (LATENCY_BOUNDS_MS[bucket] as number))
      bucket++;
    (this.#counts[bucket] as number)++;
    this.#sumMs += milliseconds;
  }

  snapshot(family: LatencyFamily, label: string): LatencySnapshot {
    return { family, label, counts: [...this.#counts], sumMs: this.#sumMs };
  }
}

/** All histograms of one thread. A label is made with its first observation. */
export class LatencyRecorder {
  readonly #families = new Map<LatencyFamily, Map<string, LatencyHistogram>>();

  /** For callers on the hot path, which keep it. */
  histogram(family: LatencyFamily, label: string): LatencyHistogram {
    let labels = this.#families.get(family);
    if (labels === undefined) {
      labels = new Map();
      this.#families.set(family, labels);
    }
    let histogram = labels.get(label);
    if (histogram === undefined) {
      histogram = new LatencyHistogram();
      labels.set(label, histogram);
    }
    return histogram;
  }

  observe(family: LatencyFamily, label: string, milliseconds: number): void {
    this.histogram(family, label).observe(milliseconds);
  }

  snapshots(): LatencySnapshot[] {
    return [...this.#families].flatMap(([family, labels]) =>
      [...labels].map(([label, histogram]) => histogram.snapshot(family, label)),
    );
  }
}

/** How often a loop's lateness is looked at. */
const LAG_INTERVAL_MS = 250;

/** Measures how late timers of a loop run: what everything else on that thread waits too. Returns the stop. */
export function measureLoopLag(clock: Clock, histogram: LatencyHistogram): () => void {
  let timer: Timer;
  const next = () => {
    const dueMs = clock.nowMs() + LAG_INTERVAL_MS;
    timer = clock.schedule(LAG_INTERVAL_MS, () => {
      histogram.observe(Math.max(0, clock.nowMs() - dueMs));
      next();
    });
  };
  next();
  return () => timer.cancel();
}

/** Measures every sync of a disk, from the request to its answer on the loop; all else of the syncer stays as it is. */
export function measureSyncs<Measured extends Syncer>(
  syncer: Measured,
  clock: Clock,
  histogram: LatencyHistogram,
): Measured {
  const sync = syncer.sync.bind(syncer);
  syncer.sync = (file, done) => {
    const startMs = clock.nowMs();
    sync(file, (result) => {
      histogram.observe(clock.nowMs() - startMs);
      done(result);
    });
  };
  return syncer;
}
