/**
 * What the map of a volume offers: where each 4 KiB page lives, which blocks still hold live pages, and how both
 * become INode blocks at a checkpoint while writing goes on.
 *
 * A page's location is one number, lsn x 2048 + slot: the log sequence number of a data block, counted over all
 * epochs of the volume and its ancestors, and the page's slot in the block's payload. 0 is a hole. The lsn of the
 * open block is known before it is sealed, so a page is mapped the moment it is written.
 *
 * Memory follows use: nodes of the tree are loaded when asked for, and clean ones are evicted under a byte budget.
 * Everything that touches pages therefore comes in two parts: `ensureLoaded` or `ensureWritable`, which may have to
 * wait, and then synchronous calls, in the same turn.
 */
import type { BlockRef, Epoch, NativeBuffer, VolumeId } from "../../base";
import type { NodePointer } from "../head";
import type { StorageStatus } from "../ports";

/** lsn x 2048 + slot; 0: a hole. */
export type PageLocation = number;

/** Reads a part of an INode block's payload, checked against its slot CRCs. */
export interface NodeReader {
  /**
   * Calls `done` once, possibly before returning: with `ok`, the node's bytes are at
   * buffer.bytes[offsetBytes .. +pointer.lengthBytes) and stay valid until `done` returns.
   */
  readNode(
    pointer: NodePointer,
    done: (status: StorageStatus, buffer: NativeBuffer | undefined, offsetBytes: number) => void,
  ): void;
}

/** An INode block to be filled: its index in the epoch is decided before its bytes are. */
export interface InodeTarget {
  readonly index: number;
  /** A block buffer; the payload starts at BLOCK_HEADROOM_BYTES. */
  readonly buffer: NativeBuffer;
}

/** Where a checkpoint puts its INode blocks. */
export interface InodeSink {
  readonly volumeId: VolumeId;
  readonly epoch: Epoch;
  readonly payloadBytesMax: number;
  /**
   * Gives the next INode block; waits for a free buffer (the backpressure) and lets the loop turn. Rejects when the
   * volume failed.
   */
  begin(): Promise<InodeTarget>;
  /** The block is filled: seal and send it. The volume waits for all of them before it commits the head. */
  finish(target: InodeTarget, payloadBytes: number): void;
}

export interface PageMapOptions {
  readonly reader: NodeReader;
  /** Clean nodes are evicted above this. Dirty ones stay until the next checkpoint. */
  readonly residentBytesMax: number;
  /** A whole rewrite begins no earlier than after this many bytes of nodes; default 64 MiB. */
  readonly rewriteBytesMin?: number;
}

export interface BlockUse {
  lsn: number;
  livePages: number;
  /** Slots the block has, as far as the map has seen: live and dead. */
  slotCount: number;
}

export interface PageMapStatistics {
  readonly livePageCount: number;
  /** Data blocks with at least one live page. */
  readonly liveBlockCount: number;
  /** Slots of those blocks whose page was overwritten or trimmed: what cleaning could free. */
  readonly deadSlotCount: number;
  readonly epochCount: number;
  readonly residentBytes: number;
  /** Bytes of all nodes the last written root references. */
  readonly nodeBytes: number;
  readonly nodeBytesSinceRewrite: number;
}

export type Loaded = (status: StorageStatus) => void;

/** The whole map as it was at one moment; immutable while the PageMap goes on. */
export interface FrozenMap {
  /** Writes every node changed since the last commit, then the root, and returns where the root is. Once. */
  write(sink: InodeSink): Promise<NodePointer>;
}

export interface PageMap {
  /** Size recorded by the root it was opened from; what `freeze` is told goes into the next. */
  readonly sizeBytes: number;

