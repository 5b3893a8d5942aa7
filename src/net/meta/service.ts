/**
 * The serving side: any key-value store (a daemon's embedded one) as a Connect service on a plain fetch handler for
 * Bun.serve. Unary calls pass straight through; errors carry the store's code, so that a client knows as much about
 * the outcome as a local caller. A watch stream carries many watches and is ended, never slowed, when its client
 * does not read: the client resumes it without a gap.
 */
import { create } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ConnectRouter,
  createConnectRouter,
  type HandlerContext,
} from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { type Clock, TorusError } from "../../base";
import { type CallOptions, type KeyValueStore, MetaError, type MetaErrorCode } from "../../meta";
import {
  ErrorDetailSchema,
  MetaService,
  type WatchRequest,
  type WatchResponse,
  WatchResponseSchema,
} from "../gen/meta_pb";
import { entryToMessage, eventToMessage, parts, resultToMessage, transactionFromMessage } from "./codec";
import {
  ALIVE_INTERVAL_MS,
  CALL_DEADLINE_MS_MAX,
  PART_BYTES,
  QUEUE_BYTES_MAX,
  REQUEST_BYTES_MAX,
  RESPONSE_BYTES_MAX,
  STREAMS_MAX,
  TARGETS_MAX,
} from "./limits";
import { StreamQueue } from "./stream-queue";

/** The one map from the stores' codes to Connect's; a client reads the detail, curl reads this. */
const CONNECT_CODES: Partial<Record<MetaErrorCode, Code>> = {
  deadline: Code.DeadlineExceeded,
  "unknown-outcome": Code.Unknown,
  unreachable: Code.Unavailable,
  "lease-lost": Code.NotFound,
  closed: Code.Unavailable,
  "bad-request": Code.InvalidArgument,
  "too-large": Code.ResourceExhausted,
  unauthenticated: Code.Unauthenticated,
  "out-of-space": Code.ResourceExhausted,
  damaged: Code.DataLoss,
};

export interface MetaServiceOptions {
  readonly store: KeyValueStore;
  readonly clock: Clock;
  /** Ends all streams when it aborts. */
  readonly shutdownSignal?: AbortSignal;
}

/** Answers requests under `/torus.meta.v1.MetaService/`; undefined for every other path. */
export class MetaServiceHandler {
  readonly #store: KeyValueStore;
  readonly #clock: Clock;
  readonly #handlers: ReadonlyMap<string, (request: Request) => Promise<Response>>;
  #streamCount = 0;

