/**
 * The bytes of nodes inside INode blocks. The slots of a block have CRCs, so rot is found before these bytes are
 * looked at; still every field is checked, because a bug or a forged block must give an error, not a wild map.
 * All fields are little-endian. Every node starts with the same 16 bytes:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 2    | magic "TN"                                                                |
 *   | 2      | 1    | format version, 1                                                         |
 *   | 3      | 1    | type: 1 map runs, 2 map dense, 3 use sparse, 4 use dense, 5 map interior, |
 *   |        |      | 6 use interior, 7 epoch chunk, 8 root                                     |
 *   | 4      | 1    | level: 0 for leaves, chunks and the root                                  |
 *   | 5      | 1    | zero                                                                      |
 *   | 6      | 2    | number of entries n                                                       |
 *   | 8      | 8    | key: number of the node among those of its level, from 0                  |
 *
 * then n entries (a dense leaf always has all 1024, whatever n says, which is 0):
 *
 *   | type         | entry                                                                            |
 *   |--------------|----------------------------------------------------------------------------------|
 *   | map runs     | lsn u48, first slot u16, first entry u16, entry count u16; ascending, disjoint    |
 *   | map dense    | location u64                                                                     |
 *   | use sparse   | entry u16, live pages u16, slots u16; ascending                                  |
 *   | use dense    | live pages u16, slots u16                                                        |
 *   | interior     | child u16, zero u16, pointer; ascending                                          |
 *   | epoch chunk  | volume id u64, epoch u64, first lsn u64, block count u64 (0: the newest, still   |
 *   |              | growing), blocks with live pages u64                                             |
 *
 * A pointer is volume id u64, epoch u64, INode block index u64, offset u32, length u32: 32 bytes; volume id 0 is
 * no pointer. The root is in root.ts.
 */
import { VOLUME_ID_MAX } from "../../base";
import { BLOCK_SIZE_MAX } from "../block";
import { InodeError } from "./errors";
import { FAN_OUT, Interior, LEAF_ENTRIES, type Leaf, MapLeaf, Place, type TreeNode, UseLeaf } from "./nodes";
import { SLOTS_PER_LSN } from "./types";

export const NODE_MAGIC = 0x4e54;
export const NODE_FORMAT_VERSION = 1;
export const NODE_HEADER_BYTES = 16;
export const POINTER_BYTES = 32;
export const NodeType = {
  mapRuns: 1,
  mapDense: 2,
  useSparse: 3,
  useDense: 4,
  mapInterior: 5,
  useInterior: 6,
  epochChunk: 7,
  root: 8,
} as const;
export type NodeType = (typeof NodeType)[keyof typeof NodeType];

const MAP_RUN_BYTES = 12;
const MAP_DENSE_BYTES = LEAF_ENTRIES * 8;
const USE_ENTRY_BYTES = 6;
const USE_DENSE_BYTES = LEAF_ENTRIES * 4;
const CHILD_BYTES = 4 + POINTER_BYTES;
const SLOT_COUNT_MAX = 1024;
const TWO_32 = 2 ** 32;
/** Locations stay exact in a float: lsn x 2048 below 2^53. */
export const LSN_MAX = 2 ** 42 - 1;

export function badNode(what: string): InodeError {
  return new InodeError("bad-node", `Cannot read a node of the volume's map: ${what}`);
}

export function readU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * TWO_32 + view.getUint32(at, true);
}

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_32), true);
}

export function writePointer(view: DataView, at: number, place: Place): void {
  writeU64(view, at, place.volumeId);
  writeU64(view, at + 8, place.epoch);
  writeU64(view, at + 16, place.index);
  view.setUint32(at + 24, place.offsetBytes, true);
  view.setUint32(at + 28, place.lengthBytes, true);
}

/** Undefined for "no pointer". */
export function readPointer(view: DataView, at: number): Place | undefined {
  const place = new Place();
  place.volumeId = readU64(view, at);
  place.epoch = readU64(view, at + 8);
  place.index = readU64(view, at + 16);
  place.offsetBytes = view.getUint32(at + 24, true);
  place.lengthBytes = view.getUint32(at + 28, true);
  if (place.volumeId === 0) return undefined;
  const sane =
    place.volumeId <= VOLUME_ID_MAX &&
    Number.isSafeInteger(place.epoch) &&
    place.epoch > 0 &&
    Number.isSafeInteger(place.index) &&
    place.index > 0 &&
    place.lengthBytes >= NODE_HEADER_BYTES &&
    place.offsetBytes + place.lengthBytes <= BLOCK_SIZE_MAX;
  if (!sane) throw badNode("a pointer in it is out of range");
  return place;
}

