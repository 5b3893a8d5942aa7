/**
 * The key-value port over a daemon that serves its embedded metadata. An answer that was lost is unknown for a
 * transaction that changes something; everything else is repeated within its deadline. Transactions use a
 * connection of their own: the runtime silently sends a request again when a kept connection turns out dead, which
 * nobody may do with a transaction.
 */
import { Code, ConnectError, createClient, type Client } from "@connectrpc/connect";
import { type UniversalClientFn, universalClientResponseFromFetch } from "@connectrpc/connect/protocol";
import { createTransport } from "@connectrpc/connect/protocol-connect";
import { type Clock, sleep } from "../../base";
import {
  CALL_DEADLINE_MS,
  type CallOptions,
  checkKey,
  checkLeaseTtl,
  checkTransaction,
  type KeyValue,
  type KeyValueStore,
  type LeaseId,
  MetaError,
  type MetaErrorCode,
  type RangeResult,
  type Transaction,
  type TransactionResult,
  type Watch,
  type WatchListener,
  type WatchOptions,
} from "../../meta";
import { ErrorDetailSchema, MetaService } from "../gen/meta_pb";
import { entryFromMessage, resultFromMessage, transactionToMessage } from "./codec";
import { REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX } from "./limits";
import { RemoteWatches } from "./remote-watches";

const RETRY_PAUSE_MS = 100;
/** Refused connections in a row before a call gives up. */
const REFUSALS_MAX = 3;
const TRANSACT_PATH = "/Transact";

export interface RemoteStoreOptions {
  /** `http://host:port`, without a path. */
  readonly baseUrl: string;
  readonly clock: Clock;
  /** For TLS: certificates and the like, handed to fetch. */
  readonly tls?: BunFetchRequestInitTLS;
}

export class RemoteStore implements KeyValueStore {
  readonly description: string;
  readonly #clock: Clock;
  readonly #client: Client<typeof MetaService>;
  readonly #watches: RemoteWatches;
  #closed = false;

