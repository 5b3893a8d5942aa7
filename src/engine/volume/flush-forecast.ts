/**
 * Guesses which write a writer will flush after, so that what it wrote is on its way to the peers while the writer
 * still learns of the write and asks for the flush. Writers that flush often do so after the same number of writes
 * (one, as a database's commit; the blocks of a journal's transaction), or keep as many in flight; after a few such
 * flushes in a row the write that makes the number full counts for the last. A wrong guess costs one small block.
 *
 * Pure: the write path tells what comes.
 */

/** Flushes in a row after the same number of writes before the number is believed. */
const AGREEING_FLUSHES_MIN = 4;

export class FlushForecast {
  #writes = 0;
  /** Writes before the last flush, and how many flushes in a row came after so many. */
  #lastWrites = 0;
  #agreeing = 0;

  /** A write was taken in. True: a flush will come next, to all appearances. */
  noteWrite(): boolean {
    this.#writes++;
    if (this.#writes > this.#lastWrites) this.#agreeing = 0;
    return this.#agreeing >= AGREEING_FLUSHES_MIN && this.#writes === this.#lastWrites;
  }

  noteFlush(): void {
    // A writer may flush again before it writes.
    if (this.#writes === 0) return;
    if (this.#writes === this.#lastWrites) this.#agreeing++;
    else {
      this.#lastWrites = this.#writes;
      this.#agreeing = 1;
    }
    this.#writes = 0;
  }
}
