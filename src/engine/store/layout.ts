/**
 * The bytes of a segment: a file (or a part of a raw disk) of at most 1 GiB that explains itself.
 *
 *   | region       | size                      | holds                                              |
 *   |--------------|---------------------------|----------------------------------------------------|
 *   | superblocks  | 2 x 4 KiB                 | two alternating superblocks                        |
 *   | journal      | segment / 64, whole pages | a ring of 64-byte records                          |
 *   | checkpoints  | 2 x segment / 128         | two alternating copies of the index, 4 KiB chunks  |
 *   | data         | the rest                  | blocks, in units of 512 bytes (4096 on 4Kn disks)  |
 *
 * Superblock (little-endian; the first 512 bytes of its page, so that it is written whole or not at all):
 *
 *   | offset | size | field                                                                 |
 *   |--------|------|-----------------------------------------------------------------------|
 *   | 0      | 4    | magic "TSEG"                                                          |
 *   | 4      | 4    | CRC32 of bytes [8, 512)                                               |
 *   | 8      | 2    | format version, 1                                                     |
 *   | 10     | 2    | segment number                                                        |
 *   | 12     | 4    | generation: the higher of the two valid superblocks is in force       |
 *   | 16     | 16   | cluster id                                                            |
 *   | 32     | 16   | peer id                                                               |
 *   | 48     | 4    | segment length in bytes                                               |
 *   | 52     | 4    | unit in bytes                                                         |
 *   | 56     | 4    | store seed: random, made with the store, seeds the CRC of all records |
 *   | 60     | 4    | checkpoint chunk count (in area generation mod 2)                     |
 *   | 64     | 4    | checkpoint entry count                                                |
 *   | 68     | 4    | boot count when it was written                                        |
 *   | 72     | 8    | journal start: sequence of the first record after the checkpoint      |
 *
 * Checkpoint chunk, 4096 bytes:
 *
 *   | offset | size  | field                                                            |
 *   |--------|-------|------------------------------------------------------------------|
 *   | 0      | 4     | CRC32 of bytes [4, 4096), seeded with the segment's seed         |
 *   | 4      | 4     | generation                                                       |
 *   | 8      | 4     | chunk number                                                     |
 *   | 12     | 4     | entry count, at most 102                                         |
 *   | 16     | 40 n  | entries: BlockRef 24, unit u32, length u32, header CRC u32, flags u8, three zero bytes; |
 *   |        |       | with the scattered flag, unit is the extent count and ceil(count / 5) entries follow    |
 *   |        |       | that hold five (start u32, count u32) pairs each                                        |
 */
import { assert, type ClusterId, heapBuffer, type NativeBuffer, type PeerId } from "../../base";
import { StoreError } from "./errors";

export const SEGMENT_BYTES_DEFAULT = 1024 ** 3;
export const SEGMENT_BYTES_MIN = 128 * 1024;
export const SEGMENT_COUNT_MAX = 65_536;
export const METADATA_PAGE_BYTES = 4096;
export const RECORD_BYTES = 64;
export const RECORDS_PER_PAGE = METADATA_PAGE_BYTES / RECORD_BYTES;
export const CHUNK_BYTES = 4096;
export const CHUNK_HEADER_BYTES = 16;
export const ENTRY_BYTES = 40;
export const ENTRIES_PER_CHUNK = Math.floor((CHUNK_BYTES - CHUNK_HEADER_BYTES) / ENTRY_BYTES);
export const EXTENTS_PER_ENTRY = 5;
/** A block lies in at most this many extents. */
export const BLOCK_EXTENTS_MAX = 250;
export const SUPERBLOCK_BYTES = 512;
const SUPERBLOCK_MAGIC = 0x47455354;
const FORMAT_VERSION = 1;

export interface SegmentGeometry {
  readonly segmentBytes: number;
  readonly unitBytes: number;
  readonly journalOffset: number;
  readonly journalSlots: number;
  readonly checkpointOffset: number;
  readonly checkpointAreaBytes: number;
  /** Checkpoint entries one area holds. */
  readonly entriesMax: number;
  readonly dataOffset: number;
  readonly dataUnits: number;
}

const toPages = (bytes: number): number => Math.ceil(bytes / METADATA_PAGE_BYTES) * METADATA_PAGE_BYTES;

export function segmentGeometry(segmentBytes: number, unitBytes: number): SegmentGeometry {
  const journalBytes = Math.max(toPages(segmentBytes / 64), 4 * METADATA_PAGE_BYTES);
  const checkpointAreaBytes = Math.max(toPages(segmentBytes / 128), 2 * CHUNK_BYTES);
  const journalOffset = 2 * METADATA_PAGE_BYTES;
  const checkpointOffset = journalOffset + journalBytes;
  const dataOffset = checkpointOffset + 2 * checkpointAreaBytes;
  return {
    segmentBytes,
    unitBytes,
    journalOffset,
    journalSlots: journalBytes / RECORD_BYTES,
    checkpointOffset,
    checkpointAreaBytes,
    entriesMax: (checkpointAreaBytes / CHUNK_BYTES) * ENTRIES_PER_CHUNK,
    dataOffset,
    dataUnits: Math.floor((segmentBytes - dataOffset) / unitBytes),
  };
}

