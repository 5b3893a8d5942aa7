/**
 * One connected socket on the event loop: a StreamConnection over recv, send and sendmsg.
 *
 * Input. Bytes are received into the loop's one buffer and presented at once; what the handler leaves is kept in a
 * carry of the connection's own, copied back in front of the next bytes. While a body is wanted (`receiveInto`)
 * recv writes straight into it; after a large body the next recv asks only for a header's worth, because another
 * large body probably follows and should not pass through the shared buffer. A unix socket, or the pipe of a TLS socket,
 * whose other side is gone is closed at once, also while paused: nobody could get an answer to what was not read yet, and a
 * client's old requests must not be served after its successor's.
 *
 *   open --end()--> ending (queue still leaves, input is ignored) --queue empty--> lingering (onClose ran; the rest
 *   of the input is thrown away until the other side closes, else the kernel would reset what it has not read yet)
 *   --> closed. destroy() and every error lead to closed at once.
 *   open --handOver()--> (queue still leaves) --queue empty--> closed, the descriptor given away.
 *
 * Invariants: onClose runs once; after it no handler method and no pending `sent` remains; the descriptor is
 * closed exactly once or given away, and no event of it is delivered later.
 */
import type { NativeBuffer } from "../buffer";
import type { Timer } from "../clock";
import { assert } from "../errors";
import type { EventLoop, FdWatch } from "./event-loop";
import { C, errnoName, libc } from "./libc";
import { OutputQueue, type OutputShare } from "./output-queue";
import type { StreamConnection, StreamHandler } from "./stream";

export const RECEIVE_BUFFER_BYTES = 256 * 1024;
/** recv calls for one connection before others get their turn. */
const RECEIVES_PER_EVENT_MAX = 16;
/** A body from this size on makes the next receive short. */
const LARGE_BODY_BYTES = 32 * 1024;
const SHORT_RECEIVE_BYTES = 4096 + 256;
/** Output from this size on leaves right after the handler, not at the end of the turn. */
const URGENT_BYTES = 64 * 1024;
/** How long `end` waits for the other side to take the rest, and then to close. */
const END_MS_MAX = 5_000;

/** What all connections of one loop share. */
export interface ConnectionShare {
  readonly loop: EventLoop;
  readonly output: OutputShare;
  readonly receiveBuffer: NativeBuffer;
  /** Where output for connections that are gone is written. */
  readonly scrap: NativeBuffer;
  /** Connections with output or changed interest, looked after at the end of the turn. */
  dirty: SocketConnection[];
  /** Connections whose kept input is to be presented again. */
  readonly resumed: SocketConnection[];
  readonly highWaterBytes: number;
  readonly queuedBytesMax: number;
  readonly sockets: Set<SocketConnection>;
  receiveCalls: number;
}

type State = "open" | "ending" | "lingering" | "closed";

export class SocketConnection implements StreamConnection {
  handler: StreamHandler;
  readonly #output: OutputQueue;
  readonly #watch: FdWatch;
  #state: State = "open";
  #paused = false;
  #dirty = false;
  #blocked = false;
  #aboveHighWater = false;
  #events: number = C.EPOLLIN;
  /** Input that the handler left, [0, #carryBytes) of #carry. */
  #carry: Uint8Array | undefined;
  #carryBytes = 0;
  #target: NativeBuffer | undefined;
  #targetOffset = 0;
  #targetLeftBytes = 0;
  #expectLarge = false;
  #endTimer: Timer | undefined;
  #taken: ((socket: number) => void) | undefined;

  constructor(
    private readonly share: ConnectionShare,
    private readonly socket: number,
    readonly remote: string,
    /** Whether the sender is on this machine. */
    private readonly isLocal: boolean,
    /** Whether the sender is also a program that connected here, for which this loop works. */
    private readonly isServed: boolean,
    private readonly closed: () => void,
  ) {
    this.handler = unattached;
    this.#output = new OutputQueue(share.output);
    this.#watch = share.loop.watch(socket, (events) => this.#onEvents(events));
    share.sockets.add(this);
  }

