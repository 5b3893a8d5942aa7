/**
 * PutBlocks and ReadBlocks on the wire, exactly as ../proto/storage.proto declares them (a test holds this against the
 * generated code): block bytes are written where they lie and found again by position, never copied in between.
 */
import { BLOCK_REF_BYTES, type BlockRef, decodeBlockRef, encodeBlockRef } from "../../base";
import { StorageStatus } from "../../engine";
import { ConnectStorageError } from "./errors";
import { FieldReader, FieldWriter, tagOf, varintBytes, WireType } from "./protobuf";

/** Field 1 of every request is the Target, of every response the Identity. */
const HEAD_TAG = tagOf(1, WireType.bytes);
const ITEM_TAG = tagOf(2, WireType.bytes);
const STATUS_VARINT_TAG = tagOf(2, WireType.varint);

const PUT_EPOCH_TAG = tagOf(1, WireType.varint);
const PUT_BLOCK_TAG = tagOf(2, WireType.bytes);

const READ_REF_TAG = tagOf(1, WireType.bytes);
const READ_FIRST_SLOT_TAG = tagOf(2, WireType.varint);
const READ_SLOT_COUNT_TAG = tagOf(3, WireType.varint);

const RESULT_STATUS_TAG = tagOf(1, WireType.varint);
const RESULT_CHECK_TAG = tagOf(2, WireType.fixed32);
const RESULT_DATA_TAG = tagOf(3, WireType.bytes);

/** The most bytes that the fields around one block take in a request. */
export const PUT_FRAME_BYTES_MAX = 32;

/** The enum of the wire leaves 0 for "not said". */
export function wireStatus(status: StorageStatus): number {
  return status + 1;
}

export function statusOf(wire: number): StorageStatus {
  const status = wire - 1;
  const isKnown = status <= StorageStatus.denied && status !== StorageStatus.unreachable;
  if (!Number.isInteger(status) || status < StorageStatus.ok || !isKnown)
    throw new ConnectStorageError("malformed", `Cannot read a message: status ${wire}`);
  return status as StorageStatus;
}

/** A piece of the message: bytes [start, end). */
export interface Range {
  readonly start: number;
  readonly end: number;
}

const NOWHERE: Range = { start: 0, end: 0 };

export interface PutItem extends Range {
  readonly writerEpoch: number;
}

/** Length of one put with its fields, and of the BlockPut inside. */
function putLengths(
  writerEpoch: number,
  blockBytes: number,
): { readonly inner: number; readonly outer: number } {
  const epochBytes = writerEpoch === 0 ? 0 : 1 + varintBytes(writerEpoch);
  const inner = epochBytes + 1 + varintBytes(blockBytes) + blockBytes;
  return { inner, outer: 1 + varintBytes(inner) + inner };
}

export function putItemBytes(writerEpoch: number, blockBytes: number): number {
  return putLengths(writerEpoch, blockBytes).outer;
}

/** The fields before a block's bytes, which must follow directly. */
export function writePutFrame(writer: FieldWriter, writerEpoch: number, blockBytes: number): void {
  writer.varint(ITEM_TAG).varint(putLengths(writerEpoch, blockBytes).inner);
  if (writerEpoch !== 0) writer.varint(PUT_EPOCH_TAG).varint(writerEpoch);
  writer.varint(PUT_BLOCK_TAG).varint(blockBytes);
}

/** The head (Target or Identity) as field 1. */
export function encodeHead(message: Uint8Array): Uint8Array {
  const writer = new FieldWriter(new Uint8Array(1 + varintBytes(message.length) + message.length));
  return writer.varint(HEAD_TAG).varint(message.length).raw(message).bytes;
}

interface Items<Item> {
  readonly head: Range;
  readonly items: readonly Item[];
}

/** Splits a message of field 1 and a repeated field 2, at most `countMax` of them. */
function readItems<Item>(bytes: Uint8Array, countMax: number, readItem: (range: Range) => Item): Items<Item> {
  const reader = new FieldReader(bytes);
  let head = NOWHERE;
  const items: Item[] = [];
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag === HEAD_TAG) head = { start: reader.block(), end: reader.position };
    else if (tag === ITEM_TAG) {
      if (items.length === countMax)
        throw new ConnectStorageError("malformed", `Cannot read a message: more than ${countMax} operations`);
      items.push(readItem({ start: reader.block(), end: reader.position }));
    } else reader.skip(tag);
  }
  return { head, items };
}

export function readPutRequest(bytes: Uint8Array, countMax: number): Items<PutItem> {
  return readItems(bytes, countMax, (range) => {
    const reader = new FieldReader(bytes, range.start, range.end);
    let writerEpoch = 0;
    let block = NOWHERE;
    for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
      if (tag === PUT_EPOCH_TAG) writerEpoch = reader.varint();
      else if (tag === PUT_BLOCK_TAG) block = { start: reader.block(), end: reader.position };
      else reader.skip(tag);
    }
    return { writerEpoch, ...block };
  });
}

