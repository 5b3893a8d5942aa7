/**
 * Writes to one descriptor, kept in memory in the order they came until a sync hands them to the syncer, and readable
 * meanwhile. Small neighbours are joined into one write. Memory comes in chunks, which are used again when all their
 * writes are done; when too much is kept, writing waits for the device.
 *
 * Invariants: jobs are submitted in the order of `add`; a chunk's bytes do not change once a job names them; what
 * `overlay` lays over a read is everything added and not yet known to be on the device.
 */
import type { AllocateBuffer, NativeBuffer } from "../buffer";
import { assert } from "../errors";
import { copyBuffer } from "./memory";
import { type Syncer, writeFile } from "./sync-channel";

const CHUNK_BYTES = 1024 * 1024;
const CHUNK_COUNT_MAX = 128;
/** Longest write of one call: the longest sealed block and a sector. */
const WRITE_BYTES_MAX = 8 * 1024 * 1024;

interface Chunk {
  readonly memory: NativeBuffer;
  used: number;
  writeCount: number;
}

interface Kept {
  readonly chunk: Chunk;
  readonly chunkOffset: number;
  readonly offsetBytes: number;
  lengthBytes: number;
  isSubmitted: boolean;
}

export class WriteBehind {
  readonly #kept: Kept[] = [];
  readonly #idle: Chunk[] = [];
  #chunkCount = 0;
  /** The chunks being filled: blocks, and everything else. */
  #dataChunk: Chunk | undefined;
  #otherChunk: Chunk | undefined;
  #lastData: Kept | undefined;
  #lastOther: Kept | undefined;
  #jobs = 0;
  #failure = 0;
  #onClosed: (() => void) | undefined;

  constructor(
    private readonly fd: number,
    private readonly syncer: Syncer,
    private readonly unitBytes: number,
    private readonly allocate: AllocateBuffer,
  ) {}

  /** Keeps a copy, its last unit filled up with zeros. False when the device failed. */
  add(
    isData: boolean,
    offsetBytes: number,
    source: NativeBuffer,
    sourceOffset: number,
    lengthBytes: number,
  ): boolean {
    if (offsetBytes % this.unitBytes !== 0) assert(false, `a write at ${offsetBytes} is not aligned`);
    if (lengthBytes <= 0 || lengthBytes > WRITE_BYTES_MAX) assert(false, `a write of ${lengthBytes} bytes`);
    const padded = Math.ceil(lengthBytes / this.unitBytes) * this.unitBytes;
    const chunk = this.#chunkFor(isData, padded);
    const at = chunk.used;
    copyBuffer(chunk.memory, at, source, sourceOffset, lengthBytes);
    chunk.memory.bytes.fill(0, at + lengthBytes, at + padded);
    chunk.used += padded;
    const last = isData ? this.#lastData : this.#lastOther;
    const isNeighbour =
      last !== undefined &&
      !last.isSubmitted &&
      last.chunk === chunk &&
      last.chunkOffset + last.lengthBytes === at &&
      last.offsetBytes + last.lengthBytes === offsetBytes &&
      // Joining moves this write before everything added since: only where nothing of that overlaps.
      !this.#isOverlappedAfter(last, offsetBytes, padded);
    if (isNeighbour) last.lengthBytes += padded;
    else {
      const kept = { chunk, chunkOffset: at, offsetBytes, lengthBytes: padded, isSubmitted: false };
      chunk.writeCount += 1;
      this.#kept.push(kept);
      if (isData) this.#lastData = kept;
      else this.#lastOther = kept;
    }
    return this.#failure === 0;
  }

