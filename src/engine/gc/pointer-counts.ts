/** Counts of pointers into INode blocks: a block is referenced while one leads to it. */
import type { BlockRef } from "../../base";
import type { BlockSet } from "../upkeep";

/** How many pointers lead into each INode block; a block is in `present` while its count is above 0. */
export class PointerCounts {
  constructor(
    private readonly present: BlockSet,
    private readonly counts = new Map<string, number>(),
  ) {}

  /** The same counts, kept from now on beside a copy of the set. */
  copy(present: BlockSet): PointerCounts {
    return new PointerCounts(present, new Map(this.counts));
  }

  get memoryBytes(): number {
    return this.counts.size * 96;
  }

  change(ref: BlockRef, by: 1 | -1): void {
    const name = `${ref.volumeId} ${ref.epoch} ${ref.index}`;
    const count = (this.counts.get(name) ?? 0) + by;
    if (count === 0) {
      this.counts.delete(name);
      this.present.delete(ref);
      return;
    }
    this.counts.set(name, count);
    if (count === 1 && by === 1) this.present.add(ref);
  }
}
