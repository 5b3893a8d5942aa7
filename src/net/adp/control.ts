/**
 * Bodies of control frames: fence, list, confirm, statistics. They are rare and may be long (a fence lists the
 * log's tail, up to some hundred thousand blocks), hence packed rather than readable. A body is covered by a CRC32
 * in its frame header. Numbers are little-endian; "identity" is cluster id (16), peer id (16), incarnation (8).
 *
 *   | body               | fields                                                                           |
 *   |--------------------|----------------------------------------------------------------------------------|
 *   | fence request      | volume u64, epoch u64, tail epoch u64, tail after index u64; unless the epochs   |
 *   |                    | minted are not told: complete above u64, count u32, count x (from u64, to u64)   |
 *   | fence reply        | identity, status u8, epoch known u64, count u32, count x (index u64, length u32, |
 *   |                    | header CRC u32, flags u8)                                                        |
 *   | list request       | limit u32, volume u64 (0: all), cursor text                                      |
 *   | list reply         | cursor text, count u32, count x (ref 24, length u32, header CRC u32, flags u8)   |
 *   | confirm request    | ring version u64 (2^53 - 1: a look-up), count u32, count x ref                   |
 *   | confirm reply      | identity, ring version u64, count u32, count x status u8                         |
 *   | statistics request | nothing                                                                          |
 *   | statistics reply   | identity, capacity u64, used u64, blocks u64, suspects u64, ring version u64     |
 *
 * A text is u16 length and UTF-8; an empty cursor stands for none. Flag bit 0: suspect.
 */
import { type BlockRef, type Epoch, VOLUME_ID_MAX, type VolumeId } from "../../base";
import {
  type BlockListing,
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListReply,
  type ListRequest,
  MINTED_RANGES_MAX,
  type MintedEpochs,
  type PeerIdentity,
  type PeerStatistics,
  type TailBlock,
  StorageStatus,
} from "../../engine";
import { ByteReader, ByteWriter, badFrame, INCARNATION_BYTES, UUID_BYTES } from "./bytes";

export const ControlOperation = { fence: 1, list: 2, confirm: 3, statistics: 4 } as const;
export type ControlOperation = (typeof ControlOperation)[keyof typeof ControlOperation];

/** A confirm of this many blocks is 384 KiB. */
export const CONFIRM_COUNT_MAX = 16_384;
export const LIST_COUNT_MAX = 65_536;
/** The tail of a log of 16 GiB in blocks of one page. */
export const TAIL_COUNT_MAX = 4 * 1024 * 1024;
export const CONTROL_REQUEST_BYTES_MAX = 512 * 1024;
export const CONTROL_REPLY_BYTES_MAX = 80 * 1024 * 1024;
const SUSPECT_FLAG = 1;
const TAIL_BLOCK_BYTES = 17;
const EPOCH_RANGE_BYTES = 16;
const LISTING_BYTES = 33;

function statusOf(value: number): StorageStatus {
  if (value > StorageStatus.unavailable && value !== StorageStatus.denied)
    throw badFrame(`status ${value} is unknown`);
  return value as StorageStatus;
}

function writeIdentity(writer: ByteWriter, identity: PeerIdentity): ByteWriter {
  return writer
    .hex(UUID_BYTES, identity.clusterId)
    .hex(UUID_BYTES, identity.peerId)
    .hex(INCARNATION_BYTES, identity.incarnation);
}

function readIdentity(reader: ByteReader): PeerIdentity {
  return { clusterId: reader.clusterId(), peerId: reader.peerId(), incarnation: reader.incarnation() };
}

function volumeIdOf(value: number): VolumeId {
  if (value < 1 || value > VOLUME_ID_MAX) throw badFrame(`volume id ${value} is out of range`);
  return value as VolumeId;
}

export function encodeFenceRequest(request: FenceRequest): Uint8Array {
  const writer = new ByteWriter()
    .u64(request.volumeId)
    .u64(request.epoch)
    .u64(request.tailEpoch)
    .u64(request.tailAfterIndex);
  if (request.minted !== undefined) {
    writer.u64(request.minted.completeAbove).u32(request.minted.minted.length);
    for (const { from, to } of request.minted.minted) writer.u64(from).u64(to);
  }
  return writer.finish();
}

function decodeMinted(reader: ByteReader): MintedEpochs {
  const completeAbove = reader.u64();
  const count = reader.count(EPOCH_RANGE_BYTES, MINTED_RANGES_MAX);
  const minted = Array.from({ length: count }, () => ({ from: reader.u64(), to: reader.u64() }));
  return { completeAbove, minted };
}

export function decodeFenceRequest(bytes: Uint8Array): FenceRequest {
  const reader = new ByteReader(bytes);
  const volumeId = volumeIdOf(reader.u64());
  const epoch = reader.u64();
  if (epoch === 0) throw badFrame("a fence of epoch 0");
  const request = { volumeId, epoch: epoch as Epoch, tailEpoch: reader.u64(), tailAfterIndex: reader.u64() };
  if (reader.isAtEnd) return request;
  const minted = decodeMinted(reader);
  reader.end();
  return { ...request, minted };
}

