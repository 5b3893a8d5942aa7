/**
 * The simulated world: one queue of events in virtual time, and processes that live in it. An event is run to its
 * very end (the callback, the turn's after-work, every promise it settled) before the next is looked at, so a run
 * is a pure function of its seed. Everything a process does comes from an event bound to it: when it has crashed
 * its events vanish, while it is paused they wait.
 */
import { drainMicrotasks } from "bun:jsc";
import type { Clock, Timer, TurnScheduler } from "../../../src/base";
import type { Prng } from "./prng";
import { Trace } from "./trace";

/** Wall time at the beginning of every simulation: 2024-01-01. */
const WALL_START_MS = 1_704_067_200_000;
const TURN_ROUNDS_MAX = 10_000;

/** Something that must never happen did. */
export class Violation extends Error {
  constructor(
    readonly checker: string,
    message: string,
  ) {
    super(`${checker}: ${message}`);
    this.name = "Violation";
  }
}

interface Event {
  timeMs: number;
  serial: number;
  process: SimProcess | undefined;
  callback: () => void;
  cancelled: boolean;
}

function earlier(a: Event, b: Event): boolean {
  return a.timeMs < b.timeMs || (a.timeMs === b.timeMs && a.serial < b.serial);
}

export class World {
  nowMs = 0;
  eventCount = 0;
  readonly trace: Trace;
  private readonly heap: Event[] = [];
  private serial = 0;
  private readonly turnQueue: { readonly process: SimProcess; readonly callback: () => void }[] = [];
  private failure: Error | undefined;

  constructor(
    readonly random: Prng,
    print?: (line: string) => void,
  ) {
    this.trace = new Trace(print);
  }

  log(who: string, text: string): void {
    this.trace.line(this.nowMs, who, text);
  }

  /** Ends the run with this error, as soon as the present event is over. */
  fail(error: Error): void {
    if (this.failure !== undefined) return;
    this.failure = error;
    this.log("world", `FAILED ${error.message}`);
  }

  schedule(delayMs: number, process: SimProcess | undefined, callback: () => void): Timer {
    const event: Event = {
      timeMs: this.nowMs + Math.max(0, delayMs),
      serial: this.serial,
      process,
      callback,
      cancelled: false,
    };
    this.serial += 1;
    this.push(event);
    return {
      cancel: () => {
        event.cancelled = true;
      },
    };
  }

  afterTurn(process: SimProcess, callback: () => void): void {
    this.turnQueue.push({ process, callback });
  }

  /** Runs events until `isDone` or until virtual time passes `untilMs`; returns whether `isDone` came true. */
  run(untilMs: number, isDone: () => boolean): boolean {
    this.settle();
    while (!isDone()) {
      const next = this.heap[0];
      if (next === undefined || next.timeMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return false;
      }
      this.pop();
      if (next.cancelled) continue;
      this.nowMs = next.timeMs;
      this.runEvent(next);
      if (this.failure !== undefined) throw this.failure;
    }
    return true;
  }

  private runEvent(event: Event): void {
    const { process } = event;
    if (process !== undefined && !process.alive) return;
    if (process?.paused) {
      process.defer(event.callback);
      return;
    }
    this.eventCount += 1;
    this.guard(event.callback);
    this.settle();
  }

  /** What the loop of a process does at the end of a turn, until nothing is left to do. */
  private settle(): void {
    drainMicrotasks();
    for (let round = 0; this.turnQueue.length > 0; round += 1) {
      if (round > TURN_ROUNDS_MAX) throw new Violation("liveness", "a turn does not end");
      for (const { process, callback } of this.turnQueue.splice(0)) if (process.alive) this.guard(callback);
      drainMicrotasks();
    }
  }

  private guard(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  private push(event: Event): void {
    const { heap } = this;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!earlier(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && earlier(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!earlier(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}

/** One life of a process: a crash ends it for good, a restart is another SimProcess. */
export class SimProcess {
  alive = true;
  paused = false;
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly random: Prng;
  /** What its wall clock shows beside the truth; jumps are faults. */
  wallSkewMs = 0;
  private readonly deferred: (() => void)[] = [];

  constructor(
    readonly world: World,
    /** Short name of the machine, which stays over restarts. */
    readonly name: string,
    random: Prng,
  ) {
    this.random = random;
    // A boot clock counts from the machine's start: never the same as another machine's.
    const bootMs = random.between(0, 1_000_000) - world.nowMs;
    this.clock = {
      nowMs: () => world.nowMs + bootMs + 1_000_000,
      wallMs: () => WALL_START_MS + world.nowMs + this.wallSkewMs,
      schedule: (delayMs, callback) => world.schedule(delayMs, this, callback),
    };
    this.turns = { afterTurn: (callback) => world.afterTurn(this, callback) };
  }

  log(text: string): void {
    this.world.log(this.name, text);
  }

  crash(): void {
    this.alive = false;
    this.deferred.length = 0;
  }

  pause(): void {
    this.paused = true;
  }

  /** What came meanwhile is handled now, in the order it came. */
  resume(): void {
    this.paused = false;
    for (const callback of this.deferred.splice(0)) this.world.schedule(0, this, callback);
  }

  defer(callback: () => void): void {
    this.deferred.push(callback);
  }
}
