/**
 * The second phase of an NBD connection: requests in, replies out, as a handler on its byte stream. It is
 * (bytes, device answers) -> (device calls, reply bytes) and holds no timer and no promise.
 *
 * Invariants:
 *  - every request is answered exactly once, unless the connection is gone; then its memory comes back all the same;
 *  - no memory is taken for a request before `validateRequest` passed it;
 *  - what a client holds of us is bounded: requests in flight, their data until the kernel took it, and unsent
 *    replies. At a bound the connection is paused and the next request stays in the kernel;
 *  - a small write's body is copied out of the shared receive buffer; a large one arrives straight in pieces of
 *    request memory, each written as soon as it is full.
 */
import { assert, type NativeBuffer } from "../../base";
import type { StreamConnection, StreamHandler } from "../../base/io";
import { type DeviceExtent, DeviceStatus } from "../device";
import type { BufferPool, PieceOwner } from "./buffers";
import type { Negotiated, OpenExport, ReplyStyle } from "./handshake";
import type { NbdLimits } from "./limits";
import {
  Command,
  CommandFlag,
  EXTENDED_REQUEST_BYTES,
  Magic,
  NbdError,
  PAYLOAD_BYTES_MAX,
  REQUEST_BYTES,
} from "./protocol";
import {
  EXTENT_COUNT_MAX,
  type ReplyTo,
  replyExtents,
  replyPlain,
  replyReadChunk,
  replyWholeRead,
} from "./replies";
import type { Request, RequestOwner, RequestPiece, RequestPool } from "./request";
import type { NbdStatistics } from "./statistics";
import { nbdErrorOf } from "./status";
import { validateRequest } from "./validate";

/** A write up to this is taken out of the receive buffer once it is all there. */
const SMALL_WRITE_BYTES = 32 * 1024;
/** A larger write arrives in pieces of this size: what came last is still in the CPU's cache when the device copies it. */
const WRITE_PIECE_BYTES = 256 * 1024;
/** The step of a prefetch, and how much of one request is honoured: it is a hint. */
const CACHE_STEP_BYTES = 256 * 1024;
const CACHE_BYTES_MAX = PAYLOAD_BYTES_MAX;
/** A body that is refused is read and dropped up to this; a larger claim ends the connection. */
const DISCARD_BYTES_MAX = 2 ** 32;
/** Unsent replies beyond the data that is charged to the client. */
const UNSENT_REPLY_BYTES_MAX = 1024 * 1024;

/** Feeds a histogram; must not throw or keep anything. */
export interface NbdLatency {
  nowMs(): number;
  /** From the request's header to its reply. `command` as in the protocol. */
  observe(command: number, milliseconds: number): void;
}

/** The server, as a connection in transmission sees it. */
export interface TransmissionHost {
  readonly limits: NbdLimits;
  readonly buffers: BufferPool<Request>;
  readonly requests: RequestPool;
  readonly statistics: NbdStatistics;
  /** Undefined: latencies are not measured. */
  readonly latency: NbdLatency | undefined;
  /** The connection is closed and nothing of it is in flight any more: the device may be released. */
  finished(open: OpenExport, reason: string | undefined): void;
}

type Blocked = "no" | "client" | "memory" | "output";

export class Transmission implements StreamHandler, RequestOwner, PieceOwner<Request> {
  readonly #style: ReplyStyle;
  readonly #open: OpenExport;
  readonly #headerBytes: number;
  readonly #magic: number;
  #inFlightCount = 0;
  #chargedBytes = 0;
  #blocked: Blocked = "no";
  /** What memory is waited for, and what came of it. */
  #neededBytes = 0;
  readonly #reserved: RequestPiece[] = [];
  /** A large write whose body is arriving. */
  #bodyRequest: Request | undefined;
  #bodyRemainingBytes = 0;
  #receiving: RequestPiece | undefined;
  /** The input ends within a request's header, or within a small write. */
  #cutShort = false;
  /** A refused write whose body is dropped; answered when it is over. */
  #discardBytes = 0;
  #discardError: NbdError = NbdError.none;
  #discardTo: ReplyTo | undefined;
  /** No more requests: the client said so, or the server is shutting down. */
  #ending: "no" | "disconnect" | "drain" | "ended" = "no";
  #closed = false;
  #closeReason: string | undefined;
  #finished = false;
  /** Grows with everything that moves; the server's tick compares it. */
  #progress = 0;
  #progressSeen = 0;
  #quietMs = 0;
  #tickMs: number;

