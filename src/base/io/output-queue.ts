/**
 * What one socket still has to send: a queue of memory ranges, small ones copied into chunks that all sockets of
 * a loop share, large ones lent by their owners, sent with as few calls as possible (one sendmsg for up to 256
 * ranges). Neighbouring small writes become one range.
 */
import type { NativeBuffer } from "../buffer";
import { assert } from "../errors";
import { C, libc } from "./libc";
import { nativeBuffer } from "./memory";

export const CHUNK_BYTES = 64 * 1024;
const IOVEC_BYTES = 16;
const IOVEC_COUNT_MAX = 256;
/** Chunks kept for reuse per loop; beyond that the collector takes them. */
const SPARE_CHUNKS_MAX = 256;
const SENT_RANGES_MAX = 4096;
const TWO_32 = 2 ** 32;
const SEND_FLAGS = C.MSG_NOSIGNAL | C.MSG_DONTWAIT;

export interface Chunk {
  readonly buffer: NativeBuffer;
  usedBytes: number;
  /** Ranges of this chunk still queued. */
  rangeCount: number;
}

/** What the output queues of one loop share: spare chunks, and the arguments of sendmsg. */
export class OutputShare {
  readonly #spare: Chunk[] = [];
  readonly iovecs = nativeBuffer(IOVEC_BYTES * IOVEC_COUNT_MAX);
  readonly message = nativeBuffer(64);
  /** Totals for metrics. */
  sendCalls = 0;
  sentBytes = 0;

  constructor() {
    writeAddress(this.message.view, 16, this.iovecs.address);
  }

  takeChunk(): Chunk {
    return this.#spare.pop() ?? { buffer: nativeBuffer(CHUNK_BYTES), usedBytes: 0, rangeCount: 0 };
  }

  giveChunk(chunk: Chunk): void {
    chunk.usedBytes = 0;
    if (this.#spare.length < SPARE_CHUNKS_MAX) this.#spare.push(chunk);
  }
}

function writeAddress(view: DataView, offset: number, address: number): void {
  view.setUint32(offset, address % TWO_32, true);
  view.setUint32(offset + 4, Math.floor(address / TWO_32), true);
}

export class OutputQueue {
  queuedBytes = 0;
  readonly #addresses: number[] = [];
  readonly #lengths: number[] = [];
  /** The chunk a range is part of, or the buffer that was lent: kept referenced until sent. */
  readonly #owners: (Chunk | NativeBuffer)[] = [];
  readonly #sent: (null | undefined | (() => void))[] = [];
  /** Ranges before this are sent. */
  #head = 0;
  #chunk: Chunk | undefined;
  readonly #place = { buffer: undefined as unknown as NativeBuffer, offset: 0 };

  constructor(private readonly share: OutputShare) {}

