/**
 * Making blocks. A BlockBuilder is the open block of a volume: pages go into its slots, a page written again is
 * replaced in its slot by the caller, trims become holes; `seal` writes the header directly before the payload in
 * the same buffer, so that frame header, block header and payload leave for every replica without a copy.
 *
 * The builder remembers the page of each slot and derives the extents at the seal. Holes and slots together stay
 * within EXTENT_COUNT_MAX, so that the header of any block fits into the headroom whatever the pages are.
 */
import {
  assert,
  BlockKind,
  type BlockRef,
  type ClusterId,
  encodeBlockRef,
  type NativeBuffer,
} from "../../base";
import { blockSeed, clusterIdBytes, clusterSeed, slotCrc } from "./crc";
import {
  AHEAD_OF_HEAD_OFFSET,
  BLOCK_FORMAT_VERSION,
  BLOCK_HEADROOM_BYTES,
  BLOCK_MAGIC,
  BLOCK_SIZE_MAX,
  EXTENT_BYTES,
  EXTENT_COUNT_MAX,
  HEADER_CRC_OFFSET,
  HEADER_FIXED_BYTES,
  HOLE_SLOT,
  PAGE_BYTES,
  SLOT_CRC_BYTES,
} from "./format";

const DEAD_SLOT = -1;
const HOLE_PAGE_COUNT_MAX = 2 ** 32 - 1;
const TWO_32 = 2 ** 32;

/** Where the sealed bytes stand in the builder's buffer. */
export interface SealedBlock {
  readonly ref: BlockRef;
  readonly buffer: NativeBuffer;
  /** Of the header. At least a page is free before it, for a wire frame header. */
  readonly offset: number;
  /** Header and payload. */
  readonly lengthBytes: number;
  readonly headerBytes: number;
  readonly headerCrc: number;
}

/** The identity that goes into every header of a cluster; made once. */
export interface BlockSealer {
  readonly clusterId: ClusterId;
  readonly idBytes: Uint8Array;
  readonly seed: number;
}

export function makeBlockSealer(clusterId: ClusterId): BlockSealer {
  return { clusterId, idBytes: clusterIdBytes(clusterId), seed: clusterSeed(clusterId) };
}

/** Size of the buffer that a block of `blockSizeBytes` of payload needs. */
export function blockBufferBytes(blockSizeBytes: number): number {
  return BLOCK_HEADROOM_BYTES + blockSizeBytes;
}

export class BlockBuilder {
  readonly slotCountMax: number;
  private readonly slotPages: Float64Array;
  private readonly holePages = new Float64Array(EXTENT_COUNT_MAX);
  private readonly holeCounts = new Float64Array(EXTENT_COUNT_MAX);
  private readonly slotViews: Uint8Array[] = [];
  private slots = 0;
  private holes = 0;

  /** `buffer` has `blockBufferBytes(blockSizeBytes)` and belongs to the builder. */
  constructor(
    readonly buffer: NativeBuffer,
    readonly blockSizeBytes: number,
  ) {
    assert(
      blockSizeBytes % PAGE_BYTES === 0 && blockSizeBytes > 0 && blockSizeBytes <= BLOCK_SIZE_MAX,
      `block size ${blockSizeBytes} is not a number of pages up to ${BLOCK_SIZE_MAX} bytes`,
    );
    assert(
      buffer.bytes.length >= blockBufferBytes(blockSizeBytes),
      `a block buffer of ${buffer.bytes.length} bytes is too small`,
    );
    this.slotCountMax = blockSizeBytes / PAGE_BYTES;
    this.slotPages = new Float64Array(this.slotCountMax);
  }

  /** Slots taken, dead ones included. */
  get slotCount(): number {
    return this.slots;
  }

  get holeCount(): number {
    return this.holes;
  }

  get isEmpty(): boolean {
    return this.slots === 0 && this.holes === 0;
  }

  /** How many more pages fit. */
  get freeSlots(): number {
    return Math.min(this.slotCountMax - this.slots, EXTENT_COUNT_MAX - this.holes - this.slots);
  }

  /** Forgets all pages; the buffer is used again. */
  reset(): void {
    this.slots = 0;
    this.holes = 0;
  }

  /** Offset in buffer.bytes of a slot's page. */
  slotOffset(slot: number): number {
    return BLOCK_HEADROOM_BYTES + slot * PAGE_BYTES;
  }

