/**
 * The frames of adp, the protocol that carries blocks between peers. All numbers are little-endian.
 *
 * Both sides greet once with a hello; then the client sends requests and the server one reply to each, in any
 * order. A request carries no number of its own: it is the n-th request of its connection, counted from 0 by both
 * sides, and its reply names n. So the frame of a put is the same to every replica.
 *
 * Hello, 96 bytes:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 8    | magic "TORUSADP"                                                          |
 *   | 8      | 2    | lowest version spoken (reply: the version chosen)                         |
 *   | 10     | 2    | highest version spoken (reply: the version chosen)                        |
 *   | 12     | 4    | status: see HelloStatus; 0 from a client                                  |
 *   | 16     | 16   | cluster id                                                                |
 *   | 32     | 16   | peer id: client: whom it wants, zeros for anybody; server: its own        |
 *   | 48     | 8    | incarnation of the server's store; zeros from a client                    |
 *   | 56     | 4    | largest block in bytes that the sender takes in one put, or in one reply  |
 *   | 60     | 4    | most requests under way on the connection                                 |
 *   | 64     | 28   | zero                                                                      |
 *   | 92     | 4    | CRC32 of bytes [0, 92)                                                    |
 *
 * Request header, 16 bytes, followed by the body:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 4    | body length in bytes                                                      |
 *   | 4      | 1    | kind: put 1, read 2, control 3                                            |
 *   | 5      | 1    | control operation; else 0                                                 |
 *   | 6      | 2    | fold of the other 14 bytes: finds a stream that is out of step            |
 *   | 8      | 8    | put: writer's epoch; control: CRC32 of the body (u32), 0 (u32); read: 0   |
 *
 * Body of a put: the sealed block. Of a read, 32 bytes: BlockRef (24), first slot u32, slot count u32. Of a control
 * request or reply: see control.ts.
 *
 * Reply header, 16 bytes (as long as NBD's, so that it can be overwritten in place), followed by the body:
 *
 *   | offset | size | field                                                                     |
 *   |--------|------|---------------------------------------------------------------------------|
 *   | 0      | 4    | body length in bytes; 0 unless status is ok                               |
 *   | 4      | 1    | kind, as in the request                                                   |
 *   | 5      | 1    | status: StorageStatus                                                     |
 *   | 6      | 2    | fold                                                                      |
 *   | 8      | 4    | number of the request on this connection, modulo 2^32                     |
 *   | 12     | 4    | read: the slot CRCs, joined; control: CRC32 of the body; put: 0           |
 */
import {
  BLOCK_REF_BYTES,
  type BlockRef,
  type ClusterId,
  encodeBlockRef,
  type Incarnation,
  type PeerId,
} from "../../base";
import { INCARNATION_BYTES, readIncarnation, readUuid, UUID_BYTES, writeHex } from "./bytes";

export const HELLO_BYTES = 96;
export const REQUEST_HEADER_BYTES = 16;
export const REPLY_HEADER_BYTES = 16;
export const READ_BODY_BYTES = BLOCK_REF_BYTES + 8;
export const ADP_VERSION = 2;

export const FrameKind = { put: 1, read: 2, control: 3 } as const;
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

export const HelloStatus = {
  ok: 0,
  wrongCluster: 1,
  /** Another peer than the one wanted answers at this address. */
  wrongPeer: 2,
  noCommonVersion: 3,
  /** The hello was no hello. */
  garbled: 4,
} as const;
export type HelloStatus = (typeof HelloStatus)[keyof typeof HelloStatus];

export interface Hello {
  readonly versionMin: number;
  readonly versionMax: number;
  readonly status: HelloStatus;
  readonly clusterId: ClusterId;
  /** "" from a client that takes anybody. */
  readonly peerId: PeerId | "";
  /** "" from a client. */
  readonly incarnation: Incarnation | "";
  readonly blockBytesMax: number;
  readonly requestCountMax: number;
}

const MAGIC = Buffer.from("TORUSADP");
const HELLO_CRC_OFFSET = 92;
const ZERO_UUID = "00000000-0000-0000-0000-000000000000";
const ZERO_INCARNATION = "0".repeat(2 * INCARNATION_BYTES);
const FOLD_SEED = 0xad17;
const TWO_32 = 2 ** 32;

