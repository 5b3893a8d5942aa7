/**
 * A sparse radix tree with copy-on-write paths: leaf number -> leaf of 1024 entries, fan-out 512 above. It serves
 * twice, for page locations and for the use of blocks. A child is absent (nothing below), on disk (a pointer) or in
 * memory. Nothing here waits: `missing` names the node that must be loaded before a leaf can be reached, and
 * PageMap loads it.
 */
import { assert } from "../../base";
import type { TreeKind } from "./codec";
import { FAN_OUT, Interior, type Leaf, Place, type TreeNode } from "./nodes";

/** The versions of the map: see nodes.ts. */
export interface Stamps {
  /** Nodes with this stamp may be changed in place. */
  current: number;
  /** Nodes up to this stamp are on disk as they are. */
  committed: number;
}

/** Told when a node enters or leaves memory, for the byte budget. */
export interface Residency {
  enter(node: TreeNode): void;
  leave(node: TreeNode): void;
  /** The copy takes the original's place; the original lives on in a frozen tree only. */
  replace(original: TreeNode, copy: TreeNode): void;
}

/** A node that is on disk and wanted. Reused. */
export interface MissingNode {
  level: number;
  key: number;
  place: Place;
}

export type SeekResult = "leaf" | "missing" | "end";
const RECENT_COUNT = 64;

export class RadixTree<L extends Leaf> {
  root: Interior | null = null;
  /** Set by `missing` and `seek`. */
  readonly lacking: MissingNode = { level: 0, key: 0, place: new Place() };
  /** Set by `seek`: number of the leaf found, which is in memory or not. */
  seekKey = 0;
  /** Bytes of all nodes as they were written last, less those removed since. */
  nodeBytes = 0;
  private readonly recent: (L | null)[] = new Array<L | null>(RECENT_COUNT).fill(null);
  /** Leaves below one node of each level. */
  private readonly spans: number[] = [1];

  constructor(
    readonly kind: TreeKind<L>,
    readonly stamps: Stamps,
    private readonly residency: Residency,
    /** Stands for every absent leaf: all zero, never changed. */
    readonly holeLeaf: L,
  ) {
    for (let level = 1; level <= kind.interiorLevels; level += 1)
      this.spans.push((this.spans[level - 1] as number) * FAN_OUT);
  }

  get topLevel(): number {
    return this.kind.interiorLevels;
  }

  isDirty(node: TreeNode): boolean {
    return node.stamp > this.stamps.committed;
  }

  /** The leaf, `holeLeaf` when it is absent, or null when it must be loaded first. */
  find(leafKey: number): L | null {
    const recent = this.recent[leafKey % RECENT_COUNT];
    if (recent !== null && recent !== undefined && recent.key === leafKey) {
      recent.referenced = true;
      return recent;
    }
    let node: TreeNode | null = this.root;
    for (let level = this.topLevel; level > 0; level -= 1) {
      if (node === null) return this.holeLeaf;
      const parent = node as Interior;
      const slot = this.slotAt(leafKey, level);
      node = parent.children[slot] as TreeNode | null;
      if (node === null && parent.has(slot)) return null;
    }
    if (node === null) return this.holeLeaf;
    const leaf = node as L;
    leaf.referenced = true;
    this.recent[leafKey % RECENT_COUNT] = leaf;
    return leaf;
  }

  /** True when a node on the way to the leaf must be loaded: then `lacking` says which. Marks the way as in use. */
  missing(leafKey: number, usedAt: number): boolean {
    let node: TreeNode | null = this.root;
    for (let level = this.topLevel; level > 0 && node !== null; level -= 1) {
      const parent = node as Interior;
      markUsed(parent, usedAt);
      const slot = this.slotAt(leafKey, level);
      node = parent.children[slot] as TreeNode | null;
      if (node === null && parent.has(slot)) {
        this.setLacking(parent, slot, level - 1);
        return true;
      }
    }
    if (node !== null) markUsed(node, usedAt);
    return false;
  }

  /**
   * Looks for the first leaf from `fromKey` on that exists. "leaf": `seekKey` is its number (it may be on disk).
   * "missing": the interior in `lacking` must be loaded to tell. "end": there is none.
   */
  seek(fromKey: number, usedAt: number): SeekResult {
    if (this.root === null || fromKey >= (this.spans[this.topLevel] as number)) return "end";
    return this.seekBelow(this.root, fromKey, usedAt);
  }

  /** Writes into `out` where an existing leaf's bytes are, with the way to it in memory but for the leaf itself. */
  placeOf(leafKey: number, out: Place): Place {
    const parent = this.parentOf(0, leafKey);
    assert(parent !== null, "a leaf's place is asked for along a way that is in memory");
    return parent.getPointer(leafKey % FAN_OUT, out);
  }

  /** The leaf to be changed: the path to it must be in memory; absent nodes are made, frozen ones copied. */
  writable(leafKey: number): L {
    const recent = this.recent[leafKey % RECENT_COUNT];
    if (recent?.key === leafKey && recent.stamp === this.stamps.current) return recent;
    let parent = this.writableRoot();
    for (let level = this.topLevel; level > 1; level -= 1)
      parent = this.writableChild(parent, this.slotAt(leafKey, level), level - 1, leafKey) as Interior;
    const leaf = this.writableChild(parent, this.slotAt(leafKey, 1), 0, leafKey) as L;
    this.recent[leafKey % RECENT_COUNT] = leaf;
    return leaf;
  }

