/**
 * Reading a block's header from bytes that anybody may have sent or a disk may have rotted: every field is checked
 * before it is used, and what is wrong is a fault code, never an exception. One BlockHeader is reused for many
 * blocks, so that a peer that checks thousands of puts a second makes no object for each.
 */
import {
  BlockKind,
  type BlockRef,
  type ClusterId,
  decodeBlockRef,
  type Epoch,
  type NativeBuffer,
  type VolumeId,
} from "../../base";
import { clusterIdBytes, crcWithHole, joinSlotCrcs, readCheck } from "./crc";
import {
  AHEAD_OF_HEAD_OFFSET,
  BLOCK_FORMAT_VERSION,
  BLOCK_MAGIC,
  BLOCK_SIZE_MAX,
  EXTENT_BYTES,
  EXTENT_COUNT_MAX,
  HEADER_CRC_OFFSET,
  HEADER_FIXED_BYTES,
  HOLE_SLOT,
  PAGE_BYTES,
  SLOT_CRC_BYTES,
  VOLUME_PAGE_COUNT_MAX,
} from "./format";

/** What is wrong with a block's bytes; `none` is a good block. */
export const BlockFault = {
  none: 0,
  /** Fewer bytes than the header, or header and payload, need. */
  truncated: 1,
  badMagic: 2,
  badVersion: 3,
  /** Lengths and counts that contradict each other or a limit. */
  badLengths: 4,
  /** The BlockRef names nothing that can exist. */
  badRef: 5,
  badHeaderCrc: 6,
  /** An extent beyond the largest volume or beyond the payload, or out of order. */
  badExtents: 7,
  wrongCluster: 8,
  badSlotCrc: 9,
} as const;
export type BlockFault = (typeof BlockFault)[keyof typeof BlockFault];

/** A run of pages in consecutive slots, or of trimmed pages. Reused by `BlockHeader.extent`. */
export interface BlockExtent {
  firstPage: number;
  pageCount: number;
  /** HOLE_SLOT: the pages were trimmed. */
  firstSlot: number;
}

const CLUSTER_OFFSET = 8;
const CLUSTER_BYTES = 16;
const REF_OFFSET = 24;
/** Cluster id and BlockRef stand side by side, so that one CRC over both is the block's seed. */
const SEED_BYTES = 40;
const NO_REF: BlockRef = { kind: BlockKind.data, volumeId: 1 as VolumeId, epoch: 1 as Epoch, index: 1 };

export class BlockHeader {
  ref: BlockRef = NO_REF;
  headerBytes = 0;
  payloadBytes = 0;
  extentCount = 0;
  slotCount = 0;
  /** Of a data block: a head of its epoch has said that the map covers the log up to here. */
  coveredIndex = 0;
  /** CRC of the header, which covers the CRCs of all slots: the name of the block's content. */
  headerCrc = 0;
  /** Seed of the slot CRCs, from the cluster id that the header itself holds. */
  blockSeed = 0;
  private view: DataView = EMPTY_VIEW;
  private bytes: Uint8Array = EMPTY_BYTES;
  private offset = 0;

  /** Header and payload. */
  get lengthBytes(): number {
    return this.headerBytes + this.payloadBytes;
  }

  /**
   * Parses the header at buffer.bytes[offset ..] of which `availableBytes` are there (the payload need not be).
   * The fields are valid only after `none`, and `extent` and `check` only while the bytes stay.
   */
  parse(buffer: NativeBuffer, offset: number, availableBytes: number): BlockFault {
    const fault = this.locate(buffer, offset, availableBytes);
    if (fault !== BlockFault.none) return fault;
    if (crcWithHole(buffer, offset, this.headerBytes, HEADER_CRC_OFFSET) !== this.headerCrc)
      return BlockFault.badHeaderCrc;
    const ref = decodeBlockRef(buffer.view, offset + REF_OFFSET);
    if (ref === undefined) return BlockFault.badRef;
    const isData = ref.kind === BlockKind.data;
    if (isData ? this.payloadBytes % PAGE_BYTES !== 0 : this.extentCount !== 0) return BlockFault.badLengths;
    const aheadOfHead = buffer.view.getUint32(offset + AHEAD_OF_HEAD_OFFSET, true);
    if (aheadOfHead > (isData ? ref.index : 0)) return BlockFault.badLengths;
    this.ref = ref;
    this.coveredIndex = aheadOfHead === 0 ? 0 : ref.index - aheadOfHead;
    const seedStart = offset + CLUSTER_OFFSET;
    this.blockSeed = Bun.hash.crc32(buffer.bytes.subarray(seedStart, seedStart + SEED_BYTES));
    return this.extentsAreValid() ? BlockFault.none : BlockFault.badExtents;
  }

