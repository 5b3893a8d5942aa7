/**
 * One peer reached over HTTP: a queue of operations and a few connections that empty it. Whatever waits when a
 * connection falls idle goes as one call, so a loaded link makes large batches and an idle one answers at once.
 *
 *   up --connect failed, call timed out, answer unusable--> resting (backoff) --its end: one connect--> up
 *
 * While resting puts and reads fail at once, so that whoever places blocks walks on to the next peer; the link
 * tries again by itself. A fence waits for the puts made before it. Invariants: every operation completes once and
 * never inside the call that made it; its buffers are not touched afterwards.
 */
import { toBinary } from "@bufbuild/protobuf";
import { type PeerId, type Timer, TorusError } from "../../base";
import type { StreamConnection, StreamHandler } from "../../base/io";
import { type OutgoingPut, type OutgoingRead, StorageStatus } from "../../engine";
import {
  bytesOfPut,
  bytesOfRead,
  type Call,
  type CallFailure,
  ControlCall,
  failOperation,
  PutCall,
  ReadCall,
  takeBatch,
  type Waiting,
  type WaitingRead,
  withdrawRead,
} from "./calls";
import { GetStatisticsRequestSchema, type Target } from "../gen/storage_pb";
import { encodeHead } from "./batches";
import { ConnectStorageError } from "./errors";
import { type HttpCall, HttpConnection } from "./http-connection";
import { encodeTarget, targetOf } from "./identity";
import { CONNECT_CONNECTION_COUNT_MAX, type ConnectTransportOptions } from "./options";
import { Procedure, SERVICE_PATH } from "./procedures";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 2_000;
/** Deadlines are looked at this many times in one request timeout. */
const TICKS_PER_TIMEOUT = 8;
/** Operations waiting; beyond that the peer has not answered for far too long. */
const QUEUE_COUNT_MAX = 65_536;
const TOO_LATE = "it does not answer in time";

type Ended = "put" | "read" | "control";

interface Running {
  readonly call: Call;
  readonly connection: HttpConnection;
  readonly deadlineMs: number;
  /** Made again once when a kept connection turned out to be closed. */
  readonly isRetry: boolean;
}

