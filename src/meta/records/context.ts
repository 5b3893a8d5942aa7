/**
 * What all records work with, and the one way they change things: read, decide, transact with compares on all that
 * was read; and do it all again when the compares failed or the outcome is unknown. Each such step recognises its
 * own earlier success by a random token, so that repeating is safe. Rounds and time are bounded.
 */
import { type Clock, type Random, sleep } from "../../base";
import { MetaError } from "../errors";
import type { CallOptions, KeyValue, KeyValueStore } from "../kv";

export interface MetaContext {
  readonly store: KeyValueStore;
  readonly clock: Clock;
  readonly random: Random;
}

export interface RepeatOptions extends CallOptions {
  /** For messages: `Cannot <what>: ...`. */
  readonly what: string;
}

const ROUNDS_MAX = 64;
const DEFAULT_DEADLINE_MS = 15_000;
const PAUSE_MS_MIN = 5;
const PAUSE_MS_MAX = 1_000;

/** A lost race: the step is repeated. */
export const again = Symbol("again");
export type Again = typeof again;

/**
 * Repeats `step` until it returns something else than `again`. Errors that may pass by themselves (unreachable,
 * late, unknown outcome) repeat it too, and are thrown when the deadline passes.
 */
export async function repeat<T>(
  context: MetaContext,
  options: RepeatOptions,
  step: () => Promise<T | Again>,
): Promise<T> {
  const deadlineMs = context.clock.nowMs() + (options.deadlineMs ?? DEFAULT_DEADLINE_MS);
  let last: MetaError | undefined;
  for (let round = 0; round < ROUNDS_MAX; round++) {
    options.signal?.throwIfAborted();
    try {
      const result = await step();
      if (result !== again) return result;
      last = undefined;
    } catch (error) {
      if (!(error instanceof MetaError) || !error.retryable) throw error;
      last = error;
    }
    const pauseMs = jitter(context.random, Math.min(PAUSE_MS_MIN * 2 ** round, PAUSE_MS_MAX));
    if (context.clock.nowMs() + pauseMs >= deadlineMs) break;
    await sleep(context.clock, pauseMs, options.signal);
  }
  if (last !== undefined) throw last;
  throw new MetaError(
    "conflict",
    `Cannot ${options.what}: others kept changing the same metadata; try again`,
    { retryable: true },
  );
}

/** Between half of it and all of it. */
function jitter(random: Random, pauseMs: number): number {
  return pauseMs / 2 + (random.nextU32() / 2 ** 32) * (pauseMs / 2);
}

/** Linearizable read of several keys at one revision. */
export async function readAll(
  store: KeyValueStore,
  keys: readonly string[],
  options?: CallOptions,
): Promise<readonly (KeyValue | undefined)[]> {
  return (await store.transact({ compares: [], operations: [], reads: keys }, options)).reads;
}

export function unchanged(key: string, entry: KeyValue | undefined): { key: string; modRevision: number } {
  return { key, modRevision: entry?.modRevision ?? 0 };
}
