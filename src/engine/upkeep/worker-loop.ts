/**
 * The life of a background job: rounds one after another, a wait between them that ends early when something
 * happened, errors kept for the status and followed by a longer wait, and a stop that waits for the round's end.
 */
import { type Clock, sleep } from "../../base";

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 60_000;

export interface WorkerLoopOptions {
  readonly clock: Clock;
  /** One round; resolves with how long to wait before the next one. */
  round(signal: AbortSignal): Promise<number>;
  /** Told of a round that failed; it is tried again. */
  onError?(error: unknown): void;
}

export class WorkerLoop {
  private readonly abort = new AbortController();
  private running: Promise<void> | undefined;
  private wakeUp: (() => void) | undefined;
  private woken = false;
  private failures = 0;
  /** Why the last round failed; undefined after a good one. */
  lastError: string | undefined;

  constructor(private readonly options: WorkerLoopOptions) {}

  start(): void {
    this.running ??= this.run();
  }

  /** The next round begins now (after the present one). */
  wake(): void {
    this.woken = true;
    this.wakeUp?.();
  }

  /** Ends the present round at its next wait; resolves when nothing runs any more. */
  async stop(): Promise<void> {
    this.abort.abort(new DOMException("the job is stopped", "AbortError"));
    await this.running;
  }

  get isStopped(): boolean {
    return this.abort.signal.aborted;
  }

  private async run(): Promise<void> {
    const { signal } = this.abort;
    while (!signal.aborted) {
      this.woken = false;
      const waitMs = await this.roundOnce(signal);
      if (signal.aborted) return;
      if (!this.woken) await this.pause(waitMs, signal);
    }
  }

  private async roundOnce(signal: AbortSignal): Promise<number> {
    try {
      const waitMs = await this.options.round(signal);
      this.failures = 0;
      this.lastError = undefined;
      return waitMs;
    } catch (error) {
      if (signal.aborted) return 0;
      this.lastError = error instanceof Error ? error.message : String(error);
      this.options.onError?.(error);
      return Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.failures++);
    }
  }

  private async pause(waitMs: number, signal: AbortSignal): Promise<void> {
    const early = new AbortController();
    const end = () => early.abort();
    this.wakeUp = end;
    signal.addEventListener("abort", end, { once: true });
    // Waking up is the one reason why this sleep rejects, and it is what was waited for.
    await sleep(this.options.clock, waitMs, early.signal).catch(() => undefined);
    signal.removeEventListener("abort", end);
    this.wakeUp = undefined;
  }
}
