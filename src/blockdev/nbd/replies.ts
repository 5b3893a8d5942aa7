/**
 * Replies of the transmission phase, encoded straight into the connection's output, or, for read data, into the
 * headroom directly before the data, so that header and data leave as one piece of memory.
 */
import type { StreamConnection } from "../../base/io";
import type { DeviceExtent } from "../device";
import type { ReplyStyle } from "./handshake";
import {
  ALLOCATION_CONTEXT_ID,
  Command,
  EXTENDED_HEADER_BYTES,
  ExtentFlag,
  Magic,
  REPLY_FLAG_DONE,
  ReplyType,
  SIMPLE_REPLY_BYTES,
  STRUCTURED_HEADER_BYTES,
} from "./protocol";
import type { Request, RequestPiece } from "./request";

/** What a reply repeats of its request. */
export interface ReplyTo {
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetBytes: number;
}

/** Most block status descriptors in one reply: what one reservation of output (4096 bytes) holds. */
export const EXTENT_COUNT_MAX = 250;

/** A reply without data: done, or failed with `error`. */
export function replyPlain(
  connection: StreamConnection,
  style: ReplyStyle,
  to: ReplyTo,
  error: number,
): void {
  if (style === "simple" || (style === "structured" && to.command !== Command.read)) {
    const { buffer, offset } = connection.reserve(SIMPLE_REPLY_BYTES);
    encodeSimple(buffer.view, offset, to, error);
    return;
  }
  const payloadBytes = error === 0 ? 0 : 6;
  const headerBytes = chunkHeaderBytes(style);
  const { buffer, offset } = connection.reserve(headerBytes + payloadBytes);
  const type = error === 0 ? ReplyType.none : ReplyType.error;
  encodeChunk(buffer.view, offset, style, to, REPLY_FLAG_DONE, type, payloadBytes);
  if (error === 0) return;
  buffer.view.setUint32(offset + headerBytes, error);
  buffer.view.setUint16(offset + headerBytes + 4, 0);
}

/** The whole of a read as one reply: its pieces, in order, behind one header. */
export function replyWholeRead(connection: StreamConnection, style: ReplyStyle, request: Request): void {
  const first = request.pieces[0] as RequestPiece;
  let headerBytes = SIMPLE_REPLY_BYTES;
  if (style === "simple") encodeSimple(first.buffer.view, first.offset - headerBytes, request, 0);
  else headerBytes = encodeDataHeader(first, style, request, request.lengthBytes, true);
  connection.writeLent(
    first.buffer,
    first.offset - headerBytes,
    headerBytes + first.lengthBytes,
    first.release,
  );
  for (let index = 1; index < request.pieces.length; index++) {
    const piece = request.pieces[index] as RequestPiece;
    connection.writeLent(piece.buffer, piece.offset, piece.lengthBytes, piece.release);
  }
}

/** One piece of a read as a chunk of its own. */
export function replyReadChunk(
  connection: StreamConnection,
  style: ReplyStyle,
  request: Request,
  piece: RequestPiece,
  last: boolean,
): void {
  const headerBytes = encodeDataHeader(piece, style, request, piece.lengthBytes, last);
  connection.writeLent(
    piece.buffer,
    piece.offset - headerBytes,
    headerBytes + piece.lengthBytes,
    piece.release,
  );
}

/** Block status of base:allocation. The device may say more than was asked: cut to the request. */
export function replyExtents(
  connection: StreamConnection,
  style: ReplyStyle,
  request: Request,
  extents: readonly DeviceExtent[],
): void {
  const extended = style === "extended";
  const count = Math.min(extents.length, EXTENT_COUNT_MAX);
  const headerBytes = chunkHeaderBytes(style);
  const payloadBytes = extended ? 8 + 16 * count : 4 + 8 * count;
  const { buffer, offset } = connection.reserve(headerBytes + payloadBytes);
  const { view } = buffer;
  const type = extended ? ReplyType.blockStatusExtended : ReplyType.blockStatus;
  encodeChunk(view, offset, style, request, REPLY_FLAG_DONE, type, payloadBytes);
  let at = offset + headerBytes;
  view.setUint32(at, ALLOCATION_CONTEXT_ID);
  at += 4;
  if (extended) {
    view.setUint32(at, count);
    at += 4;
  }
  let remainingBytes = request.lengthBytes;
  for (let index = 0; index < count; index++) {
    const extent = extents[index] as DeviceExtent;
    const lengthBytes = Math.min(extent.lengthBytes, remainingBytes);
    remainingBytes -= lengthBytes;
    const flags = extent.hole ? ExtentFlag.hole | ExtentFlag.zero : 0;
    if (extended) {
      view.setUint32(at, Math.floor(lengthBytes / 0x1_0000_0000));
      view.setUint32(at + 4, lengthBytes >>> 0);
      view.setUint32(at + 8, 0);
      view.setUint32(at + 12, flags);
      at += 16;
    } else {
      view.setUint32(at, lengthBytes);
      view.setUint32(at + 4, flags);
      at += 8;
    }
  }
}

function chunkHeaderBytes(style: ReplyStyle): number {
  return style === "extended" ? EXTENDED_HEADER_BYTES : STRUCTURED_HEADER_BYTES;
}

function encodeSimple(view: DataView, at: number, to: ReplyTo, error: number): void {
  view.setUint32(at, Magic.simpleReply);
  view.setUint32(at + 4, error);
  view.setInt32(at + 8, to.cookieHigh);
  view.setInt32(at + 12, to.cookieLow);
}

function encodeChunk(
  view: DataView,
  at: number,
  style: ReplyStyle,
  to: ReplyTo,
  flags: number,
  type: number,
  payloadBytes: number,
): void {
  view.setUint32(at, style === "extended" ? Magic.extendedReply : Magic.structuredReply);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setInt32(at + 8, to.cookieHigh);
  view.setInt32(at + 12, to.cookieLow);
  if (style === "structured") {
    view.setUint32(at + 16, payloadBytes);
    return;
  }
  view.setUint32(at + 16, Math.floor(to.offsetBytes / 0x1_0000_0000));
  view.setUint32(at + 20, to.offsetBytes >>> 0);
  view.setUint32(at + 24, 0);
  view.setUint32(at + 28, payloadBytes);
}

/** Chunk header and data offset directly before the piece's data; returns how many bytes that took. */
function encodeDataHeader(
  piece: RequestPiece,
  style: ReplyStyle,
  request: Request,
  dataBytes: number,
  last: boolean,
): number {
  const headerBytes = chunkHeaderBytes(style) + 8;
  const { view } = piece.buffer;
  const at = piece.offset - headerBytes;
  encodeChunk(view, at, style, request, last ? REPLY_FLAG_DONE : 0, ReplyType.offsetData, 8 + dataBytes);
  view.setUint32(piece.offset - 8, Math.floor(piece.deviceOffset / 0x1_0000_0000));
  view.setUint32(piece.offset - 4, piece.deviceOffset >>> 0);
  return headerBytes;
}
