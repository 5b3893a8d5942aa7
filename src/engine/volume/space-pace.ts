/**
 * Keeps a fast writer from filling a pool faster than its dead space comes back. Space that was overwritten takes
 * seconds to return (cleaning, a checkpoint, a collection), so a writer that goes on at full speed until the peers say
 * that they are nearly full has nothing left to clean with: each step frees little more than it takes, and a pool that
 * is half live answers "no space". Instead it is slowed down early, to what is left divided by the time that space
 * takes to return: the nearer the end, the slower, until both balance, with no long wait for any request.
 *
 * No request is to wait for long, so what is in flight at once passes within OWED_MS however much it is: a writer with
 * 16 MiB in flight is not slowed below 64 MiB a second. Nobody is asked while little is written.
 */
import type { Clock, Timer } from "../../base";

/** Room for fewer seconds of writing than this is worth work, and a look every now and then. */
const PRESSED_S = 8;
/**
 * At the pace of the moment what is left lasts so long; the pace falls with it, so it does not end. A writer that has the
 * pool for itself and sees space come back needs less of what is left, and is held up less.
 */
const HORIZON_S = 3;
const HORIZON_S_QUICK = 1.5;
/** Space that came back is seen over so long, counts for so long, and is at least so much of what was written. */
const COMPARE_MS = 1_000;
const BACK_MS = 3_000;
const BACK_PART = 0.25;
/** What is written and not yet at the peers, or was and is now. */
const UNDER_WAY_BYTES = 16 * 1024 * 1024;
/** Others who take much are remembered for so long: what comes back may hide what they take. */
const CROWDED_MS = 30_000;
/** A writer of less than so many times what is never paced is not worth a question. */
const LOOK_PART = 2;
const LOOK_MS = 250;
/** A rate is that of a second, so that bursts count alike however often it is looked. */
const WINDOW_MS = 1_000;
const PACE_MS = 10;
/** Allowance that is kept when it is not used, and the most that is owed after a large request. */
const SAVED_MS = 50;
const OWED_MS = 250;
/** How much of the highest rate seen counts a window later, unless the writer was held: then its own rate says little. */
const DEMAND_DECAY = 0.92;
/** A writer is not held for longer than this by what peers said that say nothing any more. */
const SILENT_MS = 5_000;

export interface SpacePacePorts {
  readonly clock: Clock;
  /** How much new data there is room for until a peer is nearly full; undefined when nobody says. Never rejects. */
  roomBytes(): Promise<number | undefined>;
  /** New data waits (true), or what waited goes on. */
  hold(held: boolean): void;
  /** Dead space is wanted back soon: called with every look while it is. */
  tighten(): void;
}

export class SpacePace {
  #isPressed = false;
  #isHeld = false;
  #isAsking = false;
  #stopped = false;
  #timer: Timer | undefined;
  #lookedMs: number;
  /** Where the second began that is measured. */
  #windowMs: number;
  #windowBytes = 0;
  /** New data handed in so far; and when the room was asked for. */
  #written = 0;
  #askedBytes = 0;
  #answeredMs = 0;
  #room = 0;
  /** An answer of a second ago and more, with what had been written then. */
  #before: { readonly ms: number; readonly room: number; readonly written: number } | undefined;
  /** Written for so long since space was last seen to come back; rests between do not count. */
  #sinceBackMs = Number.POSITIVE_INFINITY;
  /** When others were last seen to take some. */
  #crowdedMs = Number.NEGATIVE_INFINITY;
  /** Bytes a second that the writer would like to write. */
  #demand = 0;
  /** Within the second that is measured. */
  #wasHeld = false;
  /** At the last step of pacing. */
  #pacedMs = 0;
  /** Handed in while everything waits. */
  #waitingBytes = 0;
  /** Bytes that may be written now; below 0 nothing. */
  #allowance = 0;

  /** So many bytes a second pass however little room there is: a full pool is found out, not approached for ever. */
  constructor(
    private readonly ports: SpacePacePorts,
    private readonly bytesPerSecondMin: number,
  ) {
    this.#lookedMs = ports.clock.nowMs();
    this.#windowMs = this.#lookedMs;
  }

