/**
 * Keeps a fast writer from filling a pool faster than its dead space comes back. Space that was overwritten takes
 * seconds to return (cleaning, a checkpoint, a collection), so a writer that goes on at full speed until the peers say
 * that they are nearly full has nothing left to clean with: each step frees little more than it takes, and a pool that
 * is half live answers "no space". Instead it is slowed down early, to what is left divided by the time that space
 * takes to return: the nearer the end, the slower, until both balance, with no long wait for any request.
 *
 * Nobody is asked while there are many seconds of room, or nothing is written.
 */
import type { Clock, Timer } from "../../base";

/** Room for fewer seconds of writing than this is worth work, and a look every now and then. */
const PRESSED_S = 8;
/** What is left has to last so long: about what dead space takes to come back. */
const HORIZON_S = 3;
/** Bytes a second that are never paced: a pool that is full of live data is to be found out, not approached for ever. */
const RATE_MIN = 8 * 1024 * 1024;
/** Written since the last look; less is not worth a question. */
const LOOK_BYTES = 16 * 1024 * 1024;
const LOOK_MS = 250;
const PACE_MS = 10;
/** Allowance that is kept when it is not used, and the most that is owed after a large request. */
const SAVED_MS = 50;
const OWED_MS = 250;
/** How much of the highest rate seen counts a look later: while a writer is slowed its own rate says little. */
const DEMAND_DECAY = 0.98;

export interface SpacePacePorts {
  readonly clock: Clock;
  /** Bytes of new data handed in so far. */
  writtenBytes(): number;
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
  /** At the last look. */
  #lookedMs: number;
  #lookedBytes = 0;
  #room = 0;
  /** Written when the room was asked for. */
  #askedBytes = 0;
  /** Bytes a second that the writer would like to write. */
  #demand = 0;
  /** At the last step of pacing. */
  #pacedMs = 0;
  #pacedBytes = 0;
  #allowance = 0;

  constructor(private readonly ports: SpacePacePorts) {
    this.#lookedMs = ports.clock.nowMs();
  }

  /** The writer is slowed down, or would be if it were faster. */
  get isPressed(): boolean {
    return this.#isPressed;
  }

  /** To be called about once a second; while pressed it looks by itself too. */
  look(): void {
    const { clock, writtenBytes, roomBytes } = this.ports;
    const [nowMs, written] = [clock.nowMs(), writtenBytes()];
    const elapsedMs = nowMs - this.#lookedMs;
    if (this.#stopped || this.#isAsking || elapsedMs < LOOK_MS) return;
    const added = written - this.#lookedBytes;
    if (!this.#isPressed && added < LOOK_BYTES) {
      this.#lookedMs = nowMs;
      this.#lookedBytes = written;
      this.#demand = 0;
      return;
    }
    this.#demand = Math.max((added * 1_000) / elapsedMs, this.#demand * DEMAND_DECAY);
    this.#lookedMs = nowMs;
    this.#lookedBytes = written;
    this.#isAsking = true;
    void roomBytes().then((room) => {
      this.#isAsking = false;
      // Nobody says: as it was.
      if (this.#stopped || room === undefined) return;
      this.#room = room;
      this.#askedBytes = written;
      this.#judge();
    });
  }

  stop(): void {
    this.#stopped = true;
    this.#end();
  }

  #judge(): void {
    if (this.#room >= this.#demand * PRESSED_S) return this.#end();
    this.ports.tighten();
    if (this.#isPressed) return;
    this.#isPressed = true;
    this.#pacedMs = this.ports.clock.nowMs();
    this.#pacedBytes = this.ports.writtenBytes();
    this.#allowance = 0;
    this.#pace();
  }

  #end(): void {
    this.#isPressed = false;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#hold(false);
  }

  #pace(): void {
    const { clock, writtenBytes } = this.ports;
    const [nowMs, written] = [clock.nowMs(), writtenBytes()];
    const left = Math.max(0, this.#room - (written - this.#askedBytes));
    const bytesAMs = Math.max(RATE_MIN, left / HORIZON_S) / 1_000;
    this.#allowance += (nowMs - this.#pacedMs) * bytesAMs - (written - this.#pacedBytes);
    this.#allowance = Math.min(Math.max(this.#allowance, -OWED_MS * bytesAMs), SAVED_MS * bytesAMs);
    this.#pacedMs = nowMs;
    this.#pacedBytes = written;
    this.#hold(this.#allowance < 0);
    this.look();
    this.#timer = clock.schedule(PACE_MS, () => this.#pace());
  }

  #hold(held: boolean): void {
    if (held === this.#isHeld) return;
    this.#isHeld = held;
    this.ports.hold(held);
  }
}