  constructor(options: MetaServiceOptions) {
    this.#store = options.store;
    this.#clock = options.clock;
    const router = createConnectRouter({
      grpc: false,
      grpcWeb: false,
      acceptCompression: [],
      readMaxBytes: REQUEST_BYTES_MAX,
      writeMaxBytes: RESPONSE_BYTES_MAX,
      maxTimeoutMs: CALL_DEADLINE_MS_MAX,
      ...(options.shutdownSignal && { shutdownSignal: options.shutdownSignal }),
    });
    this.register(router);
    this.#handlers = new Map(
      router.handlers.map((handler) => [handler.requestPath, createFetchHandler(handler)]),
    );
  }

  /** Watch streams open now. */
  get streamCount(): number {
    return this.#streamCount;
  }

  handle(request: Request): Promise<Response> | undefined {
    return this.#handlers.get(new URL(request.url).pathname)?.(request);
  }

  /** Adds the service to a router that serves others too. */
  register(router: ConnectRouter): void {
    const store = this.#store;
    router.service(MetaService, {
      range: (request, context) => this.#range(request.prefix, context),
      transact: (request, context) =>
        answer(async () => {
          const transaction = transactionFromMessage(request);
          if (transaction === undefined)
            throw new MetaError("bad-request", "Cannot run a metadata transaction: unknown operation");
          return resultToMessage(await store.transact(transaction, callOptions(context)));
        }),
      watch: (request, context) => this.#watch(request, context),
      grantLease: (request, context) =>
        answer(async () => ({ lease: await store.grantLease(Number(request.ttlMs), callOptions(context)) })),
      keepLeaseAlive: (request, context) =>
        answer(async () => {
          await store.keepLeaseAlive(request.lease, callOptions(context));
          return {};
        }),
      getLease: (request, context) =>
        answer(async () => {
          const remainingMs = await store.leaseRemainingMs(request.lease, callOptions(context));
          return { remainingMs: BigInt(Math.ceil(remainingMs)) };
        }),
      revokeLease: (request, context) =>
        answer(async () => {
          await store.revokeLease(request.lease, callOptions(context));
          return {};
        }),
    });
  }

  async *#range(prefix: string, context: HandlerContext) {
    const { revision, entries } = await answer(() => this.#store.range(prefix, callOptions(context)));
    for (const part of parts(entries, PART_BYTES))
      yield { revision: BigInt(revision), entries: part.map(entryToMessage) };
  }

  async *#watch(request: WatchRequest, context: HandlerContext): AsyncGenerator<WatchResponse> {
    if (this.#streamCount >= STREAMS_MAX)
      throw new ConnectError(`Cannot watch: ${STREAMS_MAX} streams are open`, Code.ResourceExhausted);
    if (request.targets.length > TARGETS_MAX)
      throw new ConnectError(`Cannot watch more than ${TARGETS_MAX} prefixes`, Code.InvalidArgument);
    this.#streamCount++;
    const queue = new StreamQueue<WatchResponse>(QUEUE_BYTES_MAX);
    const onAbort = () => queue.end();
    context.signal.addEventListener("abort", onAbort, { once: true });
    if (context.signal.aborted) queue.end();
    const stops: (() => void)[] = [this.#sendAlive(queue)];
    try {
      await answer(async () => {
        for (const target of request.targets) stops.push(this.#watchTarget(target, queue));
      });
      yield* queue;
    } finally {
      context.signal.removeEventListener("abort", onAbort);
      for (const stop of stops) stop();
      this.#streamCount--;
    }
  }

  #sendAlive(queue: StreamQueue<WatchResponse>): () => void {
    let isStopped = false;
    const send = () => {
      if (isStopped) return;
      queue.push(create(WatchResponseSchema, { kind: { case: "alive", value: {} } }), 16);
      timer = this.#clock.schedule(ALIVE_INTERVAL_MS, send);
    };
    let timer = this.#clock.schedule(0, send);
    return () => {
      isStopped = true;
      timer.cancel();
    };
  }

  #watchTarget(target: WatchRequest["targets"][number], queue: StreamQueue<WatchResponse>): () => void {
    const { id, prefix, afterRevision } = target;
    const push = (kind: WatchResponse["kind"], bytes: number) =>
      queue.push(create(WatchResponseSchema, { id, kind }), bytes);
    const watch = this.#store.watch(
      prefix,
      {
        onSnapshot: (entries, revision) => {
          const all = parts(entries, PART_BYTES);
          for (const [index, part] of all.entries()) {
            const value = {
              ...{ revision: BigInt(revision), more: index + 1 < all.length },
              entries: part.map(entryToMessage),
            };
            const message = create(WatchResponseSchema, { id, kind: { case: "snapshot", value } });
            queue.push(message, sizeOf(part));
          }
        },
        onEvents: (events, revision) => {
          const value = { revision: BigInt(revision), events: events.map(eventToMessage) };
          const message = create(WatchResponseSchema, { id, kind: { case: "events", value } });
          queue.push(message, sizeOf(events.flatMap((each) => (each.kind === "put" ? [each.entry] : []))));
        },
        onConnection: (connected) => push({ case: "connected", value: connected }, 16),
      },
      afterRevision === 0n ? {} : { afterRevision: Number(afterRevision) },
    );
    return () => watch.close();
  }
}

function sizeOf(entries: readonly { readonly key: string; readonly value: Uint8Array }[]): number {
  return entries.reduce((bytes, entry) => bytes + entry.key.length + entry.value.length + 64, 64);
}

function callOptions(context: HandlerContext): CallOptions {
  const remainingMs = context.timeoutMs();
  return remainingMs === undefined ? {} : { deadlineMs: Math.max(1, remainingMs) };
}

async function answer<T>(body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof TorusError)) throw error;
    const code = CONNECT_CODES[error.code as MetaErrorCode] ?? Code.Internal;
    const detail = { code: error.code, retryable: error.retryable };
    throw new ConnectError(
      error.message,
      code,
      undefined,
      [{ desc: ErrorDetailSchema, value: detail }],
      error,
    );
  }
}