export class ConnectPeerLink {
  readonly #puts: Extract<Waiting, { kind: "put" }>[] = [];
  readonly #reads: WaitingRead[] = [];
  readonly #controls: Extract<Waiting, { kind: "control" }>[] = [];
  readonly #connections = new Set<HttpConnection>();
  readonly #running = new Set<Running>();
  readonly #target: Target;
  readonly #head: Uint8Array;
  #connecting = 0;
  #flushing = false;
  #putOrdinal = 0;
  #resting: Timer | undefined;
  #failuresInRow = 0;
  #lastFailure = "not connected";
  #tick: Timer | undefined;
  #attempt = 0;
  #lastAnswerMs = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(
    readonly peerId: PeerId,
    private readonly options: ConnectTransportOptions,
  ) {
    this.#target = targetOf(options.clusterId, peerId);
    this.#head = encodeHead(encodeTarget(this.#target));
  }

  get isLikelyUp(): boolean {
    return this.#failuresInRow === 0 && !this.#closed;
  }

  put(put: OutgoingPut): void {
    const deadlineMs = this.options.clock.nowMs() + this.options.requestTimeoutMs;
    const operation = { kind: "put", put, deadlineMs, ordinal: ++this.#putOrdinal } as const;
    if (this.#accepts(operation)) this.#puts.push(operation);
  }

  read(read: OutgoingRead): void {
    const deadlineMs = this.options.clock.nowMs() + this.options.requestTimeoutMs;
    const operation: WaitingRead = { kind: "read", read, isWithdrawn: false, deadlineMs };
    if (this.#accepts(operation)) this.#reads.push(operation);
  }

  /** Whether the read was waiting or under way: nothing is heard of it any more. Its call goes on for the others. */
  withdrawRead(read: OutgoingRead): boolean {
    const index = this.#reads.findIndex((waiting) => waiting.read === read);
    if (index >= 0) {
      this.#reads.splice(index, 1);
      return true;
    }
    for (const { call } of this.#running)
      for (const operation of call.operations)
        if (operation.kind === "read" && operation.read === read) {
          withdrawRead(operation);
          return true;
        }
    return false;
  }

  control(procedure: string, body: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const deadlineMs = this.options.clock.nowMs() + this.options.controlTimeoutMs;
      const afterPut = procedure === Procedure.fence ? this.#putOrdinal : 0;
      const operation = { kind: "control", procedure, body, deadlineMs, afterPut, resolve, reject } as const;
      if (this.#accepts(operation)) this.#controls.push(operation);
    });
  }

  close(reason: string): void {
    this.#closed = true;
    this.#fail(reason);
  }

  // -- the queue ------------------------------------------------------------------------------------------------

  /** Whether it may wait; else it fails at the end of the turn. */
  #accepts(operation: Waiting): boolean {
    const mayWait = !this.#closed && (this.#resting === undefined || operation.kind === "control");
    const room = this.#puts.length + this.#reads.length + this.#controls.length < QUEUE_COUNT_MAX;
    if (mayWait && room) {
      this.#flushSoon();
      return true;
    }
    const failure: CallFailure = { status: StorageStatus.unreachable, reason: this.#lastFailure };
    this.options.turns.afterTurn(() => failOperation(operation, this.peerId, failure));
    return false;
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.options.turns.afterTurn(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#closed) return;
    this.#startTicking();
    if (this.#resting !== undefined) return;
    for (const connection of this.#connections) {
      if (!connection.isIdle) continue;
      const call = this.#nextCall();
      if (call === undefined) return;
      this.#start(connection, call, false);
    }
    const countMax = this.options.connectionCountMax ?? CONNECT_CONNECTION_COUNT_MAX;
    const open = this.#connections.size + this.#connecting;
    if (this.#hasWork() && this.#connecting === 0 && open < countMax) this.#connect();
  }

  #hasWork(): boolean {
    return (
      this.#puts.length > 0 || this.#reads.length > 0 || this.#controls.some((each) => this.#mayGo(each))
    );
  }

  #mayGo(control: Extract<Waiting, { kind: "control" }>): boolean {
    if (control.afterPut === 0) return true;
    const first = this.#puts[0];
    if (first !== undefined && first.ordinal <= control.afterPut) return false;
    for (const { call } of this.#running)
      for (const operation of call.operations)
        if (operation.kind === "put" && operation.ordinal <= control.afterPut) return false;
    return true;
  }

  #nextCall(): Call | undefined {
    const controlIndex = this.#controls.findIndex((each) => this.#mayGo(each));
    if (controlIndex >= 0) {
      const [control] = this.#controls.splice(controlIndex, 1);
      if (control !== undefined) return new ControlCall(control);
    }
    if (this.#reads.length > 0)
      return new ReadCall(takeBatch(this.#reads, bytesOfRead), this.peerId, this.#head);
    if (this.#puts.length > 0) return new PutCall(takeBatch(this.#puts, bytesOfPut), this.peerId, this.#head);
    return undefined;
  }

  // -- calls ----------------------------------------------------------------------------------------------------

  #start(connection: HttpConnection, call: Call, isRetry: boolean): void {
    const { requestTimeoutMs, controlTimeoutMs, clock } = this.options;
    const timeoutMs = call instanceof ControlCall ? controlTimeoutMs : requestTimeoutMs;
    const running: Running = { call, connection, deadlineMs: clock.nowMs() + timeoutMs, isRetry };
    this.#running.add(running);
    const http: HttpCall = {
      path: SERVICE_PATH + call.procedure,
      bodyBytes: call.bodyBytes,
      replyBytesMax: call.replyBytesMax,
      timeoutMs,
      writeBody: (stream) => call.writeBody(stream),
      answered: (status, contentType, body) => this.#answered(running, status, contentType, body),
      failed: (reason, unheard) => this.#callFailed(running, reason, unheard),
    };
    connection.post(http);
  }

  #answered(running: Running, status: number, contentType: string, body: Uint8Array): void {
    this.#running.delete(running);
    const { call } = running;
    const isMessage = status === 200 && contentType.startsWith("application/proto");
    let deliver: () => void;
    try {
      if (!isMessage) throw refusalOf(status, contentType, body);
      deliver = call.parse(body);
      this.#failuresInRow = 0;
      this.#lastAnswerMs = this.options.clock.nowMs();
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      const failure = failureOf(error);
      deliver = () => {
        for (const operation of call.operations) failOperation(operation, this.peerId, failure);
        if (failure.isLate) this.#tooLate(failure.reason);
        // Another peer, another cluster or no peer at all listens there: asking at once again is of no use.
        else if (
          failure.status === StorageStatus.unreachable ||
          failure.status === StorageStatus.wrongCluster
        )
          this.#fail(failure.reason);
      };
    }
    deliver();
    this.#flushSoon();
  }

  #callFailed(running: Running, reason: string, unheard: boolean): void {
    this.#running.delete(running);
    if (unheard && !running.isRetry && !this.#closed && this.#resting === undefined) {
      // The server closed a quiet connection just as we used it; all operations may be made twice.
      this.#retry(running.call);
      return;
    }
    const failure: CallFailure = { status: StorageStatus.unreachable, reason };
    for (const operation of running.call.operations) failOperation(operation, this.peerId, failure);
    if (reason === TOO_LATE) this.#tooLate(reason);
    else this.#fail(reason);
  }

  /** One slow call says nothing as long as others are answered. */
  #tooLate(reason: string): void {
    const { clock, requestTimeoutMs } = this.options;
    if (clock.nowMs() - this.#lastAnswerMs < requestTimeoutMs) this.#flushSoon();
    else this.#fail(reason);
  }

  #retry(call: Call): void {
    this.#open((connection) => {
      if (connection !== undefined) return this.#start(connection, call, true);
      const failure: CallFailure = { status: StorageStatus.unreachable, reason: this.#lastFailure };
      for (const operation of call.operations) failOperation(operation, this.peerId, failure);
    });
  }

  // -- connections ----------------------------------------------------------------------------------------------

  #connect(): void {
    this.#open((connection) => {
      if (connection === undefined) return;
      if (this.#failuresInRow > 0) this.#probe();
      this.#flushSoon();
    });
  }

  /** Asks for something small: that it listens does not prove that it answers. */
  #probe(): void {
    const request = { $typeName: GetStatisticsRequestSchema.typeName, target: this.#target } as const;
    const body = toBinary(GetStatisticsRequestSchema, request);
    // Its outcome is told to the link like any call's; nobody else waits for it.
    this.control(Procedure.getStatistics, body).catch(() => undefined);
  }

  /** `then` gets a fresh connection, or undefined after the link was told of the failure. */
  #open(then: (connection: HttpConnection | undefined) => void): void {
    const { network, locate, connectTimeoutMs, turns } = this.options;
    const attempt = this.#attempt;
    const address = locate(this.peerId);
    const fail = (reason: string) => {
      if (attempt !== this.#attempt) return then(undefined);
      this.#connecting--;
      this.#fail(reason);
      then(undefined);
    };
    this.#connecting++;
    if (address === undefined) {
      turns.afterTurn(() => fail("no address is known"));
      return;
    }
    try {
      network.connect(
        address,
        connectTimeoutMs,
        (connection) => {
          if (attempt !== this.#attempt) {
            turns.afterTurn(() => then(undefined));
            return refuseLate(connection);
          }
          this.#connecting--;
          const http = this.#adopt(connection, address);
          then(http);
          return http;
        },
        fail,
      );
    } catch (error) {
      // An address that cannot be one: told to whoever asks, and tried again, as it may be corrected.
      if (!(error instanceof TorusError)) throw error;
      turns.afterTurn(() => fail(error.message));
    }
  }

  #adopt(connection: StreamConnection, address: string): HttpConnection {
    // What stands before the host (`tls:`) is for the network only.
    const host = /[^:]*:\d+$|\[[^\]]*\]:\d+$/.exec(address)?.[0] ?? address;
    const http = new HttpConnection(connection, this.options.allocate, host, (closed) => {
      this.#connections.delete(closed);
    });
    this.#connections.add(http);
    return http;
  }

  /** The peer cannot be used for now: everything under way ends, and the link rests before it tries again. */
  #fail(reason: string): void {
    if (this.#resting !== undefined && !this.#closed) return;
    this.#lastFailure = reason;
    this.#attempt++;
    this.#connecting = 0;
    this.#resting?.cancel();
    this.#resting = undefined;
    if (!this.#closed) {
      const backoffMs = Math.min(BACKOFF_MS_MIN * 2 ** this.#failuresInRow, BACKOFF_MS_MAX);
      const jitter = 0.75 + this.options.random.nextU32() / 2 ** 33;
      this.#resting = this.options.clock.schedule(backoffMs * jitter, () => {
        this.#resting = undefined;
        this.#connect();
      });
    }
    this.#failuresInRow++;
    const waiting = [...this.#puts.splice(0), ...this.#reads.splice(0), ...this.#controls.splice(0)];
    // Before anything is told: the kernel has let go of every buffer.
    for (const connection of [...this.#connections]) connection.destroy(reason);
    const failure: CallFailure = { status: StorageStatus.unreachable, reason };
    for (const operation of waiting) failOperation(operation, this.peerId, failure);
  }

  // -- deadlines ------------------------------------------------------------------------------------------------

  #startTicking(): void {
    if (this.#tick !== undefined) return;
    const tickMs = Math.max(1, this.options.requestTimeoutMs / TICKS_PER_TIMEOUT);
    this.#tick = this.options.clock.schedule(tickMs, () => {
      this.#tick = undefined;
      this.#expire(this.options.clock.nowMs());
      if (this.#running.size > 0 || this.#puts.length + this.#reads.length + this.#controls.length > 0)
        this.#startTicking();
    });
  }

  #expire(nowMs: number): void {
    for (const running of [...this.#running])
      if (running.deadlineMs <= nowMs) running.connection.destroy(TOO_LATE);
    const failure: CallFailure = {
      status: StorageStatus.unreachable,
      reason: "no connection was free in time",
    };
    const late: Waiting[] = [...takeLate(this.#puts, nowMs), ...takeLate(this.#reads, nowMs)];
    for (let index = this.#controls.length - 1; index >= 0; index--)
      if ((this.#controls[index] as Waiting).deadlineMs <= nowMs)
        late.push(...this.#controls.splice(index, 1));
    for (const operation of late) failOperation(operation, this.peerId, failure);
  }
}

/** Operations of one kind wait in the order of their deadlines. */
function takeLate<Item extends Waiting & { readonly kind: Ended }>(queue: Item[], nowMs: number): Item[] {
  let count = 0;
  while (count < queue.length && (queue[count] as Item).deadlineMs <= nowMs) count++;
  return queue.splice(0, count);
}

function refuseLate(connection: StreamConnection): StreamHandler {
  connection.destroy("it came too late");
  return { onData: (_buffer, start, end) => end - start, onReceived: () => {}, onClose: () => {} };
}

/** What an answer that is no message says: Connect puts errors into JSON. */
function refusalOf(status: number, contentType: string, body: Uint8Array): RefusedCall {
  let code = "unknown";
  let message =
    status === 404
      ? "it knows no such service: it is of another version, or no peer"
      : `it answered with HTTP status ${status}`;
  if (contentType.startsWith("application/json")) {
    try {
      const parsed: unknown = JSON.parse(new TextDecoder().decode(body));
      if (typeof parsed === "object" && parsed !== null) {
        if ("code" in parsed && typeof parsed.code === "string") code = parsed.code;
        if ("message" in parsed && typeof parsed.message === "string") message = parsed.message;
      }
    } catch {
      // Not JSON after all: the HTTP status says enough.
    }
  }
  return new RefusedCall(code, message);
}

class RefusedCall extends ConnectStorageError {
  constructor(
    readonly connectCode: string,
    message: string,
  ) {
    super("refused", message);
  }
}

function failureOf(error: TorusError): CallFailure {
  const reason = error.message;
  const code = error instanceof RefusedCall ? error.connectCode : "malformed";
  switch (code) {
    case "failed_precondition":
      return { status: StorageStatus.wrongCluster, reason };
    case "invalid_argument":
      return { status: StorageStatus.badRequest, reason };
    case "permission_denied":
      return { status: StorageStatus.denied, reason };
    case "resource_exhausted":
    case "unavailable":
    case "internal":
      return { status: StorageStatus.unavailable, reason };
    case "deadline_exceeded":
      return { status: StorageStatus.unreachable, reason, isLate: true };
    default:
      return { status: StorageStatus.unreachable, reason };
  }
}
