/**
 * The client's connection to one peer, with everything that waits on it.
 *
 *   idle --first request--> connecting --connected--> greeting --hello ok--> ready
 *   connecting, greeting, ready --failure--> resting (backoff) --its end--> connecting
 *   any --close()--> closed
 *
 * While resting, and while connecting again after a failure, puts and reads fail at once: whoever places blocks
 * walks on to the next peer. The link reconnects by itself, so that a peer nobody asks is found up again.
 *
 * Deadlines count ticks of one timer per link, not time stamps per request. A request whose time is over ends as
 * unreachable; its slot stays until the late reply comes, which is then thrown away, and so does the slot of a read
 * that was withdrawn. When neither a byte came nor went for a whole deadline while something waits, the connection is
 * closed: the peer hangs.
 *
 * Invariants: every request completes once, never inside the call that made it; no buffer of a completed request
 * is read or written any more (a put that has not left completely ends only with its connection).
 */
import { assert, type NativeBuffer, type PeerId, type Timer, TorusError } from "../../base";
import type { StreamConnection, StreamHandler } from "../../base/io";
import { HEADER_BYTES_MAX, PAGE_BYTES } from "../../engine/block";
import { type OutgoingPut, type OutgoingRead, StorageStatus } from "../../engine";
import { CONTROL_REPLY_BYTES_MAX } from "./control";
import { AdpError } from "./errors";
import {
  ADP_VERSION,
  decodeHello,
  encodeHello,
  encodeReadBody,
  encodeRequestHeader,
  FrameKind,
  HELLO_BYTES,
  type Hello,
  HelloStatus,
  isHeaderWhole,
  READ_BODY_BYTES,
  REPLY_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
} from "./frame";
import type { AdpClientOptions } from "./options";

/** Ticks in one put or read deadline: a request ends between its deadline and one tick more. */
export const DEADLINE_TICKS = 8;
/** A put that is leaving slowly but steadily may take this many deadlines. */
const SLOW_DEADLINES_MAX = 8;
/** Slots of requests; beyond that the peer has not answered for far too long. */
const SLOT_COUNT_MAX = 65_536;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 2_000;
const NO_INCARNATION = "" as const;
/** Bodies are received in pieces of this size, so that a slow one is seen to make progress. */
const RECEIVE_PIECE_BYTES = 1024 * 1024;

/** What became of one request slot. */
const SlotKind = { free: 0, put: 1, read: 2, control: 3, abandoned: 4 } as const;
type SlotKind = (typeof SlotKind)[keyof typeof SlotKind];

export interface ControlCall {
  readonly operation: number;
  readonly body: Uint8Array;
  readonly timeoutMs: number;
  resolve(body: Uint8Array): void;
  reject(error: AdpError): void;
}

/** One request on the connection, reused for later ones. */
class Slot {
  kind: SlotKind = SlotKind.free;
  /** What a reply must say, also once abandoned. */
  frameKind: FrameKind = FrameKind.put;
  put: OutgoingPut | undefined;
  read: OutgoingRead | undefined;
  control: ControlCall | undefined;
  expiryTick = 0;
  startTick = 0;
  /** Bytes handed to the connection up to the end of this request. */
  endPosition = 0;
  /** Longest body its reply may have. */
  bodyBytesMax = 0;
}

type Waiting =
  | { readonly put: OutgoingPut }
  | { readonly read: OutgoingRead }
  | { readonly control: ControlCall };

type State = "idle" | "connecting" | "greeting" | "ready" | "resting" | "closed";

export interface KindCounts {
  requests: number;
  /** Frames with their headers. */
  sentBytes: number;
  receivedBytes: number;
}

export interface AdpPeerStatistics {
  readonly peerId: PeerId;
  readonly state: State;
  readonly put: Readonly<KindCounts>;
  readonly read: Readonly<KindCounts>;
  readonly control: Readonly<KindCounts>;
  readonly connectCount: number;
  readonly failureCount: number;
  /** Requests that ended without an answer. */
  readonly unreachableCount: number;
  readonly lastFailure: string | undefined;
}

