/**
 * Whether a loop syncs in place or has another thread do it. To hand a sync over costs two wakings, which is most of
 * what a small flush takes on a file system in memory and a tenth and more of it on a fast disk; but whatever comes for
 * a loop that is in a sync waits for its end. So it is done in place after a row of syncs that were quick, or that
 * nobody would have waited for: below half a millisecond, with nothing else for the loop meanwhile, as where one client
 * writes and flushes by turns. A few that were slower or kept others waiting end it, and one that was slow.
 *
 * Pure: the syncer tells how its syncs went, wherever they were done.
 */

/** A sync up to this is quick: handing it to another thread would take longer. */
export const QUICK_SYNC_US_MAX = 60;
/** One up to this counts as quick where nothing else came for the loop meanwhile. */
export const LONE_SYNC_US_MAX = 500;
/** One from this on ends it at once: the next may take as long. */
export const SLOW_SYNC_US_MIN = 5_000;
/** Whatever counts as quick speaks for syncing in place by one, all else against it by this. */
const OTHER_SYNC_PENALTY = 8;
/** From here on it is done. */
const IN_PLACE_SCORE_MIN = 16;
const IN_PLACE_SCORE_MAX = 64;

export class InPlaceSyncs {
  #score = 0;

  get pays(): boolean {
    return this.#score >= IN_PLACE_SCORE_MIN;
  }

  /** A sync took so long; `isLone`: nothing else came for the loop from its beginning to its end. */
  note(timeUs: number, isLone: boolean): void {
    if (timeUs <= (isLone ? LONE_SYNC_US_MAX : QUICK_SYNC_US_MAX))
      this.#score = Math.min(this.#score + 1, IN_PLACE_SCORE_MAX);
    else if (timeUs >= SLOW_SYNC_US_MIN) this.#score = 0;
    else this.#score = Math.max(this.#score - OTHER_SYNC_PENALTY, 0);
  }
}
