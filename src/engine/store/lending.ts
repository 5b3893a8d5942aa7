/**
 * Blocks lent to readers, without a closure per read: a lent read is a pooled object whose `release` was made once.
 * A mapped block is pinned while lent, so that its space is not reused; a block that had to be gathered (several
 * extents, or a disk without mappings) lies in a pooled buffer instead.
 */
import type { AllocateBuffer, NativeBuffer } from "../../base";
import { NO_SLOT } from "./block-index";

const CLASS_MIN_LOG2 = 13;
const CLASS_COUNT = 11;
/** Idle buffers kept of each size. */
const IDLE_MAX = 8;

export class LentRead {
  slot = NO_SLOT;
  buffer: NativeBuffer | undefined;
  readonly release: () => void;

  constructor(owner: Lending) {
    this.release = () => owner.giveBack(this);
  }
}

export class Lending {
  readonly #idle: LentRead[] = [];
  readonly #buffers: NativeBuffer[][] = Array.from({ length: CLASS_COUNT }, () => []);
  lentCount = 0;

  constructor(
    private readonly allocate: AllocateBuffer,
    private readonly unpin: (slot: number) => void,
  ) {}

  lend(slot: number, buffer: NativeBuffer | undefined): LentRead {
    const lent = this.#idle.pop() ?? new LentRead(this);
    lent.slot = slot;
    lent.buffer = buffer;
    this.lentCount += 1;
    return lent;
  }

  giveBack(lent: LentRead): void {
    const { slot, buffer } = lent;
    lent.slot = NO_SLOT;
    lent.buffer = undefined;
    this.lentCount -= 1;
    this.#idle.push(lent);
    if (buffer !== undefined) this.giveBuffer(buffer);
    if (slot !== NO_SLOT) this.unpin(slot);
  }

  /** A buffer of at least this many bytes. */
  takeBuffer(lengthBytes: number): NativeBuffer {
    const size = sizeClass(lengthBytes);
    return this.#buffers[size]?.pop() ?? this.allocate(2 ** (size + CLASS_MIN_LOG2));
  }

  giveBuffer(buffer: NativeBuffer): void {
    const idle = this.#buffers[sizeClass(buffer.bytes.length)];
    if (idle !== undefined && idle.length < IDLE_MAX) idle.push(buffer);
  }
}

function sizeClass(lengthBytes: number): number {
  return Math.max(0, Math.ceil(Math.log2(lengthBytes)) - CLASS_MIN_LOG2);
}
