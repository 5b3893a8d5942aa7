/**
 * Whether a thread that is woken takes the core from whoever runs there (SCHED_OTHER), or waits for it to be left
 * (SCHED_BATCH). Who wakes a loop is a sender on the same machine, mostly, and where cores are few the loop then takes
 * the core from the very thread that was about to send it more. Waiting lets requests gather: three daemons and a
 * client on two cores spend a third less of the daemons' time on small reads.
 *
 * It is wrong where others keep the cores busy: a program that computes leaves its core only when its slice of some
 * ms ends, and every request would wait for that. So a loop stands back only while it is woken often, by senders on this
 * machine, with small messages (a large one is best received while it is in the cache); and when standing back makes it
 * wait for long, it takes cores at once again, for longer with each time.
 *
 * Pure: ThreadPolicy tells what the thread's runs were like, and does what comes out.
 */

/** Runs a second from which on it pays, and below which it no longer does. */
export const RUNS_PER_S_TO_START = 400;
export const RUNS_PER_S_TO_STAY = 200;
/** Bytes a run; above this the messages are large. */
export const RUN_BYTES_MAX = 32 * 1024;
/** Mean wait for a core: 0.1 to 0.2 among one's own, up to 0.7 on a machine with noise, 2 to 4 behind a thread that computes. */
export const WAIT_MS_MAX = 1;
/** How much of the waits of earlier spans counts. */
const DECAY = 1 / 2;
/** How long it is not tried again after it made the thread wait: at first, and after doubling. */
export const PAUSE_MS_MIN = 10_000;
export const PAUSE_MS_MAX = 60_000;
/** After it no longer paid: against trying at every look. */
export const RETRY_MS = 1_000;
/** Standing back for so long without long waits makes the next pause a short one again. */
export const TRUST_MS = 20_000;

/** What a thread did in a span of time. */
export interface ThreadSpan {
  readonly elapsedMs: number;
  /** How often it was given a core. */
  readonly runCount: number;
  /** Ready, but without a core, all together. */
  readonly waitedMs: number;
  readonly receivedBytes: number;
  /** Of these: from senders on this machine. */
  readonly receivedLocalBytes: number;
}

export class WakeupPreemption {
  #standsBack = false;
  #stoodBackMs = 0;
  /** While it stood back, of the last spans. */
  #waitedMs = 0;
  #runCount = 0;
  #pauseLeftMs = 0;
  #nextPauseMs = PAUSE_MS_MIN;

  /** Whether the thread is to wait for a core to be left. */
  get standsBack(): boolean {
    return this.#standsBack;
  }

  note(span: ThreadSpan): void {
    this.#pauseLeftMs -= span.elapsedMs;
    if (this.#standsBack) {
      this.#stoodBackMs += span.elapsedMs;
      if (this.#stoodBackMs >= TRUST_MS) this.#nextPauseMs = PAUSE_MS_MIN;
      this.#waitedMs = this.#waitedMs * DECAY + span.waitedMs;
      this.#runCount = this.#runCount * DECAY + span.runCount;
      if (this.#waitedMs > this.#runCount * WAIT_MS_MAX) this.#pause();
      else if (!this.#isWorthIt(span)) this.#pauseLeftMs = RETRY_MS;
    }
    this.#standsBack = this.#pauseLeftMs <= 0 && this.#isWorthIt(span);
    if (this.#standsBack) return;
    this.#stoodBackMs = 0;
    this.#waitedMs = 0;
    this.#runCount = 0;
  }

  #isWorthIt(span: ThreadSpan): boolean {
    const runsPerS = (span.runCount / span.elapsedMs) * 1000;
    return (
      runsPerS >= (this.#standsBack ? RUNS_PER_S_TO_STAY : RUNS_PER_S_TO_START) &&
      span.receivedLocalBytes * 2 > span.receivedBytes &&
      span.receivedBytes <= span.runCount * RUN_BYTES_MAX
    );
  }

  #pause(): void {
    this.#pauseLeftMs = this.#nextPauseMs;
    this.#nextPauseMs = Math.min(this.#nextPauseMs * 2, PAUSE_MS_MAX);
  }
}