export function writeNodeHeader(
  view: DataView,
  at: number,
  type: NodeType,
  level: number,
  count: number,
  key: number,
): void {
  view.setUint16(at, NODE_MAGIC, true);
  view.setUint8(at + 2, NODE_FORMAT_VERSION);
  view.setUint8(at + 3, type);
  view.setUint8(at + 4, level);
  view.setUint8(at + 5, 0);
  view.setUint16(at + 6, count, true);
  writeU64(view, at + 8, key);
}

/** Checks magic, version, level and key, and that `lengthBytes` holds a header. Returns the type. */
export function readNodeHeader(
  view: DataView,
  at: number,
  lengthBytes: number,
  level: number,
  key: number,
): number {
  if (lengthBytes < NODE_HEADER_BYTES || at + lengthBytes > view.byteLength) throw badNode("it is too short");
  if (view.getUint16(at, true) !== NODE_MAGIC) throw badNode("it does not start like a node");
  const version = view.getUint8(at + 2);
  if (version !== NODE_FORMAT_VERSION) throw badNode(`its format version ${version} is not known here`);
  if (view.getUint8(at + 4) !== level || view.getUint8(at + 5) !== 0 || readU64(view, at + 8) !== key)
    throw badNode(`it is not node ${key} of level ${level}`);
  return view.getUint8(at + 3);
}

export function readNodeCount(view: DataView, at: number): number {
  return view.getUint16(at + 6, true);
}

export function expectLength(actualBytes: number, expectedBytes: number): void {
  if (actualBytes !== expectedBytes)
    throw badNode(`it has ${actualBytes} bytes where its entries need ${expectedBytes}`);
}

// ---- leaves of the map -------------------------------------------------------------------------------------------

function countRuns(values: Float64Array): number {
  let runs = 0;
  let expected = 0;
  for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
    const location = values[entry] as number;
    if (location !== 0 && location !== expected) runs += 1;
    expected = location === 0 ? 0 : location + 1;
  }
  return runs;
}

function encodeMapLeaf(leaf: MapLeaf, view: DataView, at: number): number {
  const { values } = leaf;
  const runs = countRuns(values);
  let cursor = at + NODE_HEADER_BYTES;
  if (runs * MAP_RUN_BYTES >= MAP_DENSE_BYTES) {
    writeNodeHeader(view, at, NodeType.mapDense, 0, 0, leaf.key);
    for (let entry = 0; entry < LEAF_ENTRIES; entry += 1, cursor += 8)
      writeU64(view, cursor, values[entry] as number);
    return cursor - at;
  }
  writeNodeHeader(view, at, NodeType.mapRuns, 0, runs, leaf.key);
  for (let entry = 0; entry < LEAF_ENTRIES; ) {
    const location = values[entry] as number;
    let end = entry + 1;
    if (location !== 0) {
      while (end < LEAF_ENTRIES && values[end] === location + (end - entry)) end += 1;
      const lsn = Math.floor(location / SLOTS_PER_LSN);
      view.setUint32(cursor, lsn % TWO_32, true);
      view.setUint16(cursor + 4, Math.floor(lsn / TWO_32), true);
      view.setUint16(cursor + 6, location % SLOTS_PER_LSN, true);
      view.setUint16(cursor + 8, entry, true);
      view.setUint16(cursor + 10, end - entry, true);
      cursor += MAP_RUN_BYTES;
    }
    entry = end;
  }
  return cursor - at;
}

function assertLocation(lsn: number, slotEnd: number): void {
  if (lsn < 1 || lsn > LSN_MAX || slotEnd > SLOT_COUNT_MAX) throw badNode("a location in it is out of range");
}

