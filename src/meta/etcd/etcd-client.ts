/**
 * One etcd cluster behind several endpoints. etcd3 is used for its protocol alone: one client per endpoint with
 * its own retries, circuit breakers and hosts switched off, because they repeat transactions whose outcome is
 * unknown. Here a call goes to the endpoint that answered last; on a failure the next one is taken, and the call
 * is repeated only while it provably was not applied, or is idempotent, within its deadline.
 */
import { Etcd3, type IOptions, type IResponseHeader } from "etcd3";
import { type Clock, sleep } from "../../base";
import { MetaError, unknownOutcome, unreachable } from "../errors";
import type { CallOptions } from "../kv";
import { CALL_DEADLINE_MS } from "../limits";
import { classifyEtcdError, type EtcdFailure, shortReason } from "./etcd-errors";
import { allowAddressInTls } from "./etcd-tls";

export interface EtcdCredentials {
  readonly user?: string;
  readonly password?: string;
  /** PEM texts. Any of them makes the connection TLS. */
  readonly caPem?: Buffer;
  readonly certificatePem?: Buffer;
  readonly keyPem?: Buffer;
}

export interface EtcdClientOptions extends EtcdCredentials {
  /** `host:port`, at least one. */
  readonly endpoints: readonly string[];
  readonly tls: boolean;
  readonly clock: Clock;
}

const RECONNECT_BACKOFF_MS_MIN = 100;
const RECONNECT_BACKOFF_MS_MAX = 1_000;
/** etcd closes connections that ping more often than every 5 s. */
const PING_INTERVAL_MS = 6_000;
const PING_TIMEOUT_MS = 4_000;
const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;
/** How often every endpoint is tried for one call before it is called unreachable. */
const ROUNDS_MAX = 2;
const RETRY_PAUSE_MS = 100;
/** With several endpoints, a silent one must not use up the whole deadline of an idempotent call. */
const ATTEMPT_MS_MIN = 1_000;

/** A policy of etcd3's fault handling that does nothing at all. */
const noPolicy = {
  execute: async (body: (context: unknown) => unknown) => body({}),
} as unknown as NonNullable<NonNullable<IOptions["faultHandling"]>["global"]>;

export interface EtcdCall<T> {
  /** For messages: `Cannot <what>: ...`. */
  readonly what: string;
  readonly idempotent: boolean;
  run(client: Etcd3, deadline: { readonly deadline: number }): Promise<T>;
}

export class EtcdClient {
  readonly description: string;
  readonly #clients: readonly Etcd3[];
  readonly #endpoints: readonly string[];
  readonly #clock: Clock;
  #current: number;
  #clusterId: string | undefined;
  #closed = false;