  /** Takes an emptied leaf, made writable before, out of the tree, and what is left empty above it. */
  remove(leafKey: number): void {
    const path: Interior[] = [];
    let node = this.root as Interior;
    for (let level = this.topLevel; level > 0; level -= 1) {
      assert(node.stamp === this.stamps.current, "a leaf is removed along a writable path");
      path.push(node);
      node = node.children[this.slotAt(leafKey, level)] as Interior;
    }
    this.dropNode(node);
    for (let level = 1; level <= this.topLevel; level += 1) {
      const parent = path[this.topLevel - level] as Interior;
      parent.clear(this.slotAt(leafKey, level));
      parent.childCount -= 1;
      parent.residentCount -= 1;
      if (parent.childCount > 0) return;
      this.dropNode(parent);
    }
    this.root = null;
  }

  /** Puts a loaded node where its pointer is; false when the tree no longer wants it. */
  install(node: TreeNode): boolean {
    const parent = this.parentOf(node.level, node.key);
    if (parent === null) return false;
    const slot = node.key % FAN_OUT;
    const wanted = parent.children[slot] === null && parent.has(slot);
    if (!wanted || !samePlace(parent.getPointer(slot, scratchPlace), node.place)) return false;
    parent.children[slot] = node;
    parent.residentCount += 1;
    this.residency.enter(node);
    return true;
  }

  /** Forgets a clean node that has no children in memory; its parent keeps the pointer. */
  evict(node: TreeNode): void {
    const parent = this.parentOf(node.level, node.key);
    const slot = node.key % FAN_OUT;
    assert(parent !== null && parent.children[slot] === node, "an evicted node stands in the tree");
    parent.setPointer(slot, node.place);
    parent.children[slot] = null;
    parent.residentCount -= 1;
    if (node.level === 0) this.forget(node.key);
    this.residency.leave(node);
  }

  private forget(leafKey: number): void {
    if (this.recent[leafKey % RECENT_COUNT]?.key === leafKey) this.recent[leafKey % RECENT_COUNT] = null;
  }

  private slotAt(leafKey: number, level: number): number {
    return Math.floor(leafKey / (this.spans[level - 1] as number)) % FAN_OUT;
  }

  private parentOf(level: number, key: number): Interior | null {
    const leafKey = key * (this.spans[level] as number);
    let node: TreeNode | null = this.root;
    for (let above = this.topLevel; above > level + 1 && node !== null; above -= 1)
      node = (node as Interior).children[this.slotAt(leafKey, above)] as TreeNode | null;
    return node as Interior | null;
  }

  private setLacking(parent: Interior, slot: number, level: number): void {
    this.lacking.level = level;
    this.lacking.key = parent.key * FAN_OUT + slot;
    parent.getPointer(slot, this.lacking.place);
  }

  private seekBelow(parent: Interior, fromKey: number, usedAt: number): SeekResult {
    markUsed(parent, usedAt);
    const { level } = parent;
    const span = this.spans[level - 1] as number;
    const first = parent.key * FAN_OUT;
    const start = Math.max(0, Math.floor(fromKey / span) - first);
    for (let slot = start; slot < FAN_OUT; slot += 1) {
      if (!parent.has(slot)) continue;
      if (level === 1) {
        this.seekKey = first + slot;
        return "leaf";
      }
      const child = parent.children[slot] as Interior | null;
      if (child === null) {
        this.setLacking(parent, slot, level - 1);
        return "missing";
      }
      const found = this.seekBelow(child, fromKey, usedAt);
      if (found !== "end") return found;
    }
    return "end";
  }

  private makeInterior(level: number, key: number): Interior {
    return new Interior(this.kind.name === "use", level, key, this.stamps.current);
  }

  private writableRoot(): Interior {
    const { root } = this;
    const { current } = this.stamps;
    if (root === null) {
      this.root = this.makeInterior(this.topLevel, 0);
      this.residency.enter(this.root);
    } else if (root.stamp !== current) {
      this.root = root.copy(current);
      this.residency.replace(root, this.root);
    }
    return this.root as Interior;
  }

  private writableChild(parent: Interior, slot: number, level: number, leafKey: number): TreeNode {
    const { current } = this.stamps;
    const child = parent.children[slot] as TreeNode | null;
    if (child === null) {
      assert(!parent.has(slot), "a node of the map is changed before it was loaded");
      const key = parent.key * FAN_OUT + slot;
      const made = level === 0 ? this.kind.makeLeaf(leafKey, current) : this.makeInterior(level, key);
      parent.children[slot] = made;
      parent.childCount += 1;
      parent.residentCount += 1;
      this.residency.enter(made);
      return made;
    }
    if (child.stamp === current) return child;
    const copy = child.copy(current);
    parent.children[slot] = copy;
    this.residency.replace(child, copy);
    return copy;
  }

  private dropNode(node: TreeNode): void {
    this.nodeBytes -= node.place.lengthBytes;
    node.place.removed = true;
    if (node.level === 0) this.forget(node.key);
    this.residency.leave(node);
  }
}

const scratchPlace = new Place();

/** Never lowers: an older request may still need the node. */
function markUsed(node: TreeNode, usedAt: number): void {
  if (usedAt > node.usedAt) node.usedAt = usedAt;
}

function samePlace(a: Place, b: Place): boolean {
  return (
    a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index && a.offsetBytes === b.offsetBytes
  );
}