function decodeMapRuns(leaf: MapLeaf, view: DataView, at: number, lengthBytes: number): void {
  const runs = readNodeCount(view, at);
  expectLength(lengthBytes, NODE_HEADER_BYTES + runs * MAP_RUN_BYTES);
  let next = 0;
  for (let run = 0; run < runs; run += 1) {
    const cursor = at + NODE_HEADER_BYTES + run * MAP_RUN_BYTES;
    const lsn = view.getUint16(cursor + 4, true) * TWO_32 + view.getUint32(cursor, true);
    const slot = view.getUint16(cursor + 6, true);
    const entry = view.getUint16(cursor + 8, true);
    const count = view.getUint16(cursor + 10, true);
    if (entry < next || count === 0 || entry + count > LEAF_ENTRIES) throw badNode("its runs overlap");
    assertLocation(lsn, slot + count);
    for (let step = 0; step < count; step += 1) leaf.values[entry + step] = lsn * SLOTS_PER_LSN + slot + step;
    leaf.count += count;
    next = entry + count;
  }
}

function decodeMapDense(leaf: MapLeaf, view: DataView, at: number, lengthBytes: number): void {
  expectLength(lengthBytes, NODE_HEADER_BYTES + MAP_DENSE_BYTES);
  for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
    const location = readU64(view, at + NODE_HEADER_BYTES + entry * 8);
    if (location === 0) continue;
    assertLocation(Math.floor(location / SLOTS_PER_LSN), (location % SLOTS_PER_LSN) + 1);
    leaf.values[entry] = location;
    leaf.count += 1;
  }
}

// ---- leaves of the block uses ------------------------------------------------------------------------------------

function encodeUseLeaf(leaf: UseLeaf, view: DataView, at: number): number {
  const { values } = leaf;
  let cursor = at + NODE_HEADER_BYTES;
  const dense = leaf.count * USE_ENTRY_BYTES >= USE_DENSE_BYTES;
  writeNodeHeader(
    view,
    at,
    dense ? NodeType.useDense : NodeType.useSparse,
    0,
    dense ? 0 : leaf.count,
    leaf.key,
  );
  for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
    const value = values[entry] as number;
    if (dense) {
      view.setUint32(cursor, value, true);
      cursor += 4;
    } else if (value !== 0) {
      view.setUint16(cursor, entry, true);
      view.setUint32(cursor + 2, value, true);
      cursor += USE_ENTRY_BYTES;
    }
  }
  return cursor - at;
}

function assertUse(value: number): void {
  const live = value & 0xffff;
  const slots = value >>> 16;
  if (live === 0 || live > slots || slots > SLOT_COUNT_MAX)
    throw badNode("a live count in it is out of range");
}

function decodeUseSparse(leaf: UseLeaf, view: DataView, at: number, lengthBytes: number): void {
  const count = readNodeCount(view, at);
  expectLength(lengthBytes, NODE_HEADER_BYTES + count * USE_ENTRY_BYTES);
  let next = 0;
  for (let index = 0; index < count; index += 1) {
    const cursor = at + NODE_HEADER_BYTES + index * USE_ENTRY_BYTES;
    const entry = view.getUint16(cursor, true);
    const value = view.getUint32(cursor + 2, true);
    if (entry < next || entry >= LEAF_ENTRIES) throw badNode("its entries are out of order");
    assertUse(value);
    leaf.values[entry] = value;
    next = entry + 1;
  }
  leaf.count = count;
}

function decodeUseDense(leaf: UseLeaf, view: DataView, at: number, lengthBytes: number): void {
  expectLength(lengthBytes, NODE_HEADER_BYTES + USE_DENSE_BYTES);
  for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
    const value = view.getUint32(at + NODE_HEADER_BYTES + entry * 4, true);
    if (value === 0) continue;
    assertUse(value);
    leaf.values[entry] = value;
    leaf.count += 1;
  }
}

// ---- interior nodes ----------------------------------------------------------------------------------------------

const scratchPlace = new Place();

function encodeInterior(node: Interior, type: NodeType, view: DataView, at: number): number {
  writeNodeHeader(view, at, type, node.level, node.childCount, node.key);
  let cursor = at + NODE_HEADER_BYTES;
  for (let slot = 0; slot < FAN_OUT; slot += 1) {
    if (!node.has(slot)) continue;
    view.setUint16(cursor, slot, true);
    view.setUint16(cursor + 2, 0, true);
    writePointer(view, cursor + 4, node.getPointer(slot, scratchPlace));
    cursor += CHILD_BYTES;
  }
  return cursor - at;
}

