/**
 * Nodes of the two radix trees in memory. A node is changed only while its stamp is the map's current one; a
 * checkpoint freezes the tree by advancing the stamp, after which a change copies the path from the root down. So
 * "changed since the last commit" is one comparison (stamp above the committed one), and commit is one assignment,
 * however many nodes were written.
 *
 * A Place, where a node's bytes are, is shared by all versions of the node: a dirty version is always written, and
 * so places it anew, before anything encodes a pointer to it.
 */
import { asEpoch, asVolumeId } from "../../base";
import type { NodePointer } from "../head";

export const LEAF_ENTRIES = 1024;
export const FAN_OUT = 512;
/** Numbers per child in `Interior.pointers`: volume id, epoch, index, offset, length. Volume id 0: no pointer. */
export const POINTER_NUMBERS = 5;

export class Place {
  volumeId = 0;
  epoch = 0;
  index = 0;
  offsetBytes = 0;
  /** 0: never written. */
  lengthBytes = 0;
  /** The node left the tree; a frozen version of it may still be written, and counts for nothing then. */
  removed = false;

  assign(pointer: NodePointer): this {
    this.volumeId = pointer.volumeId;
    this.epoch = pointer.epoch;
    this.index = pointer.index;
    this.offsetBytes = pointer.offsetBytes;
    this.lengthBytes = pointer.lengthBytes;
    return this;
  }

  clone(): Place {
    const place = new Place();
    place.volumeId = this.volumeId;
    place.epoch = this.epoch;
    place.index = this.index;
    place.offsetBytes = this.offsetBytes;
    place.lengthBytes = this.lengthBytes;
    return place;
  }

  toPointer(): NodePointer {
    return {
      volumeId: asVolumeId(this.volumeId),
      epoch: asEpoch(this.epoch),
      index: this.index,
      offsetBytes: this.offsetBytes,
      lengthBytes: this.lengthBytes,
    };
  }
}

abstract class Node {
  /** Position in the list of resident nodes; -1: not in it. */
  residentIndex = -1;
  /** Second chance for the eviction clock. */
  referenced = true;
  /** Serial of the last load request that walked over it. */
  usedAt = 0;

  constructor(
    readonly key: number,
    public stamp: number,
    readonly place: Place,
  ) {}

  abstract readonly level: number;
  abstract readonly memoryBytes: number;
}

const NODE_OVERHEAD_BYTES = 256;

/** Children are at level-1; level 0 are the leaves. */
export class Interior extends Node {
  readonly memoryBytes = NODE_OVERHEAD_BYTES + FAN_OUT * 8 * (POINTER_NUMBERS + 1);
  readonly children: (TreeNode | null)[];
  /** Where children that are not in memory are; stale for those that are. */
  readonly pointers: Float64Array;
  childCount = 0;
  residentCount = 0;

  constructor(
    /** Of the tree of block uses, not of the map. */
    readonly isUse: boolean,
    readonly level: number,
    key: number,
    stamp: number,
    place = new Place(),
    from?: Interior,
  ) {
    super(key, stamp, place);
    this.children =
      from === undefined ? new Array<TreeNode | null>(FAN_OUT).fill(null) : from.children.slice();
    this.pointers = from === undefined ? new Float64Array(FAN_OUT * POINTER_NUMBERS) : from.pointers.slice();
    if (from !== undefined) {
      this.childCount = from.childCount;
      this.residentCount = from.residentCount;
    }
  }

  copy(stamp: number): Interior {
    return new Interior(this.isUse, this.level, this.key, stamp, this.place, this);
  }

  /** The child exists, in memory or not. */
  has(slot: number): boolean {
    return this.children[slot] !== null || this.pointers[slot * POINTER_NUMBERS] !== 0;
  }

  setPointer(slot: number, place: Place): void {
    const { pointers } = this;
    const at = slot * POINTER_NUMBERS;
    pointers[at] = place.volumeId;
    pointers[at + 1] = place.epoch;
    pointers[at + 2] = place.index;
    pointers[at + 3] = place.offsetBytes;
    pointers[at + 4] = place.lengthBytes;
  }

  /** Writes the pointer of a child, in memory or not, into `out`. */
  getPointer(slot: number, out: Place): Place {
    const child = this.children[slot];
    if (child !== null && child !== undefined) {
      const { place } = child;
      out.volumeId = place.volumeId;
      out.epoch = place.epoch;
      out.index = place.index;
      out.offsetBytes = place.offsetBytes;
      out.lengthBytes = place.lengthBytes;
      return out;
    }
    const { pointers } = this;
    const at = slot * POINTER_NUMBERS;
    out.volumeId = pointers[at] as number;
    out.epoch = pointers[at + 1] as number;
    out.index = pointers[at + 2] as number;
    out.offsetBytes = pointers[at + 3] as number;
    out.lengthBytes = pointers[at + 4] as number;
    return out;
  }

  clear(slot: number): void {
    this.children[slot] = null;
    this.pointers.fill(0, slot * POINTER_NUMBERS, (slot + 1) * POINTER_NUMBERS);
  }
}

/** Locations of 1024 consecutive pages. */
export class MapLeaf extends Node {
  readonly level = 0;
  readonly memoryBytes = NODE_OVERHEAD_BYTES + LEAF_ENTRIES * 8;
  /** Entries that are not 0. */
  count = 0;

  constructor(
    key: number,
    stamp: number,
    place = new Place(),
    readonly values: Float64Array = new Float64Array(LEAF_ENTRIES),
  ) {
    super(key, stamp, place);
  }

  copy(stamp: number): MapLeaf {
    const leaf = new MapLeaf(this.key, stamp, this.place, this.values.slice());
    leaf.count = this.count;
    return leaf;
  }
}

/** Use of 1024 consecutive blocks: live pages in the low 16 bits, slots in the high 16. 0: no live page. */
export class UseLeaf extends Node {
  readonly level = 0;
  readonly memoryBytes = NODE_OVERHEAD_BYTES + LEAF_ENTRIES * 4;
  count = 0;

  constructor(
    key: number,
    stamp: number,
    place = new Place(),
    readonly values: Uint32Array = new Uint32Array(LEAF_ENTRIES),
  ) {
    super(key, stamp, place);
  }

  copy(stamp: number): UseLeaf {
    const leaf = new UseLeaf(this.key, stamp, this.place, this.values.slice());
    leaf.count = this.count;
    return leaf;
  }
}

export type Leaf = MapLeaf | UseLeaf;
export type TreeNode = Interior | Leaf;