const noCounts = (): KindCounts => ({ requests: 0, sentBytes: 0, receivedBytes: 0 });

export class PeerLink implements StreamHandler {
  readonly #counts = { put: noCounts(), read: noCounts(), control: noCounts() };
  #state: State = "idle";
  #connection: StreamConnection | undefined;
  /** Counts attempts, so that callbacks of an older one are known. */
  #attempt = 0;
  #hello: Hello | undefined;
  #waiting: Waiting[] = [];
  #failuresInRow = 0;
  #wrongCluster = false;
  #stateTimer: Timer | undefined;
  #connectCount = 0;
  #failureCount = 0;
  #unreachableCount = 0;
  #lastFailure: string | undefined;
  /** Requests head .. next-1 are under way; slot of request n is n modulo the capacity. */
  #slots: Slot[] = Array.from({ length: 64 }, () => new Slot());
  #head = 0;
  #next = 0;
  #tick = 0;
  #tickTimer: Timer | undefined;
  #progressTick = 0;
  #progressPosition = 0;
  /** Queued at the last tick. */
  #queuedBytes = 0;
  /** Bytes handed to the connection so far. */
  #writtenPosition = 0;
  /** The reply whose body is being received or thrown away. */
  #bodySlot: Slot | undefined;
  #bodyBuffer: NativeBuffer | undefined;
  #bodyOffset = 0;
  #bodyBytes = 0;
  #bodyReceivedBytes = 0;
  #bodyPieceBytes = 0;
  #bodyCheck = 0;
  #discardBytes = 0;

  constructor(
    readonly peerId: PeerId,
    private readonly options: AdpClientOptions,
    private readonly tickMs: number,
  ) {}

  get isLikelyUp(): boolean {
    return this.#state === "ready" || (this.#failuresInRow === 0 && this.#state !== "closed");
  }

  get statistics(): AdpPeerStatistics {
    return {
      peerId: this.peerId,
      state: this.#state,
      ...this.#counts,
      connectCount: this.#connectCount,
      failureCount: this.#failureCount,
      unreachableCount: this.#unreachableCount,
      lastFailure: this.#lastFailure,
    };
  }

