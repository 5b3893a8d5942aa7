/**
 * Whether a thread keeps to the core of the program that it works for. A program that sends requests and the thread that
 * answers them take turns anyway while few are under way: on one core neither has to wake the other on a core that
 * sleeps, what is handed over is in that core's cache, and while one works the other's requests gather. And where cores
 * are few, those whom the thread asks in turn have the others for themselves. But with cores to spare or large
 * messages both could work at once, and beside a program that computes both would have to wait for its core. So the
 * thread finds out by doing both by turns. In doubt it keeps to the core: the kernel then needs longer than a spell to
 * move others out of the way, so that what shows within one is the smaller part of the gain, and all of a loss.
 *
 * Pure: ThreadCores tells what came and from which core, and does what comes out.
 */
import { Comparison, type RatePair } from "./comparison";

/** Samples of where requests came from: so many of the last must agree. A few ms apart, they follow a program soon. */
export const SAMPLE_COUNT = 8;
export const AGREEING_SAMPLES_MIN = 6;
/** Turns a ms below which it is not worth a thought. */
export const TURNS_A_MS_MIN = 1;
const SPELL_MS = 40;
const PAIR_COUNT = 10;
/**
 * Chance makes one comparison wrong by a tenth, so it counts for this much beside those before, and none for more than
 * so much gain or loss. It does not pay when it brings so much less.
 */
const NEW_WEIGHT = 0.4;
const GAIN_MAX = 0.15;
const LOSS_MIN = 0.02;
/** How long it holds that it pays, unless much less comes all at once: then somebody else may have the core. */
const KEEP_MS = 8_000;
const WATCH_MS = 100;
const DROP_SHARE = 0.5;
/** And that it does not: longer each time, since trying makes requests wait. */
const ROAM_MS_MIN = 2_500;
const ROAM_MS_MAX = 20_000;

/** What came in a span of time. */
export interface RequestSpan {
  readonly elapsedMs: number;
  readonly turnCount: number;
  readonly receivedBytes: number;
}

export class CoreChoice {
  readonly #samples: number[] = [];
  #roamMs = ROAM_MS_MIN;
  readonly #comparison = new Comparison({
    spellMs: SPELL_MS,
    pairCount: PAIR_COUNT,
    judge: (pairs) => this.#judge(pairs),
    holdMs: (keeps) => this.#hold(keeps),
  });
  #isBusy = false;
  /** What keeping to the core brought, of all comparisons, as a logarithm. */
  #gain = 0;
  /** Bytes a ms that keeping to the core brought when it was compared, and what came since it was last looked. */
  #keptRate = 0;
  #watchedMs = 0;
  #watchedBytes = 0;

  /** A request came from a program on this core; below 0: the kernel does not know. */
  noteSender(core: number): void {
    this.#samples.push(core);
    if (this.#samples.length > SAMPLE_COUNT) this.#samples.shift();
  }

  note(span: RequestSpan): void {
    this.#isBusy = span.turnCount >= span.elapsedMs * TURNS_A_MS_MIN;
    if (!this.#isBusy) this.#samples.length = 0;
    if (this.#senderCore === undefined) return;
    this.#comparison.note(span.elapsedMs, span.receivedBytes);
    if (!this.#comparison.isComparing && this.#comparison.isOther) this.#watch(span);
  }

  /** The core to keep to; undefined: whichever the kernel gives. */
  get core(): number | undefined {
    return this.#isBusy && this.#comparison.isOther ? this.#senderCore : undefined;
  }

  /** Where most requests came from of late. */
  get #senderCore(): number | undefined {
    const core = this.#samples.findLast(
      (each) => this.#samples.filter((other) => other === each).length >= AGREEING_SAMPLES_MIN,
    );
    return core === undefined || core < 0 ? undefined : core;
  }

  #watch({ elapsedMs, receivedBytes }: RequestSpan): void {
    this.#watchedMs += elapsedMs;
    this.#watchedBytes += receivedBytes;
    if (this.#watchedMs < WATCH_MS) return;
    if (this.#watchedBytes < this.#watchedMs * this.#keptRate * DROP_SHARE) this.#comparison.restart();
    this.#watchedMs = 0;
    this.#watchedBytes = 0;
  }

  /** By what was received while it roamed (one) and kept to the core (other). */
  #judge(pairs: readonly RatePair[]): boolean {
    this.#keptRate = pairs.reduce((sum, { other }) => sum + other, 0) / pairs.length;
    this.#watchedMs = 0;
    this.#watchedBytes = 0;
    if (pairs.some(({ one, other }) => one === 0 || other === 0)) return false;
    const gain = pairs.reduce((sum, { one, other }) => sum + Math.log(other / one), 0) / pairs.length;
    const limited = Math.max(-GAIN_MAX, Math.min(gain, GAIN_MAX));
    this.#gain += NEW_WEIGHT * (limited - this.#gain);
    return this.#gain > -LOSS_MIN;
  }

  #hold(keeps: boolean): number {
    const roamMs = this.#roamMs;
    this.#roamMs = keeps ? ROAM_MS_MIN : Math.min(2 * roamMs, ROAM_MS_MAX);
    return keeps ? KEEP_MS : roamMs;
  }
}
