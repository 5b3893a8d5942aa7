/**
 * Asking the writer of an attached volume for a snapshot or another size (R9): a request key, bound to a lease of
 * ours so that it does not outlive us. The writer answers by deleting it in the same transaction that does what was
 * asked, or marks it failed. Cancelling is deleting it too, so exactly one of the two happens.
 */
import { sleep } from "../../base";
import { isMetaError, MetaError } from "../errors";
import type { KeyValue } from "../kv";
import { decodeRequest, encodeRequest, type StoredRequest } from "./codec";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { keys } from "./layout";
import type { VolumeLook } from "./volume-look";

/** How long the request's lease outlives the wait, so that a slow cancel still finds it. */
const LEASE_SPARE_MS = 5_000;

export type RequestOutcome =
  | "met"
  /** The volume was detached or its writer died first; the request is withdrawn. */
  | "writer-gone";

/** Throws "request-failed" when the writer refuses or does not answer in time. */
export async function requestOfWriter(
  context: MetaContext,
  look: VolumeLook,
  stored: StoredRequest,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<RequestOutcome> {
  const { store } = context;
  const key = keys.request(look.volumeId, stored.request.requestId);
  const lease = await store.grantLease(timeoutMs + LEASE_SPARE_MS);
  try {
    const isPut = await repeat(context, { what: "ask the volume's writer" }, async () => {
      const [entry, lock] = await readAll(store, [key, keys.lock(look.volumeId)]);
      if (entry !== undefined) return true;
      if (lock === undefined) return false;
      const result = await store.transact({
        compares: [unchanged(key, undefined), unchanged(keys.lock(look.volumeId), lock)],
        operations: [{ kind: "put", key, value: encodeRequest(stored), lease }],
      });
      return result.committed ? true : again;
    });
    if (!isPut) return "writer-gone";
    const state = await awaitAnswer(context, look, key, timeoutMs, signal);
    if (state === "answered") return "met";
    return await withdraw(context, look, key, state);
  } finally {
    await store.revokeLease(lease).catch((error: unknown) => {
      // It ends by itself.
      if (!(error instanceof MetaError)) throw error;
    });
  }
}

type AnswerState = "answered" | "late" | "writer-gone" | { readonly failure: string };

/** Follows the volume's keys until the request is gone, failed, nobody is left to answer it, or time is up. */
async function awaitAnswer(
  context: MetaContext,
  look: VolumeLook,
  key: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<AnswerState> {
  const lockKey = keys.lock(look.volumeId);
  const abort = new AbortController();
  const timeout = sleep(
    context.clock,
    timeoutMs,
    signal ? AbortSignal.any([signal, abort.signal]) : abort.signal,
  ).then((): AnswerState => "late");
  const changed = new Promise<AnswerState>((resolve) => {
    let request: KeyValue | undefined;
    const state = new Set<string>();
    const decide = () => {
      if (request === undefined) return resolve("answered");
      const failure = failureOf(request);
      if (failure !== undefined) return resolve({ failure });
      if (!state.has(lockKey)) resolve("writer-gone");
    };
    const put = (entry: KeyValue) => {
      state.add(entry.key);
      if (entry.key === key) request = entry;
    };
    const watch = context.store.watch(keys.volumePrefix(look.volumeId), {
      onSnapshot: (entries) => {
        state.clear();
        request = undefined;
        for (const entry of entries) put(entry);
        decide();
      },
      onEvents: (events) => {
        for (const event of events)
          if (event.kind === "put") put(event.entry);
          else {
            state.delete(event.key);
            if (event.key === key) request = undefined;
          }
        decide();
      },
    });
    abort.signal.addEventListener("abort", () => watch.close());
  });
  try {
    return await Promise.race([changed, timeout]);
  } finally {
    abort.abort();
    timeout.catch(() => undefined);
  }
}

function failureOf(entry: KeyValue): string | undefined {
  try {
    return decodeRequest(entry).failure;
  } catch (error) {
    if (isMetaError(error)) return error.message;
    throw error;
  }
}

/** Cancels: either we delete the request, or it was answered before. */
async function withdraw(
  context: MetaContext,
  look: VolumeLook,
  key: string,
  state: Exclude<AnswerState, "answered">,
): Promise<RequestOutcome> {
  const { store } = context;
  let isTried = false;
  const isAnswered = await repeat(context, { what: "cancel a request" }, async () => {
    const entry = await store.get(key);
    // Gone after a try of ours with an unknown outcome: who deleted it is not known here, the caller looks.
    if (entry === undefined) return !isTried || "unknown";
    isTried = true;
    const result = await store.transact({
      compares: [unchanged(key, entry)],
      operations: [{ kind: "delete", key }],
    });
    return result.committed ? false : again;
  });
  if (isAnswered === true) return "met";
  if (isAnswered === "unknown" || state === "writer-gone") return "writer-gone";
  const reason = state === "late" ? "its writer did not answer in time" : state.failure;
  throw new MetaError("request-failed", `Cannot change volume "${look.volume.name}": ${reason}`);
}
