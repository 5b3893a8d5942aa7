/**
 * What one root of a volume's map references, kept between collections so that a new root costs the walk of the
 * difference: an INode block that did not change is not read again.
 *
 * A head's set is exact: everything its root references. Of a chain of snapshots only the first is; every further one
 * holds what it references beyond its predecessor, which together is the same and costs one walk of a difference
 * each. A block that a later snapshot no longer references is still referenced by the earlier one.
 */
import type { NodePointer } from "../head";
import { type NodeReader, type ReferenceVisitor, walkReferences } from "../inode";
import { BlockSet } from "../upkeep";
import { PointerCounts } from "./pointer-counts";

export class RootSet {
  private constructor(
    public root: NodePointer | null,
    /** What this set leaves out; null: nothing, the set is exact. */
    readonly beyond: NodePointer | null,
    readonly blocks = new BlockSet(),
    private readonly pointers = new PointerCounts(blocks),
  ) {}

  get memoryBytes(): number {
    return this.blocks.memoryBytes + this.pointers.memoryBytes;
  }

  /** Everything `root` references, or only what it references beyond `beyond`. Throws InodeError. */
  static async walk(
    root: NodePointer | null,
    beyond: NodePointer | null,
    reader: NodeReader,
  ): Promise<RootSet> {
    const set = new RootSet(root, beyond);
    await walkReferences(root, reader, set.visitor(), beyond);
    return set;
  }

  /** An exact set of its own with the same content. */
  copy(): RootSet {
    const blocks = this.blocks.copy();
    return new RootSet(this.root, this.beyond, blocks, this.pointers.copy(blocks));
  }

  get isExact(): boolean {
    return this.beyond === null;
  }

  /**
   * Moves an exact set on to another root. Throws InodeError; the set is then half moved and must be forgotten.
   */
  async moveTo(root: NodePointer | null, reader: NodeReader): Promise<void> {
    await walkReferences(root, reader, this.visitor(), this.root);
    this.root = root;
  }

  private visitor(): ReferenceVisitor {
    const { isExact } = this;
    return {
      data: (ref, present) => {
        if (present) this.blocks.add(ref);
        else this.blocks.delete(ref);
      },
      inode: (ref, change) => {
        if (change === 1 || isExact) this.pointers.change(ref, change);
      },
    };
  }
}

export function sameRoot(a: NodePointer | null, b: NodePointer | null): boolean {
  if (a === null || b === null) return a === b;
  return (
    a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index && a.offsetBytes === b.offsetBytes
  );
}