function decodeInterior(node: Interior, view: DataView, at: number, lengthBytes: number): void {
  const count = readNodeCount(view, at);
  expectLength(lengthBytes, NODE_HEADER_BYTES + count * CHILD_BYTES);
  if (count === 0 || count > FAN_OUT) throw badNode(`it has ${count} children`);
  let next = 0;
  for (let index = 0; index < count; index += 1) {
    const cursor = at + NODE_HEADER_BYTES + index * CHILD_BYTES;
    const slot = view.getUint16(cursor, true);
    if (slot < next || slot >= FAN_OUT) throw badNode("its children are out of order");
    const place = readPointer(view, cursor + 4);
    if (place === undefined) throw badNode("a child in it points nowhere");
    node.setPointer(slot, place);
    next = slot + 1;
  }
  node.childCount = count;
}

// ---- one node of either tree -------------------------------------------------------------------------------------

/** What differs between the map and the block uses. */
export interface TreeKind<L extends Leaf> {
  readonly name: "map" | "use";
  readonly interiorType: NodeType;
  /** Levels above the leaves. */
  readonly interiorLevels: number;
  makeLeaf(key: number, stamp: number, place?: Place): L;
}

/** 1024 x 512^3 pages: more than 64 TiB. */
export const MAP_TREE: TreeKind<MapLeaf> = {
  name: "map",
  interiorType: NodeType.mapInterior,
  interiorLevels: 3,
  makeLeaf: (key, stamp, place) => new MapLeaf(key, stamp, place),
};

/** 1024 x 512^4 blocks: more than LSN_MAX. */
export const USE_TREE: TreeKind<UseLeaf> = {
  name: "use",
  interiorType: NodeType.useInterior,
  interiorLevels: 4,
  makeLeaf: (key, stamp, place) => new UseLeaf(key, stamp, place),
};

/** An upper bound of what encodeNode will write. */
export function encodedBytesMax(node: TreeNode): number {
  if (node instanceof Interior) return NODE_HEADER_BYTES + node.childCount * CHILD_BYTES;
  if (node instanceof MapLeaf)
    return NODE_HEADER_BYTES + Math.min(node.count * MAP_RUN_BYTES, MAP_DENSE_BYTES);
  return NODE_HEADER_BYTES + Math.min(node.count * USE_ENTRY_BYTES, USE_DENSE_BYTES);
}

/** Writes the node at view[at ..] and returns its length. */
export function encodeNode<L extends Leaf>(
  kind: TreeKind<L>,
  node: TreeNode,
  view: DataView,
  at: number,
): number {
  if (node instanceof Interior) return encodeInterior(node, kind.interiorType, view, at);
  return node instanceof MapLeaf ? encodeMapLeaf(node, view, at) : encodeUseLeaf(node, view, at);
}

/** Throws InodeError "bad-node" for anything that is not the node of that level and key of that tree. */
export function decodeNode<L extends Leaf>(
  kind: TreeKind<L>,
  level: number,
  key: number,
  place: Place,
  view: DataView,
  at: number,
): TreeNode {
  const { lengthBytes } = place;
  const type = readNodeHeader(view, at, lengthBytes, level, key);
  if (level > 0) {
    if (type !== kind.interiorType)
      throw badNode(`its type ${type} is not an interior of the ${kind.name} tree`);
    const node = new Interior(kind.name === "use", level, key, 0, place);
    decodeInterior(node, view, at, lengthBytes);
    return node;
  }
  const leaf: Leaf = kind.makeLeaf(key, 0, place);
  if (leaf instanceof MapLeaf && type === NodeType.mapRuns) decodeMapRuns(leaf, view, at, lengthBytes);
  else if (leaf instanceof MapLeaf && type === NodeType.mapDense) decodeMapDense(leaf, view, at, lengthBytes);
  else if (leaf instanceof UseLeaf && type === NodeType.useSparse)
    decodeUseSparse(leaf, view, at, lengthBytes);
  else if (leaf instanceof UseLeaf && type === NodeType.useDense) decodeUseDense(leaf, view, at, lengthBytes);
  else throw badNode(`its type ${type} is not a leaf of the ${kind.name} tree`);
  if (leaf.count === 0) throw badNode("it is an empty leaf");
  return leaf;
}
