/**
 * When an event loop asks for events again and again before it sleeps. Being woken costs a thread 20 to 60 us on a
 * virtual machine, several times as much as the work of a small request, and a request at depth 1 has four such
 * waits. Asking pays only when the last waits were shorter than a window, so that the next one probably is too: an idle
 * loop sleeps. There are two windows, since a client that waits for three acknowledgements and then for its program would
 * otherwise ask through every such rest. Of those that are not idle, a loop with time to spare asks. A busy one may gain
 * by it, because those who have work for it need not wake it, or lose, because it takes the core from those it waits for
 * and lets no events gather; which of the two depends on who else has work, so it finds out by doing both (Comparison).
 * Where neither is found to be better, a loop that others wait for asks, since it is woken in the midst of their
 * requests, and another sleeps.
 *
 * Pure: the loop tells how its waits and turns went.
 */
import { Comparison, type RatePair } from "./comparison";

/** How long is spent asking, from the last turn. */
export const POLL_WINDOW_MS = 0.2;
/** The longer one, for waits that mostly outlast the first but not this: a fast disk needs so long for a write and its flush. */
export const LONG_POLL_WINDOW_MS = 0.8;
/** Confidence: one up for a short wait, two down for a long one, so that two of three must be short. */
const CONFIDENCE_MAX = 16;
const CONFIDENCE_TO_POLL = 8;
/** Share of its time that a loop may work and ask without having found out that it pays. */
const SPARE_SHARE_MAX = 0.4;
/** How much of the past counts after another turn. */
const DECAY = 31 / 32;

const SPELL_MS = 16;
const PAIR_COUNT = 8;
/** In so many of the eight pairs more must be received one way, so that one long turn decides nothing. */
const BETTER_PAIRS_MIN = 6;
/** And so much more in all. */
const GAIN_MIN = 1.02;
/** How long a finding holds. */
const FINDING_MS = 4_000;

export class BusyPoll {
  #confidence = 0;
  /** The same, of waits beyond the short window alone: short ones between do not make it worth asking through the long ones. */
  #longConfidence = 0;
  #workedMs = 0;
  #waitedMs = 0;
  #prefersAsking = false;
  readonly #comparison = new Comparison({
    spellMs: SPELL_MS,
    pairCount: PAIR_COUNT,
    judge: (pairs) => judge(pairs, this.#prefersAsking),
    holdMs: () => FINDING_MS,
  });

  /** In doubt: ask. For a loop that serves others, which wait for its answers. */
  preferAsking(): void {
    this.#prefersAsking = true;
  }

  /** How long to ask before sleeping, in ms; 0: sleep at once. */
  get windowMs(): number {
    if (this.#confidence < CONFIDENCE_TO_POLL) return 0;
    if (this.#isBusy && !this.#comparison.isOther) return 0;
    return this.#longConfidence < CONFIDENCE_TO_POLL ? POLL_WINDOW_MS : LONG_POLL_WINDOW_MS;
  }

  /** Of the time of the last turns, 0 to 1. */
  get busyShare(): number {
    const totalMs = this.#workedMs + this.#waitedMs;
    return totalMs === 0 ? 0 : this.#workedMs / totalMs;
  }

  get #isBusy(): boolean {
    return this.busyShare >= SPARE_SHARE_MAX;
  }

  /** A turn's work took `workedMs` and received so many bytes, and the wait after it ended with an event. */
  note(workedMs: number, waitedMs: number, receivedBytes: number): void {
    // Where it was the comparison that said whether to ask.
    if (this.#confidence >= CONFIDENCE_TO_POLL && this.#isBusy)
      this.#comparison.note(workedMs + Math.min(waitedMs, SPELL_MS), receivedBytes);
    this.#workedMs = this.#workedMs * DECAY + workedMs;
    // Of a long wait no more counts as time to spare: a loop that works in large pieces is busy, though it waits between.
    this.#waitedMs = this.#waitedMs * DECAY + Math.min(waitedMs, POLL_WINDOW_MS);
    const isSoon = waitedMs <= LONG_POLL_WINDOW_MS;
    this.#confidence = after(this.#confidence, isSoon);
    if (waitedMs > POLL_WINDOW_MS) this.#longConfidence = after(this.#longConfidence, isSoon);
  }
}

/** Confidence after a wait that ended soon, or did not. */
function after(confidence: number, isSoon: boolean): number {
  return isSoon ? Math.min(confidence + 1, CONFIDENCE_MAX) : Math.max(confidence - 2, 0);
}

/** Whether to ask, by what was received in spells of sleeping (one) and of asking (other). */
function judge(pairs: readonly RatePair[], prefersAsking: boolean): boolean {
  const better = pairs.filter(({ one, other }) => other > one).length;
  const worse = pairs.filter(({ one, other }) => other < one).length;
  const sleeping = pairs.reduce((sum, { one }) => sum + one, 0);
  const asking = pairs.reduce((sum, { other }) => sum + other, 0);
  // Nothing came: this is no work of others.
  if (asking + sleeping === 0) return false;
  return prefersAsking
    ? !(worse >= BETTER_PAIRS_MIN && sleeping > GAIN_MIN * asking)
    : better >= BETTER_PAIRS_MIN && asking > GAIN_MIN * sleeping;
}
