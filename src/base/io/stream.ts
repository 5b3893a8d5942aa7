/**
 * A byte stream on the event loop, as protocol code (NBD, adp) sees it. Raw sockets implement it in production; a
 * test drives the same protocol code with an in-memory pair. Nothing here is a promise: a handler runs inside the
 * loop's turn and must not block.
 *
 * Input arrives in one of two ways. By default bytes land in a receive buffer that all connections of a loop
 * share, and the handler takes whole messages from it; what it leaves is kept for it and comes again with more
 * bytes behind. After `receiveInto`, the next bytes of the stream go straight into the caller's memory.
 * Output is gathered per connection and leaves once a turn.
 */
import type { NativeBuffer } from "../buffer";

export interface StreamHandler {
  /**
   * Bytes [start, end) of `buffer` arrived. Returns how many were consumed; the rest is presented again, from its
   * beginning, when more came or when `resume` was called. A handler must accept any split of the stream, and must
   * return less than everything only when it needs more bytes, has paused, or asked for `receiveInto`. What the
   * shared buffer cannot hold (256 KiB) must be taken by `receiveInto`. The memory is valid only during the call.
   */
  onData(buffer: NativeBuffer, start: number, end: number): number;
  /** All bytes asked for by `receiveInto` are there. */
  onReceived(): void;
  /** Queued output fell to zero after `write` or `writeLent` had left more than `highWaterBytes` queued. */
  onDrain?(): void;
  /** Once, after which nothing else is called. `reason` is undefined for an orderly end by the other side. */
  onClose(reason: string | undefined): void;
}

export interface StreamConnection {
  /** `127.0.0.1:4711` or `unix`: for messages and logs. */
  readonly remote: string;
  handler: StreamHandler;
  /** Bytes queued for sending and not yet taken by the kernel. */
  readonly queuedBytes: number;
  /**
   * From inside onData (which then returns what it consumed before the body) or onReceived (a body in several
   * pieces): the next `lengthBytes` bytes of the stream, those already in the shared buffer included, go to
   * buffer.bytes[offset ..]; then onReceived runs. No onData meanwhile. The range belongs to the connection until
   * onReceived, onClose or cancelReceive.
   */
  receiveInto(buffer: NativeBuffer, offset: number, lengthBytes: number): void;
  /**
   * Takes back a range given to receiveInto before onReceived: nothing is written to it from here on. Returns how many
   * bytes of the stream were still to come to it; they come to onData like any others. Not from inside a call of this
   * connection's handler.
   */
  cancelReceive(): number;
  /** Stops reading (backpressure); bytes wait in the kernel. Idempotent. */
  pause(): void;
  /** Undoes pause; what onData had left is presented again later, never inside this call. */
  resume(): void;
  /** Copies the bytes into the connection's output. For headers and small bodies (below 16 KiB or so). */
  write(source: Uint8Array, start: number, end: number): void;
  /**
   * Reserves `lengthBytes` (at most 16384) contiguous bytes of output to be filled before the handler returns to
   * the loop: encode replies in place. The returned buffer is valid until the next call on this connection.
   */
  reserve(lengthBytes: number): { readonly buffer: NativeBuffer; readonly offset: number };
  /**
   * Queues memory without copying; it must not change until `sent` runs (once: when the kernel took it all, or
   * when the connection closed).
   */
  writeLent(buffer: NativeBuffer, offset: number, lengthBytes: number, sent?: () => void): void;
  /**
   * Gives the descriptor away once everything queued has left: for whoever goes on with the stream otherwise (TLS).
   * Nothing is read any more; input that came already is lost, so a protocol must not allow any. No handler method
   * runs from here on, but onClose when the connection ends before. Absent where there is no descriptor.
   */
  handOver?(taken: (socket: number) => void): void;
  /** Sends what is queued, then closes; onClose still runs. */
  end(): void;
  /** Closes now; onClose runs before this returns, unless it already ran. */
  destroy(reason: string): void;
}

export interface StreamListener {
  /** Where it really listens (port 0 resolved): `127.0.0.1:10809` or `unix:/run/x.sock`. */
  readonly address: string;
  close(): void;
}

/** `host:port`, `[v6]:port` or `unix:/path`. */
export type StreamAddress = string;

/** What protocol servers and clients are given: the raw loop in production, a virtual one in tests. */
export interface StreamNetwork {
  /** Throws TorusError with code "listen-failed" (port in use, permission) saying what to do. */
  listen(address: StreamAddress, accept: (connection: StreamConnection) => StreamHandler): StreamListener;
  /**
   * `connected` or `failed` is called once, never before this returns; the attempt fails after `timeoutMs`.
   */
  connect(
    address: StreamAddress,
    timeoutMs: number,
    connected: (connection: StreamConnection) => StreamHandler,
    failed: (reason: string) => void,
  ): void;
}