  reserve(lengthBytes: number): { readonly buffer: NativeBuffer; readonly offset: number } {
    if (lengthBytes <= 0 || lengthBytes > CHUNK_BYTES)
      assert(false, `cannot reserve ${lengthBytes} bytes of output`);
    let chunk = this.#chunk;
    if (chunk === undefined || chunk.usedBytes + lengthBytes > CHUNK_BYTES) {
      chunk = this.share.takeChunk();
      this.#chunk = chunk;
    }
    const offset = chunk.usedBytes;
    const address = chunk.buffer.address + offset;
    chunk.usedBytes += lengthBytes;
    this.queuedBytes += lengthBytes;
    const last = this.#owners.length - 1;
    if (
      last >= this.#head &&
      this.#owners[last] === chunk &&
      (this.#addresses[last] as number) + (this.#lengths[last] as number) === address
    ) {
      (this.#lengths[last] as number) += lengthBytes;
    } else {
      chunk.rangeCount++;
      this.#push(address, lengthBytes, chunk, null);
    }
    this.#place.buffer = chunk.buffer;
    this.#place.offset = offset;
    return this.#place;
  }

  copy(source: Uint8Array, start: number, end: number): void {
    for (let from = start; from < end; ) {
      const room = CHUNK_BYTES - (this.#chunk?.usedBytes ?? CHUNK_BYTES);
      const lengthBytes = Math.min(end - from, room > 0 ? room : CHUNK_BYTES);
      const { buffer, offset } = this.reserve(lengthBytes);
      buffer.bytes.set(source.subarray(from, from + lengthBytes), offset);
      from += lengthBytes;
    }
  }

  lend(buffer: NativeBuffer, offset: number, lengthBytes: number, sent: (() => void) | undefined): void {
    assert(
      buffer.address !== 0 && lengthBytes > 0 && offset >= 0 && offset + lengthBytes <= buffer.bytes.length,
      "lent output is not inside a native buffer",
    );
    this.queuedBytes += lengthBytes;
    this.#push(buffer.address + offset, lengthBytes, buffer, sent);
  }

  /** Sends what the kernel takes. Returns 0, or -errno of a broken socket; queuedBytes tells what is left. */
  flush(socket: number): number {
    while (this.#head < this.#addresses.length) {
      this.share.sendCalls++;
      const wanted = this.#gather();
      const taken =
        wanted < 0
          ? libc.send(socket, this.#addresses[this.#head] as number, -wanted, SEND_FLAGS)
          : libc.sendmsg(socket, this.share.message.address, SEND_FLAGS);
      if (taken < 0) return taken === -C.EAGAIN || taken === -C.EINTR ? 0 : taken;
      this.share.sentBytes += taken;
      this.#advance(taken);
      if (taken < Math.abs(wanted)) return 0;
    }
    return 0;
  }

  /** Drops everything; whoever lent memory has it back. */
  clear(): void {
    while (this.#head < this.#addresses.length) this.#finishRange();
    this.queuedBytes = 0;
    this.#reset();
  }

  /** Fills the iovecs; returns the bytes they hold, or minus the length of the only range (then plain send does). */
  #gather(): number {
    const count = Math.min(this.#addresses.length - this.#head, IOVEC_COUNT_MAX);
    if (count === 1) return -(this.#lengths[this.#head] as number);
    const view = this.share.iovecs.view;
    let totalBytes = 0;
    for (let index = 0; index < count; index++) {
      const lengthBytes = this.#lengths[this.#head + index] as number;
      writeAddress(view, index * IOVEC_BYTES, this.#addresses[this.#head + index] as number);
      view.setUint32(index * IOVEC_BYTES + 8, lengthBytes, true);
      totalBytes += lengthBytes;
    }
    this.share.message.view.setUint32(24, count, true);
    return totalBytes;
  }

  #advance(takenBytes: number): void {
    this.queuedBytes -= takenBytes;
    let left = takenBytes;
    while (left > 0) {
      const lengthBytes = this.#lengths[this.#head] as number;
      if (left < lengthBytes) {
        (this.#addresses[this.#head] as number) += left;
        this.#lengths[this.#head] = lengthBytes - left;
        return;
      }
      left -= lengthBytes;
      this.#finishRange();
    }
    if (this.#head === this.#addresses.length) this.#reset();
    else if (this.#head > SENT_RANGES_MAX) this.#forgetSent();
  }

  /** A queue that never runs empty must not keep what it sent. */
  #forgetSent(): void {
    for (const list of [this.#addresses, this.#lengths, this.#owners, this.#sent]) list.splice(0, this.#head);
    this.#head = 0;
  }

  #finishRange(): void {
    const owner = this.#owners[this.#head] as Chunk | NativeBuffer;
    const sent = this.#sent[this.#head];
    this.#head++;
    if (sent === null) {
      const chunk = owner as Chunk;
      if (--chunk.rangeCount === 0 && chunk !== this.#chunk) this.share.giveChunk(chunk);
    } else sent?.();
  }

  #reset(): void {
    if (this.#head < this.#addresses.length) return;
    this.#addresses.length = 0;
    this.#lengths.length = 0;
    this.#owners.length = 0;
    this.#sent.length = 0;
    this.#head = 0;
    if (this.#chunk !== undefined && this.#chunk.rangeCount === 0) {
      this.share.giveChunk(this.#chunk);
      this.#chunk = undefined;
    }
  }

  #push(
    address: number,
    lengthBytes: number,
    owner: Chunk | NativeBuffer,
    sent: null | undefined | (() => void),
  ): void {
    this.#addresses.push(address);
    this.#lengths.push(lengthBytes);
    this.#owners.push(owner);
    this.#sent.push(sent);
  }
}