export function encodeFenceReply(reply: FenceReply): Uint8Array {
  const writer = writeIdentity(new ByteWriter(), reply)
    .u8(reply.status)
    .u64(reply.epochKnown)
    .u32(reply.tail.length);
  for (const block of reply.tail)
    writer
      .u64(block.index)
      .u32(block.lengthBytes)
      .u32(block.headerCrc)
      .u8(block.suspect ? SUSPECT_FLAG : 0);
  return writer.finish();
}

export function decodeFenceReply(bytes: Uint8Array): FenceReply {
  const reader = new ByteReader(bytes);
  const identity = readIdentity(reader);
  const status = statusOf(reader.u8());
  const epochKnown = reader.u64();
  const count = reader.count(TAIL_BLOCK_BYTES, TAIL_COUNT_MAX);
  const tail: TailBlock[] = [];
  for (let at = 0; at < count; at++) {
    const index = reader.u64();
    const lengthBytes = reader.u32();
    const headerCrc = reader.u32();
    tail.push({ index, lengthBytes, headerCrc, suspect: (reader.u8() & SUSPECT_FLAG) !== 0 });
  }
  reader.end();
  return { ...identity, status, epochKnown, tail };
}

export function encodeListRequest(request: ListRequest): Uint8Array {
  return new ByteWriter()
    .u32(request.limit)
    .u64(request.volumeId ?? 0)
    .text(request.cursor ?? "")
    .finish();
}

export function decodeListRequest(bytes: Uint8Array): ListRequest {
  const reader = new ByteReader(bytes);
  const limit = reader.u32();
  if (limit < 1 || limit > LIST_COUNT_MAX) throw badFrame(`a listing of ${limit} blocks`);
  const volumeId = reader.u64();
  const cursor = reader.text();
  reader.end();
  return {
    limit,
    ...(volumeId === 0 ? {} : { volumeId: volumeIdOf(volumeId) }),
    ...(cursor === "" ? {} : { cursor }),
  };
}

export function encodeListReply(reply: ListReply): Uint8Array {
  const writer = new ByteWriter().text(reply.cursor ?? "").u32(reply.blocks.length);
  for (const block of reply.blocks)
    writer
      .ref(block.ref)
      .u32(block.lengthBytes)
      .u32(block.headerCrc)
      .u8(block.suspect ? SUSPECT_FLAG : 0);
  return writer.finish();
}

export function decodeListReply(bytes: Uint8Array): ListReply {
  const reader = new ByteReader(bytes);
  const cursor = reader.text();
  const count = reader.count(LISTING_BYTES, LIST_COUNT_MAX);
  const blocks: BlockListing[] = [];
  for (let at = 0; at < count; at++) {
    const ref = reader.ref();
    const lengthBytes = reader.u32();
    const headerCrc = reader.u32();
    blocks.push({ ref, lengthBytes, headerCrc, suspect: (reader.u8() & SUSPECT_FLAG) !== 0 });
  }
  reader.end();
  return { blocks, ...(cursor === "" ? {} : { cursor }) };
}

export function encodeConfirmRequest(request: ConfirmRequest): Uint8Array {
  const writer = new ByteWriter().u64(request.ringVersion).u32(request.refs.length);
  for (const ref of request.refs) writer.ref(ref);
  return writer.finish();
}

export function decodeConfirmRequest(bytes: Uint8Array): ConfirmRequest {
  const reader = new ByteReader(bytes);
  const ringVersion = reader.u64();
  const count = reader.count(24, CONFIRM_COUNT_MAX);
  const refs: BlockRef[] = [];
  for (let at = 0; at < count; at++) refs.push(reader.ref());
  reader.end();
  return { ringVersion, refs };
}

export function encodeConfirmReply(reply: ConfirmReply): Uint8Array {
  const writer = writeIdentity(new ByteWriter(), reply).u64(reply.ringVersion).u32(reply.statuses.length);
  for (const status of reply.statuses) writer.u8(status);
  return writer.finish();
}

export function decodeConfirmReply(bytes: Uint8Array): ConfirmReply {
  const reader = new ByteReader(bytes);
  const identity = readIdentity(reader);
  const ringVersion = reader.u64();
  const count = reader.count(1, CONFIRM_COUNT_MAX);
  const statuses: StorageStatus[] = [];
  for (let at = 0; at < count; at++) statuses.push(statusOf(reader.u8()));
  reader.end();
  return { ...identity, ringVersion, statuses };
}

export function encodeStatistics(statistics: PeerStatistics): Uint8Array {
  return writeIdentity(new ByteWriter(), statistics)
    .u64(statistics.capacityBytes)
    .u64(statistics.usedBytes)
    .u64(statistics.blockCount)
    .u64(statistics.suspectCount)
    .u64(statistics.ringVersion)
    .finish();
}

export function decodeStatistics(bytes: Uint8Array): PeerStatistics {
  const reader = new ByteReader(bytes);
  const statistics = {
    ...readIdentity(reader),
    capacityBytes: reader.u64(),
    usedBytes: reader.u64(),
    blockCount: reader.u64(),
    suspectCount: reader.u64(),
    ringVersion: reader.u64(),
  };
  reader.end();
  return statistics;
}
