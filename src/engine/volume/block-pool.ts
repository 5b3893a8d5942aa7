/**
 * The write buffer: a bounded number of block buffers, shared by all volumes of a process. A buffer is the open
 * block of a volume, then a sealed block in flight, then free; a free one still holds its last block, which serves
 * reads of what was just written until the buffer is taken again, the longest free one first. When none is left,
 * writers wait in order: that is the whole backpressure.
 */
import { type AllocateBuffer, assert } from "../../base";
import { BlockBuilder, blockBufferBytes } from "../block";
import { DistributedBlock } from "../distributor";

export interface BlockOwner {
  /** The buffer is taken for another block: what it held can no longer be read here. */
  forgetBlock(block: VolumeBlock): void;
}

export class VolumeBlock {
  readonly builder: BlockBuilder;
  readonly sending = new DistributedBlock();
  /** Who reads from it; undefined once forgotten. */
  owner: BlockOwner | undefined;
  index = 0;
  lsn = 0;
  sealed = false;
  /** Of header and payload, once sealed. */
  sealedOffset = 0;
  sealedBytes = 0;
  /** Its pages are in the map. */
  applied = false;
  /** No replica is pending. */
  released = false;

  constructor(builder: BlockBuilder) {
    this.builder = builder;
  }
}

export class BlockPool {
  readonly blockSizeBytes: number;
  readonly blockCountMax: number;
  readonly #allocate: AllocateBuffer;
  readonly #free: VolumeBlock[] = [];
  #freeHead = 0;
  #allocated = 0;
  readonly #waiters: (() => void)[] = [];

  constructor(allocate: AllocateBuffer, blockSizeBytes: number, limitBytes: number) {
    this.#allocate = allocate;
    this.blockSizeBytes = blockSizeBytes;
    this.blockCountMax = Math.max(2, Math.floor(limitBytes / blockBufferBytes(blockSizeBytes)));
  }

  get freeCount(): number {
    return this.blockCountMax - this.#allocated + this.#free.length - this.#freeHead;
  }

  /** A buffer, emptied; or undefined: wait for one with `whenFree`. */
  acquire(): VolumeBlock | undefined {
    if (this.#allocated < this.blockCountMax) {
      this.#allocated++;
      const buffer = this.#allocate(blockBufferBytes(this.blockSizeBytes));
      return new VolumeBlock(new BlockBuilder(buffer, this.blockSizeBytes));
    }
    if (this.#freeHead === this.#free.length) return undefined;
    const block = this.#free[this.#freeHead++] as VolumeBlock;
    if (this.#freeHead > 64 && this.#freeHead * 2 > this.#free.length) {
      this.#free.splice(0, this.#freeHead);
      this.#freeHead = 0;
    }
    block.owner?.forgetBlock(block);
    block.owner = undefined;
    block.builder.reset();
    block.sending.reset();
    block.sealed = false;
    block.applied = false;
    block.released = false;
    return block;
  }

  release(block: VolumeBlock): void {
    assert(this.#free.length - this.#freeHead < this.#allocated, "a block buffer was released twice");
    this.#free.push(block);
    // A waiter that needs no buffer any more leaves it to the next.
    for (let left = this.#waiters.length; left > 0 && this.freeCount > 0; left--) this.#waiters.shift()?.();
  }

  /** Runs `callback` once when a buffer is free, in the order of the calls. */
  whenFree(callback: () => void): void {
    this.#waiters.push(callback);
  }
}