  /** New data was handed in: to be called before it is worked off. */
  wrote(bytes: number): void {
    this.#written += bytes;
    if (!this.#isPressed) {
      // What is left may be gone before somebody looks.
      if (this.#written - this.#windowBytes >= LOOK_PART * this.bytesPerSecondMin) this.look();
      return;
    }
    // What has to wait is counted when it is let go: else each arrival would make all wait anew.
    if (this.#isHeld) this.#waitingBytes += bytes;
    else this.#spend(bytes);
  }

  /** To be called about once a second; while pressed it looks by itself too. */
  look(): void {
    const nowMs = this.ports.clock.nowMs();
    if (this.#stopped || this.#isAsking || nowMs - this.#lookedMs < LOOK_MS) return;
    this.#lookedMs = nowMs;
    this.#measure(nowMs);
    // A writer this slow is never slowed down.
    if (this.#demand < this.bytesPerSecondMin) return this.#end();
    if (!this.#isPressed && this.#demand < LOOK_PART * this.bytesPerSecondMin) return;
    const written = this.#written;
    this.#isAsking = true;
    void this.ports.roomBytes().then((room) => {
      this.#isAsking = false;
      if (this.#stopped) return;
      const answeredMs = this.ports.clock.nowMs();
      if (room === undefined) {
        // Nobody says: as it was, for a while.
        if (this.#isPressed && answeredMs - this.#answeredMs >= SILENT_MS) this.#end();
        return;
      }
      this.#answeredMs = answeredMs;
      this.#room = room;
      this.#askedBytes = written;
      this.#compare(answeredMs);
      this.#judge();
    });
  }

  stop(): void {
    this.#stopped = true;
    this.#end();
  }

  #measure(nowMs: number): void {
    const elapsedMs = nowMs - this.#windowMs;
    const rate = ((this.#written - this.#windowBytes) * 1_000) / Math.max(elapsedMs, WINDOW_MS);
    if (elapsedMs < WINDOW_MS) {
      this.#demand = Math.max(this.#demand, rate);
      return;
    }
    const decay = this.#wasHeld ? 1 : DEMAND_DECAY;
    this.#demand = this.#isPressed ? Math.max(rate, this.#demand * decay) : rate;
    this.#wasHeld = this.#isHeld;
    this.#windowMs = nowMs;
    this.#windowBytes = this.#written;
  }

  #compare(nowMs: number): void {
    const before = this.#before;
    if (before !== undefined && nowMs - before.ms < COMPARE_MS) return;
    this.#before = { ms: nowMs, room: this.#room, written: this.#askedBytes };
    if (before === undefined) return;
    const own = this.#askedBytes - before.written;
    const enough = Math.max(BACK_PART * own, UNDER_WAY_BYTES);
    // Less what others took.
    const back = this.#room - before.room + own;
    if (back > enough) this.#sinceBackMs = 0;
    else if (own >= UNDER_WAY_BYTES) this.#sinceBackMs += nowMs - before.ms;
    if (back < -enough) this.#crowdedMs = nowMs;
  }

  get #horizonS(): number {
    const nowMs = this.ports.clock.nowMs();
    const isQuick = this.#sinceBackMs <= BACK_MS && nowMs - this.#crowdedMs > CROWDED_MS;
    return isQuick ? HORIZON_S_QUICK : HORIZON_S;
  }

  #judge(): void {
    if (this.#room >= this.#demand * PRESSED_S) return this.#end();
    this.ports.tighten();
    if (this.#isPressed) return;
    this.#isPressed = true;
    this.#pacedMs = this.ports.clock.nowMs();
    this.#allowance = 0;
    this.#waitingBytes = 0;
    this.#pace();
  }

  #end(): void {
    this.#isPressed = false;
    this.#before = undefined;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#hold(false);
  }

  #pace(): void {
    const nowMs = this.ports.clock.nowMs();
    const left = Math.max(0, this.#room - (this.#written - this.#askedBytes));
    const bytesAMs = Math.max(this.bytesPerSecondMin, left / this.#horizonS) / 1_000;
    this.#allowance = Math.max(this.#allowance, -OWED_MS * bytesAMs) + (nowMs - this.#pacedMs) * bytesAMs;
    this.#allowance = Math.min(this.#allowance, SAVED_MS * bytesAMs);
    this.#pacedMs = nowMs;
    if (this.#isHeld && this.#allowance >= 0) {
      const bytes = this.#waitingBytes;
      this.#waitingBytes = 0;
      this.#hold(false);
      this.#spend(bytes);
    }
    this.look();
    // A look, or who was let go, may have ended everything.
    if (!this.#isPressed) return;
    this.#timer = this.ports.clock.schedule(PACE_MS, () => this.#pace());
  }

  #spend(bytes: number): void {
    this.#allowance -= bytes;
    if (this.#isPressed) this.#hold(this.#allowance < 0);
  }

  #hold(held: boolean): void {
    if (held === this.#isHeld) return;
    this.#isHeld = held;
    if (held) this.#wasHeld = true;
    this.ports.hold(held);
  }
}
