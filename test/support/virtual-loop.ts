/**
 * A Clock and TurnScheduler on virtual time: each event is a turn, followed by what asked for its end. Promises go on
 * between events while `settle` runs.
 */
import type { Clock, Timer, TurnScheduler } from "../../src/base";

interface Event {
  readonly dueMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class VirtualLoop implements Clock, TurnScheduler {
  #nowMs = 1000;
  #order = 0;
  #events: Event[] = [];
  #afterTurn: (() => void)[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): Timer {
    this.#order += 1;
    const event = { dueMs: this.#nowMs + delayMs, order: this.#order, run: callback };
    this.#events.push(event);
    return {
      cancel: () => {
        this.#events = this.#events.filter((each) => each !== event);
      },
    };
  }

  afterTurn(callback: () => void): void {
    this.#afterTurn.push(callback);
  }

  /** Ends the turn under way: what a test did outside of an event is a turn too. */
  endTurn(): void {
    while (this.#afterTurn.length > 0) for (const callback of this.#afterTurn.splice(0)) callback();
  }

  /** Runs the next event and the end of its turn; false when there is none. */
  step(): boolean {
    this.endTurn();
    let next: Event | undefined;
    for (const event of this.#events)
      if (
        next === undefined ||
        event.dueMs < next.dueMs ||
        (event.dueMs === next.dueMs && event.order < next.order)
      )
        next = event;
    if (next === undefined) return false;
    this.#events.splice(this.#events.indexOf(next), 1);
    this.#nowMs = Math.max(this.#nowMs, next.dueMs);
    next.run();
    this.endTurn();
    return true;
  }

  /** Runs events until there are none. */
  run(): void {
    while (this.step());
  }

  /** Drops everything that is scheduled: the process is dead. */
  clear(): void {
    this.#events = [];
    this.#afterTurn = [];
  }

  /** Runs events and promises until `promise` is settled; fails when nothing is left that could settle it. */
  async settle<Result>(promise: Promise<Result>): Promise<Result> {
    let isSettled = false;
    const settled = promise.finally(() => {
      isSettled = true;
    });
    settled.catch(() => undefined);
    for (let idle = 0; idle < 3; ) {
      await new Promise((resolve) => setImmediate(resolve));
      if (isSettled) return settled;
      idle = this.step() ? 0 : idle + 1;
    }
    throw new Error("a promise can never be settled: no event is left");
  }
}
