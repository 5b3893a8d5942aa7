/**
 * The data of NBD's handshake options and of the replies to them, as pure functions. Parsing answers undefined
 * for whatever is malformed, and never looks beyond the bytes it was given; every length is checked before use.
 *
 *   INFO, GO            0 4 name length n | 4 n name | 4+n 2 count c | 2 bytes per information type
 *   LIST/SET_META       0 4 name length n | 4 n name | 4+n 4 count c | per query: 4 length, text
 */
import type { DeviceDescription } from "../device";
import {
  ALLOCATION_CONTEXT,
  Info,
  Magic,
  OPTION_REPLY_BYTES,
  PAYLOAD_BYTES_MAX,
  STRING_BYTES_MAX,
  TransmissionFlag,
} from "./protocol";

export interface InfoRequest {
  readonly exportName: string;
  readonly informationTypes: readonly number[];
}

export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** A string of the protocol: UTF-8, no NUL, at most 4096 bytes. Undefined when it is not. */
export function parseString(bytes: Uint8Array): string | undefined {
  if (bytes.length > STRING_BYTES_MAX || bytes.includes(0)) return undefined;
  try {
    return decoder.decode(bytes);
  } catch {
    // The only thing a fatal decoder throws for: bytes that are not UTF-8.
    return undefined;
  }
}

/** Reads fields front to back; any step beyond the end makes it `bad` for good and yields nothing. */
class Fields {
  position = 0;
  bad = false;
  readonly #view: DataView;
  constructor(readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
  #advance(lengthBytes: number): number | undefined {
    if (this.bad || lengthBytes > this.bytes.length - this.position) {
      this.bad = true;
      return undefined;
    }
    const at = this.position;
    this.position += lengthBytes;
    return at;
  }
  u16(): number {
    const at = this.#advance(2);
    return at === undefined ? 0 : this.#view.getUint16(at);
  }
  u32(): number {
    const at = this.#advance(4);
    return at === undefined ? 0 : this.#view.getUint32(at);
  }
  string(): string {
    const lengthBytes = this.u32();
    const at = this.#advance(lengthBytes);
    const text = at === undefined ? undefined : parseString(this.bytes.subarray(at, at + lengthBytes));
    if (text === undefined) this.bad = true;
    return text ?? "";
  }
  get finished(): boolean {
    return !this.bad && this.position === this.bytes.length;
  }
}

export function parseInfoRequest(bytes: Uint8Array): InfoRequest | undefined {
  const fields = new Fields(bytes);
  const exportName = fields.string();
  const count = fields.u16();
  const informationTypes: number[] = [];
  for (let index = 0; index < count && !fields.bad; index++) informationTypes.push(fields.u16());
  return fields.finished ? { exportName, informationTypes } : undefined;
}

export function parseMetaContextRequest(bytes: Uint8Array): MetaContextRequest | undefined {
  const fields = new Fields(bytes);
  const exportName = fields.string();
  const count = fields.u32();
  const queries: string[] = [];
  for (let index = 0; index < count && !fields.bad; index++) {
    const query = fields.string();
    // A query names a namespace first; the empty one and one without a colon are malformed.
    if (!query.includes(":")) fields.bad = true;
    queries.push(query);
  }
  return fields.finished ? { exportName, queries } : undefined;
}

/** Whether the queries of LIST or SET_META_CONTEXT mean base:allocation. No query at all lists everything and selects nothing. */
export function wantsAllocation(queries: readonly string[], listing: boolean): boolean {
  if (queries.length === 0) return listing;
  return queries.some((query) => query === ALLOCATION_CONTEXT || (listing && query === "base:"));
}

/** A whole option reply: header and data. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const reply = new Uint8Array(OPTION_REPLY_BYTES + data.length);
  const view = new DataView(reply.buffer);
  view.setUint32(0, Magic.optionReplyHigh);
  view.setUint32(4, Magic.optionReplyLow);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  reply.set(data, OPTION_REPLY_BYTES);
  return reply;
}

/** UTF-8, cut at a character's edge to what the protocol allows in one string. */
export function encodeText(text: string): Uint8Array {
  const bytes = encoder.encode(text);
  if (bytes.length <= STRING_BYTES_MAX) return bytes;
  let end = STRING_BYTES_MAX;
  while (((bytes[end] as number) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

/** Data of a SERVER reply: one line of LIST. */
export function encodeServerEntry(device: DeviceDescription): Uint8Array {
  const name = encodeText(device.name);
  const description = encodeText(device.description);
  const data = new Uint8Array(4 + name.length + description.length);
  new DataView(data.buffer).setUint32(0, name.length);
  data.set(name, 4);
  data.set(description, 4 + name.length);
  return data;
}

export function encodeMetaContext(contextId: number, name: string): Uint8Array {
  const text = encodeText(name);
  const data = new Uint8Array(4 + text.length);
  new DataView(data.buffer).setUint32(0, contextId);
  data.set(text, 4);
  return data;
}

export function encodeExportInfo(sizeBytes: number, flags: number): Uint8Array {
  const data = new Uint8Array(12);
  const view = new DataView(data.buffer);
  view.setUint16(0, Info.export);
  setU64(view, 2, sizeBytes);
  view.setUint16(10, flags);
  return data;
}

export function encodeTextInfo(type: number, text: string): Uint8Array {
  const bytes = encodeText(text);
  const data = new Uint8Array(2 + bytes.length);
  new DataView(data.buffer).setUint16(0, type);
  data.set(bytes, 2);
  return data;
}

export function encodeBlockSizeInfo(preferredBytes: number): Uint8Array {
  const data = new Uint8Array(14);
  const view = new DataView(data.buffer);
  view.setUint16(0, Info.blockSize);
  view.setUint32(2, 1);
  view.setUint32(6, preferredBytes);
  view.setUint32(10, PAYLOAD_BYTES_MAX);
  return data;
}

export function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / 0x1_0000_0000));
  view.setUint32(offset + 4, value >>> 0);
}

/** What the export can do, given whether the replies can be structured. */
export function transmissionFlags(readOnly: boolean, structured: boolean): number {
  let flags =
    TransmissionFlag.hasFlags |
    TransmissionFlag.sendFlush |
    TransmissionFlag.sendFua |
    TransmissionFlag.sendCache |
    // Every connection shares one open volume, so a flush on one covers the writes of all.
    TransmissionFlag.canMultiConnection;
  if (structured) flags |= TransmissionFlag.sendDoNotFragment;
  if (readOnly) return flags | TransmissionFlag.readOnly;
  flags |= TransmissionFlag.sendTrim | TransmissionFlag.sendWriteZeroes | TransmissionFlag.sendFastZero;
  return flags;
}

/**
 * What the kernel's client is told of an export that this process attaches to it. Without a write cache (everything
 * answered is durable) it sends no flushes.
 */
export function kernelFlags(device: Pick<DeviceDescription, "readOnly">, writeCache = true): number {
  const flags = transmissionFlags(device.readOnly, false);
  return writeCache ? flags : flags & ~(TransmissionFlag.sendFlush | TransmissionFlag.sendFua);
}
