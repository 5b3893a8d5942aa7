/**
 * Which units of one segment's data region are taken: a bitmap, searched next-fit, so that a fresh segment fills
 * front to back. Only the segment that is being filled has one; it is made again from the index when another
 * segment's turn comes, and so needs no room in memory or on disk for the rest.
 *
 * Invariant: a set bit is taken; bits beyond the last unit are set for ever; freeUnits counts the clear ones.
 */
import { assert } from "../../base";

export class SpaceMap {
  readonly #words: Int32Array;
  #cursor = 0;
  #freeUnits: number;
  /** No run of this many free units exists (since the last release): searching for one is a waste. */
  #runImpossible = Number.POSITIVE_INFINITY;

  constructor(readonly unitCount: number) {
    this.#words = new Int32Array(Math.ceil(unitCount / 32));
    this.#freeUnits = unitCount;
    for (let unit = unitCount; unit < this.#words.length * 32; unit += 1) this.#setBit(unit);
  }

  get freeUnits(): number {
    return this.#freeUnits;
  }

  /** Whether all of a run is free. */
  isFree(start: number, count: number): boolean {
    return start + count <= this.unitCount && this.#runEnd(start, count) === start + count;
  }

  take(start: number, count: number): void {
    for (let unit = start; unit < start + count; ) {
      const word = unit >>> 5;
      if ((unit & 31) === 0 && start + count - unit >= 32) {
        if (this.#words[word] !== 0) fail(unit, "taken");
        this.#words[word] = -1;
        unit += 32;
        continue;
      }
      if (this.#isTaken(unit)) fail(unit, "taken");
      this.#setBit(unit);
      unit += 1;
    }
    this.#freeUnits -= count;
  }

  release(start: number, count: number): void {
    for (let unit = start; unit < start + count; ) {
      const word = unit >>> 5;
      if ((unit & 31) === 0 && start + count - unit >= 32) {
        if (this.#words[word] !== -1) fail(unit, "released");
        this.#words[word] = 0;
        unit += 32;
        continue;
      }
      if (!this.#isTaken(unit)) fail(unit, "released");
      this.#words[word] = (this.#words[word] as number) & ~(1 << (unit & 31));
      unit += 1;
    }
    this.#freeUnits += count;
    this.#runImpossible = Number.POSITIVE_INFINITY;
  }

  /** Takes a run of `count` units and returns its start, or -1. */
  allocate(count: number): number {
    if (count > this.#freeUnits || count >= this.#runImpossible) return -1;
    let start = this.#findRun(this.#cursor, this.#words.length * 32, count);
    if (start < 0) start = this.#findRun(0, Math.min(this.#cursor + count, this.#words.length * 32), count);
    if (start < 0) {
      this.#runImpossible = count;
      return -1;
    }
    this.take(start, count);
    this.#cursor = start + count;
    return start;
  }

  /**
   * Takes `count` units in at most extents.length / 2 runs, written as start, count pairs; returns how many runs,
   * or 0 when that is impossible (then nothing was taken).
   */
  allocateScattered(count: number, extents: Uint32Array): number {
    if (count > this.#freeUnits) return 0;
    const extentsMax = extents.length / 2;
    // Shorter runs than this could not add up in as many extents as there may be.
    const runMin = Math.max(1, Math.floor(count / extentsMax));
    let extentCount = 0;
    let missing = count;
    let unit = 0;
    while (missing > 0 && extentCount < extentsMax) {
      unit = this.#nextFree(unit);
      if (unit >= this.unitCount) break;
      const end = this.#runEnd(unit, missing);
      const length = end - unit;
      if (length >= Math.min(runMin, missing)) {
        extents[2 * extentCount] = unit;
        extents[2 * extentCount + 1] = length;
        extentCount += 1;
        missing -= length;
      }
      unit = end;
    }
    if (missing > 0) return 0;
    for (let index = 0; index < extentCount; index += 1)
      this.take(extents[2 * index] as number, extents[2 * index + 1] as number);
    return extentCount;
  }

  #isTaken(unit: number): boolean {
    return ((this.#words[unit >>> 5] as number) & (1 << (unit & 31))) !== 0;
  }

  #setBit(unit: number): void {
    this.#words[unit >>> 5] = (this.#words[unit >>> 5] as number) | (1 << (unit & 31));
  }

  /** The start of the first run of `count` free units that lies within [from, to), or -1. */
  #findRun(from: number, to: number, count: number): number {
    let start = from;
    let unit = from;
    while (unit < to) {
      const word = this.#words[unit >>> 5] as number;
      if ((unit & 31) === 0 && word === 0 && unit + 32 <= to) {
        unit += 32;
      } else if ((unit & 31) === 0 && word === -1) {
        unit += 32;
        start = unit;
      } else {
        if ((word & (1 << (unit & 31))) !== 0) start = unit + 1;
        unit += 1;
      }
      if (unit - start >= count) return start;
    }
    return -1;
  }

  #nextFree(from: number): number {
    let unit = from;
    while (unit < this.unitCount) {
      if ((unit & 31) === 0 && this.#words[unit >>> 5] === -1) unit += 32;
      else if (this.#isTaken(unit)) unit += 1;
      else return unit;
    }
    return this.unitCount;
  }

  /** The end of the free run at `from`, at most `countMax` units on. */
  #runEnd(from: number, countMax: number): number {
    let unit = from;
    while (unit < from + countMax && unit < this.unitCount && !this.#isTaken(unit)) unit += 1;
    return unit;
  }
}

/** Apart from the test, so that a message is made only when there is something to say. */
function fail(unit: number, what: string): never {
  assert(false, `unit ${unit} is ${what} twice`);
}
