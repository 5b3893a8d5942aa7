/**
 * Block-sized buffers for everything that is not the write buffer: INode blocks of checkpoints, adopted blocks,
 * repairs, cleaning. Kept apart from the write buffer, because a checkpoint must be able to go on (and so to change
 * the log set) exactly when the write buffer is full of blocks that cannot be acknowledged. Bounded; shared by all
 * volumes of a process.
 */
import type { AllocateBuffer, NativeBuffer } from "../../base";
import { blockBufferBytes } from "../block";

export class BufferPool {
  readonly blockSizeBytes: number;
  readonly countMax: number;
  readonly #allocate: AllocateBuffer;
  readonly #free: NativeBuffer[] = [];
  readonly #waiters: ((buffer: NativeBuffer) => void)[] = [];
  #allocated = 0;

  constructor(allocate: AllocateBuffer, blockSizeBytes: number, countMax: number) {
    this.#allocate = allocate;
    this.blockSizeBytes = blockSizeBytes;
    this.countMax = countMax;
  }

  /** Resolves in the order of the calls; whoever holds one gives it back with `release`. */
  acquire(): Promise<NativeBuffer> {
    const free = this.#free.pop();
    if (free) return Promise.resolve(free);
    if (this.#allocated < this.countMax) {
      this.#allocated++;
      return Promise.resolve(this.#allocate(blockBufferBytes(this.blockSizeBytes)));
    }
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  release(buffer: NativeBuffer): void {
    const waiter = this.#waiters.shift();
    if (waiter) waiter(buffer);
    else this.#free.push(buffer);
  }
}
