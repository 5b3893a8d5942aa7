/**
 * How long a request goes on asking for pages, or for the part of the map that names them, that no peer gave. Where
 * every peer answered, a few rounds are enough: cleaning may have moved the page, ring and peers may have been old;
 * then it is an error. While some peer that may have the page does not answer at all, it may only be slow, cut off or
 * about to return, and an error would be for good: a file system takes one for the end of its disk.
 */
import { StorageStatus } from "../ports";

/** Rounds over all peers, all of which answered, before a request fails. */
const ROUND_COUNT_MAX = 3;
/** Between two rounds. Pieces of one request that fail within it make one round. */
export const ROUND_PAUSE_MS = 300;

export class Patience {
  #roundCount = 0;
  #roundMs = 0;
  #unansweredSinceMs = 0;

  /** For a new request. */
  reset(): void {
    this.#roundCount = 0;
    this.#unansweredSinceMs = 0;
  }

  /** After a round in vain: whether to ask again. */
  goesOn(failure: StorageStatus, nowMs: number, unansweredReadMs: number): boolean {
    if (failure === StorageStatus.unreachable) {
      this.#roundCount = 0;
      if (this.#unansweredSinceMs === 0) this.#unansweredSinceMs = nowMs;
      return nowMs - this.#unansweredSinceMs < unansweredReadMs;
    }
    this.#unansweredSinceMs = 0;
    if (this.#roundCount === 0 || nowMs - this.#roundMs >= ROUND_PAUSE_MS) {
      this.#roundCount++;
      this.#roundMs = nowMs;
    }
    return this.#roundCount < ROUND_COUNT_MAX;
  }
}