  /** Submits everything kept and then a flush of the device; `done` gets 0 or -errno. */
  sync(done: (result: number) => void): void {
    for (const kept of this.#kept) if (!kept.isSubmitted) this.#submit(kept);
    this.#jobs += 1;
    this.syncer.sync(this.fd, (result) => {
      this.#jobDone();
      done(this.#failure < 0 ? this.#failure : result);
    });
  }

  /** Whether one kept write, and nothing after it, has all of the range. */
  covers(offsetBytes: number, lengthBytes: number): boolean {
    for (const kept of this.#kept)
      if (kept.offsetBytes <= offsetBytes && offsetBytes + lengthBytes <= kept.offsetBytes + kept.lengthBytes)
        return true;
    return false;
  }

  /** Lays what is kept over bytes read from the device at `offsetBytes`, oldest first. */
  overlay(offsetBytes: number, lengthBytes: number, destination: NativeBuffer): void {
    for (const kept of this.#kept) {
      const start = Math.max(offsetBytes, kept.offsetBytes);
      const end = Math.min(offsetBytes + lengthBytes, kept.offsetBytes + kept.lengthBytes);
      if (start >= end) continue;
      const from = kept.chunkOffset + (start - kept.offsetBytes);
      copyBuffer(destination, start - offsetBytes, kept.chunk.memory, from, end - start);
    }
  }

  /** Forgets what was not submitted; `closed` runs when no job is under way. */
  close(closed: () => void): void {
    this.#onClosed = closed;
    if (this.#jobs === 0) closed();
  }

  #submit(kept: Kept): void {
    kept.isSubmitted = true;
    this.#jobs += 1;
    const address = kept.chunk.memory.address + kept.chunkOffset;
    this.syncer.write(this.fd, address, kept.lengthBytes, kept.offsetBytes, (result) => {
      if (result < 0 && this.#failure === 0) this.#failure = result;
      this.#forget(kept);
      this.#jobDone();
    });
  }

  #forget(kept: Kept): void {
    this.#kept.splice(this.#kept.indexOf(kept), 1);
    const { chunk } = kept;
    chunk.writeCount -= 1;
    if (chunk.writeCount > 0) return;
    chunk.used = 0;
    if (chunk !== this.#dataChunk && chunk !== this.#otherChunk) this.#recycle(chunk);
  }

  #recycle(chunk: Chunk): void {
    if (chunk.memory.bytes.length === CHUNK_BYTES) this.#idle.push(chunk);
    else this.#chunkCount -= 1;
  }

  #jobDone(): void {
    this.#jobs -= 1;
    if (this.#jobs === 0) this.#onClosed?.();
  }

  #isOverlappedAfter(kept: Kept, offsetBytes: number, lengthBytes: number): boolean {
    for (let index = this.#kept.length - 1; index >= 0; index -= 1) {
      const later = this.#kept[index] as Kept;
      if (later === kept) return false;
      if (
        later.offsetBytes < offsetBytes + lengthBytes &&
        offsetBytes < later.offsetBytes + later.lengthBytes
      )
        return true;
    }
    return false;
  }

  #chunkFor(isData: boolean, lengthBytes: number): Chunk {
    const current = isData ? this.#dataChunk : this.#otherChunk;
    if (current !== undefined && current.used + lengthBytes <= current.memory.bytes.length) return current;
    const next = this.#newChunk(lengthBytes);
    if (isData) this.#dataChunk = next;
    else this.#otherChunk = next;
    // The old one is nobody's now: if its writes are all done, nobody else will give it back.
    if (current !== undefined && current.writeCount === 0) this.#recycle(current);
    return next;
  }

  #newChunk(lengthBytes: number): Chunk {
    if (lengthBytes <= CHUNK_BYTES) {
      const idle = this.#idle.pop();
      if (idle !== undefined) return idle;
    }
    if (this.#chunkCount >= CHUNK_COUNT_MAX) this.#writeKeptNow();
    this.#chunkCount += 1;
    return { memory: this.allocate(Math.max(CHUNK_BYTES, lengthBytes)), used: 0, writeCount: 0 };
  }

  /**
   * Too much is kept: writes what no job has yet, on this thread. Jobs under way may still write older bytes to the
   * same place, so whatever overlaps one stays.
   */
  #writeKeptNow(): void {
    for (const kept of [...this.#kept]) {
      if (kept.isSubmitted) continue;
      const isBehindJob = this.#kept.some(
        (other) =>
          other !== kept &&
          other.offsetBytes < kept.offsetBytes + kept.lengthBytes &&
          kept.offsetBytes < other.offsetBytes + other.lengthBytes,
      );
      if (isBehindJob) continue;
      const address = kept.chunk.memory.address + kept.chunkOffset;
      const result = writeFile(this.fd, address, kept.lengthBytes, kept.offsetBytes);
      if (result < 0 && this.#failure === 0) this.#failure = result;
      kept.isSubmitted = true;
      this.#forget(kept);
    }
  }
}
