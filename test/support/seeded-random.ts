/** A Random from one seed (mulberry32): the same seed gives the same run. */
import type { Random } from "../../src/base";

export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  nextU32(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }

  /** Uniform in 0 .. limit-1. */
  below(limit: number): number {
    return this.nextU32() % limit;
  }

  chance(probability: number): boolean {
    return this.nextU32() < probability * 2 ** 32;
  }

  hex(lengthBytes: number): string {
    let text = "";
    for (let index = 0; index < lengthBytes; index += 1)
      text += this.below(256).toString(16).padStart(2, "0");
    return text;
  }

  uuid(): string {
    const hex = this.hex(16);
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }
}
