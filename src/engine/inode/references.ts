/**
 * What a root keeps alive, for the collector. Data blocks come from the tree of block uses, so no leaf of the map
 * is read; INode blocks come from the pointers. Given another root that was walked before, only the difference is
 * visited: subtrees that both share are one pointer, equal, and skipped, so that the work follows the change.
 *
 * Equal pointers mean equal bytes and a common past, in which the lsns below were given out; so blocks below them
 * are the same for both roots. Elsewhere an lsn may name different blocks (two lines grown from one snapshot), and
 * BlockRefs are compared.
 */
import { BlockKind, type BlockRef, type Epoch, type VolumeId } from "../../base";
import type { NodePointer } from "../head";
import { decodeNode, MAP_TREE, type TreeKind, USE_TREE } from "./codec";
import { FAN_OUT, LEAF_ENTRIES, type Leaf, Place, type TreeNode, type UseLeaf } from "./nodes";
import { readNode } from "./reading";
import { childPlace, nameBlock, openRootView, type RootView, samePosition, sameRef } from "./root-view";
import type { NodeReader } from "./types";

export interface ReferenceVisitor {
  /** A data block with live pages: present under `root`, or not any more, though under `known`. */
  data(ref: BlockRef, present: boolean): void;
  /**
   * One pointer into an INode block: +1 found under `root`, -1 found only under `known`. A block is referenced as
   * long as its sum is above 0.
   */
  inode(ref: BlockRef, change: 1 | -1): void;
}

/**
 * Visits what `root` references; with `known`, only how it differs from what `known` references. Either may be null
 * (nothing). Throws InodeError "node-unreadable", "node-missing" or "bad-node": then nothing may be concluded, not even
 * from what was visited already.
 */
export async function walkReferences(
  root: NodePointer | null,
  reader: NodeReader,
  visitor: ReferenceVisitor,
  known: NodePointer | null = null,
): Promise<void> {
  if (root !== null && known !== null && samePosition(root, known)) return;
  const walk = new Walk(reader, visitor);
  await walk.run(root, known);
}

class Walk {
  private after: RootView | undefined;
  private before: RootView | undefined;

  constructor(
    private readonly reader: NodeReader,
    private readonly visitor: ReferenceVisitor,
  ) {}

  async run(root: NodePointer | null, known: NodePointer | null): Promise<void> {
    this.after = await openRootView(this.reader, root);
    this.before = await openRootView(this.reader, known);
    this.point(toPlace(root), toPlace(known));
    const chunksAfter = this.after?.record.epochChunks ?? [];
    const chunksBefore = this.before?.record.epochChunks ?? [];
    for (let index = 0; index < Math.max(chunksAfter.length, chunksBefore.length); index += 1)
      this.point(chunksAfter[index], chunksBefore[index]);
    await this.tree(MAP_TREE, this.after?.record.mapTop, this.before?.record.mapTop);
    await this.tree(USE_TREE, this.after?.record.useTop, this.before?.record.useTop);
  }

  private async tree<L extends Leaf>(
    kind: TreeKind<L>,
    after: Place | undefined,
    before: Place | undefined,
  ): Promise<void> {
    if (this.point(after, before)) await this.node(kind, kind.interiorLevels, 0, after, before);
  }

  /** Visits the pointers themselves; false when there is nothing different behind them. */
  private point(after: Place | undefined, before: Place | undefined): boolean {
    if (after === undefined && before === undefined) return false;
    if (after !== undefined && before !== undefined && samePosition(after, before)) return false;
    if (after !== undefined) this.visitor.inode(inodeRef(after), 1);
    if (before !== undefined) this.visitor.inode(inodeRef(before), -1);
    return true;
  }

  private async node<L extends Leaf>(
    kind: TreeKind<L>,
    level: number,
    key: number,
    after: Place | undefined,
    before: Place | undefined,
  ): Promise<void> {
    const nodeAfter = await this.read(kind, level, key, after);
    const nodeBefore = await this.read(kind, level, key, before);
    if (level === 0) {
      this.leaf(nodeAfter as UseLeaf | undefined, nodeBefore as UseLeaf | undefined, key);
      return;
    }
    const readsBelow = level > 1 || kind.name === "use";
    for (let slot = 0; slot < FAN_OUT; slot += 1) {
      const childAfter = childPlace(nodeAfter, slot);
      const childBefore = childPlace(nodeBefore, slot);
      if (!this.point(childAfter, childBefore) || !readsBelow) continue;
      await this.node(kind, level - 1, key * FAN_OUT + slot, childAfter, childBefore);
    }
  }

  private async read<L extends Leaf>(
    kind: TreeKind<L>,
    level: number,
    key: number,
    place: Place | undefined,
  ): Promise<TreeNode | undefined> {
    if (place === undefined) return undefined;
    const decode = (view: DataView, at: number) => decodeNode(kind, level, key, place, view, at);
    return await readNode(this.reader, place.toPointer(), decode);
  }

  private leaf(after: UseLeaf | undefined, before: UseLeaf | undefined, key: number): void {
    for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
      const isLive = after !== undefined && after.values[entry] !== 0;
      const wasLive = before !== undefined && before.values[entry] !== 0;
      if (!isLive && !wasLive) continue;
      const lsn = key * LEAF_ENTRIES + entry;
      const refAfter = isLive ? nameBlock(this.after, lsn) : undefined;
      const refBefore = wasLive ? nameBlock(this.before, lsn) : undefined;
      if (refAfter !== undefined && refBefore !== undefined && sameRef(refAfter, refBefore)) continue;
      if (refAfter !== undefined) this.visitor.data(refAfter, true);
      if (refBefore !== undefined) this.visitor.data(refBefore, false);
    }
  }
}

function toPlace(pointer: NodePointer | null): Place | undefined {
  return pointer === null ? undefined : new Place().assign(pointer);
}

function inodeRef(place: Place): BlockRef {
  return {
    kind: BlockKind.inode,
    volumeId: place.volumeId as VolumeId,
    epoch: place.epoch as Epoch,
    index: place.index,
  };
}
