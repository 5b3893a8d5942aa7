/**
 * The stream that `export-diff` writes and `import-diff` reads: all of a snapshot, or what it holds otherwise than an
 * earlier one. It goes through files and pipes, is read once from start to end, and every byte of it is covered by a
 * checksum before it is acted on; the SHA-256 at its end tells that the whole of it came. Little-endian.
 *
 * Header:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 8    | magic "TORUSDIF"                                                          |
 *   | 8      | 2    | format version, 1                                                         |
 *   | 10     | 2    | flags: 1 = against a base; other bits are 0                               |
 *   | 12     | 4    | length n of the description, at most 8192                                 |
 *   | 16     | 8    | size of the snapshot in bytes                                             |
 *   | 24     | 8    | when the stream was made, milliseconds since 1970 UTC                     |
 *   | 32     | n    | description: JSON in UTF-8, fields as in DiffDescription                  |
 *   | 32+n   | 4    | CRC-32 of all before                                                      |
 *
 * Records, ascending by offset, not overlapping:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 4    | magic "TREC"                                                              |
 *   | 4      | 1    | type: 1 data, 2 hole (nothing is there any more), 3 end                   |
 *   | 5      | 3    | zero                                                                      |
 *   | 8      | 8    | number of the record, from 1                                              |
 *   | 16     | 8    | offset in the volume; of the end: 0                                       |
 *   | 24     | 8    | length in the volume, at least 1; data: at most 1 MiB; of the end: bytes  |
 *   |        |      | of data in all records                                                    |
 *   | 32     | 4    | CRC-32 of the payload; 0 without                                          |
 *   | 36     | 4    | CRC-32 of bytes 0-35                                                      |
 *   | 40     |      | payload. Data: the bytes. Hole: none. End: SHA-256 (32) of all before     |
 *
 * Nothing follows the end.
 */
import { damaged, DiffStreamError } from "./errors";

export const STREAM_MAGIC = "TORUSDIF";
export const STREAM_VERSION = 1;
export const HEADER_FIXED_BYTES = 32;
export const DESCRIPTION_BYTES_MAX = 8192;
export const RECORD_HEADER_BYTES = 40;
export const RECORD_DATA_BYTES_MAX = 1024 * 1024;
export const DIGEST_BYTES = 32;
export const CRC_BYTES = 4;
const RECORD_MAGIC = 0x43455254;
const FLAG_BASE = 1;
const TWO_32 = 2 ** 32;
const NAME_LENGTH_MAX = 255;
const FINGERPRINT_LENGTH_MAX = 512;
/** 64 TiB: the largest volume. */
const SIZE_BYTES_MAX = 64 * 2 ** 40;

export const RecordType = { data: 1, hole: 2, end: 3 } as const;
export type RecordType = (typeof RecordType)[keyof typeof RecordType];

/** One end of a difference. */
export interface DiffPoint {
  /** Names the state for good, in whatever cluster; see `snapshotFingerprint`. */
  readonly fingerprint: string;
  readonly volume: string;
  readonly snapshot: string;
}

export interface DiffDescription {
  readonly snapshot: DiffPoint;
  /** What the stream must be applied to; undefined: to nothing. */
  readonly base?: DiffPoint;
}

export interface DiffHeader extends DiffDescription {
  readonly sizeBytes: number;
  readonly createdMs: number;
}

export interface RecordHeader {
  readonly type: RecordType;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly payloadCrc: number;
}

function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % TWO_32, true);
  view.setUint32(at + 4, Math.floor(value / TWO_32), true);
}

function readU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * TWO_32 + view.getUint32(at, true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function encodeHeader(header: DiffHeader): Uint8Array {
  const { snapshot, base } = header;
  const text = new TextEncoder().encode(
    JSON.stringify(base === undefined ? { snapshot } : { snapshot, base }),
  );
  const bytes = new Uint8Array(HEADER_FIXED_BYTES + text.length + CRC_BYTES);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(STREAM_MAGIC));
  view.setUint16(8, STREAM_VERSION, true);
  view.setUint16(10, base === undefined ? 0 : FLAG_BASE, true);
  view.setUint32(12, text.length, true);
  writeU64(view, 16, header.sizeBytes);
  writeU64(view, 24, header.createdMs);
  bytes.set(text, HEADER_FIXED_BYTES);
  const crcAt = HEADER_FIXED_BYTES + text.length;
  view.setUint32(crcAt, Bun.hash.crc32(bytes.subarray(0, crcAt)), true);
  return bytes;
}

