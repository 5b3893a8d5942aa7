/**
 * Whether a long run of something that should keep nothing keeps something: the live heap, with the buffers that its
 * objects hold, is measured after a full collection at every look, and may not grow by more than a bound from the first look on. It sees
 * growth by what is reachable only; the process's resident memory grows also by pools that fill and by fragmentation.
 */
import { heapStats } from "bun:jsc";
import { assert } from "../../src/base";

export class HeapWatch {
  #firstBytes: number | undefined;

  constructor(private readonly growthBytesMax: number) {}

  /** Gives what is alive; throws when it is too much more than at the first look. */
  look(when: string): number {
    Bun.gc(true);
    const bytes = heapStats().heapSize;
    this.#firstBytes ??= bytes;
    const growthBytes = bytes - this.#firstBytes;
    assert(growthBytes <= this.growthBytesMax, `the heap grew by ${growthBytes} bytes at ${when}`);
    return bytes;
  }
}