/** The lengths of the segments that make up `sizeBytes`: equal ones, and a shorter last one when it is worth it. */
export function segmentPlan(sizeBytes: number, segmentBytes: number): number[] {
  const plan: number[] = [];
  for (let rest = sizeBytes; rest > 0; rest -= segmentBytes) {
    const length = Math.min(rest, segmentBytes) - (Math.min(rest, segmentBytes) % METADATA_PAGE_BYTES);
    const worthIt = plan.length === 0 ? SEGMENT_BYTES_MIN : Math.max(SEGMENT_BYTES_MIN, segmentBytes / 16);
    if (length < worthIt) break;
    plan.push(length);
    if (plan.length > SEGMENT_COUNT_MAX)
      throw new StoreError(
        "bad-size",
        `Cannot make a store of ${sizeBytes} bytes: it would take more than ${SEGMENT_COUNT_MAX} files`,
        { exitCode: 2 },
      );
  }
  if (plan.length === 0)
    throw new StoreError(
      "bad-size",
      `Cannot make a store of ${sizeBytes} bytes: the least is ${SEGMENT_BYTES_MIN} bytes`,
      { exitCode: 2 },
    );
  return plan;
}

export function uuidBytes(uuid: string): Uint8Array {
  const bytes = new Uint8Array(Buffer.from(uuid.replaceAll("-", ""), "hex"));
  assert(bytes.length === 16, `"${uuid}" is not a UUID`);
  return bytes;
}

export function uuidText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export interface Superblock {
  readonly segment: number;
  readonly generation: number;
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly segmentBytes: number;
  readonly unitBytes: number;
  readonly storeSeed: number;
  readonly chunkCount: number;
  readonly entryCount: number;
  readonly bootCount: number;
  readonly journalStart: number;
}

/** Where a superblock of this generation is written. */
export function superblockOffset(generation: number): number {
  return (generation % 2) * METADATA_PAGE_BYTES;
}

/** Writes the superblock's whole page. */
export function encodeSuperblock(target: NativeBuffer, offset: number, superblock: Superblock): void {
  const { bytes, view } = target;
  bytes.fill(0, offset, offset + METADATA_PAGE_BYTES);
  view.setUint32(offset, SUPERBLOCK_MAGIC, true);
  view.setUint16(offset + 8, FORMAT_VERSION, true);
  view.setUint16(offset + 10, superblock.segment, true);
  view.setUint32(offset + 12, superblock.generation, true);
  bytes.set(uuidBytes(superblock.clusterId), offset + 16);
  bytes.set(uuidBytes(superblock.peerId), offset + 32);
  view.setUint32(offset + 48, superblock.segmentBytes, true);
  view.setUint32(offset + 52, superblock.unitBytes, true);
  view.setUint32(offset + 56, superblock.storeSeed, true);
  view.setUint32(offset + 60, superblock.chunkCount, true);
  view.setUint32(offset + 64, superblock.entryCount, true);
  view.setUint32(offset + 68, superblock.bootCount, true);
  setU64(view, offset + 72, superblock.journalStart);
  view.setUint32(offset + 4, Bun.hash.crc32(bytes.subarray(offset + 8, offset + SUPERBLOCK_BYTES)), true);
}

/** "empty" for a page of zeros, "invalid" for anything that is no superblock of ours. */
export function decodeSuperblock(source: NativeBuffer, offset: number): Superblock | "empty" | "invalid" {
  const { bytes, view } = source;
  if (isZero(bytes, offset, SUPERBLOCK_BYTES)) return "empty";
  if (view.getUint32(offset, true) !== SUPERBLOCK_MAGIC) return "invalid";
  if (
    view.getUint32(offset + 4, true) !== Bun.hash.crc32(bytes.subarray(offset + 8, offset + SUPERBLOCK_BYTES))
  )
    return "invalid";
  if (view.getUint16(offset + 8, true) !== FORMAT_VERSION) return "invalid";
  return {
    segment: view.getUint16(offset + 10, true),
    generation: view.getUint32(offset + 12, true),
    clusterId: uuidText(bytes.subarray(offset + 16, offset + 32)) as ClusterId,
    peerId: uuidText(bytes.subarray(offset + 32, offset + 48)) as PeerId,
    segmentBytes: view.getUint32(offset + 48, true),
    unitBytes: view.getUint32(offset + 52, true),
    storeSeed: view.getUint32(offset + 56, true),
    chunkCount: view.getUint32(offset + 60, true),
    entryCount: view.getUint32(offset + 64, true),
    bootCount: view.getUint32(offset + 68, true),
    journalStart: getU64(view, offset + 72),
  };
}

/** Whether the checkpoint chunk at this place is that one of this generation. */
export function isChunkOf(
  source: NativeBuffer,
  offset: number,
  seed: number,
  generation: number,
  chunk: number,
): boolean {
  const { bytes, view } = source;
  return (
    view.getUint32(offset, true) === Bun.hash.crc32(bytes.subarray(offset + 4, offset + CHUNK_BYTES), seed) &&
    view.getUint32(offset + 4, true) === generation &&
    view.getUint32(offset + 8, true) === chunk
  );
}

/** Seeds every record and chunk of a segment, so that those of another segment or store do not pass. */
export function segmentSeed(storeSeed: number, segment: number): number {
  seedScratch.view.setUint32(0, storeSeed, true);
  seedScratch.view.setUint32(4, segment, true);
  return Bun.hash.crc32(seedScratch.bytes);
}
const seedScratch = heapBuffer(8);

export function isZero(bytes: Uint8Array, offset: number, lengthBytes: number): boolean {
  for (let index = offset; index < offset + lengthBytes; index += 1) if (bytes[index] !== 0) return false;
  return true;
}

const TWO_32 = 2 ** 32;

export function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % TWO_32, true);
  view.setUint32(offset + 4, Math.floor(value / TWO_32), true);
}

export function getU64(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * TWO_32 + view.getUint32(offset, true);
}

export const segmentFileName = (segment: number): string => `blocks-${String(segment).padStart(5, "0")}`;
export const STATE_FILE_NAME = "state";

/** The number of a segment file, or undefined for another name. */
export function segmentOfFileName(name: string): number | undefined {
  const digits = /^blocks-(\d{5})$/.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}
