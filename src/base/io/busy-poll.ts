/**
 * When an event loop asks for events again and again before it sleeps. Being woken costs a thread 20 to 60 us on a
 * virtual machine, several times as much as the work of a small request, and a request at depth 1 has four such
 * waits. Two signs say that asking pays: the last waits were shorter than a window, so the next one probably is too;
 * and the loop has time to spare. A loop that is busy most of the time finds its events waiting anyway, and does more
 * of them in a turn when it lets them gather. An idle loop sleeps: nothing is asked after waits longer than the window.
 *
 * Pure: the loop tells how its waits and turns went.
 */

/** Longest time that is spent asking, from the last turn. */
export const POLL_WINDOW_MS = 0.2;
/** Confidence: one up for a short wait, two down for a long one, so that two of three must be short. */
const CONFIDENCE_MAX = 16;
const CONFIDENCE_TO_POLL = 8;
/** Share of its time that a loop may work and still ask. */
const BUSY_SHARE_MAX = 0.4;
/** How much of the past counts after another turn. */
const DECAY = 31 / 32;

export class BusyPoll {
  #confidence = 0;
  #workedMs = 0;
  #waitedMs = 0;

  /** How long to ask before sleeping, in ms; 0: sleep at once. */
  get windowMs(): number {
    return this.#confidence >= CONFIDENCE_TO_POLL && this.busyShare < BUSY_SHARE_MAX ? POLL_WINDOW_MS : 0;
  }

  /** Of the time of the last turns, 0 to 1. */
  get busyShare(): number {
    const totalMs = this.#workedMs + this.#waitedMs;
    return totalMs === 0 ? 0 : this.#workedMs / totalMs;
  }

  /** A turn's work took `workedMs`, and the wait after it ended with an event after `waitedMs`. */
  note(workedMs: number, waitedMs: number): void {
    this.#workedMs = this.#workedMs * DECAY + workedMs;
    this.#waitedMs = this.#waitedMs * DECAY + Math.min(waitedMs, POLL_WINDOW_MS);
    this.#confidence =
      waitedMs <= POLL_WINDOW_MS
        ? Math.min(this.#confidence + 1, CONFIDENCE_MAX)
        : Math.max(this.#confidence - 2, 0);
  }
}