  /** For SocketNetwork: gives the connection its handler, which may have closed it while being made. */
  attach(handler: StreamHandler): void {
    if (this.#state === "closed") handler.onClose("closed at once");
    else this.handler = handler;
  }

  get queuedBytes(): number {
    return this.#output.queuedBytes;
  }

  receiveInto(buffer: NativeBuffer, offset: number, lengthBytes: number): void {
    assert(this.#target === undefined, "receiveInto while another body is being received");
    assert(
      buffer.address !== 0 && offset >= 0 && lengthBytes >= 0 && offset + lengthBytes <= buffer.bytes.length,
      "receiveInto needs a range inside a native buffer",
    );
    this.#target = buffer;
    this.#targetOffset = offset;
    this.#targetLeftBytes = lengthBytes;
    this.#expectLarge = lengthBytes >= LARGE_BODY_BYTES;
  }

  cancelReceive(): number {
    assert(this.#target !== undefined, "cancelReceive while no body is being received");
    this.#target = undefined;
    this.#expectLarge = false;
    return this.#targetLeftBytes;
  }

  pause(): void {
    this.#paused = true;
    this.#markDirty();
  }

  resume(): void {
    if (!this.#paused || this.#state !== "open" || this.#taken !== undefined) return;
    this.#paused = false;
    this.share.resumed.push(this);
  }

  write(source: Uint8Array, start: number, end: number): void {
    if (this.#acceptsOutput(end - start)) this.#output.copy(source, start, end);
  }

  reserve(lengthBytes: number): { readonly buffer: NativeBuffer; readonly offset: number } {
    // On a connection that is gone the bytes are written all the same, to nowhere.
    if (!this.#acceptsOutput(lengthBytes)) return { buffer: this.share.scrap, offset: 0 };
    return this.#output.reserve(lengthBytes);
  }

  writeLent(buffer: NativeBuffer, offset: number, lengthBytes: number, sent?: () => void): void {
    if (this.#acceptsOutput(lengthBytes)) this.#output.lend(buffer, offset, lengthBytes, sent);
    else if (sent !== undefined) this.share.loop.afterTurn(sent);
  }

  end(): void {
    if (this.#state !== "open") return;
    this.#state = "ending";
    this.#endTimer = this.share.loop.schedule(END_MS_MAX, () => this.#close("the other side does not read"));
    this.#markDirty();
  }

  handOver(taken: (socket: number) => void): void {
    if (this.#state !== "open") return;
    this.#taken = taken;
    this.pause();
  }

  destroy(reason: string): void {
    this.#close(reason);
  }

  /** For SocketNetwork: the end of the turn, or large output: send, and tell epoll what is wanted now. */
  settle(): void {
    this.#dirty = false;
    this.#flush();
    if (this.#state === "ending" && this.#output.queuedBytes === 0) this.#linger();
    if (this.#taken !== undefined && this.#output.queuedBytes === 0) this.#give(this.#taken);
    if (this.#state === "closed") return;
    const wantsInput = this.#state === "lingering" || (this.#state === "open" && !this.#paused);
    const events = (wantsInput ? C.EPOLLIN : 0) | (this.#blocked ? C.EPOLLOUT : 0);
    if (events === this.#events) return;
    this.#events = events;
    this.#watch.setEvents(events);
  }

  /** For SocketNetwork: presents what was kept, after `resume`. */
  presentCarry(): void {
    if (this.#state !== "open" || this.#paused) return;
    this.#markDirty();
    if (this.#targetIsFull()) this.#finishTarget();
    if (this.#state !== "open" || this.#paused) return;
    const lengthBytes = this.#restoreCarry();
    if (lengthBytes > 0) this.#present(lengthBytes);
  }

  #onEvents(events: number): void {
    if ((events & C.EPOLLOUT) !== 0) {
      this.#blocked = false;
      this.#markDirty();
    }
    if ((events & ~C.EPOLLOUT) === 0) return;
    if (this.#state === "lingering") this.#discardInput();
    else if (this.#state === "open" && !this.#paused) this.#receive();
    else if ((events & (C.EPOLLERR | C.EPOLLHUP)) !== 0) this.#close("the other side is gone");
  }

  #receive(): void {
    for (let count = 0; count < RECEIVES_PER_EVENT_MAX; count++) {
      const wanted = this.#target === undefined ? this.#receiveShared() : this.#receiveTarget();
      if (wanted <= 0 || this.#state !== "open" || this.#paused) return;
    }
  }

  /** Returns 0 when the socket has no more for now. */
  #receiveShared(): number {
    const { receiveBuffer } = this.share;
    const carried = this.#restoreCarry();
    const room = RECEIVE_BUFFER_BYTES - carried;
    if (room === 0) {
      this.#close("a message is larger than the receive buffer");
      return 0;
    }
    const wanted = this.#expectLarge ? Math.min(SHORT_RECEIVE_BYTES, room) : room;
    const received = this.#recv(receiveBuffer.address + carried, wanted);
    if (received <= 0) {
      if (this.#state === "open") this.#keepCarry(0, carried);
      return 0;
    }
    this.#present(carried + received);
    return received === wanted || this.#target !== undefined ? 1 : 0;
  }

  #receiveTarget(): number {
    const target = this.#target as NativeBuffer;
    const wanted = this.#targetLeftBytes;
    const received = this.#recv(target.address + this.#targetOffset, wanted);
    if (received <= 0) return 0;
    this.#targetOffset += received;
    this.#targetLeftBytes -= received;
    if (received === wanted) this.#finishTarget();
    return received === wanted || received >= LARGE_BODY_BYTES ? 1 : 0;
  }

  /** Bytes received; 0 when there are none now, or the connection has ended. */
  #recv(address: number, lengthBytes: number): number {
    this.share.receiveCalls++;
    const received = libc.recv(this.socket, address, lengthBytes, C.MSG_DONTWAIT);
    if (received > 0) {
      this.share.loop.receivedBytes += received;
      if (this.isLocal) this.share.loop.receivedLocalBytes += received;
      if (this.isServed && this.share.loop.wantsSenderCore)
        this.share.loop.noteSenderCore(senderCore(this.socket));
      return received;
    }
    if (received === 0) {
      // What is queued may still reach a side that only stopped sending.
      this.#flush();
      this.#close(undefined);
    } else if (received !== -C.EAGAIN && received !== -C.EINTR) this.#close(errnoName(received));
    return 0;
  }

  /** Presents bytes [0, end) of the shared buffer and keeps what is left. */
  #present(end: number): void {
    const buffer = this.share.receiveBuffer;
    let start = 0;
    while (start < end) {
      if (this.#target !== undefined) {
        const lengthBytes = Math.min(this.#targetLeftBytes, end - start);
        libc.memcpy(this.#target.address + this.#targetOffset, buffer.address + start, lengthBytes);
        this.#targetOffset += lengthBytes;
        this.#targetLeftBytes -= lengthBytes;
        start += lengthBytes;
        if (this.#targetIsFull()) this.#finishTarget();
      } else {
        const consumed = this.handler.onData(buffer, start, end);
        assert(consumed >= 0 && consumed <= end - start, "onData consumed bytes that were not there");
        start += consumed;
        if (this.#target === undefined) {
          this.#expectLarge = false;
          this.#sendUrgent();
          break;
        }
        if (this.#targetIsFull()) this.#finishTarget();
      }
      if (this.#state !== "open" || this.#paused) break;
    }
    if (this.#state === "open" && start < end) this.#keepCarry(start, end);
  }

  #targetIsFull(): boolean {
    return this.#target !== undefined && this.#targetLeftBytes === 0;
  }

  #finishTarget(): void {
    this.#target = undefined;
    this.handler.onReceived();
    this.#sendUrgent();
  }

  #keepCarry(start: number, end: number): void {
    const lengthBytes = end - start;
    if (lengthBytes === 0) return;
    if (this.#carry === undefined || this.#carry.length < lengthBytes)
      this.#carry = new Uint8Array(Math.max(4096, 2 ** Math.ceil(Math.log2(lengthBytes))));
    this.#carry.set(this.share.receiveBuffer.bytes.subarray(start, end), 0);
    this.#carryBytes = lengthBytes;
  }

  /** Copies what was kept to the front of the shared buffer; returns its length. */
  #restoreCarry(): number {
    const lengthBytes = this.#carryBytes;
    if (lengthBytes === 0 || this.#carry === undefined) return 0;
    this.share.receiveBuffer.bytes.set(this.#carry.subarray(0, lengthBytes), 0);
    this.#carryBytes = 0;
    if (this.#carry.length > LARGE_BODY_BYTES) this.#carry = undefined;
    return lengthBytes;
  }

  #acceptsOutput(lengthBytes: number): boolean {
    if (this.#state !== "open") return false;
    if (this.#output.queuedBytes + lengthBytes > this.share.queuedBytesMax) {
      // Not now: the caller is in the middle of writing a message.
      this.share.loop.afterTurn(() => this.#close("the other side does not read what it asked for"));
      return false;
    }
    this.#markDirty();
    return true;
  }

  #markDirty(): void {
    if (this.#dirty || this.#state === "closed") return;
    this.#dirty = true;
    this.share.dirty.push(this);
  }

  #sendUrgent(): void {
    if (this.share.dirty.length === 0) return;
    for (const connection of this.share.dirty) {
      if (connection.#output.queuedBytes >= URGENT_BYTES) connection.#flush();
    }
  }

  #flush(): void {
    if (this.#blocked || this.#state === "closed" || this.#output.queuedBytes === 0) return;
    if (this.#output.queuedBytes > this.share.highWaterBytes) this.#aboveHighWater = true;
    const result = this.#output.flush(this.socket);
    // A `sent` callback may have closed the connection.
    if ((this.#state as State) === "closed") return;
    if (result < 0) return this.#close(errnoName(result));
    if (this.#output.queuedBytes > 0) this.#blocked = true;
    else if (this.#aboveHighWater) {
      this.#aboveHighWater = false;
      if (this.#state === "open") this.handler.onDrain?.();
    }
  }

  #give(taken: (socket: number) => void): void {
    if (this.#state !== "open") return;
    this.#state = "closed";
    this.#watch.close();
    this.share.sockets.delete(this);
    this.#carry = undefined;
    this.#output.clear();
    this.handler = unattached;
    this.closed();
    taken(this.socket);
  }

  #linger(): void {
    this.#state = "lingering";
    libc.shutdown(this.socket, 1);
    this.#carry = undefined;
    this.handler.onClose(undefined);
    this.handler = unattached;
  }

  #discardInput(): void {
    const received = libc.recv(
      this.socket,
      this.share.receiveBuffer.address,
      RECEIVE_BUFFER_BYTES,
      C.MSG_DONTWAIT,
    );
    if (received <= 0 && received !== -C.EAGAIN && received !== -C.EINTR) this.#close(undefined);
  }

  #close(reason: string | undefined): void {
    if (this.#state === "closed") return;
    const wasLingering = this.#state === "lingering";
    this.#state = "closed";
    this.#watch.close();
    libc.close(this.socket);
    this.share.sockets.delete(this);
    this.#endTimer?.cancel();
    this.#target = undefined;
    this.#carry = undefined;
    this.#output.clear();
    if (!wasLingering) this.handler.onClose(reason);
    this.handler = unattached;
    this.closed();
  }
}

const option = new Int32Array(1);
const optionBytes = new Int32Array(1);

/**
 * The core on which the last packet arrived; below 0 when the kernel does not know. Over loopback it is the sender's, or
 * now and then our own, where an acknowledgement of what we sent was the last.
 */
function senderCore(socket: number): number {
  option[0] = -1;
  optionBytes[0] = option.byteLength;
  libc.getsockopt(socket, C.SOL_SOCKET, C.SO_INCOMING_CPU, option, optionBytes);
  return option[0];
}

const unattached: StreamHandler = {
  onData: (_buffer, start, end) => end - start,
  onReceived: () => {},
  onClose: () => {},
};