  // ---- epochs and log sequence numbers -----------------------------------------------------------------------
  /**
   * Blocks mapped from now on belong to this epoch; its block 1 gets the next free lsn. Nothing happens when it is
   * the current epoch already (the tail of the head's epoch is being replayed). Throws InodeError
   * "too-many-epochs".
   */
  beginEpoch(volumeId: VolumeId, epoch: Epoch): void;
  /** The lsn of data block `index` (from 1) of the current epoch; it is taken from now on. */
  claimLsn(index: number): number;
  /**
   * The data block of a claimed lsn. Undefined when nothing maps to its epoch any more, which only somebody who
   * kept a location over a checkpoint can meet: look the page up again.
   */
  refOf(lsn: number): BlockRef | undefined;

  // ---- loading -----------------------------------------------------------------------------------------------
  /**
   * True: the leaves of the range are in memory, `done` will not be called. False: `done` runs later, once; when it
   * is given `ok`, they are in memory until it returns. At most LOAD_PAGE_COUNT_MAX pages.
   */
  ensureLoaded(firstPage: number, pageCount: number, done: Loaded): boolean;
  /**
   * The same for setRange and holeRange, which also need the live counts of the blocks they take pages from, and
   * of the block `lsn` they map to (0 for holes).
   */
  ensureWritable(firstPage: number, pageCount: number, lsn: number, done: Loaded): boolean;
  /**
   * The first page in [firstPage, endPage) that may be mapped, as far as the nodes in memory tell; endPage when
   * there is none. Lets a trim or a copy of a huge empty range go on in a few steps.
   */
  skipHoles(firstPage: number, endPage: number): number;

  // ---- pages: the range must be loaded (writable) in this turn --------------------------------------------------
  locationOf(page: number): PageLocation;
  /** How many pages from `page` on, at most up to endPage, are holes, or lie in consecutive slots of one block. */
  runLength(page: number, endPage: number): number;
  /** Maps pages to consecutive slots from `location` on. */
  setRange(firstPage: number, pageCount: number, location: PageLocation): void;
  holeRange(firstPage: number, pageCount: number): void;

  // ---- live counts, for cleaning ------------------------------------------------------------------------------
  /** Live pages of a block; -1 when its count is not in memory. */
  livePagesOf(lsn: number): number;
  /**
   * Visits blocks with live pages in lsn order from `fromLsn` on, at most SCAN_LEAF_COUNT_MAX leaves of 1024 blocks;
   * then `done` with where to go on, or 0 at the end. The BlockUse is reused from call to call.
   */
  scanBlocks(
    fromLsn: number,
    visit: (use: BlockUse) => void,
    done: (status: StorageStatus, nextLsn: number) => void,
  ): void;
  statistics(): PageMapStatistics;

  // ---- checkpoint ---------------------------------------------------------------------------------------------
  /**
   * When so many INode bytes were written since the last whole rewrite that old INode blocks must be mostly dead
   * space, marks the next few old nodes as changed, so that the coming checkpoints rewrite the tree bit by bit.
   * Call before each freeze. Does nothing most of the time.
   */
  rewriteStep(done: Loaded): void;
  /**
   * Takes the map as it is now. Call right after a seal, before a page of the next block is mapped. One at a time:
   * `commit` or `abandon` ends it.
   */
  freeze(sizeBytes: number): FrozenMap;
  /** The head with the frozen map's root is in force. */
  commit(frozen: FrozenMap): void;
  /** It is not: its changes are dirty again and go into the next checkpoint. */
  abandon(frozen: FrozenMap): void;
}

/** 64 MiB of volume: the most that one ensureLoaded or ensureWritable covers. */
export const LOAD_PAGE_COUNT_MAX = 16 * 1024;
export const SCAN_LEAF_COUNT_MAX = 16;
export const SLOTS_PER_LSN = 2048;

export function makeLocation(lsn: number, slot: number): PageLocation {
  return lsn * SLOTS_PER_LSN + slot;
}

export function lsnOf(location: PageLocation): number {
  return Math.floor(location / SLOTS_PER_LSN);
}

export function slotOf(location: PageLocation): number {
  return location % SLOTS_PER_LSN;
}
