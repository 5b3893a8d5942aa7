/**
 * Real time and chance: the production Clock (CLOCK_BOOTTIME, which goes on during suspend, so that a lease cannot
 * outlive a sleeping laptop) and Random (the kernel's, by way of crypto). `systemClock` schedules with the
 * runtime's timers and is for the main thread; a loop worker uses its EventLoop, which is a Clock itself.
 */
import type { Clock, Random, Timer } from "../clock";
import { C, libc } from "./libc";
import { nativeBuffer } from "./memory";

const timespec = nativeBuffer(16);
const seconds = new Float64Array(1);

/** Milliseconds of CLOCK_BOOTTIME, with fraction. */
export function bootTimeMs(): number {
  libc.clockGettime(C.CLOCK_BOOTTIME, timespec.address);
  const words = timespec.words;
  // Seconds since boot fit 32 bits for 68 years.
  seconds[0] = (words[0] as number) * 1000 + (words[2] as number) / 1e6;
  return seconds[0];
}

/** Longest delay that setTimeout keeps; a longer schedule is walked in steps of this. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;

class RuntimeTimer implements Timer {
  #handle: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly dueMs: number,
    private readonly callback: () => void,
  ) {
    this.#arm();
  }

  cancel(): void {
    clearTimeout(this.#handle);
  }

  #arm(): void {
    const delayMs = Math.min(Math.max(Math.ceil(this.dueMs - bootTimeMs()), 0), TIMEOUT_MS_MAX);
    this.#handle = setTimeout(() => {
      // The runtime's timers may fire a little early and stop during suspend: ask the real clock again.
      if (bootTimeMs() < this.dueMs) this.#arm();
      else this.callback();
    }, delayMs);
  }
}

export const systemClock: Clock = {
  nowMs: bootTimeMs,
  wallMs: () => Date.now(),
  schedule: (delayMs, callback) => new RuntimeTimer(bootTimeMs() + delayMs, callback),
};

const RANDOM_WORDS = 256;
const randomWords = new Uint32Array(RANDOM_WORDS);
let randomUsed = RANDOM_WORDS;

export const systemRandom: Random = {
  nextU32: () => {
    if (randomUsed === RANDOM_WORDS) {
      crypto.getRandomValues(randomWords);
      randomUsed = 0;
    }
    return randomWords[randomUsed++] as number;
  },
  hex: (lengthBytes) => Buffer.from(crypto.getRandomValues(new Uint8Array(lengthBytes))).toString("hex"),
  uuid: () => crypto.randomUUID(),
};