export function encodeHello(bytes: Uint8Array, offset: number, hello: Hello): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + offset, HELLO_BYTES);
  bytes.fill(0, offset, offset + HELLO_BYTES);
  bytes.set(MAGIC, offset);
  view.setUint16(8, hello.versionMin, true);
  view.setUint16(10, hello.versionMax, true);
  view.setUint32(12, hello.status, true);
  writeHex(bytes, offset + 16, UUID_BYTES, hello.clusterId);
  writeHex(bytes, offset + 32, UUID_BYTES, hello.peerId);
  writeHex(bytes, offset + 48, INCARNATION_BYTES, hello.incarnation);
  view.setUint32(56, hello.blockBytesMax, true);
  view.setUint32(60, hello.requestCountMax, true);
  view.setUint32(HELLO_CRC_OFFSET, Bun.hash.crc32(bytes.subarray(offset, offset + HELLO_CRC_OFFSET)), true);
}

/** Undefined when the 96 bytes are no hello. */
export function decodeHello(bytes: Uint8Array, offset: number): Hello | undefined {
  const own = bytes.subarray(offset, offset + HELLO_BYTES);
  if (own.length < HELLO_BYTES || !MAGIC.equals(own.subarray(0, MAGIC.length))) return undefined;
  const view = new DataView(own.buffer, own.byteOffset, HELLO_BYTES);
  if (view.getUint32(HELLO_CRC_OFFSET, true) !== Bun.hash.crc32(own.subarray(0, HELLO_CRC_OFFSET)))
    return undefined;
  const status = view.getUint32(12, true);
  if (status > HelloStatus.garbled) return undefined;
  const peerId = readUuid(own, 32);
  const incarnation = readIncarnation(own, 48);
  return {
    versionMin: view.getUint16(8, true),
    versionMax: view.getUint16(10, true),
    status: status as HelloStatus,
    clusterId: readUuid(own, 16) as ClusterId,
    peerId: peerId === ZERO_UUID ? "" : (peerId as PeerId),
    incarnation: incarnation === ZERO_INCARNATION ? "" : incarnation,
    blockBytesMax: view.getUint32(56, true),
    requestCountMax: view.getUint32(60, true),
  };
}

function foldOf(view: DataView, offset: number): number {
  const mixed =
    view.getUint32(offset, true) ^
    view.getUint16(offset + 4, true) ^
    view.getUint32(offset + 8, true) ^
    view.getUint32(offset + 12, true);
  return ((mixed ^ (mixed >>> 16)) & 0xffff) ^ FOLD_SEED;
}

/** Whether the 16 bytes at `offset` can be a request or reply header at all. */
export function isHeaderWhole(view: DataView, offset: number): boolean {
  return view.getUint16(offset + 6, true) === foldOf(view, offset);
}

/** `extra` is the writer's epoch of a put, the CRC of a control body, else 0. */
export function encodeRequestHeader(
  view: DataView,
  offset: number,
  bodyBytes: number,
  kind: FrameKind,
  operation: number,
  extra: number,
): void {
  view.setUint32(offset, bodyBytes, true);
  view.setUint8(offset + 4, kind);
  view.setUint8(offset + 5, operation);
  view.setUint32(offset + 8, extra % TWO_32, true);
  view.setUint32(offset + 12, Math.floor(extra / TWO_32), true);
  view.setUint16(offset + 6, foldOf(view, offset), true);
}

/** The epoch or CRC of a request; may exceed 2^53, which the caller refuses. */
export function requestExtra(view: DataView, offset: number): number {
  return view.getUint32(offset + 12, true) * TWO_32 + view.getUint32(offset + 8, true);
}

export function encodeReadBody(
  view: DataView,
  offset: number,
  ref: BlockRef,
  firstSlot: number,
  slotCount: number,
): void {
  encodeBlockRef(view, offset, ref);
  view.setUint32(offset + BLOCK_REF_BYTES, firstSlot, true);
  view.setUint32(offset + BLOCK_REF_BYTES + 4, slotCount, true);
}

export function encodeReplyHeader(
  view: DataView,
  offset: number,
  bodyBytes: number,
  kind: FrameKind,
  status: number,
  ordinal: number,
  check: number,
): void {
  view.setUint32(offset, bodyBytes, true);
  view.setUint8(offset + 4, kind);
  view.setUint8(offset + 5, status);
  view.setUint32(offset + 8, ordinal % TWO_32, true);
  view.setUint32(offset + 12, check, true);
  view.setUint16(offset + 6, foldOf(view, offset), true);
}