  constructor(options: RemoteStoreOptions) {
    this.description = options.baseUrl;
    this.#clock = options.clock;
    this.#client = createClient(
      MetaService,
      createTransport({
        baseUrl: options.baseUrl,
        httpClient: fetchClient(options.tls),
        useBinaryFormat: true,
        interceptors: [],
        acceptCompression: [],
        sendCompression: null,
        compressMinBytes: 1024,
        readMaxBytes: RESPONSE_BYTES_MAX,
        writeMaxBytes: REQUEST_BYTES_MAX,
      }),
    );
    this.#watches = new RemoteWatches(this.#client, options.clock);
  }

  async get(key: string, options?: CallOptions): Promise<KeyValue | undefined> {
    checkKey(key);
    const request = transactionToMessage({ compares: [], operations: [], reads: [key] });
    return this.#call(`read ${key}`, true, options, async (callOptions) => {
      return resultFromMessage(await this.#client.transact(request, callOptions)).reads[0];
    });
  }

  async range(prefix: string, options?: CallOptions): Promise<RangeResult> {
    checkKey(prefix);
    return this.#call(`list ${prefix}`, true, options, async (callOptions) => {
      const entries: KeyValue[] = [];
      let revision = 0;
      for await (const part of this.#client.range({ prefix }, callOptions)) {
        revision = Number(part.revision);
        for (const entry of part.entries) entries.push(entryFromMessage(entry));
      }
      return { revision, entries };
    });
  }

  async transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult> {
    checkTransaction(transaction);
    const isIdempotent = transaction.operations.length === 0;
    const request = transactionToMessage(transaction);
    return this.#call("run a metadata transaction", isIdempotent, options, async (callOptions) =>
      resultFromMessage(await this.#client.transact(request, callOptions)),
    );
  }

  watch(prefix: string, listener: WatchListener, options: WatchOptions = {}): Watch {
    checkKey(prefix);
    this.#assertOpen();
    return this.#watches.add(prefix, listener, options.afterRevision);
  }

  async grantLease(ttlMs: number, options?: CallOptions): Promise<LeaseId> {
    checkLeaseTtl(ttlMs);
    // A grant whose answer was lost leaves a lease without keys, which ends by itself.
    return this.#call("grant a lease", true, options, async (callOptions) => {
      return (await this.#client.grantLease({ ttlMs: BigInt(Math.ceil(ttlMs)) }, callOptions)).lease;
    });
  }

  async keepLeaseAlive(lease: LeaseId, options?: CallOptions): Promise<void> {
    await this.#call(`keep lease ${lease} alive`, true, options, (callOptions) =>
      this.#client.keepLeaseAlive({ lease }, callOptions),
    );
  }

  async leaseRemainingMs(lease: LeaseId, options?: CallOptions): Promise<number> {
    return this.#call(`read lease ${lease}`, true, options, async (callOptions) =>
      Number((await this.#client.getLease({ lease }, callOptions)).remainingMs),
    );
  }

  async revokeLease(lease: LeaseId, options?: CallOptions): Promise<void> {
    await this.#call(`end lease ${lease}`, true, options, (callOptions) =>
      this.#client.revokeLease({ lease }, callOptions),
    );
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#watches.close();
  }

  #assertOpen(): void {
    if (this.#closed) throw new MetaError("closed", `Cannot use ${this.description}: it was closed`);
  }

  async #call<T>(
    what: string,
    isIdempotent: boolean,
    options: CallOptions = {},
    body: (callOptions: { timeoutMs: number; signal?: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    const deadlineMs = this.#clock.nowMs() + (options.deadlineMs ?? CALL_DEADLINE_MS);
    let refusals = 0;
    for (;;) {
      this.#assertOpen();
      options.signal?.throwIfAborted();
      const remainingMs = deadlineMs - this.#clock.nowMs();
      if (remainingMs <= 0) throw this.#late(what);
      try {
        return await body({
          timeoutMs: Math.max(1, Math.ceil(remainingMs)),
          ...(options.signal && { signal: options.signal }),
        });
      } catch (error) {
        const known = metaErrorOf(error);
        if (known !== undefined && !(isIdempotent && known.code === "unknown-outcome")) throw known;
        const isRefused = isConnectionRefused(error);
        if (isRefused && ++refusals >= REFUSALS_MAX) throw this.#unreachable(error);
        if (!isRefused && !isIdempotent) throw this.#unknown(what, error);
        options.signal?.throwIfAborted();
        if (ConnectError.from(error).code === Code.InvalidArgument) throw this.#foreign(what, error);
      }
      await sleep(this.#clock, RETRY_PAUSE_MS, options.signal);
    }
  }

  #late(what: string): MetaError {
    return new MetaError("deadline", `Cannot ${what}: ${this.description} did not answer in time`, {
      retryable: true,
    });
  }

  #unknown(what: string, cause: unknown): MetaError {
    return new MetaError(
      "unknown-outcome",
      `Cannot tell whether ${this.description} did ${what}: ${ConnectError.from(cause).rawMessage}`,
      { retryable: true, cause },
    );
  }

  #unreachable(cause: unknown): MetaError {
    return new MetaError(
      "unreachable",
      `Cannot reach the daemon at ${this.description} (connection refused): start it, or name where metadata lives with --meta`,
      { retryable: true, cause },
    );
  }

  #foreign(what: string, cause: unknown): MetaError {
    return new MetaError(
      "bad-request",
      `Cannot ${what}: ${this.description} refused it: ${ConnectError.from(cause).rawMessage}`,
      { cause },
    );
  }
}

/** What a server said about the outcome; undefined when the answer did not come from its store. */
function metaErrorOf(error: unknown): MetaError | undefined {
  if (error instanceof MetaError) return error;
  if (!(error instanceof ConnectError)) return undefined;
  const detail = error.findDetails(ErrorDetailSchema)[0];
  if (detail !== undefined)
    return new MetaError(detail.code as MetaErrorCode, error.rawMessage, {
      retryable: detail.retryable,
      cause: error,
    });
  if (error.code === Code.Unimplemented || error.code === Code.NotFound)
    return new MetaError(
      "bad-url",
      "Cannot use this daemon for metadata: it does not serve any (its metadata lives elsewhere); name that place with --meta",
      { cause: error, exitCode: 2 },
    );
  return undefined;
}

function isConnectionRefused(error: unknown): boolean {
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { code } = cause as { code?: unknown };
    if (code === "ConnectionRefused" || code === "ECONNREFUSED" || code === "FailedToOpenSocket") return true;
  }
  return false;
}

/** Bodies here are one message, so they are sent whole; a stream would cost a chunked upload. */
function fetchClient(tls: BunFetchRequestInitTLS | undefined): UniversalClientFn {
  return async (request) => {
    const chunks: Uint8Array[] = [];
    if (request.body) for await (const chunk of request.body) chunks.push(chunk);
    const init: BunFetchRequestInit = {
      method: request.method,
      headers: request.header,
      body: request.body === undefined ? null : Buffer.concat(chunks),
      ...(request.signal && { signal: request.signal }),
      keepalive: !request.url.endsWith(TRANSACT_PATH),
      // Deadlines are ours: by the signal for calls, by the alive messages for streams.
      timeout: false,
      ...(tls && { tls }),
    } as BunFetchRequestInit;
    return universalClientResponseFromFetch(await fetch(request.url, init));
  };
}