  /**
   * The part of `parse` that finds the slots: lengths, counts, `headerCrc`, `slotBytes` and `check` are then as the
   * header has them. No CRC is computed, and `ref`, `coveredIndex`, `blockSeed` and extents are not valid: for whoever
   * passes slots and check on to a reader that compares them.
   */
  locate(buffer: NativeBuffer, offset: number, availableBytes: number): BlockFault {
    if (availableBytes < HEADER_FIXED_BYTES) return BlockFault.truncated;
    const { view } = buffer;
    if (view.getUint32(offset, true) !== BLOCK_MAGIC) return BlockFault.badMagic;
    if (view.getUint16(offset + 4, true) !== BLOCK_FORMAT_VERSION) return BlockFault.badVersion;
    const headerBytes = view.getUint32(offset + 48, true);
    const payloadBytes = view.getUint32(offset + 52, true);
    const extentCount = view.getUint32(offset + 56, true);
    const slotCount = view.getUint32(offset + 60, true);
    if (extentCount > EXTENT_COUNT_MAX || payloadBytes > BLOCK_SIZE_MAX) return BlockFault.badLengths;
    if (slotCount !== Math.ceil(payloadBytes / PAGE_BYTES)) return BlockFault.badLengths;
    if (headerBytes !== HEADER_FIXED_BYTES + EXTENT_BYTES * extentCount + SLOT_CRC_BYTES * slotCount)
      return BlockFault.badLengths;
    if (view.getUint16(offset + 6, true) !== 0) return BlockFault.badLengths;
    if (availableBytes < headerBytes) return BlockFault.truncated;
    this.headerBytes = headerBytes;
    this.payloadBytes = payloadBytes;
    this.extentCount = extentCount;
    this.slotCount = slotCount;
    this.headerCrc = view.getUint32(offset + HEADER_CRC_OFFSET, true);
    this.view = view;
    this.bytes = buffer.bytes;
    this.offset = offset;
    return BlockFault.none;
  }

  /** Extent `index` of `extentCount`, written into `out`. */
  extent(index: number, out: BlockExtent): BlockExtent {
    const { view } = this;
    const at = this.offset + HEADER_FIXED_BYTES + index * EXTENT_BYTES;
    out.firstPage = view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
    out.pageCount = view.getUint32(at + 8, true);
    out.firstSlot = view.getUint32(at + 12, true);
    return out;
  }

  /** What a read reply of these slots carries: their CRCs as the header holds them, joined. */
  check(firstSlot: number, slotCount: number): number {
    const start = this.slotCrcsOffset + firstSlot * SLOT_CRC_BYTES;
    return joinSlotCrcs(this.view, start, slotCount, this.slotBytes(firstSlot + slotCount - 1));
  }

  /** Length of slot `slot` in bytes: a page, but for the last slot of an INode block. */
  slotBytes(slot: number): number {
    return Math.min(PAGE_BYTES, this.payloadBytes - slot * PAGE_BYTES);
  }

  isOfCluster(idBytes: Uint8Array): boolean {
    for (let index = 0; index < CLUSTER_BYTES; index += 1)
      if (this.bytes[this.offset + CLUSTER_OFFSET + index] !== idBytes[index]) return false;
    return true;
  }

  private get slotCrcsOffset(): number {
    return this.offset + HEADER_FIXED_BYTES + EXTENT_BYTES * this.extentCount;
  }

  /** Holes first, then data in ascending order of slots without overlap. */
  private extentsAreValid(): boolean {
    const extent: BlockExtent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
    let nextSlot = 0;
    let dataSeen = false;
    for (let index = 0; index < this.extentCount; index += 1) {
      this.extent(index, extent);
      if (extent.pageCount === 0 || extent.firstPage + extent.pageCount > VOLUME_PAGE_COUNT_MAX) return false;
      if (extent.firstSlot === HOLE_SLOT) {
        if (dataSeen) return false;
        continue;
      }
      dataSeen = true;
      if (extent.firstSlot < nextSlot) return false;
      nextSlot = extent.firstSlot + extent.pageCount;
      if (nextSlot > this.slotCount) return false;
    }
    return true;
  }
}

const EMPTY_VIEW = new DataView(new ArrayBuffer(0));
const EMPTY_BYTES = new Uint8Array(0);

/** Checks blocks of one cluster, whole. Keeps one BlockHeader, whose fields describe the block checked last. */
export class BlockVerifier {
  readonly header = new BlockHeader();
  private readonly idBytes: Uint8Array;

  constructor(clusterId: ClusterId) {
    this.idBytes = clusterIdBytes(clusterId);
  }

  /** Header, cluster, the exact length, and the CRC of every slot. */
  verify(buffer: NativeBuffer, offset: number, lengthBytes: number): BlockFault {
    const { header } = this;
    const fault = header.parse(buffer, offset, lengthBytes);
    if (fault !== BlockFault.none) return fault;
    if (!header.isOfCluster(this.idBytes)) return BlockFault.wrongCluster;
    if (lengthBytes !== header.lengthBytes)
      return lengthBytes < header.lengthBytes ? BlockFault.truncated : BlockFault.badLengths;
    const payload = offset + header.headerBytes;
    const check = readCheck(header.blockSeed, 0, buffer.bytes, payload, header.payloadBytes);
    return check === header.check(0, header.slotCount) ? BlockFault.none : BlockFault.badSlotCrc;
  }
}

/** Verifies one block; use a BlockVerifier where there are many. */
export function verifyBlock(
  buffer: NativeBuffer,
  offset: number,
  lengthBytes: number,
  clusterId: ClusterId,
): BlockFault {
  return new BlockVerifier(clusterId).verify(buffer, offset, lengthBytes);
}

/** The volume that a block's header names, unchecked; undefined for bytes that name none. */
export function blockVolumeId(
  buffer: NativeBuffer,
  offset: number,
  availableBytes: number,
): VolumeId | undefined {
  if (availableBytes < HEADER_FIXED_BYTES) return undefined;
  return decodeBlockRef(buffer.view, offset + REF_OFFSET)?.volumeId;
}
