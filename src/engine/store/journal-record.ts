/**
 * One record of a segment's journal: 64 bytes, never across a sector, so that it is there whole or not at all.
 *
 *   | offset | size | field (little-endian)                                                          |
 *   |--------|------|--------------------------------------------------------------------------------|
 *   | 0      | 4    | CRC32 of bytes [4, 64), seeded with the segment's seed                         |
 *   | 4      | 1    | kind                                                                           |
 *   | 5      | 1    | extents: pairs in an extents record; records of extents before a put           |
 *   | 6      | 2    | generation of the superblock in force, modulo 2^16: it was durable by then     |
 *   | 8      | 8    | sequence, from 1; the record lies in slot (sequence mod slots)                 |
 *   | 16     | 4    | boot count of the writer                                                       |
 *   | 20     | 4    | sequence - first sequence not known durable when it was written (at most 2^32) |
 *   | 24     | 24   | BlockRef; in an extents record five pairs (start u32, count u32), 40 bytes     |
 *   | 48     | 4    | first unit                                                                     |
 *   | 52     | 4    | length in bytes                                                                |
 *   | 56     | 4    | header CRC of the block                                                        |
 *   | 60     | 4    | extent count of a scattered block, else 0                                      |
 *
 * Kinds: put (the block is at that place), delete (the block at that place is gone), suspect (its bytes did not
 * match), extents (part of the list of the put that follows), mark (nothing: carries what is durable).
 *
 * A ring slot may hold zeros, this record, or a record of an older turn of the ring or an older boot; anything else
 * is damage. A missing record that a later one says was durable is damage too.
 */
import { type BlockRef, encodeBlockRef, type NativeBuffer } from "../../base";
import { getU64, isZero, RECORD_BYTES, setU64 } from "./layout";

export const RecordKind = { put: 1, delete: 2, suspect: 3, extents: 4, mark: 5 } as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

export const REF_FIELD = 24;
export const EXTENTS_FIELD = 24;
export const EXTENTS_PER_RECORD = 5;

export function kindAt(buffer: NativeBuffer, offset: number): number {
  return buffer.bytes[offset + 4] as number;
}
export function extentCountAt(buffer: NativeBuffer, offset: number): number {
  return buffer.bytes[offset + 5] as number;
}
export function sequenceAt(buffer: NativeBuffer, offset: number): number {
  return getU64(buffer.view, offset + 8);
}
export function bootCountAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + 16, true);
}
/** The first sequence that was not known durable when the record was written. */
export function durableEndAt(buffer: NativeBuffer, offset: number): number {
  return sequenceAt(buffer, offset) - buffer.view.getUint32(offset + 20, true);
}
export function unitAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + 48, true);
}
export function generationAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint16(offset + 6, true);
}
export function lengthAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + 52, true);
}
export function recordHeaderCrcAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + 56, true);
}
export function scatteredCountAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + 60, true);
}

/** Fills a zeroed 64-byte slot but for its CRC; `sealRecord` follows. */
export function encodeRecord(
  buffer: NativeBuffer,
  offset: number,
  kind: RecordKind,
  sequence: number,
  bootCount: number,
  durableEnd: number,
  generation: number,
): void {
  const { view, bytes } = buffer;
  bytes[offset + 4] = kind;
  view.setUint16(offset + 6, generation & 0xffff, true);
  setU64(view, offset + 8, sequence);
  view.setUint32(offset + 16, bootCount, true);
  view.setUint32(offset + 20, sequence - durableEnd, true);
}

export function encodePlace(
  buffer: NativeBuffer,
  offset: number,
  ref: BlockRef,
  unit: number,
  lengthBytes: number,
  headerCrc: number,
  extentCount: number,
): void {
  const { view } = buffer;
  encodeBlockRef(view, offset + REF_FIELD, ref);
  view.setUint32(offset + 48, unit, true);
  view.setUint32(offset + 52, lengthBytes, true);
  view.setUint32(offset + 56, headerCrc, true);
  view.setUint32(offset + 60, extentCount, true);
}

export function sealRecord(buffer: NativeBuffer, offset: number, seed: number): void {
  const crc = Bun.hash.crc32(buffer.bytes.subarray(offset + 4, offset + RECORD_BYTES), seed);
  buffer.view.setUint32(offset, crc, true);
}

/** "zero" for a slot never written, "damaged" for bytes that are no record of this segment. */
export function inspectRecord(
  buffer: NativeBuffer,
  offset: number,
  seed: number,
): "valid" | "zero" | "damaged" {
  const { bytes, view } = buffer;
  const kind = bytes[offset + 4] as number;
  if (kind === 0 && isZero(bytes, offset, RECORD_BYTES)) return "zero";
  if (
    Bun.hash.crc32(bytes.subarray(offset + 4, offset + RECORD_BYTES), seed) !== view.getUint32(offset, true)
  )
    return "damaged";
  return kind >= RecordKind.put && kind <= RecordKind.mark ? "valid" : "damaged";
}