export function encodePutResponse(head: Uint8Array, statuses: readonly StorageStatus[]): Uint8Array {
  const count = statuses.length;
  const packedBytes = count === 0 ? 0 : 1 + varintBytes(count) + count;
  const writer = new FieldWriter(new Uint8Array(head.length + packedBytes)).raw(head);
  if (count > 0) {
    // Every status is below 128: one byte each.
    writer.varint(ITEM_TAG).varint(count);
    for (const status of statuses) writer.varint(wireStatus(status));
  }
  return writer.bytes;
}

export function readPutResponse(bytes: Uint8Array): {
  readonly head: Range;
  readonly statuses: StorageStatus[];
} {
  const reader = new FieldReader(bytes);
  let head = NOWHERE;
  const statuses: StorageStatus[] = [];
  for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
    if (tag === HEAD_TAG) head = { start: reader.block(), end: reader.position };
    else if (tag === STATUS_VARINT_TAG) statuses.push(statusOf(reader.varint()));
    else if (tag === ITEM_TAG) {
      const packed = new FieldReader(bytes, reader.block(), reader.position);
      while (packed.position < reader.position) statuses.push(statusOf(packed.varint()));
    } else reader.skip(tag);
  }
  return { head, statuses };
}

export interface ReadItem {
  /** Undefined: bytes that name no block. */
  readonly ref: BlockRef | undefined;
  readonly firstSlot: number;
  readonly slotCount: number;
}

export function readItemBytes(firstSlot: number, slotCount: number): number {
  return 2 + readInnerBytes(firstSlot, slotCount);
}

function readInnerBytes(firstSlot: number, slotCount: number): number {
  const firstBytes = firstSlot === 0 ? 0 : 1 + varintBytes(firstSlot);
  const countBytes = slotCount === 0 ? 0 : 1 + varintBytes(slotCount);
  return 2 + BLOCK_REF_BYTES + firstBytes + countBytes;
}

export function writeReadItem(
  writer: FieldWriter,
  ref: BlockRef,
  firstSlot: number,
  slotCount: number,
): void {
  writer.varint(ITEM_TAG).varint(readInnerBytes(firstSlot, slotCount));
  writer.varint(READ_REF_TAG).varint(BLOCK_REF_BYTES);
  const { bytes } = writer;
  encodeBlockRef(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), writer.position, ref);
  writer.position += BLOCK_REF_BYTES;
  if (firstSlot !== 0) writer.varint(READ_FIRST_SLOT_TAG).varint(firstSlot);
  if (slotCount !== 0) writer.varint(READ_SLOT_COUNT_TAG).varint(slotCount);
}

export function readReadRequest(bytes: Uint8Array, countMax: number): Items<ReadItem> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return readItems(bytes, countMax, (range) => {
    const reader = new FieldReader(bytes, range.start, range.end);
    let ref: BlockRef | undefined;
    let firstSlot = 0;
    let slotCount = 0;
    for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
      if (tag === READ_REF_TAG) {
        const start = reader.block();
        ref = reader.position - start === BLOCK_REF_BYTES ? decodeBlockRef(view, start) : undefined;
      } else if (tag === READ_FIRST_SLOT_TAG) firstSlot = reader.varint();
      else if (tag === READ_SLOT_COUNT_TAG) slotCount = reader.varint();
      else reader.skip(tag);
    }
    return { ref, firstSlot, slotCount };
  });
}

export interface ReadResult {
  readonly status: StorageStatus;
  readonly check: number;
  readonly data: Uint8Array;
}

function resultInnerBytes(result: ReadResult): number {
  const checkBytes = result.check === 0 ? 0 : 5;
  const dataBytes = result.data.length === 0 ? 0 : 1 + varintBytes(result.data.length) + result.data.length;
  return 2 + checkBytes + dataBytes;
}

export function encodeReadResponse(head: Uint8Array, results: readonly ReadResult[]): Uint8Array {
  let totalBytes = head.length;
  for (const result of results) {
    const inner = resultInnerBytes(result);
    totalBytes += 1 + varintBytes(inner) + inner;
  }
  const writer = new FieldWriter(new Uint8Array(totalBytes)).raw(head);
  for (const result of results) {
    writer.varint(ITEM_TAG).varint(resultInnerBytes(result));
    writer.varint(RESULT_STATUS_TAG).varint(wireStatus(result.status));
    if (result.check !== 0) writer.varint(RESULT_CHECK_TAG).fixed32(result.check);
    if (result.data.length > 0) writer.varint(RESULT_DATA_TAG).varint(result.data.length).raw(result.data);
  }
  return writer.bytes;
}

export interface ReadResultItem extends Range {
  readonly status: StorageStatus;
  readonly check: number;
}

export function readReadResponse(bytes: Uint8Array, countMax: number): Items<ReadResultItem> {
  return readItems(bytes, countMax, (range) => {
    const reader = new FieldReader(bytes, range.start, range.end);
    let status: StorageStatus = StorageStatus.unavailable;
    let check = 0;
    let data = NOWHERE;
    for (let tag = reader.tag(); tag !== 0; tag = reader.tag()) {
      if (tag === RESULT_STATUS_TAG) status = statusOf(reader.varint());
      else if (tag === RESULT_CHECK_TAG) check = reader.fixed32();
      else if (tag === RESULT_DATA_TAG) data = { start: reader.block(), end: reader.position };
      else reader.skip(tag);
    }
    return { status, check, ...data };
  });
}
