/**
 * Time and chance as ports: nothing in ring, engine or the metadata records reads a clock, a timer or a random
 * source except through these, so that the simulator can run them on virtual time from one seed.
 */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds on a clock that never jumps and goes on during suspend (CLOCK_BOOTTIME). */
  nowMs(): number;
  /** Wall-clock milliseconds since 1970, for timestamps people read; never for ordering. */
  wallMs(): number;
  schedule(delayMs: number, callback: () => void): Timer;
}

export interface Random {
  /** Uniform in 0 .. 2^32-1. */
  nextU32(): number;
  /** `lengthBytes` random bytes as lower-case hexadecimal digits. */
  hex(lengthBytes: number): string;
  uuid(): string;
}

/** Resolves after `delayMs` on the given clock; rejects with the signal's reason when it aborts first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = () => {
      timer.cancel();
      reject(signal?.reason);
    };
    const timer = clock.schedule(delayMs, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** What `answer` resolves with, or undefined when it takes longer than `ms`: it is then left to itself. */
export async function within<T>(clock: Clock, ms: number, answer: Promise<T>): Promise<T | undefined> {
  let timer: Timer | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = clock.schedule(ms, () => resolve(undefined));
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    timer?.cancel();
  }
}

/**
 * The end of the current turn of the event loop: work that serves everything a turn brought (one sync for all
 * puts, one send for all replies) is queued here and runs once. The simulator runs it after each event.
 */
export interface TurnScheduler {
  afterTurn(callback: () => void): void;
}
