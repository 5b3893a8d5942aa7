/**
 * One side of a byte stream in memory: a StreamConnection whose other side is the test, which feeds bytes in any
 * split and sees what was sent. It keeps to the contract where a careless handler would notice: the receive buffer
 * is wiped after every call, lent output is read only when it is "sent", and nothing is presented inside `resume`.
 */
import { assert, heapBuffer, type NativeBuffer } from "../../src/base";
import type { StreamConnection, StreamHandler } from "../../src/base/io/stream";

const RECEIVE_BUFFER_BYTES = 256 * 1024;
const HIGH_WATER_BYTES = 64 * 1024;
const receiveBuffer = heapBuffer(RECEIVE_BUFFER_BYTES);

type Output =
  | { readonly bytes: Uint8Array }
  | { readonly lent: Uint8Array; readonly sent: (() => void) | undefined };

export class MemoryStream implements StreamConnection {
  readonly remote = "test";
  handler: StreamHandler;
  /** While true the "kernel" takes nothing. */
  holdOutput = false;
  closed = false;
  closeReason: string | undefined;
  #input: Uint8Array = new Uint8Array(0);
  #sent: Uint8Array[] = [];
  #queue: Output[] = [];
  #queuedBytes = 0;
  #aboveHighWater = false;
  #paused = false;
  #ending = false;
  #presenting = false;
  #target: { buffer: NativeBuffer; offset: number; leftBytes: number } | undefined;

  constructor(accept: (connection: StreamConnection) => StreamHandler) {
    this.handler = { onData: () => 0, onReceived: () => undefined, onClose: () => undefined };
    this.handler = accept(this);
    this.flush();
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Bytes fed and not yet consumed. */
  get unreadBytes(): number {
    return this.#input.length;
  }

  /** The other side sends. */
  feed(bytes: Uint8Array): void {
    if (this.closed || this.#ending) return;
    const joined = new Uint8Array(this.#input.length + bytes.length);
    joined.set(this.#input);
    joined.set(bytes, this.#input.length);
    this.#input = joined;
    this.#present();
    this.flush();
  }

  /** The other side closes. */
  hangUp(): void {
    this.#close(undefined);
  }

  /** All that was sent since the last call. */
  take(): Uint8Array {
    const all = new Uint8Array(this.#sent.reduce((sum, piece) => sum + piece.length, 0));
    let at = 0;
    for (const piece of this.#sent) {
      all.set(piece, at);
      at += piece.length;
    }
    this.#sent = [];
    return all;
  }

  receiveInto(buffer: NativeBuffer, offset: number, lengthBytes: number): void {
    assert(this.#target === undefined, "receiveInto while another body is being received");
    assert(offset + lengthBytes <= buffer.bytes.length, "receiveInto beyond its buffer");
    this.#target = { buffer, offset, leftBytes: lengthBytes };
  }

  cancelReceive(): number {
    assert(this.#target !== undefined, "cancelReceive while no body is being received");
    const { leftBytes } = this.#target;
    this.#target = undefined;
    return leftBytes;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    queueMicrotask(() => {
      this.#present();
      this.flush();
    });
  }

  write(source: Uint8Array, start: number, end: number): void {
    this.#push({ bytes: source.slice(start, end) }, end - start);
  }

  reserve(lengthBytes: number): { readonly buffer: NativeBuffer; readonly offset: number } {
    assert(lengthBytes <= 4096, "more reserved than the contract allows");
    const buffer = heapBuffer(lengthBytes);
    this.#push({ bytes: buffer.bytes.subarray(0, lengthBytes) }, lengthBytes);
    return { buffer, offset: 0 };
  }

  writeLent(buffer: NativeBuffer, offset: number, lengthBytes: number, sent?: () => void): void {
    if (this.closed || this.#ending) {
      if (sent !== undefined) queueMicrotask(sent);
      return;
    }
    this.#push({ lent: buffer.bytes.subarray(offset, offset + lengthBytes), sent }, lengthBytes);
  }

  end(): void {
    this.#ending = true;
    queueMicrotask(() => this.flush());
  }

  destroy(reason: string): void {
    this.#close(reason);
  }

  flush(): void {
    if (this.#queuedBytes > HIGH_WATER_BYTES) this.#aboveHighWater = true;
    if (this.holdOutput || this.closed) return;
    for (const output of this.#queue.splice(0)) {
      if ("lent" in output) {
        this.#sent.push(output.lent.slice());
        this.#queuedBytes -= output.lent.length;
        output.sent?.();
      } else {
        this.#sent.push(output.bytes);
        this.#queuedBytes -= output.bytes.length;
      }
    }
    if (this.#ending) this.#close(undefined);
    else if (this.#aboveHighWater) {
      this.#aboveHighWater = false;
      this.handler.onDrain?.();
    }
  }

  #push(output: Output, lengthBytes: number): void {
    if (this.closed || this.#ending) return;
    this.#queue.push(output);
    this.#queuedBytes += lengthBytes;
    // Replies made outside a presented input leave at the end of the turn.
    if (!this.#presenting) queueMicrotask(() => this.flush());
  }

  #present(): void {
    if (this.#presenting) return;
    this.#presenting = true;
    try {
      while (this.#input.length > 0 && !this.closed && !this.#ending) {
        if (this.#target !== undefined) this.#fillTarget(this.#target);
        else if (this.#paused || !this.#presentShared()) break;
      }
    } finally {
      this.#presenting = false;
    }
  }

  #fillTarget(target: { buffer: NativeBuffer; offset: number; leftBytes: number }): void {
    const lengthBytes = Math.min(target.leftBytes, this.#input.length);
    target.buffer.bytes.set(this.#input.subarray(0, lengthBytes), target.offset);
    target.offset += lengthBytes;
    target.leftBytes -= lengthBytes;
    this.#input = this.#input.subarray(lengthBytes);
    if (target.leftBytes > 0) return;
    this.#target = undefined;
    this.handler.onReceived();
  }

  /** False when the handler wants more bytes than there are. */
  #presentShared(): boolean {
    const lengthBytes = Math.min(RECEIVE_BUFFER_BYTES - 64, this.#input.length);
    // Not from the buffer's beginning: positions must be taken relative to `start`.
    const start = 64;
    receiveBuffer.bytes.set(this.#input.subarray(0, lengthBytes), start);
    const { handler } = this;
    const consumed = handler.onData(receiveBuffer, start, start + lengthBytes);
    assert(consumed >= 0 && consumed <= lengthBytes, "onData consumed bytes that were not there");
    receiveBuffer.bytes.fill(0xdb, start, start + lengthBytes);
    this.#input = this.#input.subarray(consumed);
    return consumed > 0 || this.#target !== undefined;
  }

  #close(reason: string | undefined): void {
    if (this.closed) return;
    this.closed = true;
    this.closeReason = reason;
    this.#target = undefined;
    for (const output of this.#queue.splice(0)) if ("lent" in output) output.sent?.();
    this.#queuedBytes = 0;
    this.handler.onClose(reason);
  }
}

/** Lets promises, microtasks and immediates run until nothing of a connection moves any more. */
export async function settle(): Promise<void> {
  for (let round = 0; round < 8; round++) await new Promise((resolve) => setImmediate(resolve));
}
