/**
 * Pages of memory that is read into again and again, as arrays: a new one for the CRC of each page leaves the collector
 * hundreds of thousands a second under large reads. Kept for as long as
 * the memory itself; by index of the page, so that pages at any alignment find their own again.
 */
import { PAGE_BYTES } from "./format";

export class PageViews {
  readonly #views: Uint8Array[] = [];
  readonly #starts: number[] = [];

  private constructor(private readonly bytes: Uint8Array) {}

  /** Those of `bytes`, which is to be the array of a whole buffer that is reused, as a NativeBuffer's `bytes` is. */
  static of(bytes: Uint8Array): PageViews {
    let views = known.get(bytes);
    if (views === undefined) {
      views = new PageViews(bytes);
      known.set(bytes, views);
    }
    return views;
  }

  /** bytes[start .. end): a whole page is kept for the next time, less is not. */
  range(start: number, end: number): Uint8Array {
    if (end - start !== PAGE_BYTES) return this.bytes.subarray(start, end);
    const index = Math.floor(start / PAGE_BYTES);
    if (this.#starts[index] === start) return this.#views[index] as Uint8Array;
    const view = this.bytes.subarray(start, end);
    this.#views[index] = view;
    this.#starts[index] = start;
    return view;
  }
}

const known = new WeakMap<Uint8Array, PageViews>();
