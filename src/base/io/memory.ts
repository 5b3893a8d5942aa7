/**
 * Memory outside the JavaScript heap: anonymous mappings that system calls take by address, that the collector
 * never moves, and that another thread may see by the same address. A mapping goes when its ArrayBuffer is
 * collected; whoever hands an address to the kernel keeps the NativeBuffer referenced meanwhile.
 */
import { type Pointer, toArrayBuffer } from "bun:ffi";
import type { AllocateBuffer, NativeBuffer } from "../buffer";
import { assert } from "../errors";
import { C, libc, must } from "./libc";

const MAP_PAGE_BYTES = 4096;

const unmapper = new FinalizationRegistry<{ address: number; lengthBytes: number }>((mapping) => {
  libc.munmap(mapping.address, mapping.lengthBytes);
});

class MappedBuffer implements NativeBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;

  constructor(
    array: ArrayBuffer,
    readonly address: number,
  ) {
    this.bytes = new Uint8Array(array);
    this.view = new DataView(array);
    this.words = new Int32Array(array);
  }
}

function map(lengthBytes: number, flags: number): NativeBuffer {
  assert(lengthBytes > 0 && Number.isSafeInteger(lengthBytes), `cannot map ${lengthBytes} bytes`);
  const mappedBytes = Math.ceil(lengthBytes / MAP_PAGE_BYTES) * MAP_PAGE_BYTES;
  const address = must(
    `map ${mappedBytes} bytes of memory`,
    libc.mmap(mappedBytes, C.PROT_READ | C.PROT_WRITE, C.MAP_PRIVATE | C.MAP_ANONYMOUS | flags, -1, 0),
  );
  const array = toArrayBuffer(address as Pointer, 0, Math.ceil(lengthBytes / 4) * 4);
  unmapper.register(array, { address, lengthBytes: mappedBytes });
  return new MappedBuffer(array, address);
}

/** Zeroed memory, backed by pages only once touched. */
export const nativeBuffer: AllocateBuffer = (lengthBytes) => map(lengthBytes, 0);

/** The same with its pages present from the start, so that no first touch stalls a request. */
export const populatedBuffer: AllocateBuffer = (lengthBytes) => map(lengthBytes, C.MAP_POPULATE);

/**
 * Sees memory that something else owns (another thread's buffer, a file mapping) and that stays mapped for as long
 * as the view is used. `address` must be a multiple of 4 for `words` to be of use.
 */
export function bufferAt(address: number, lengthBytes: number): NativeBuffer {
  return new MappedBuffer(toArrayBuffer(address as Pointer, 0, lengthBytes - (lengthBytes % 4)), address);
}

/** Below this the call into libc costs more than it saves. */
const MEMCPY_BYTES_MIN = 512;

/** Copies between two buffers that do not overlap, by memcpy where both have an address. */
export function copyBuffer(
  to: NativeBuffer,
  toOffset: number,
  from: NativeBuffer,
  fromOffset: number,
  lengthBytes: number,
): void {
  assert(
    toOffset >= 0 &&
      fromOffset >= 0 &&
      toOffset + lengthBytes <= to.bytes.length &&
      fromOffset + lengthBytes <= from.bytes.length,
    "a copy outside of its buffers",
  );
  if (lengthBytes >= MEMCPY_BYTES_MIN && to.address !== 0 && from.address !== 0)
    libc.memcpy(to.address + toOffset, from.address + fromOffset, lengthBytes);
  else to.bytes.set(from.bytes.subarray(fromOffset, fromOffset + lengthBytes), toOffset);
}

/**
 * A bounded set of equal buffers, mapped when first needed and reused, the last returned first (its pages are
 * still in the CPU's cache). An empty pool is how backpressure starts: the caller pauses and waits.
 */
export class BufferPool {
  readonly #free: NativeBuffer[] = [];
  readonly #waiters: (() => void)[] = [];
  #mappedCount = 0;

  constructor(
    readonly bufferBytes: number,
    readonly countMax: number,
    private readonly allocate: AllocateBuffer = nativeBuffer,
  ) {
    assert(countMax > 0, "a buffer pool of no buffers");
  }

  /** Buffers that `acquire` can still give. */
  get availableCount(): number {
    return this.#free.length + this.countMax - this.#mappedCount;
  }

  acquire(): NativeBuffer | undefined {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#mappedCount === this.countMax) return undefined;
    this.#mappedCount++;
    return this.allocate(this.bufferBytes);
  }

  /** Gives a buffer back and wakes the longest waiter. */
  release(buffer: NativeBuffer): void {
    assert(buffer.bytes.length >= this.bufferBytes, "a buffer of another pool came back");
    assert(this.#free.length < this.#mappedCount, "a buffer came back twice");
    this.#free.push(buffer);
    this.wakeNext();
  }

  /**
   * Calls back once, when a buffer was released: no promise that it is still there when the caller looks, only
   * that somebody has it otherwise. A waiter that no longer wants it must pass it on with `wakeNext`.
   */
  whenAvailable(callback: () => void): void {
    this.#waiters.push(callback);
  }

  /** Wakes the longest waiter if there is a buffer for it. */
  wakeNext(): void {
    if (this.availableCount > 0) this.#waiters.shift()?.();
  }
}
