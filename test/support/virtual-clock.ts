/** A Clock that moves only when the test says so, quick also with thousands of timers. */
import type { Clock, Timer } from "../../src/base";
import { TimerHeap } from "../../src/base/io/timer-heap";

export class VirtualClock implements Clock {
  readonly #timers = new TimerHeap();
  #nowMs = 1000;

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): Timer {
    return this.#timers.add(this.#nowMs + Math.max(delayMs, 0), callback);
  }

  get hasTimers(): boolean {
    return this.#timers.nextDueMs < Number.POSITIVE_INFINITY;
  }

  /** Moves on, running timers in the order they are due, those made meanwhile included. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    while (this.#timers.nextDueMs <= endMs) {
      this.#nowMs = Math.max(this.#nowMs, this.#timers.nextDueMs);
      this.#timers.runDue(this.#nowMs);
    }
    this.#nowMs = endMs;
  }
}
