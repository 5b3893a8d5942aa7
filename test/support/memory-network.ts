/**
 * StreamNetwork without sockets, on any Clock and Random: for protocol tests and the simulator. Bytes travel in
 * random pieces after a delay, wait while the receiver is paused, and stop when a window is full; nothing is ever
 * called from inside another call. The host part of a listening address names a node: `cut` and `heal` break and
 * mend the way between two nodes (bytes and connects wait silently, as with an unplugged cable), `crash` closes
 * all that a node has.
 */
import { assert, type Clock, heapBuffer, type NativeBuffer, type Random, TorusError } from "../../src/base";
import type {
  StreamAddress,
  StreamConnection,
  StreamHandler,
  StreamListener,
  StreamNetwork,
} from "../../src/base/io/stream";

export interface MemoryNetworkOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Delay of one piece: uniform in 0 .. this, order kept. */
  readonly latencyMsMax?: number;
  /** Bytes on their way or waiting for the receiver, per direction. */
  readonly windowBytes?: number;
  /** Pieces are 1 .. this many bytes. */
  readonly pieceBytesMax?: number;
  readonly highWaterBytes?: number;
}

interface Range {
  readonly bytes: Uint8Array;
  position: number;
  readonly sent: (() => void) | undefined;
}

interface Listening {
  readonly node: string;
  readonly accept: (connection: StreamConnection) => StreamHandler;
}

function hostOf(address: StreamAddress): string {
  return address.startsWith("unix:") ? address : address.slice(0, address.lastIndexOf(":"));
}

/** The wire that all nodes share; `node(name)` is one node's StreamNetwork. */
export class MemoryNetwork {
  readonly listeners = new Map<StreamAddress, Listening>();
  readonly connections = new Set<MemoryConnection>();
  readonly #cuts = new Set<string>();
  #portNext = 50_000;

  constructor(readonly options: MemoryNetworkOptions) {}

  node(name: string): StreamNetwork {
    return {
      listen: (address, accept) => this.#listen(name, address, accept),
      connect: (address, timeoutMs, connected, failed) =>
        this.#connect(name, address, timeoutMs, connected, failed),
    };
  }

  cut(left: string, right: string): void {
    this.#cuts.add([left, right].sort().join("|"));
  }

  heal(left: string, right: string): void {
    this.#cuts.delete([left, right].sort().join("|"));
    for (const connection of this.connections) connection.pump();
  }

  isCut(left: string, right: string): boolean {
    return this.#cuts.has([left, right].sort().join("|"));
  }

  /** Everything a node has open ends without a word to its own handlers' owners being needed afterwards. */
  crash(name: string): void {
    for (const [address, listening] of this.listeners)
      if (listening.node === name) this.listeners.delete(address);
    for (const connection of [...this.connections])
      if (connection.node === name) connection.destroy("the node crashed");
  }

  delayMs(): number {
    const max = this.options.latencyMsMax ?? 0;
    return max === 0 ? 0 : this.options.random.nextU32() % (max + 1);
  }

  #listen(node: string, address: StreamAddress, accept: Listening["accept"]): StreamListener {
    const real = address.endsWith(":0") ? `${hostOf(address)}:${this.#portNext++}` : address;
    if (this.listeners.has(real))
      throw new TorusError("listen-failed", `Cannot listen on ${real}: it is in use`);
    const listening = { node, accept };
    this.listeners.set(real, listening);
    return {
      address: real,
      close: () => {
        if (this.listeners.get(real) === listening) this.listeners.delete(real);
      },
    };
  }

  #connect(
    node: string,
    address: StreamAddress,
    timeoutMs: number,
    connected: (connection: StreamConnection) => StreamHandler,
    failed: (reason: string) => void,
  ): void {
    const { clock } = this.options;
    const deadlineMs = clock.nowMs() + timeoutMs;
    const attempt = () => {
      const listening = this.listeners.get(address);
      if (listening !== undefined && this.isCut(node, listening.node)) {
        if (clock.nowMs() >= deadlineMs) failed(`no answer in ${timeoutMs} ms`);
        else clock.schedule(Math.max(1, Math.min(10, deadlineMs - clock.nowMs())), attempt);
        return;
      }
      if (listening === undefined) return failed("ECONNREFUSED");
      const near = new MemoryConnection(this, node, address);
      const far = new MemoryConnection(this, listening.node, `${node}:0`);
      near.other = far;
      far.other = near;
      far.attach(listening.accept(far));
      near.attach(connected(near));
    };
    clock.schedule(this.delayMs(), attempt);
  }
}

class MemoryConnection implements StreamConnection {
  other!: MemoryConnection;
  handler!: StreamHandler;
  queuedBytes = 0;
  #closed = false;
  #ending = false;
  #paused = false;
  #outbound: Range[] = [];
  #aboveHighWater = false;
  #pumping = false;
  /** On the way to this side, or here and not yet consumed. */
  #windowUsed = 0;
  #inbox: Uint8Array = new Uint8Array(0);
  /** The other side ended after the bytes that are still on the way. */
  #endSeen = false;
  #target: NativeBuffer | undefined;
  #targetOffset = 0;
  #targetLeftBytes = 0;
  #arrivalMs = 0;

  constructor(
    private readonly network: MemoryNetwork,
    readonly node: string,
    readonly remote: string,
  ) {
    network.connections.add(this);
  }

