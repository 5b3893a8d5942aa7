/**
 * What a writer does when the peers say that they are nearly full. Overwritten pages leave dead space that comes back
 * only after cleaning, a checkpoint and a collection, so a fast writer can fill a pool whose volumes hold far less than
 * it. Such a writer is held up, not refused: new data waits while checkpoints make dead blocks collectable and cleaning
 * goes on in small steps, each followed by a checkpoint, because its copies take of the peers' last reserve. Only when
 * there is nothing left to gain, or it takes too long, is new data refused until there is room again.
 */
import { type Clock, sleep, type Timer } from "../../base";

/** Between a checkpoint and the next look: the peers collect meanwhile. */
const STEP_MS = 600;
/** Nothing was gained for so long: the pool is full of live data. */
const NO_GAIN_MS = 10_000;
/** However much is gained: a client is not held up for longer in one go. */
const HOLD_MS_MAX = 60_000;
/** Copied by cleaning between two checkpoints; all the writers of a full pool together must fit the reserve. */
const CLEAN_STEP_BYTES = 8 * 1024 * 1024;

export interface SpaceShortagePorts {
  readonly clock: Clock;
  /** New data waits (true), or what waited goes on. */
  hold(held: boolean): void;
  /** New data is refused, and what waits too. */
  refuse(refused: boolean): void;
  /** Makes what is dead collectable; never rejects. */
  checkpoint(): Promise<void>;
  /** Cleans a little, however little there is to gain; returns the bytes copied. */
  clean(bytesMax: number): Promise<number>;
  event(level: "info" | "warning", text: string): void;
}

export class SpaceShortage {
  #isShort = false;
  #isRefusing = false;
  /** When this shortage began, and when something was gained last. */
  #startMs = 0;
  #gainMs = 0;
  #running = false;
  #timer: Timer | undefined;
  #stopped = false;

  constructor(private readonly ports: SpaceShortagePorts) {}

  /** While the peers are nearly full, cleaning is this object's. */
  get isShort(): boolean {
    return this.#isShort;
  }

  /** New data is refused: nothing was gained any more. */
  get isRefusing(): boolean {
    return this.#isRefusing;
  }

  /** The peers became nearly full, or have room again. */
  set(short: boolean): void {
    if (this.#stopped || short === this.#isShort) return;
    this.#isShort = short;
    if (short) {
      // Each shortage has its own time, also one that follows another before a step of cleaning has ended.
      this.#startMs = this.ports.clock.nowMs();
      this.#gainMs = this.#startMs;
      this.ports.event("info", "the peers are nearly full, writes wait for dead space to come back");
      this.ports.hold(true);
      this.#watch();
      if (!this.#running) void this.#gain();
      return;
    }
    this.#timer?.cancel();
    this.ports.event("info", "the peers have room again");
    this.#isRefusing = false;
    this.ports.refuse(false);
    this.ports.hold(false);
  }

  /** The volume ends: whoever is held up is refused now. */
  stop(): void {
    this.#refuse();
    this.#timer?.cancel();
    this.#stopped = true;
  }

  /** Apart from the steps, which may themselves wait for space or for the metadata. */
  #watch(): void {
    this.#timer?.cancel();
    this.#timer = this.ports.clock.schedule(STEP_MS, () => {
      const nowMs = this.ports.clock.nowMs();
      if (nowMs - this.#gainMs >= NO_GAIN_MS || nowMs - this.#startMs >= HOLD_MS_MAX) this.#refuse();
      else this.#watch();
    });
  }

  async #gain(): Promise<void> {
    const { clock, checkpoint, clean } = this.ports;
    this.#running = true;
    while (this.#isShort && !this.#stopped) {
      await checkpoint();
      await sleep(clock, STEP_MS);
      if (!this.#isShort || this.#stopped) break;
      if ((await clean(CLEAN_STEP_BYTES)) > 0) this.#gainMs = clock.nowMs();
    }
    this.#running = false;
    // It may have become short again while the last step ended.
    if (this.#isShort && !this.#stopped) void this.#gain();
  }

  #refuse(): void {
    if (this.#isRefusing || !this.#isShort || this.#stopped) return;
    this.#isRefusing = true;
    this.ports.event(
      "warning",
      "the peers are nearly full and nothing more can be freed, new data is refused",
    );
    this.ports.refuse(true);
    this.ports.hold(false);
  }
}