  /**
   * Takes slots for `pageCount` consecutive pages, at most `freeSlots`, none of which has a live slot in this
   * block (such a page is overwritten in place). Returns the first slot; the caller fills the bytes.
   */
  addPages(firstPage: number, pageCount: number): number {
    if (pageCount <= 0 || pageCount > this.freeSlots)
      assert(false, `${pageCount} pages do not fit into the open block`);
    const firstSlot = this.slots;
    for (let index = 0; index < pageCount; index += 1) this.slotPages[firstSlot + index] = firstPage + index;
    this.slots += pageCount;
    return firstSlot;
  }

  /**
   * Records a trim of the range and kills the slots of its pages. Returns false, with nothing done, when the block
   * has no room for another hole: seal it and use the next.
   */
  addHole(firstPage: number, pageCount: number): boolean {
    const last = this.holes - 1;
    const end = firstPage + pageCount;
    if (last >= 0) {
      const start = this.holePages[last] as number;
      const stop = start + (this.holeCounts[last] as number);
      const merged = Math.max(stop, end) - Math.min(start, firstPage);
      if (firstPage <= stop && start <= end && merged <= HOLE_PAGE_COUNT_MAX) {
        this.holePages[last] = Math.min(start, firstPage);
        this.holeCounts[last] = merged;
        this.killSlots(firstPage, end);
        return true;
      }
    }
    const pieces = Math.ceil(pageCount / HOLE_PAGE_COUNT_MAX);
    if (this.holes + pieces + this.slots > EXTENT_COUNT_MAX) return false;
    for (let start = firstPage; start < end; start += HOLE_PAGE_COUNT_MAX) {
      this.holePages[this.holes] = start;
      this.holeCounts[this.holes] = Math.min(HOLE_PAGE_COUNT_MAX, end - start);
      this.holes += 1;
    }
    this.killSlots(firstPage, end);
    return true;
  }

  /** Page of a slot, or -1 when it was trimmed. */
  pageOfSlot(slot: number): number {
    return this.slotPages[slot] as number;
  }

  /**
   * Makes the block immutable under its name. The buffer must not change until every use of it has ended.
   * `coveredIndex` is the dataIndex of the head in force, of this epoch.
   */
  seal(sealer: BlockSealer, ref: BlockRef, coveredIndex = 0): SealedBlock {
    assert(ref.kind === BlockKind.data, "only data blocks are made of pages");
    const extentCount = this.holes + this.countRuns();
    const payloadBytes = this.slots * PAGE_BYTES;
    const header = startHeader(this.buffer, sealer, ref, extentCount, payloadBytes);
    const aheadOfHead = ref.index - coveredIndex;
    if (coveredIndex > 0 && aheadOfHead < TWO_32)
      this.buffer.view.setUint32(header + AHEAD_OF_HEAD_OFFSET, aheadOfHead, true);
    this.writeExtents(header + HEADER_FIXED_BYTES);
    const crcs = header + HEADER_FIXED_BYTES + extentCount * EXTENT_BYTES;
    const seed = blockSeed(sealer.seed, ref);
    for (let slot = 0; slot < this.slots; slot += 1)
      this.buffer.view.setUint32(
        crcs + slot * SLOT_CRC_BYTES,
        slotCrc(seed, slot, this.slotView(slot)),
        true,
      );
    return finishHeader(this.buffer, ref, header, payloadBytes);
  }

  private killSlots(firstPage: number, endPage: number): void {
    for (let slot = 0; slot < this.slots; slot += 1) {
      const page = this.slotPages[slot] as number;
      if (page >= firstPage && page < endPage) this.slotPages[slot] = DEAD_SLOT;
    }
  }

  private slotView(slot: number): Uint8Array {
    let view = this.slotViews[slot];
    if (view === undefined) {
      view = this.buffer.bytes.subarray(this.slotOffset(slot), this.slotOffset(slot + 1));
      this.slotViews[slot] = view;
    }
    return view;
  }

  private countRuns(): number {
    let runs = 0;
    let expected = DEAD_SLOT;
    for (let slot = 0; slot < this.slots; slot += 1) {
      const page = this.slotPages[slot] as number;
      if (page !== DEAD_SLOT && page !== expected) runs += 1;
      expected = page === DEAD_SLOT ? DEAD_SLOT : page + 1;
    }
    return runs;
  }

