/**
 * All chance in a simulation, from one seed: xoshiro128**, seeded by splitmix32. Every part of the world draws from
 * a stream of its own (`fork`), so that one more draw in one place does not turn the whole schedule around.
 */
import type { Random } from "../../../src/base";

function splitmix(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = state ^ (state >>> 16);
    mixed = Math.imul(mixed, 0x21f0aaad);
    mixed ^= mixed >>> 15;
    mixed = Math.imul(mixed, 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
}

export class Prng implements Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(readonly seed: number) {
    const next = splitmix(seed);
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = next() | 1;
  }

  nextU32(): number {
    const scrambled = Math.imul(this.#b, 5);
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
    const shifted = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= shifted;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** A stream of its own, the same for the same label. */
  fork(label: string): Prng {
    return new Prng(Bun.hash.crc32(new TextEncoder().encode(label), this.seed));
  }

  /** 0 <= x < 1. */
  fraction(): number {
    return this.nextU32() / 2 ** 32;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.fraction() * limit);
  }

  /** An integer in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(probability: number): boolean {
    return this.fraction() < probability;
  }

  /** Mostly near the mean, now and then far above it. */
  delayMs(meanMs: number): number {
    return -Math.log(1 - this.fraction()) * meanMs;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new Error("nothing to pick from");
    return items[this.below(items.length)] as T;
  }

  /** Picks by weight; undefined when all weights are 0. */
  weighted<T>(items: readonly { readonly weight: number; readonly item: T }[]): T | undefined {
    const total = items.reduce((sum, each) => sum + each.weight, 0);
    let at = this.fraction() * total;
    for (const each of items) {
      at -= each.weight;
      if (at < 0) return each.item;
    }
    return undefined;
  }

  hex(lengthBytes: number): string {
    let text = "";
    for (let index = 0; index < lengthBytes; index += 1)
      text += this.below(256).toString(16).padStart(2, "0");
    return text;
  }

  uuid(): string {
    const digits = this.hex(16);
    const variant = "89ab"[this.below(4)];
    return [
      digits.slice(0, 8),
      digits.slice(8, 12),
      `4${digits.slice(13, 16)}`,
      `${variant}${digits.slice(17, 20)}`,
      digits.slice(20, 32),
    ].join("-");
  }
}