  constructor(
    private readonly connection: StreamConnection,
    private readonly host: TransmissionHost,
    private readonly negotiated: Negotiated,
    nowMs: number,
  ) {
    this.#style = negotiated.style;
    this.#open = negotiated.open;
    const extended = negotiated.style === "extended";
    this.#headerBytes = extended ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES;
    this.#magic = extended ? Magic.extendedRequest : Magic.request;
    this.#tickMs = nowMs;
  }

  get remote(): string {
    return this.connection.remote;
  }

  get inFlightCount(): number {
    return this.#inFlightCount;
  }

  // -- input ----------------------------------------------------------------------------------------------------

  onData(buffer: NativeBuffer, start: number, end: number): number {
    this.#progress++;
    const consumed = this.#consume(buffer, start, end);
    // What is left over of a large write is no beginning: it goes into the body's memory.
    this.#cutShort = consumed < end - start && this.#blocked === "no" && this.#bodyRemainingBytes === 0;
    return consumed;
  }

  #consume(buffer: NativeBuffer, start: number, end: number): number {
    let position = start;
    for (;;) {
      if (this.#closed || this.#ending === "disconnect" || this.#ending === "ended") return end - start;
      if (this.#discardBytes > 0) {
        const dropped = Math.min(this.#discardBytes, end - position);
        position += dropped;
        this.#discard(dropped);
        if (position === end) return end - start;
        continue;
      }
      if (this.#bodyRemainingBytes > 0) {
        if (this.#receiving === undefined && this.#blocked === "no") this.#continueBody();
        return position - start;
      }
      if (end - position < this.#headerBytes) return position - start;
      const consumed = this.#header(buffer, position, end);
      if (consumed === 0) return position - start;
      position += consumed;
    }
  }

  /** One request off the input; 0 when it must wait. */
  #header(buffer: NativeBuffer, position: number, end: number): number {
    const { view } = buffer;
    if (view.getUint32(position) !== this.#magic) {
      this.connection.destroy("NBD transmission: a request with a wrong magic");
      return end - position;
    }
    const flags = view.getUint16(position + 4);
    const command = view.getUint16(position + 6);
    const offsetBytes = view.getUint32(position + 16) * 0x1_0000_0000 + view.getUint32(position + 20);
    let lengthBytes = view.getUint32(position + 24);
    let payloadBytes = command === Command.write ? lengthBytes : 0;
    if (this.#style === "extended") {
      lengthBytes = lengthBytes * 0x1_0000_0000 + view.getUint32(position + 28);
      payloadBytes = (flags & CommandFlag.payloadLength) === 0 ? 0 : lengthBytes;
    }
    if (command === Command.disconnect) return this.#disconnect(end - position);
    if (this.#outputFull()) return 0;
    const error = this.#validate(command, flags, offsetBytes, lengthBytes);
    if (error !== NbdError.none) {
      const cookieHigh = view.getInt32(position + 8);
      const cookieLow = view.getInt32(position + 12);
      this.#refuse({ command, cookieHigh, cookieLow, offsetBytes }, error, payloadBytes);
      return this.#headerBytes;
    }
    if (!this.#admit(command, lengthBytes)) return 0;
    let consumed = this.#headerBytes;
    if (command === Command.write && lengthBytes <= SMALL_WRITE_BYTES) {
      consumed += lengthBytes;
      if (end - position < consumed) return 0;
    }
    if (!this.#takeMemory(command, lengthBytes)) return 0;

    const request = this.host.requests.take(this);
    request.command = command;
    request.flags = flags;
    request.cookieHigh = view.getInt32(position + 8);
    request.cookieLow = view.getInt32(position + 12);
    request.offsetBytes = offsetBytes;
    request.lengthBytes = lengthBytes;
    this.#inFlightCount++;
    this.host.statistics.countRequest(command);
    if (this.host.latency !== undefined) request.startMs = this.host.latency.nowMs();
    this.#dispatch(request, buffer, position + this.#headerBytes);
    return consumed;
  }

  #validate(command: number, flags: number, offsetBytes: number, lengthBytes: number): NbdError {
    if (this.#ending !== "no") return NbdError.shutdown;
    const { device } = this.#open;
    const { allocationContext } = this.negotiated;
    return validateRequest(command, flags, offsetBytes, lengthBytes, device, this.#style, allocationContext);
  }

  #refuse(to: ReplyTo, error: NbdError, payloadBytes: number): void {
    this.host.statistics.errorCount++;
    // Memory that was waited for while the request still looked valid.
    this.#dropReserved();
    if (payloadBytes > DISCARD_BYTES_MAX) {
      this.connection.destroy(`NBD transmission: a body of ${payloadBytes} bytes was announced`);
      return;
    }
    if (payloadBytes === 0) {
      replyPlain(this.connection, this.#style, to, error);
      return;
    }
    this.#discardBytes = payloadBytes;
    this.#discardError = error;
    this.#discardTo = to;
  }

  #discard(droppedBytes: number): void {
    this.#discardBytes -= droppedBytes;
    if (this.#discardBytes > 0) return;
    const to = this.#discardTo as ReplyTo;
    this.#discardTo = undefined;
    replyPlain(this.connection, this.#style, to, this.#discardError);
  }

  #disconnect(consumed: number): number {
    if (this.#ending === "no" || this.#ending === "drain") this.#ending = "disconnect";
    this.#endIfIdle();
    return consumed;
  }

  // -- bounds ---------------------------------------------------------------------------------------------------

  #admit(command: number, lengthBytes: number): boolean {
    const { limits } = this.host;
    const dataBytes = command === Command.read || command === Command.write ? lengthBytes : 0;
    const full =
      this.#inFlightCount >= limits.clientRequestCountMax ||
      (this.#chargedBytes > 0 &&
        this.#chargedBytes + dataBytes > limits.clientBytesMax &&
        this.#reserved.length === 0);
    if (full) this.#block("client");
    return !full;
  }

  #outputFull(): boolean {
    if (this.connection.queuedBytes <= this.#chargedBytes + UNSENT_REPLY_BYTES_MAX) return false;
    this.#block("output");
    return true;
  }

  /** Puts what the request needs into #reserved, or blocks until it can be had. */
  #takeMemory(command: number, lengthBytes: number): boolean {
    let neededBytes = 0;
    if (command === Command.read) neededBytes = lengthBytes;
    else if (command === Command.write) neededBytes = Math.min(lengthBytes, WRITE_PIECE_BYTES);
    else if (command === Command.cache) neededBytes = Math.min(lengthBytes, CACHE_STEP_BYTES);
    return this.#reserve(neededBytes);
  }

  #reserve(neededBytes: number): boolean {
    if (neededBytes === 0 || this.#reserved.length > 0) return true;
    if (this.#takeAll(neededBytes)) return true;
    this.#neededBytes = neededBytes;
    this.#block("memory");
    this.host.buffers.wait(this.#retryMemory);
    return false;
  }

  #takeAll(neededBytes: number): boolean {
    if (!this.host.buffers.takeAll(neededBytes, this, this.#reserved)) return false;
    this.#chargedBytes += neededBytes;
    return true;
  }

  #dropReserved(): void {
    for (const piece of this.#reserved.splice(0)) piece.release();
  }

  readonly #retryMemory = (): boolean => {
    if (this.#closed) return true;
    if (!this.#takeAll(this.#neededBytes)) return false;
    this.#unblock();
    return true;
  };

  #block(why: Exclude<Blocked, "no">): void {
    this.#blocked = why;
    this.connection.pause();
  }

  #unblock(): void {
    this.#blocked = "no";
    if (!this.#closed) this.connection.resume();
  }

  onDrain(): void {
    this.#progress++;
    if (this.#blocked === "output") this.#unblock();
  }

  // -- to the device --------------------------------------------------------------------------------------------

  #dispatch(request: Request, buffer: NativeBuffer, bodyPosition: number): void {
    const { device } = this.#open;
    const { offsetBytes, lengthBytes, flags } = request;
    const forceUnitAccess = (flags & CommandFlag.forceUnitAccess) !== 0;
    switch (request.command) {
      case Command.read:
        this.#read(request);
        return;
      case Command.write:
        this.#write(request, buffer, bodyPosition, forceUnitAccess);
        return;
      case Command.flush:
        device.flush(request.done);
        return;
      case Command.trim:
        device.trim(offsetBytes, lengthBytes, forceUnitAccess, request.done);
        return;
      case Command.writeZeroes: {
        const mayTrim = (flags & CommandFlag.noHole) === 0;
        const fastOnly = (flags & CommandFlag.fastZero) !== 0;
        device.writeZeroes(offsetBytes, lengthBytes, { forceUnitAccess, mayTrim, fastOnly }, request.done);
        return;
      }
      case Command.cache:
        this.#prefetch(request);
        return;
      case Command.blockStatus: {
        const countMax = (flags & CommandFlag.requestOne) !== 0 ? 1 : EXTENT_COUNT_MAX;
        device.extents(offsetBytes, lengthBytes, countMax, request.extentsDone);
        return;
      }
      default:
        assert(false, `Command ${request.command} passed validation but is not handled`);
    }
  }

  #read(request: Request): void {
    if (request.lengthBytes === 0) {
      this.#finish(request);
      return;
    }
    const { device } = this.#open;
    let offsetBytes = request.offsetBytes;
    for (const piece of this.#reserved) {
      piece.context = request;
      piece.deviceOffset = offsetBytes;
      offsetBytes += piece.lengthBytes;
      request.pieces.push(piece);
    }
    this.#reserved.length = 0;
    // The last answer may come inside the last call and give the request back: it is not touched after that.
    const { pieces } = request;
    const count = pieces.length;
    request.pendingCount = count;
    for (let index = 0; index < count; index++) {
      const piece = pieces[index] as RequestPiece;
      device.read(piece.deviceOffset, piece.lengthBytes, piece.buffer, piece.offset, piece.done);
    }
  }

  #write(request: Request, buffer: NativeBuffer, bodyPosition: number, forceUnitAccess: boolean): void {
    const { lengthBytes } = request;
    if (lengthBytes === 0) {
      this.#finish(request);
      return;
    }
    if (lengthBytes > SMALL_WRITE_BYTES) {
      this.#bodyRequest = request;
      this.#bodyRemainingBytes = lengthBytes;
      this.#continueBody();
      return;
    }
    const piece = this.#reserved.pop() as RequestPiece;
    piece.context = request;
    piece.buffer.bytes.set(buffer.bytes.subarray(bodyPosition, bodyPosition + lengthBytes), piece.offset);
    const { device } = this.#open;
    device.write(request.offsetBytes, lengthBytes, piece.buffer, piece.offset, forceUnitAccess, piece.done);
  }

  #continueBody(): void {
    if (!this.#reserve(Math.min(this.#bodyRemainingBytes, WRITE_PIECE_BYTES))) return;
    const request = this.#bodyRequest as Request;
    const piece = this.#reserved.pop() as RequestPiece;
    piece.context = request;
    piece.deviceOffset = request.offsetBytes + request.lengthBytes - this.#bodyRemainingBytes;
    this.#receiving = piece;
    this.connection.receiveInto(piece.buffer, piece.offset, piece.lengthBytes);
  }

  onReceived(): void {
    this.#progress++;
    const piece = this.#receiving as RequestPiece;
    const request = this.#bodyRequest as Request;
    this.#receiving = undefined;
    this.#bodyRemainingBytes -= piece.lengthBytes;
    // pendingCount began at 1, which stands for the last piece.
    if (this.#bodyRemainingBytes > 0) request.pendingCount++;
    else this.#bodyRequest = undefined;
    const forceUnitAccess = (request.flags & CommandFlag.forceUnitAccess) !== 0;
    const { device } = this.#open;
    device.write(
      piece.deviceOffset,
      piece.lengthBytes,
      piece.buffer,
      piece.offset,
      forceUnitAccess,
      piece.done,
    );
    if (this.#bodyRemainingBytes > 0 && !this.#closed) this.#continueBody();
  }

  /** Reads the range step by step into one piece and drops it: what the device caches is the effect. */
  #prefetch(request: Request): void {
    if (request.lengthBytes === 0) {
      this.#finish(request);
      return;
    }
    const piece = this.#reserved.pop() as RequestPiece;
    piece.context = request;
    this.#prefetchStep(request, piece);
  }

  #prefetchStep(request: Request, piece: RequestPiece): void {
    const endBytes = Math.min(request.lengthBytes, CACHE_BYTES_MAX);
    const lengthBytes = Math.min(piece.lengthBytes, endBytes - request.progressBytes);
    const offsetBytes = request.offsetBytes + request.progressBytes;
    request.progressBytes += lengthBytes;
    this.#open.device.read(offsetBytes, lengthBytes, piece.buffer, piece.offset, piece.done);
  }

  // -- from the device ------------------------------------------------------------------------------------------

  pieceDone(piece: RequestPiece, status: DeviceStatus): void {
    const request = piece.context as Request;
    request.pendingCount--;
    if (status !== DeviceStatus.ok && request.error === NbdError.none) request.error = nbdErrorOf(status);
    if (request.command === Command.read) {
      this.#readDone(request, piece);
      return;
    }
    const more = request.progressBytes < Math.min(request.lengthBytes, CACHE_BYTES_MAX);
    if (request.command === Command.cache && request.error === NbdError.none && more && !this.#closed) {
      request.pendingCount++;
      this.#prefetchStep(request, piece);
      return;
    }
    piece.release();
    if (request.pendingCount > 0) return;
    if (request.command === Command.write) this.host.statistics.writtenBytes += request.lengthBytes;
    this.#finish(request);
  }

  #readDone(request: Request, piece: RequestPiece): void {
    const last = request.pendingCount === 0;
    const whole = this.#style === "simple" || (request.flags & CommandFlag.doNotFragment) !== 0;
    if (!whole && request.error === NbdError.none && !this.#closed) {
      replyReadChunk(this.connection, this.#style, request, piece, last);
      if (last) this.#readAnswered(request);
      return;
    }
    if (!whole) piece.release();
    if (!last) return;
    if (whole && request.error === NbdError.none && !this.#closed) {
      replyWholeRead(this.connection, this.#style, request);
      this.#readAnswered(request);
      return;
    }
    if (whole) for (const each of request.pieces) each.release();
    this.#finish(request);
  }

  #readAnswered(request: Request): void {
    this.host.statistics.readBytes += request.lengthBytes;
    this.#forget(request);
  }

  commandDone(request: Request, status: DeviceStatus): void {
    request.error = nbdErrorOf(status);
    this.#finish(request);
  }

  extentsDone(request: Request, status: DeviceStatus, extents: readonly DeviceExtent[]): void {
    if (status === DeviceStatus.ok && extents.length > 0 && !this.#closed) {
      replyExtents(this.connection, this.#style, request, extents);
      this.#forget(request);
      return;
    }
    request.error = status === DeviceStatus.ok ? NbdError.io : nbdErrorOf(status);
    this.#finish(request);
  }

  /** Answers without data and forgets the request. */
  #finish(request: Request): void {
    if (request.error !== NbdError.none) this.host.statistics.errorCount++;
    if (!this.#closed) replyPlain(this.connection, this.#style, request, request.error);
    this.#forget(request);
  }

  #forget(request: Request): void {
    const { latency } = this.host;
    if (latency !== undefined) latency.observe(request.command, latency.nowMs() - request.startMs);
    this.host.requests.give(request);
    this.#inFlightCount--;
    if (this.#blocked === "client") this.#unblock();
    if (this.#inFlightCount === 0) this.#endIfIdle();
  }

  pieceReleased(piece: RequestPiece): void {
    this.#progress++;
    this.#chargedBytes -= piece.lengthBytes;
    if (this.#blocked === "client") this.#unblock();
  }

  // -- the end --------------------------------------------------------------------------------------------------

  /** Shutdown: requests in flight are answered, new ones refused, then the connection ends. */
  drain(): void {
    if (this.#ending === "no") this.#ending = "drain";
    this.#endIfIdle();
  }

  #endIfIdle(): void {
    if (this.#inFlightCount > 0) return;
    if (this.#closed) {
      if (this.#finished) return;
      this.#finished = true;
      this.host.finished(this.#open, this.#closeReason);
      return;
    }
    if (this.#ending === "no" || this.#ending === "ended") return;
    this.#ending = "ended";
    this.connection.end();
  }

  destroy(reason: string): void {
    this.connection.destroy(reason);
  }

  onClose(reason: string | undefined): void {
    this.#closed = true;
    this.#closeReason = reason;
    this.#dropReserved();
    const request = this.#bodyRequest;
    this.#bodyRequest = undefined;
    this.#bodyRemainingBytes = 0;
    this.#receiving?.release();
    this.#receiving = undefined;
    // The part of the body that will never come.
    if (request !== undefined && --request.pendingCount === 0) this.#finish(request);
    else this.#endIfIdle();
  }

  /** Looked at every `periodMs` or so: how long nothing has moved, for the idle, request and stall limits. */
  tick(nowMs: number, periodMs: number): void {
    // A late tick is this process's doing (it was stopped, or busy), and the client's bytes may lie unread.
    this.#quietMs += Math.min(nowMs - this.#tickMs, 2 * periodMs);
    this.#tickMs = nowMs;
    if (this.#progress !== this.#progressSeen) {
      this.#progressSeen = this.#progress;
      this.#quietMs = 0;
      return;
    }
    const quietMs = this.#quietMs;
    const { limits, buffers } = this.host;
    const unfinished = this.#cutShort || this.#receiving !== undefined || this.#discardBytes > 0;
    if (unfinished && limits.requestTimeoutMs > 0 && quietMs >= limits.requestTimeoutMs) {
      this.destroy(
        `NBD transmission: the client began a request and sent nothing more of it for ${quietMs} ms`,
      );
      return;
    }
    const stalled = this.#receiving !== undefined || this.connection.queuedBytes > 0;
    if (stalled && quietMs >= limits.stallTimeoutMs && buffers.waitingCount > 0) {
      this.destroy(
        `NBD transmission: the client moved nothing for ${quietMs} ms while others wait for memory`,
      );
      return;
    }
    if (limits.idleTimeoutMs > 0 && this.#inFlightCount === 0 && quietMs >= limits.idleTimeoutMs)
      this.destroy(`NBD transmission: no request for ${quietMs} ms`);
  }
}