  attach(handler: StreamHandler): void {
    this.handler = handler;
    if (this.#closed) handler.onClose("closed at once");
  }

  receiveInto(buffer: NativeBuffer, offset: number, lengthBytes: number): void {
    assert(this.#target === undefined, "receiveInto while another body is being received");
    assert(offset >= 0 && offset + lengthBytes <= buffer.bytes.length, "receiveInto outside of its buffer");
    this.#target = buffer;
    this.#targetOffset = offset;
    this.#targetLeftBytes = lengthBytes;
  }

  cancelReceive(): number {
    assert(this.#target !== undefined, "cancelReceive while no body is being received");
    this.#target = undefined;
    return this.#targetLeftBytes;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.network.options.clock.schedule(0, () => this.#present());
  }

  write(source: Uint8Array, start: number, end: number): void {
    this.#queue(source.slice(start, end), undefined);
  }

  reserve(lengthBytes: number): { readonly buffer: NativeBuffer; readonly offset: number } {
    assert(lengthBytes > 0 && lengthBytes <= 16384, `cannot reserve ${lengthBytes} bytes`);
    const buffer = heapBuffer(lengthBytes);
    this.#queue(buffer.bytes.subarray(0, lengthBytes), undefined);
    return { buffer, offset: 0 };
  }

  writeLent(buffer: NativeBuffer, offset: number, lengthBytes: number, sent?: () => void): void {
    assert(
      lengthBytes > 0 && offset + lengthBytes <= buffer.bytes.length,
      "lent output outside of its buffer",
    );
    this.#queue(buffer.bytes.subarray(offset, offset + lengthBytes), sent);
  }

  end(): void {
    this.#ending = true;
    this.pump();
  }

  destroy(reason: string): void {
    if (this.#closed) return;
    this.#close(reason);
    this.network.options.clock.schedule(this.network.delayMs(), () => this.other.#close(undefined));
  }

  /** Moves what the window allows towards the other side, later. */
  pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    this.network.options.clock.schedule(0, () => {
      this.#pumping = false;
      this.#transmit();
    });
  }

  #queue(bytes: Uint8Array, sent: (() => void) | undefined): void {
    if (this.#closed || this.#ending) {
      if (sent !== undefined) this.network.options.clock.schedule(0, sent);
      return;
    }
    this.#outbound.push({ bytes, position: 0, sent });
    this.queuedBytes += bytes.length;
    if (this.queuedBytes > (this.network.options.highWaterBytes ?? 1024 * 1024)) this.#aboveHighWater = true;
    this.pump();
  }

  #transmit(): void {
    const { random, windowBytes = 256 * 1024, pieceBytesMax = 64 * 1024 } = this.network.options;
    const { other } = this;
    if (this.#closed || this.network.isCut(this.node, other.node)) return;
    while (this.#outbound.length > 0 && other.#windowUsed < windowBytes) {
      const range = this.#outbound[0] as Range;
      const lengthBytes = Math.min(
        1 + (random.nextU32() % pieceBytesMax),
        range.bytes.length - range.position,
        windowBytes - other.#windowUsed,
      );
      const piece = range.bytes.slice(range.position, range.position + lengthBytes);
      range.position += lengthBytes;
      this.queuedBytes -= lengthBytes;
      other.#windowUsed += lengthBytes;
      this.#deliver(() => other.#arrive(piece));
      if (range.position < range.bytes.length) continue;
      this.#outbound.shift();
      range.sent?.();
      if (this.#closed) return;
    }
    if (this.queuedBytes > 0) return;
    if (this.#ending) {
      this.#close(undefined);
      this.#deliver(() => other.#arriveEnd());
    } else if (this.#aboveHighWater) {
      this.#aboveHighWater = false;
      this.handler.onDrain?.();
    }
  }

  /** Runs after a delay, never before what was delivered earlier. */
  #deliver(arrive: () => void): void {
    const { clock } = this.network.options;
    this.#arrivalMs = Math.max(this.#arrivalMs, clock.nowMs() + this.network.delayMs());
    clock.schedule(this.#arrivalMs - clock.nowMs(), arrive);
  }

  #arrive(piece: Uint8Array): void {
    if (this.#closed) return;
    const inbox = new Uint8Array(this.#inbox.length + piece.length);
    inbox.set(this.#inbox);
    inbox.set(piece, this.#inbox.length);
    this.#inbox = inbox;
    this.#present();
  }

  #arriveEnd(): void {
    this.#endSeen = true;
    this.#present();
  }

  #present(): void {
    while (!this.#closed && !this.#paused) {
      if (this.#target !== undefined) {
        const lengthBytes = Math.min(this.#targetLeftBytes, this.#inbox.length);
        this.#target.bytes.set(this.#inbox.subarray(0, lengthBytes), this.#targetOffset);
        this.#targetOffset += lengthBytes;
        this.#targetLeftBytes -= lengthBytes;
        this.#consume(lengthBytes);
        if (this.#targetLeftBytes > 0) break;
        this.#target = undefined;
        this.handler.onReceived();
      } else {
        if (this.#inbox.length === 0) break;
        const buffer = heapBuffer(this.#inbox.length);
        buffer.bytes.set(this.#inbox);
        const consumed = this.handler.onData(buffer, 0, this.#inbox.length);
        assert(consumed >= 0 && consumed <= this.#inbox.length, "onData consumed bytes that were not there");
        this.#consume(consumed);
        if (this.#target === undefined) break;
      }
    }
    if (this.#endSeen && !this.#paused && !this.#closed) this.#close(undefined);
  }

  #consume(lengthBytes: number): void {
    this.#inbox = this.#inbox.slice(lengthBytes);
    this.#windowUsed -= lengthBytes;
    if (lengthBytes > 0) this.other.pump();
  }

  #close(reason: string | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.network.connections.delete(this);
    const outbound = this.#outbound.splice(0);
    this.queuedBytes = 0;
    for (const range of outbound) range.sent?.();
    this.handler?.onClose(reason);
  }
}