  private writeExtents(offset: number): void {
    const { view } = this.buffer;
    let at = offset;
    for (let hole = 0; hole < this.holes; hole += 1) {
      writeExtent(view, at, this.holePages[hole] as number, this.holeCounts[hole] as number, HOLE_SLOT);
      at += EXTENT_BYTES;
    }
    for (let slot = 0; slot < this.slots; ) {
      const firstPage = this.slotPages[slot] as number;
      let end = slot + 1;
      if (firstPage !== DEAD_SLOT) {
        while (end < this.slots && this.slotPages[end] === firstPage + (end - slot)) end += 1;
        writeExtent(view, at, firstPage, end - slot, slot);
        at += EXTENT_BYTES;
      }
      slot = end;
    }
  }
}

/**
 * Seals an INode block whose payload stands at buffer.bytes[BLOCK_HEADROOM_BYTES .. +payloadBytes) of a block
 * buffer.
 */
export function sealInodeBlock(
  buffer: NativeBuffer,
  payloadBytes: number,
  sealer: BlockSealer,
  ref: BlockRef,
): SealedBlock {
  assert(ref.kind === BlockKind.inode, "an INode block is sealed under an INode ref");
  assert(
    payloadBytes > 0 && BLOCK_HEADROOM_BYTES + payloadBytes <= buffer.bytes.length,
    `an INode payload of ${payloadBytes} bytes does not fit its buffer`,
  );
  const header = startHeader(buffer, sealer, ref, 0, payloadBytes);
  const seed = blockSeed(sealer.seed, ref);
  let at = header + HEADER_FIXED_BYTES;
  for (let start = 0, slot = 0; start < payloadBytes; start += PAGE_BYTES, slot += 1) {
    const offset = BLOCK_HEADROOM_BYTES + start;
    const end = BLOCK_HEADROOM_BYTES + Math.min(start + PAGE_BYTES, payloadBytes);
    buffer.view.setUint32(at, slotCrc(seed, slot, buffer.bytes.subarray(offset, end)), true);
    at += SLOT_CRC_BYTES;
  }
  return finishHeader(buffer, ref, header, payloadBytes);
}

/** Writes the fixed part but for the CRC and returns the header's offset. */
function startHeader(
  buffer: NativeBuffer,
  sealer: BlockSealer,
  ref: BlockRef,
  extentCount: number,
  payloadBytes: number,
): number {
  const { view, bytes } = buffer;
  const slotCount = Math.ceil(payloadBytes / PAGE_BYTES);
  const headerBytes = HEADER_FIXED_BYTES + EXTENT_BYTES * extentCount + SLOT_CRC_BYTES * slotCount;
  const offset = BLOCK_HEADROOM_BYTES - headerBytes;
  view.setUint32(offset, BLOCK_MAGIC, true);
  view.setUint16(offset + 4, BLOCK_FORMAT_VERSION, true);
  view.setUint16(offset + 6, 0, true);
  bytes.set(sealer.idBytes, offset + 8);
  encodeBlockRef(view, offset + 24, ref);
  view.setUint32(offset + 48, headerBytes, true);
  view.setUint32(offset + 52, payloadBytes, true);
  view.setUint32(offset + 56, extentCount, true);
  view.setUint32(offset + 60, slotCount, true);
  view.setUint32(offset + HEADER_CRC_OFFSET, 0, true);
  view.setUint32(offset + AHEAD_OF_HEAD_OFFSET, 0, true);
  return offset;
}

function finishHeader(
  buffer: NativeBuffer,
  ref: BlockRef,
  offset: number,
  payloadBytes: number,
): SealedBlock {
  const headerBytes = BLOCK_HEADROOM_BYTES - offset;
  const headerCrc = Bun.hash.crc32(buffer.bytes.subarray(offset, BLOCK_HEADROOM_BYTES));
  buffer.view.setUint32(offset + HEADER_CRC_OFFSET, headerCrc, true);
  return { ref, buffer, offset, lengthBytes: headerBytes + payloadBytes, headerBytes, headerCrc };
}

function writeExtent(view: DataView, at: number, firstPage: number, pageCount: number, slot: number): void {
  view.setUint32(at, firstPage % TWO_32, true);
  view.setUint32(at + 4, Math.floor(firstPage / TWO_32), true);
  view.setUint32(at + 8, pageCount, true);
  view.setUint32(at + 12, slot, true);
}
