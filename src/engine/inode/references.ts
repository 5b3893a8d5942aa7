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
import { badNode, decodeNode, MAP_TREE, type TreeKind, USE_TREE } from "./codec";
import { decodeChunk, EpochTable } from "./epochs";
import { FAN_OUT, Interior, LEAF_ENTRIES, type Leaf, Place, type TreeNode, type UseLeaf } from "./nodes";
import { readNode } from "./reading";
import { decodeRoot, type RootRecord } from "./root";
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

/** One root with what is needed to name its blocks. */
interface Side {
  readonly record: RootRecord;
  readonly epochs: EpochTable;
}

/**
 * Visits what `root` references; with `known`, only how it differs from what `known` references. Either may be null
 * (nothing). Throws InodeError "node-unreadable" or "bad-node": then nothing may be concluded, not even from what
 * was visited already.
 */
export async function walkReferences(
  root: NodePointer | null,
  reader: NodeReader,
  visitor: ReferenceVisitor,
  known: NodePointer | null = null,
): Promise<void> {
  if (root !== null && known !== null && samePointer(root, known)) return;
  const walk = new Walk(reader, visitor);
  await walk.run(root, known);
}

class Walk {
  private after: Side | undefined;
  private before: Side | undefined;

  constructor(
    private readonly reader: NodeReader,
    private readonly visitor: ReferenceVisitor,
  ) {}

  async run(root: NodePointer | null, known: NodePointer | null): Promise<void> {
    this.after = await this.open(root);
    this.before = await this.open(known);
    this.point(toPlace(root), toPlace(known));
    const chunksAfter = this.after?.record.epochChunks ?? [];
    const chunksBefore = this.before?.record.epochChunks ?? [];
    for (let index = 0; index < Math.max(chunksAfter.length, chunksBefore.length); index += 1)
      this.point(chunksAfter[index], chunksBefore[index]);
    await this.tree(MAP_TREE, this.after?.record.mapTop, this.before?.record.mapTop);
    await this.tree(USE_TREE, this.after?.record.useTop, this.before?.record.useTop);
  }

  private async open(root: NodePointer | null): Promise<Side | undefined> {
    if (root === null) return undefined;
    const { reader } = this;
    const record = await readNode(reader, root, (view, at) => decodeRoot(view, at, root.lengthBytes));
    const chunks = [];
    for (const [key, place] of record.epochChunks.entries())
      chunks.push(await readNode(reader, place.toPointer(), (view, at) => decodeChunk(place, key, view, at)));
    const epochs = new EpochTable({ current: 1, committed: 0 });
    epochs.load(chunks, record.nextLsn);
    return { record, epochs };
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
    if (after !== undefined && before !== undefined && samePlace(after, before)) return false;
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
      const childAfter = childPlace(nodeAfter as Interior | undefined, slot);
      const childBefore = childPlace(nodeBefore as Interior | undefined, slot);
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

function nameBlock(side: Side | undefined, lsn: number): BlockRef {
  const ref = side?.epochs.refOf(lsn);
  if (ref === undefined) throw badNode(`lsn ${lsn} has live pages but belongs to no epoch`);
  return ref;
}

function childPlace(node: Interior | undefined, slot: number): Place | undefined {
  if (!(node instanceof Interior) || !node.has(slot)) return undefined;
  return node.getPointer(slot, new Place());
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

function samePlace(a: Place, b: Place): boolean {
  return (
    a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index && a.offsetBytes === b.offsetBytes
  );
}

function samePointer(a: NodePointer, b: NodePointer): boolean {
  return (
    a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index && a.offsetBytes === b.offsetBytes
  );
}

function sameRef(a: BlockRef, b: BlockRef): boolean {
  return a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index;
}
