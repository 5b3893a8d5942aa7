/** How far a rebalance is: counts, a speed over the last moments, and an estimate of what is left. */
import type { Clock } from "../../base";

export type RebalanceState =
  /** Every block of this peer is where it belongs, as far as live peers allow. */
  | "idle"
  | "moving"
  /** Something is left that cannot be done now: a peer is down, full, or sends its part first. */
  | "waiting"
  | "paused"
  | "stopped";

export interface RebalanceStatus {
  readonly state: RebalanceState;
  readonly ringVersion: number;
  /** Blocks of this peer still to be looked at in this pass, and their bytes: an upper bound of what moves. */
  readonly blocksLeft: number;
  readonly bytesLeft: number;
  /** Sent since the start of the process. */
  readonly blocksMoved: number;
  readonly bytesMoved: number;
  readonly blocksDropped: number;
  /** Work done per second in the last moments. */
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | null;
  /** Blocks that the last pass could not finish. */
  readonly blocksWaiting: number;
  /** Blocks that this peer holds and should not, found by the last walk. */
  readonly blocksSurplus: number;
  /** Of which nothing is left to be done but that their volume's head passes them: copies of a log's tail. */
  readonly blocksYoung: number;
  readonly rateBytesPerSecond: number;
  /** The peer has no part in the ring (drained or removed) and holds no block: it may be switched off. */
  readonly isSafeToRemove: boolean;
  readonly lastError: string | null;
}

const WINDOW_MS = 10_000;
const SAMPLES_MAX = 64;

/** Bytes per second over a sliding window. */
export class SpeedMeter {
  private readonly samples: { readonly atMs: number; readonly bytes: number }[] = [];

  constructor(private readonly clock: Clock) {}

  add(bytes: number): void {
    const atMs = this.clock.nowMs();
    const last = this.samples.at(-1);
    // Many blocks in one moment are one sample.
    if (last !== undefined && atMs - last.atMs < WINDOW_MS / SAMPLES_MAX)
      this.samples[this.samples.length - 1] = { atMs: last.atMs, bytes: last.bytes + bytes };
    else this.samples.push({ atMs, bytes });
    while (this.samples.length > SAMPLES_MAX) this.samples.shift();
  }

  bytesPerSecond(): number {
    const nowMs = this.clock.nowMs();
    const recent = this.samples.filter((sample) => nowMs - sample.atMs <= WINDOW_MS);
    const [first] = recent;
    if (first === undefined) return 0;
    const bytes = recent.reduce((sum, sample) => sum + sample.bytes, 0);
    return (bytes / Math.max(1_000, nowMs - first.atMs)) * 1000;
  }
}