  constructor(options: EtcdClientOptions, firstEndpointIndex = 0) {
    this.#endpoints = options.endpoints;
    this.#clock = options.clock;
    this.description = `etcd://${options.endpoints.join(",")}`;
    this.#clients = options.endpoints.map((endpoint) => {
      const client = new Etcd3(etcd3Options(endpoint, options));
      if (options.tls) allowAddressInTls(client, endpoint);
      return client;
    });
    this.#current = firstEndpointIndex % options.endpoints.length;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The client of the endpoint that is in use now, for streams. */
  currentClient(): { readonly client: Etcd3; readonly endpointIndex: number } {
    this.assertOpen();
    return { client: this.#clients[this.#current] as Etcd3, endpointIndex: this.#current };
  }

  /** Moves on when the endpoint that failed is still the one in use. */
  markFailed(endpointIndex: number): void {
    if (this.#current === endpointIndex) this.#current = (endpointIndex + 1) % this.#clients.length;
  }

  async call<T>(call: EtcdCall<T>, options: CallOptions = {}): Promise<T> {
    const deadlineMs = this.#clock.nowMs() + (options.deadlineMs ?? CALL_DEADLINE_MS);
    const failures = new Map<string, string>();
    for (let attempt = 0; ; attempt++) {
      options.signal?.throwIfAborted();
      const { client, endpointIndex } = this.currentClient();
      const remainingMs = deadlineMs - this.#clock.nowMs();
      if (remainingMs <= 0) throw this.#deadlineError(call, failures);
      const attemptMs = call.idempotent ? this.#attemptMs(remainingMs) : remainingMs;
      try {
        return await abortable(call.run(client, { deadline: Date.now() + attemptMs }), call, options.signal);
      } catch (error) {
        if (error instanceof MetaError) throw error;
        if (options.signal?.aborted) throw error;
        const failure = classifyEtcdError(error);
        failures.set(this.#endpoints[endpointIndex] as string, shortReason(error));
        this.#throwUnlessRepeatable(call, failure, error);
        if (failure !== "stale-token") this.markFailed(endpointIndex);
        if (failure === "not-applied" && attempt + 1 >= ROUNDS_MAX * this.#clients.length)
          throw this.#unreachableError(failures, error);
        await sleep(this.#clock, RETRY_PAUSE_MS, options.signal);
      }
    }
  }

  /** Two clusters behind one list of endpoints, or one wiped and made anew, must not be taken for one. */
  checkHeader(header: IResponseHeader): void {
    if (this.#clusterId === undefined) this.#clusterId = header.cluster_id;
    else if (this.#clusterId !== header.cluster_id)
      throw new MetaError(
        "damaged",
        `Cannot go on with ${this.description}: it answered as etcd cluster ${header.cluster_id}, before it was ${this.#clusterId}; check that all endpoints belong to one etcd cluster`,
      );
  }

  assertOpen(): void {
    if (this.#closed) throw new MetaError("closed", `Cannot use ${this.description}: it was closed`);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const client of this.#clients) client.close();
  }

  #attemptMs(remainingMs: number): number {
    if (this.#clients.length === 1) return remainingMs;
    return Math.min(remainingMs, Math.max(ATTEMPT_MS_MIN, remainingMs / this.#clients.length));
  }

  #throwUnlessRepeatable(call: EtcdCall<unknown>, failure: EtcdFailure, error: unknown): void {
    const prefix = `Cannot ${call.what} in ${this.description}`;
    switch (failure) {
      case "not-applied":
      case "busy":
      case "stale-token":
        return;
      case "unknown":
      case "deadline":
        if (call.idempotent) return;
        throw unknownOutcome(`Cannot tell whether etcd did ${call.what}: ${shortReason(error)}`, error);
      case "lease-lost":
        throw new MetaError("lease-lost", `${prefix}: its lease has ended`, { cause: error });
      case "unauthenticated":
        throw new MetaError(
          "unauthenticated",
          `${prefix}: ${shortReason(error)}; check user, password and role`,
          { cause: error },
        );
      case "out-of-space":
        throw new MetaError(
          "out-of-space",
          `${prefix}: etcd's database is full; compact and defragment it, then disarm its alarm`,
          { cause: error, retryable: true },
        );
      default:
        throw new MetaError("bad-request", `${prefix}: ${shortReason(error)}`, { cause: error });
    }
  }

  #deadlineError(call: EtcdCall<unknown>, failures: ReadonlyMap<string, string>): MetaError {
    return new MetaError("deadline", `Cannot ${call.what}: ${this.#describe(failures)}`, { retryable: true });
  }

  #unreachableError(failures: ReadonlyMap<string, string>, cause: unknown): MetaError {
    return unreachable(
      `Cannot reach etcd at ${this.#describe(failures)}: start it, or name where metadata lives with --meta`,
      cause,
    );
  }

  #describe(failures: ReadonlyMap<string, string>): string {
    if (failures.size === 0) return `${this.#endpoints.join(", ")} (no answer in time)`;
    return [...failures].map(([endpoint, reason]) => `${endpoint} (${reason})`).join(", ");
  }
}

/**
 * Ends a stream without harm to others: etcd3 takes the cancellation of a stream that is still writable for a
 * failure of the endpoint, and drops all its connections.
 */
export function cancelStream(stream: { end(): void; cancel(): void }): void {
  stream.end();
  stream.cancel();
}

/** The call itself cannot be taken back: an abort of a transaction that was sent leaves its outcome unknown. */
function abortable<T>(promise: Promise<T>, call: EtcdCall<T>, signal?: AbortSignal): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const onAbort = () =>
      reject(
        call.idempotent
          ? signal.reason
          : unknownOutcome(`Cannot tell whether etcd did ${call.what}: aborted`),
      );
    signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

function etcd3Options(endpoint: string, options: EtcdClientOptions): IOptions {
  const { caPem, certificatePem, keyPem, user, password } = options;
  const withFiles = caPem !== undefined || certificatePem !== undefined;
  return {
    hosts: `${options.tls ? "https" : "http"}://${endpoint}`,
    faultHandling: { host: () => noPolicy, global: noPolicy },
    ...(withFiles && {
      credentials: {
        // Without a CA of its own gRPC takes the system's, which etcd3's type does not know.
        rootCertificate: (caPem ?? null) as Buffer,
        ...(keyPem && { privateKey: keyPem }),
        ...(certificatePem && { certChain: certificatePem }),
      },
    }),
    ...(user !== undefined && {
      auth: {
        username: user,
        password: password ?? "",
        callOptions: () => ({ deadline: Date.now() + CALL_DEADLINE_MS }),
      },
    }),
    grpcOptions: {
      "grpc.initial_reconnect_backoff_ms": RECONNECT_BACKOFF_MS_MIN,
      "grpc.min_reconnect_backoff_ms": RECONNECT_BACKOFF_MS_MIN,
      "grpc.max_reconnect_backoff_ms": RECONNECT_BACKOFF_MS_MAX,
      "grpc.keepalive_time_ms": PING_INTERVAL_MS,
      "grpc.keepalive_timeout_ms": PING_TIMEOUT_MS,
      "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
      "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
      "grpc.service_config_disable_resolution": 1,
    },
  };
}