  put(put: OutgoingPut): void {
    if (this.#state === "ready") this.#sendPut(put);
    else if (this.#mayWait(true)) this.#waiting.push({ put });
    else this.options.turns.afterTurn(() => this.#failPut(put, this.#failureStatus()));
  }

  read(read: OutgoingRead): void {
    if (this.#state === "ready") this.#sendRead(read);
    else if (this.#mayWait(true)) this.#waiting.push({ read });
    else this.options.turns.afterTurn(() => this.#failRead(read, this.#failureStatus()));
  }

  /** Whether the read was waiting or under way: its memory is let go of, and its answer thrown away when it comes. */
  withdrawRead(read: OutgoingRead): boolean {
    const waiting = this.#waiting.findIndex((one) => "read" in one && one.read === read);
    if (waiting >= 0) {
      this.#waiting.splice(waiting, 1);
      return true;
    }
    const mask = this.#slots.length - 1;
    for (let ordinal = this.#head; ordinal < this.#next; ordinal++) {
      const slot = this.#slots[ordinal & mask] as Slot;
      if (slot.read !== read) continue;
      slot.kind = SlotKind.abandoned;
      slot.read = undefined;
      if (slot === this.#bodySlot) this.#discardBody(slot);
      return true;
    }
    return false;
  }

  control(control: ControlCall): void {
    if (this.#state === "ready") this.#sendControl(control);
    else if (this.#mayWait(false)) this.#waiting.push({ control });
    else control.reject(this.#unreachable());
  }

  /** Ends everything; nothing can be asked afterwards. */
  close(reason: string): void {
    if (this.#state === "closed") return;
    this.#fail(reason, "closed");
  }

  // ------------------------------------------------------------------------------------------- connecting

  /** Whether a request may wait for the connection; starts connecting when nothing is under way. */
  #mayWait(isHot: boolean): boolean {
    if (this.#state === "idle") this.#connect();
    const isConnecting = this.#state === "connecting" || this.#state === "greeting";
    return isConnecting && this.#waiting.length < SLOT_COUNT_MAX && !(isHot && this.#failuresInRow > 0);
  }

  #connect(): void {
    this.#wrongCluster = false;
    const address = this.options.locate(this.peerId);
    if (address === undefined) return this.#fail("no address is known", "resting");
    const attempt = ++this.#attempt;
    this.#setState("connecting");
    const timeoutMs = this.options.connectTimeoutMs;
    this.#stateTimer = this.options.clock.schedule(timeoutMs, () =>
      this.#fail(`no hello in ${timeoutMs} ms`, "resting"),
    );
    try {
      this.options.network.connect(
        address,
        timeoutMs,
        (connection) => this.#onConnected(connection, attempt),
        (reason) => {
          if (attempt === this.#attempt && this.#state === "connecting") this.#fail(reason, "resting");
        },
      );
    } catch (error) {
      // An address that cannot be one: told to whoever asks, and tried again, as it may be corrected.
      if (!(error instanceof TorusError)) throw error;
      this.#fail(error.message, "resting");
    }
  }

  #onConnected(connection: StreamConnection, attempt: number): StreamHandler {
    if (attempt !== this.#attempt || this.#state !== "connecting") {
      connection.destroy("it came too late");
      return { onData: (_buffer, start, end) => end - start, onReceived: () => {}, onClose: () => {} };
    }
    this.#connection = connection;
    this.#state = "greeting";
    const place = connection.reserve(HELLO_BYTES);
    encodeHello(place.buffer.bytes, place.offset, {
      versionMin: ADP_VERSION,
      versionMax: ADP_VERSION,
      status: HelloStatus.ok,
      clusterId: this.options.clusterId,
      peerId: this.peerId,
      incarnation: "",
      blockBytesMax: this.options.blockBytesMax,
      requestCountMax: SLOT_COUNT_MAX,
    });
    return this;
  }

  /** Returns false when the link cannot be used. */
  #onHello(bytes: Uint8Array, offset: number): boolean {
    const hello = decodeHello(bytes, offset);
    this.#wrongCluster = hello?.status === HelloStatus.wrongCluster;
    let problem: string | undefined;
    if (hello === undefined) problem = "it does not speak this protocol";
    else if (hello.status === HelloStatus.wrongCluster) problem = `it belongs to cluster ${hello.clusterId}`;
    else if (hello.status === HelloStatus.noCommonVersion)
      problem = `it speaks versions ${hello.versionMin} to ${hello.versionMax}`;
    else if (hello.status !== HelloStatus.ok || hello.peerId !== this.peerId || hello.incarnation === "")
      problem = `peer ${hello.peerId} answers at its address`;
    if (problem !== undefined) {
      this.#fail(problem, "resting");
      return false;
    }
    this.#hello = hello;
    this.#connectCount++;
    this.#failuresInRow = 0;
    this.#writtenPosition = HELLO_BYTES;
    this.#setState("ready");
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) {
      if ("put" in one) this.#sendPut(one.put);
      else if ("read" in one) this.#sendRead(one.read);
      else this.#sendControl(one.control);
    }
    return true;
  }

  #setState(state: State): void {
    this.#state = state;
    this.#stateTimer?.cancel();
    this.#stateTimer = undefined;
  }

  /** The connection is of no use any more: everything under way ends, and the link rests before it tries again. */
  #fail(reason: string, next: "resting" | "closed"): void {
    const connection = this.#connection;
    this.#connection = undefined;
    this.#lastFailure = reason;
    this.#failureCount++;
    this.#attempt++;
    this.#setState(next);
    if (next === "resting") {
      const backoffMs = Math.min(BACKOFF_MS_MIN * 2 ** this.#failuresInRow, BACKOFF_MS_MAX);
      const jitter = 0.75 + this.options.random.nextU32() / 2 ** 33;
      this.#stateTimer = this.options.clock.schedule(backoffMs * jitter, () => this.#connect());
    }
    this.#failuresInRow++;
    // Before anything is told: the kernel and the connection have let go of every buffer.
    connection?.destroy(reason);
    this.#failAll();
  }

  #failAll(): void {
    this.#tickTimer?.cancel();
    this.#tickTimer = undefined;
    this.#bodySlot = undefined;
    this.#bodyBuffer = undefined;
    this.#discardBytes = 0;
    this.#queuedBytes = 0;
    const status = this.#failureStatus();
    const slots = this.#slots;
    const mask = slots.length - 1;
    const [head, next] = [this.#head, this.#next];
    // Completions may ask this link again; it is in its new state, with new slots.
    this.#slots = Array.from({ length: 64 }, () => new Slot());
    this.#head = 0;
    this.#next = 0;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (let ordinal = head; ordinal < next; ordinal++) {
      const slot = slots[ordinal & mask] as Slot;
      if (slot.kind === SlotKind.put) this.#failPut(slot.put as OutgoingPut, status);
      else if (slot.kind === SlotKind.read) this.#failRead(slot.read as OutgoingRead, status);
      else if (slot.kind === SlotKind.control) slot.control?.reject(this.#unreachable());
    }
    for (const one of waiting) {
      if ("put" in one) this.#failPut(one.put, status);
      else if ("read" in one) this.#failRead(one.read, status);
      else one.control.reject(this.#unreachable());
    }
  }

  #failureStatus(): StorageStatus {
    return this.#wrongCluster ? StorageStatus.wrongCluster : StorageStatus.unreachable;
  }

  #failPut(put: OutgoingPut, status: StorageStatus): void {
    this.#unreachableCount++;
    put.done(this.peerId, NO_INCARNATION, status);
  }

  #failRead(read: OutgoingRead, status: StorageStatus): void {
    this.#unreachableCount++;
    read.done(this.peerId, status, 0, 0);
  }

  #unreachable(): AdpError {
    return new AdpError(
      "unreachable",
      `Cannot reach peer ${this.peerId}: ${this.#lastFailure ?? "not connected"}`,
      {
        retryable: true,
      },
    );
  }

  // ---------------------------------------------------------------------------------------------- sending

  #sendPut(put: OutgoingPut): void {
    if (put.lengthBytes > (this.#hello as Hello).blockBytesMax) {
      this.options.turns.afterTurn(() =>
        put.done(this.peerId, (this.#hello as Hello).incarnation, StorageStatus.badRequest),
      );
      return;
    }
    const slot = this.#take(SlotKind.put, FrameKind.put, DEADLINE_TICKS, 0);
    if (slot === undefined)
      return this.options.turns.afterTurn(() => this.#failPut(put, StorageStatus.unreachable));
    const connection = this.#connection as StreamConnection;
    const place = connection.reserve(REQUEST_HEADER_BYTES);
    encodeRequestHeader(place.buffer.view, place.offset, put.lengthBytes, FrameKind.put, 0, put.writerEpoch);
    connection.writeLent(put.buffer, put.offset, put.lengthBytes);
    slot.put = put;
    this.#sent(slot, this.#counts.put, REQUEST_HEADER_BYTES + put.lengthBytes);
  }

  #sendRead(read: OutgoingRead): void {
    const bodyBytesMax = read.slotCount === 0 ? HEADER_BYTES_MAX : read.slotCount * PAGE_BYTES;
    const slot = this.#take(SlotKind.read, FrameKind.read, DEADLINE_TICKS, bodyBytesMax);
    if (slot === undefined)
      return this.options.turns.afterTurn(() => this.#failRead(read, StorageStatus.unreachable));
    const connection = this.#connection as StreamConnection;
    const place = connection.reserve(REQUEST_HEADER_BYTES + READ_BODY_BYTES);
    const { view } = place.buffer;
    encodeRequestHeader(view, place.offset, READ_BODY_BYTES, FrameKind.read, 0, 0);
    encodeReadBody(view, place.offset + REQUEST_HEADER_BYTES, read.ref, read.firstSlot, read.slotCount);
    slot.read = read;
    this.#sent(slot, this.#counts.read, REQUEST_HEADER_BYTES + READ_BODY_BYTES);
  }

  #sendControl(control: ControlCall): void {
    const ticks = Math.ceil(control.timeoutMs / this.tickMs);
    const slot = this.#take(SlotKind.control, FrameKind.control, ticks, CONTROL_REPLY_BYTES_MAX);
    if (slot === undefined) return control.reject(this.#unreachable());
    const connection = this.#connection as StreamConnection;
    const { body, operation } = control;
    const place = connection.reserve(REQUEST_HEADER_BYTES);
    const crc = Bun.hash.crc32(body);
    encodeRequestHeader(place.buffer.view, place.offset, body.length, FrameKind.control, operation, crc);
    connection.write(body, 0, body.length);
    slot.control = control;
    this.#sent(slot, this.#counts.control, REQUEST_HEADER_BYTES + body.length);
  }

  #take(kind: SlotKind, frameKind: FrameKind, ticks: number, bodyBytesMax: number): Slot | undefined {
    const count = this.#next - this.#head;
    if (count === this.#slots.length) {
      if (count === SLOT_COUNT_MAX) return undefined;
      this.#growSlots();
    }
    if (this.#tickTimer === undefined) this.#startTicking();
    const slot = this.#slots[this.#next++ & (this.#slots.length - 1)] as Slot;
    slot.kind = kind;
    slot.frameKind = frameKind;
    slot.startTick = this.#tick;
    slot.expiryTick = this.#tick + ticks;
    slot.bodyBytesMax = bodyBytesMax;
    return slot;
  }

  #sent(slot: Slot, counts: KindCounts, lengthBytes: number): void {
    counts.requests++;
    counts.sentBytes += lengthBytes;
    this.#writtenPosition += lengthBytes;
    slot.endPosition = this.#writtenPosition;
  }

  #growSlots(): void {
    const slots = this.#slots;
    const larger: Slot[] = new Array(slots.length * 2);
    for (let ordinal = this.#head; ordinal < this.#next; ordinal++)
      larger[ordinal & (larger.length - 1)] = slots[ordinal & (slots.length - 1)] as Slot;
    for (let at = 0; at < larger.length; at++) larger[at] ??= new Slot();
    this.#slots = larger;
  }

  #free(slot: Slot): void {
    slot.kind = SlotKind.free;
    slot.put = undefined;
    slot.read = undefined;
    slot.control = undefined;
    const mask = this.#slots.length - 1;
    while (this.#head < this.#next && (this.#slots[this.#head & mask] as Slot).kind === SlotKind.free)
      this.#head++;
  }

  // -------------------------------------------------------------------------------------------- receiving

  onData(buffer: NativeBuffer, start: number, end: number): number {
    this.#progressTick = this.#tick;
    let position = start;
    if (this.#state === "greeting") {
      if (end - position < HELLO_BYTES) return 0;
      if (!this.#onHello(buffer.bytes, position)) return 0;
      position += HELLO_BYTES;
    }
    const connection = this.#connection;
    while (this.#connection === connection && position < end) {
      if (this.#discardBytes > 0) {
        const lengthBytes = Math.min(this.#discardBytes, end - position);
        this.#discardBytes -= lengthBytes;
        position += lengthBytes;
        continue;
      }
      if (end - position < REPLY_HEADER_BYTES) break;
      if (this.#onReply(buffer.view, position)) return position + REPLY_HEADER_BYTES - start;
      position += REPLY_HEADER_BYTES;
    }
    // After a failure the connection is destroyed and what is returned means nothing.
    return this.#connection === connection ? position - start : 0;
  }

  /** Handles one reply header; true when its body is now being received. */
  #onReply(view: DataView, offset: number): boolean {
    const bodyBytes = view.getUint32(offset, true);
    const kind = view.getUint8(offset + 4) as FrameKind;
    const status = view.getUint8(offset + 5) as StorageStatus;
    // Distance to the oldest request under way, also where the wire's 32 bits wrap.
    const distance = (view.getUint32(offset + 8, true) - this.#head) >>> 0;
    const slot =
      distance < this.#next - this.#head
        ? (this.#slots[(this.#head + distance) & (this.#slots.length - 1)] as Slot)
        : undefined;
    if (
      !isHeaderWhole(view, offset) ||
      slot === undefined ||
      slot.kind === SlotKind.free ||
      slot.frameKind !== kind ||
      slot === this.#bodySlot ||
      bodyBytes > slot.bodyBytesMax ||
      status > StorageStatus.denied ||
      status === StorageStatus.unreachable ||
      (status !== StorageStatus.ok && bodyBytes > 0)
    ) {
      this.#fail("it sent a reply that fits no request", "resting");
      return false;
    }
    const check = view.getUint32(offset + 12, true);
    const counts = this.#countsOf(kind);
    counts.receivedBytes += REPLY_HEADER_BYTES + bodyBytes;
    if (slot.kind === SlotKind.abandoned) {
      this.#discardBytes = bodyBytes;
      this.#free(slot);
      return false;
    }
    if (bodyBytes > 0) {
      this.#receiveBody(slot, bodyBytes, check);
      return true;
    }
    this.#complete(slot, status, 0, check);
    return false;
  }

  #receiveBody(slot: Slot, bodyBytes: number, check: number): void {
    const { read } = slot;
    this.#bodySlot = slot;
    this.#bodyBuffer = read === undefined ? this.options.allocate(bodyBytes) : read.destination;
    this.#bodyOffset = read === undefined ? 0 : read.destinationOffset;
    this.#bodyBytes = bodyBytes;
    this.#bodyReceivedBytes = 0;
    this.#bodyCheck = check;
    this.#receivePiece();
  }

  #receivePiece(): void {
    this.#bodyPieceBytes = Math.min(this.#bodyBytes - this.#bodyReceivedBytes, RECEIVE_PIECE_BYTES);
    const offset = this.#bodyOffset + this.#bodyReceivedBytes;
    (this.#connection as StreamConnection).receiveInto(
      this.#bodyBuffer as NativeBuffer,
      offset,
      this.#bodyPieceBytes,
    );
  }

  /** What is still to come of the body that is being received is thrown away, wherever it would have gone. */
  #discardBody(slot: Slot): void {
    const pieceLeftBytes = (this.#connection as StreamConnection).cancelReceive();
    this.#discardBytes = this.#bodyBytes - this.#bodyReceivedBytes - this.#bodyPieceBytes + pieceLeftBytes;
    this.#bodySlot = undefined;
    this.#bodyBuffer = undefined;
    this.#free(slot);
  }

  onReceived(): void {
    this.#progressTick = this.#tick;
    this.#bodyReceivedBytes += this.#bodyPieceBytes;
    if (this.#bodyReceivedBytes < this.#bodyBytes) return this.#receivePiece();
    const slot = this.#bodySlot as Slot;
    this.#bodySlot = undefined;
    this.#complete(slot, StorageStatus.ok, this.#bodyBytes, this.#bodyCheck);
  }

  #complete(slot: Slot, status: StorageStatus, bodyBytes: number, check: number): void {
    const { put, read, control } = slot;
    this.#free(slot);
    if (put !== undefined) put.done(this.peerId, (this.#hello as Hello).incarnation, status);
    else if (read !== undefined) read.done(this.peerId, status, bodyBytes, check);
    else if (control !== undefined) this.#completeControl(control, status, bodyBytes, check);
  }

  #completeControl(control: ControlCall, status: StorageStatus, bodyBytes: number, check: number): void {
    const body =
      bodyBytes === 0 ? new Uint8Array(0) : (this.#bodyBuffer as NativeBuffer).bytes.subarray(0, bodyBytes);
    this.#bodyBuffer = undefined;
    if (status !== StorageStatus.ok)
      control.reject(new AdpError("refused", `Cannot ask peer ${this.peerId}: it answered status ${status}`));
    else if (Bun.hash.crc32(body) !== check)
      control.reject(
        new AdpError(
          "bad-frame",
          `Cannot use the answer of peer ${this.peerId}: its checksum does not match`,
          {
            retryable: true,
          },
        ),
      );
    else control.resolve(body);
  }

  onClose(reason: string | undefined): void {
    // A connection that this link let go of itself is not its connection any more.
    if (this.#connection === undefined) return;
    this.#connection = undefined;
    this.#fail(reason ?? "it closed the connection", "resting");
  }

  #countsOf(kind: FrameKind): KindCounts {
    if (kind === FrameKind.put) return this.#counts.put;
    return kind === FrameKind.read ? this.#counts.read : this.#counts.control;
  }

  // -------------------------------------------------------------------------------------------- deadlines

  #startTicking(): void {
    this.#progressTick = this.#tick;
    this.#tickTimer = this.options.clock.schedule(this.tickMs, this.#onTick);
  }

  readonly #onTick = () => {
    this.#tickTimer = undefined;
    this.#tick++;
    const queuedBytes = this.#connection?.queuedBytes ?? 0;
    const sentPosition = this.#writtenPosition - queuedBytes;
    // Only what had to wait for the other side's window proves that somebody there reads.
    if (this.#queuedBytes > 0 && sentPosition !== this.#progressPosition) this.#progressTick = this.#tick;
    this.#queuedBytes = queuedBytes;
    this.#progressPosition = sentPosition;
    this.#expire(sentPosition);
    if (this.#state === "ready" && this.#head < this.#next && this.#tickTimer === undefined)
      this.#tickTimer = this.options.clock.schedule(this.tickMs, this.#onTick);
  };

  #expire(sentPosition: number): void {
    const mask = this.#slots.length - 1;
    const isHanging = this.#tick - this.#progressTick >= DEADLINE_TICKS;
    const overdue: Slot[] = [];
    for (let ordinal = this.#head; ordinal < this.#next; ordinal++) {
      const slot = this.#slots[ordinal & mask] as Slot;
      if (slot.kind === SlotKind.free || slot.expiryTick > this.#tick) continue;
      if (isHanging) return this.#fail("it does not answer", "resting");
      if (slot.kind !== SlotKind.abandoned) overdue.push(slot);
    }
    for (const slot of overdue) {
      const isBusy = slot.endPosition > sentPosition || slot === this.#bodySlot;
      if (!isBusy) continue;
      // Its buffer is still being sent or filled, and bytes do move: give it time, but not for ever.
      if (this.#tick - slot.startTick > DEADLINE_TICKS * SLOW_DEADLINES_MAX)
        return this.#fail("it is too slow", "resting");
    }
    for (const slot of overdue) {
      if (slot.endPosition > sentPosition || slot === this.#bodySlot) continue;
      const { put, read, control } = slot;
      slot.kind = SlotKind.abandoned;
      slot.put = undefined;
      slot.read = undefined;
      slot.control = undefined;
      if (put !== undefined) this.#failPut(put, StorageStatus.unreachable);
      else if (read !== undefined) this.#failRead(read, StorageStatus.unreachable);
      else if (control !== undefined) {
        this.#unreachableCount++;
        control.reject(
          new AdpError(
            "unreachable",
            `Cannot ask peer ${this.peerId}: no answer in ${control.timeoutMs} ms`,
            {
              retryable: true,
            },
          ),
        );
      }
    }
  }
}

/** Deadline of a put or read to the length of a tick. */
export function tickMsOf(timeoutMs: number): number {
  assert(timeoutMs >= DEADLINE_TICKS, `a deadline of ${timeoutMs} ms is too short`);
  return timeoutMs / DEADLINE_TICKS;
}
