/**
 * The root of a volume's map: the node that a head, a snapshot or a clone points to, and from which everything is
 * found. After the common node header (type root, n epoch chunks, key 0), little-endian:
 *
 *   | offset | size | field                                                                      |
 *   |--------|------|----------------------------------------------------------------------------|
 *   | 16     | 8    | size of the volume in bytes                                                |
 *   | 24     | 8    | next free lsn                                                              |
 *   | 32     | 8    | pages mapped                                                               |
 *   | 40     | 8    | data blocks with live pages                                                |
 *   | 48     | 8    | dead slots in those blocks                                                 |
 *   | 56     | 8    | bytes of nodes written since the last whole rewrite began                  |
 *   | 64     | 4    | whole rewrite: 0 none under way, 1 in the map, 2 in the uses               |
 *   | 68     | 4    | zero                                                                       |
 *   | 72     | 8    | its next leaf                                                              |
 *   | 80     | 24   | where it began: volume id, epoch, INode block index; older nodes are to go |
 *   | 104    | 32   | pointer to the top of the map                                              |
 *   | 136    | 32   | pointer to the top of the block uses                                       |
 *   | 168    | 8    | bytes of the map's nodes                                                   |
 *   | 176    | 8    | bytes of the uses' nodes                                                   |
 *   | 184    | 32 n | pointers to the chunks of the epoch table                                  |
 */
import { PAGE_BYTES, VOLUME_PAGE_COUNT_MAX } from "../block";
import {
  badNode,
  expectLength,
  LSN_MAX,
  NodeType,
  POINTER_BYTES,
  readNodeCount,
  readNodeHeader,
  readPointer,
  readU64,
  writeNodeHeader,
  writePointer,
  writeU64,
} from "./codec";
import { CHUNK_ENTRIES, EPOCH_COUNT_MAX } from "./epochs";
import { Place } from "./nodes";

const ROOT_FIXED_BYTES = 184;
const NO_PLACE = new Place();

/** Progress of a whole rewrite. */
export interface RewriteState {
  readonly phase: 0 | 1 | 2;
  readonly nextLeaf: number;
  readonly startVolumeId: number;
  readonly startEpoch: number;
  readonly startIndex: number;
}

export interface RootRecord {
  readonly sizeBytes: number;
  readonly nextLsn: number;
  readonly livePageCount: number;
  readonly liveBlockCount: number;
  readonly deadSlotCount: number;
  readonly nodeBytesSinceRewrite: number;
  readonly rewrite: RewriteState;
  readonly mapTop: Place | undefined;
  readonly useTop: Place | undefined;
  readonly mapNodeBytes: number;
  readonly useNodeBytes: number;
  readonly epochChunks: readonly Place[];
}

export function encodedRootBytes(root: RootRecord): number {
  return ROOT_FIXED_BYTES + root.epochChunks.length * POINTER_BYTES;
}

export function encodeRoot(root: RootRecord, view: DataView, at: number): number {
  writeNodeHeader(view, at, NodeType.root, 0, root.epochChunks.length, 0);
  writeU64(view, at + 16, root.sizeBytes);
  writeU64(view, at + 24, root.nextLsn);
  writeU64(view, at + 32, root.livePageCount);
  writeU64(view, at + 40, root.liveBlockCount);
  writeU64(view, at + 48, root.deadSlotCount);
  writeU64(view, at + 56, root.nodeBytesSinceRewrite);
  view.setUint32(at + 64, root.rewrite.phase, true);
  view.setUint32(at + 68, 0, true);
  writeU64(view, at + 72, root.rewrite.nextLeaf);
  writeU64(view, at + 80, root.rewrite.startVolumeId);
  writeU64(view, at + 88, root.rewrite.startEpoch);
  writeU64(view, at + 96, root.rewrite.startIndex);
  writePointer(view, at + 104, root.mapTop ?? NO_PLACE);
  writePointer(view, at + 136, root.useTop ?? NO_PLACE);
  writeU64(view, at + 168, root.mapNodeBytes);
  writeU64(view, at + 176, root.useNodeBytes);
  for (const [index, place] of root.epochChunks.entries())
    writePointer(view, at + ROOT_FIXED_BYTES + index * POINTER_BYTES, place);
  return encodedRootBytes(root);
}

/** Throws InodeError "bad-node". */
export function decodeRoot(view: DataView, at: number, lengthBytes: number): RootRecord {
  const type = readNodeHeader(view, at, lengthBytes, 0, 0);
  if (type !== NodeType.root) throw badNode(`its type ${type} is not a root`);
  const chunkCount = readNodeCount(view, at);
  if (chunkCount > EPOCH_COUNT_MAX / CHUNK_ENTRIES) throw badNode(`its epoch table has ${chunkCount} chunks`);
  expectLength(lengthBytes, ROOT_FIXED_BYTES + chunkCount * POINTER_BYTES);
  const phase = view.getUint32(at + 64, true);
  const root: RootRecord = {
    sizeBytes: readU64(view, at + 16),
    nextLsn: readU64(view, at + 24),
    livePageCount: readU64(view, at + 32),
    liveBlockCount: readU64(view, at + 40),
    deadSlotCount: readU64(view, at + 48),
    nodeBytesSinceRewrite: readU64(view, at + 56),
    rewrite: {
      phase: phase as 0 | 1 | 2,
      nextLeaf: readU64(view, at + 72),
      startVolumeId: readU64(view, at + 80),
      startEpoch: readU64(view, at + 88),
      startIndex: readU64(view, at + 96),
    },
    mapTop: readPointer(view, at + 104),
    useTop: readPointer(view, at + 136),
    mapNodeBytes: readU64(view, at + 168),
    useNodeBytes: readU64(view, at + 176),
    epochChunks: readChunkPlaces(view, at, chunkCount),
  };
  checkRoot(root);
  return root;
}

function readChunkPlaces(view: DataView, at: number, count: number): Place[] {
  const places: Place[] = [];
  for (let index = 0; index < count; index += 1) {
    const place = readPointer(view, at + ROOT_FIXED_BYTES + index * POINTER_BYTES);
    if (place === undefined) throw badNode("a chunk of its epoch table is nowhere");
    places.push(place);
  }
  return places;
}

function checkRoot(root: RootRecord): void {
  const numbers = [
    root.livePageCount,
    root.liveBlockCount,
    root.deadSlotCount,
    root.nodeBytesSinceRewrite,
    root.mapNodeBytes,
    root.useNodeBytes,
    root.rewrite.nextLeaf,
    root.rewrite.startVolumeId,
    root.rewrite.startEpoch,
    root.rewrite.startIndex,
  ];
  if (!numbers.every(Number.isSafeInteger)) throw badNode("a count in its root is out of range");
  if (root.rewrite.phase > 2) throw badNode(`its rewrite phase ${root.rewrite.phase} is not known here`);
  if (root.sizeBytes > VOLUME_PAGE_COUNT_MAX * PAGE_BYTES)
    throw badNode(`its size ${root.sizeBytes} is too large`);
  if (root.nextLsn < 1 || root.nextLsn > LSN_MAX + 1)
    throw badNode(`its next lsn ${root.nextLsn} is out of range`);
  if ((root.mapTop === undefined) !== (root.useTop === undefined))
    throw badNode("it has pages without blocks or blocks without pages");
  if (root.mapTop !== undefined && root.epochChunks.length === 0) throw badNode("its epoch table is empty");
}
