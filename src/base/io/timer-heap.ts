/**
 * Timers of one event loop as a binary heap by due time, equal times in the order they were made. A timer knows
 * its place, so cancelling takes it out at once: a connection that re-arms its deadline on every request leaves
 * nothing behind.
 */
import type { Timer } from "../clock";

const REMOVED = -1;

class HeapTimer implements Timer {
  index = REMOVED;

  constructor(
    readonly heap: TimerHeap,
    readonly dueMs: number,
    readonly sequence: number,
    readonly callback: () => void,
  ) {}

  cancel(): void {
    this.heap.remove(this);
  }
}

function isBefore(left: HeapTimer, right: HeapTimer): boolean {
  return left.dueMs < right.dueMs || (left.dueMs === right.dueMs && left.sequence < right.sequence);
}

export class TimerHeap {
  readonly #timers: HeapTimer[] = [];
  #sequence = 0;

  get size(): number {
    return this.#timers.length;
  }

  /** When the first timer is due, or Infinity. */
  get nextDueMs(): number {
    return this.#timers[0]?.dueMs ?? Number.POSITIVE_INFINITY;
  }

  add(dueMs: number, callback: () => void): Timer {
    const timer = new HeapTimer(this, dueMs, this.#sequence++, callback);
    this.#place(timer, this.#timers.length);
    this.#up(timer);
    return timer;
  }

  /** Runs what is due, in order; timers made meanwhile wait for the next call, however short. */
  runDue(nowMs: number): void {
    const sequenceEnd = this.#sequence;
    for (;;) {
      const timer = this.#timers[0];
      if (timer === undefined || timer.dueMs > nowMs || timer.sequence >= sequenceEnd) return;
      this.remove(timer);
      timer.callback();
    }
  }

  remove(timer: HeapTimer): void {
    const index = timer.index;
    if (index === REMOVED) return;
    timer.index = REMOVED;
    const last = this.#timers.pop() as HeapTimer;
    if (last === timer) return;
    this.#place(last, index);
    this.#up(last);
    this.#down(last);
  }

  #place(timer: HeapTimer, index: number): void {
    this.#timers[index] = timer;
    timer.index = index;
  }

  #up(timer: HeapTimer): void {
    while (timer.index > 0) {
      const index = timer.index;
      const parent = this.#timers[(index - 1) >> 1] as HeapTimer;
      if (!isBefore(timer, parent)) return;
      this.#place(timer, parent.index);
      this.#place(parent, index);
    }
  }

  #down(timer: HeapTimer): void {
    for (;;) {
      const index = timer.index;
      const left = this.#timers[2 * index + 1];
      const right = this.#timers[2 * index + 2];
      let first = timer;
      if (left !== undefined && isBefore(left, first)) first = left;
      if (right !== undefined && isBefore(right, first)) first = right;
      if (first === timer) return;
      this.#place(timer, first.index);
      this.#place(first, index);
    }
  }
}
