/**
 * Virtual time and seeded chance for code that is written in promises: time moves to the next timer only when
 * nothing else is left to run, so a test of an hour of leases takes milliseconds and repeats exactly.
 */
import type { Clock, Random, Timer } from "../../src/base";

interface Scheduled {
  readonly dueMs: number;
  readonly order: number;
  readonly callback: () => void;
}

/** Turns of the event loop in which promises may still go on by themselves. */
const DRAIN_TURNS = 2;

export class VirtualTime implements Clock {
  #nowMs = 1_000;
  #order = 0;
  #timers: Scheduled[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): Timer {
    const timer = { dueMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, callback };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((each) => each !== timer);
      },
    };
  }

  /** Runs until the promise is settled; fails when more than `limitMs` would pass. */
  async until<T>(promise: Promise<T>, limitMs = 600_000): Promise<T> {
    let isSettled = false;
    const watched = promise.finally(() => {
      isSettled = true;
    });
    watched.catch(() => undefined);
    const endMs = this.#nowMs + limitMs;
    for (;;) {
      await this.#drain();
      if (isSettled) return watched;
      if (!this.#runNext(endMs)) throw new Error(`nothing settled the promise within ${limitMs} ms`);
    }
  }

  /** For code under test: resolves when so much time has passed. */
  pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.schedule(ms, resolve));
  }

  /** Lets this much time pass. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await this.#drain();
    while (this.#runNext(endMs)) await this.#drain();
    this.#nowMs = endMs;
    await this.#drain();
  }

  #runNext(endMs: number): boolean {
    let next: Scheduled | undefined;
    for (const timer of this.#timers)
      if (
        next === undefined ||
        timer.dueMs < next.dueMs ||
        (timer.dueMs === next.dueMs && timer.order < next.order)
      )
        next = timer;
    if (next === undefined || next.dueMs > endMs) return false;
    const taken = next;
    this.#timers = this.#timers.filter((each) => each !== taken);
    this.#nowMs = Math.max(this.#nowMs, taken.dueMs);
    taken.callback();
    return true;
  }

  async #drain(): Promise<void> {
    for (let turn = 0; turn < DRAIN_TURNS; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** xorshift128 from one seed. */
export class SeededRandom implements Random {
  #state: Uint32Array;

  constructor(seed: number) {
    this.#state = Uint32Array.of(seed >>> 0, 0x9e3779b9, 0x243f6a88, 0xb7e15162);
    for (let index = 0; index < 16; index++) this.nextU32();
  }

  nextU32(): number {
    const state = this.#state;
    let t = state[3] as number;
    const s = state[0] as number;
    state[3] = state[2] as number;
    state[2] = state[1] as number;
    state[1] = s;
    t ^= t << 11;
    t ^= t >>> 8;
    state[0] = t ^ s ^ (s >>> 19);
    return state[0] as number;
  }

  hex(lengthBytes: number): string {
    let text = "";
    while (text.length < lengthBytes * 2) text += this.nextU32().toString(16).padStart(8, "0");
    return text.slice(0, lengthBytes * 2);
  }

  uuid(): string {
    const digits = this.hex(16);
    return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-4${digits.slice(13, 16)}-a${digits.slice(17, 20)}-${digits.slice(20)}`;
  }

  /** 0 .. count-1 */
  below(count: number): number {
    return this.nextU32() % count;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
}