/** Length of the header's description, from its fixed part. Throws DiffStreamError. */
export function descriptionBytes(fixed: Uint8Array): number {
  const view = viewOf(fixed);
  if (new TextDecoder("latin1").decode(fixed.subarray(0, STREAM_MAGIC.length)) !== STREAM_MAGIC)
    throw new DiffStreamError(
      "not-a-diff-stream",
      "Cannot import the stream: it was not made by torus ctl block export-diff",
    );
  const version = view.getUint16(8, true);
  if (version !== STREAM_VERSION)
    throw new DiffStreamError(
      "unknown-stream-version",
      `Cannot import the stream: its format version is ${version}, and this torus reads ${STREAM_VERSION}`,
    );
  const length = view.getUint32(12, true);
  if (length > DESCRIPTION_BYTES_MAX) throw damaged(`its description has ${length} bytes`);
  return length;
}

/** Decodes a whole header with its CRC. Throws DiffStreamError. */
export function decodeHeader(bytes: Uint8Array): DiffHeader {
  const length = descriptionBytes(bytes);
  const view = viewOf(bytes);
  const crcAt = HEADER_FIXED_BYTES + length;
  if (view.getUint32(crcAt, true) !== Bun.hash.crc32(bytes.subarray(0, crcAt)))
    throw damaged("the checksum of its header is wrong");
  const flags = view.getUint16(10, true);
  if ((flags & ~FLAG_BASE) !== 0) throw damaged(`its flags ${flags} are not known here`);
  const sizeBytes = readU64(view, 16);
  if (sizeBytes < 1 || sizeBytes > SIZE_BYTES_MAX) throw damaged(`its size is ${sizeBytes} bytes`);
  const createdMs = readU64(view, 24);
  if (!Number.isSafeInteger(createdMs)) throw damaged("its time is out of range");
  const description = decodeDescription(bytes.subarray(HEADER_FIXED_BYTES, crcAt));
  if ((description.base !== undefined) !== (flags === FLAG_BASE))
    throw damaged("its flags and its description disagree about the base");
  return { ...description, sizeBytes, createdMs };
}

function decodeDescription(bytes: Uint8Array): DiffDescription {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new DiffStreamError(
      "damaged-stream",
      "Cannot import the stream: its description is no JSON",
      error,
    );
  }
  if (typeof value !== "object" || value === null) throw damaged("its description is no object");
  const { snapshot, base } = value as { snapshot?: unknown; base?: unknown };
  return {
    snapshot: decodePoint(snapshot),
    ...(base !== undefined && { base: decodePoint(base) }),
  };
}

function decodePoint(value: unknown): DiffPoint {
  if (typeof value !== "object" || value === null)
    throw damaged("a snapshot in its description is no object");
  const fields = value as Record<string, unknown>;
  const text = (name: string, lengthMax: number): string => {
    const field = fields[name];
    if (typeof field !== "string" || field === "" || field.length > lengthMax)
      throw damaged(`"${name}" in its description is not what it should be`);
    return field;
  };
  return {
    fingerprint: text("fingerprint", FINGERPRINT_LENGTH_MAX),
    volume: text("volume", NAME_LENGTH_MAX),
    snapshot: text("snapshot", NAME_LENGTH_MAX),
  };
}

export function encodeRecordHeader(header: RecordHeader, number: number): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEADER_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, RECORD_MAGIC, true);
  view.setUint8(4, header.type);
  writeU64(view, 8, number);
  writeU64(view, 16, header.offsetBytes);
  writeU64(view, 24, header.lengthBytes);
  view.setUint32(32, header.payloadCrc, true);
  view.setUint32(36, Bun.hash.crc32(bytes.subarray(0, 36)), true);
  return bytes;
}

/** Throws DiffStreamError for anything that record `number` after `endBytes` of a volume of `sizeBytes` cannot be. */
export function decodeRecordHeader(
  bytes: Uint8Array,
  number: number,
  endBytes: number,
  sizeBytes: number,
): RecordHeader {
  const view = viewOf(bytes);
  if (view.getUint32(36, true) !== Bun.hash.crc32(bytes.subarray(0, 36)))
    throw damaged(`the checksum of record ${number} is wrong`);
  const found = readU64(view, 8);
  if (view.getUint32(0, true) !== RECORD_MAGIC || found !== number)
    throw damaged(`record ${number} is missing: the next one is ${found}`);
  const type = view.getUint8(4) as RecordType;
  const [offsetBytes, lengthBytes] = [readU64(view, 16), readU64(view, 24)];
  const header = { type, offsetBytes, lengthBytes, payloadCrc: view.getUint32(32, true) };
  if (type === RecordType.end) return header;
  if (type !== RecordType.data && type !== RecordType.hole)
    throw damaged(`record ${number} has type ${type}, which is not known here`);
  const inOrder = offsetBytes >= endBytes && lengthBytes >= 1 && offsetBytes + lengthBytes <= sizeBytes;
  if (!inOrder || (type === RecordType.data && lengthBytes > RECORD_DATA_BYTES_MAX))
    throw damaged(`record ${number} says ${lengthBytes} bytes at ${offsetBytes}, which cannot be`);
  return header;
}
