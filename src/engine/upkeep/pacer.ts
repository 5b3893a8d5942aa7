/**
 * The brake of background work: bytes per second, settable while it runs, with pause and resume. While clients are
 * busy on this peer the rate shrinks to a quarter, so that their requests come first. A request may overdraw the
 * budget and the next ones wait for it: large blocks pass at small rates too.
 */
import { type Clock, sleep } from "../../base";

/** Of the rate, while clients are busy. */
const BUSY_SHARE = 0.25;
/** Unused budget is kept for so long: a short pause does not slow the work, a long one gives no burst. */
const BURST_MS = 200;
/** Waiting ends at least so often, to see a new rate, a pause or idle clients. */
const WAIT_MS_MAX = 250;
const WAIT_MS_MIN = 1;

export interface PacerOptions {
  readonly clock: Clock;
  readonly bytesPerSecond: number;
  /** Whether client requests were served in the last moments. */
  readonly isClientBusy?: () => boolean;
}

export class Pacer {
  private readonly clock: Clock;
  private readonly isClientBusy: () => boolean;
  private budgetBytes = 0;
  private filledAtMs: number;
  private rate: number;
  private paused = false;

  constructor(options: PacerOptions) {
    this.clock = options.clock;
    this.isClientBusy = options.isClientBusy ?? (() => false);
    this.rate = positiveRate(options.bytesPerSecond);
    this.filledAtMs = this.clock.nowMs();
  }

  get bytesPerSecond(): number {
    return this.rate;
  }

  get isPaused(): boolean {
    return this.paused;
  }

  setRate(bytesPerSecond: number): void {
    this.fill();
    this.rate = positiveRate(bytesPerSecond);
    // What an earlier, higher rate overdrew must not stall a lower one for minutes.
    this.budgetBytes = Math.max(this.budgetBytes, -this.rate);
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.filledAtMs = this.clock.nowMs();
  }

  /** Resolves when `bytes` may be read or sent; rejects with the signal's reason when it aborts. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (!this.paused) {
        this.fill();
        if (this.budgetBytes > 0) {
          this.budgetBytes -= bytes;
          return;
        }
      }
      await sleep(this.clock, this.waitMs(), signal);
    }
  }

  private waitMs(): number {
    if (this.paused) return WAIT_MS_MAX;
    const missingMs = (-this.budgetBytes / this.rateNow()) * 1000;
    return Math.min(WAIT_MS_MAX, Math.max(WAIT_MS_MIN, missingMs));
  }

  private rateNow(): number {
    return this.isClientBusy() ? this.rate * BUSY_SHARE : this.rate;
  }

  private fill(): void {
    const nowMs = this.clock.nowMs();
    const rate = this.rateNow();
    const earned = ((nowMs - this.filledAtMs) / 1000) * rate;
    this.budgetBytes = Math.min(this.budgetBytes + earned, Math.max(1, (rate * BURST_MS) / 1000));
    this.filledAtMs = nowMs;
  }
}

function positiveRate(bytesPerSecond: number): number {
  return Math.max(1, bytesPerSecond);
}
