/**
 * The client's side of NBD's wire format, for tests: written from the protocol document and not from our server, so
 * that a number wrong in one place does not agree with itself.
 */
export class Bytes {
  readonly #parts: number[] = [];
  u8(value: number): this {
    this.#parts.push(value & 0xff);
    return this;
  }
  u16(value: number): this {
    return this.u8(value >>> 8).u8(value);
  }
  u32(value: number): this {
    return this.u16(value >>> 16).u16(value);
  }
  u64(value: bigint | number): this {
    const big = BigInt.asUintN(64, BigInt(value));
    return this.u32(Number(big >> 32n)).u32(Number(big & 0xffffffffn));
  }
  raw(bytes: Uint8Array): this {
    for (const byte of bytes) this.#parts.push(byte);
    return this;
  }
  text(text: string): this {
    return this.raw(new TextEncoder().encode(text));
  }
  done(): Uint8Array {
    return Uint8Array.from(this.#parts);
  }
}

export function concat(...parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export const IHAVEOPT = 0x49484156454f5054n;

export function clientFlags(flags = 3): Uint8Array {
  return new Bytes().u32(flags).done();
}

export function option(
  number: number,
  data: Uint8Array = new Uint8Array(0),
  lengthBytes = data.length,
): Uint8Array {
  return new Bytes().u64(IHAVEOPT).u32(number).u32(lengthBytes).raw(data).done();
}

export function infoData(name: string, types: readonly number[] = []): Uint8Array {
  const bytes = new TextEncoder().encode(name);
  const data = new Bytes().u32(bytes.length).raw(bytes).u16(types.length);
  for (const type of types) data.u16(type);
  return data.done();
}

export function metaData(name: string, queries: readonly string[]): Uint8Array {
  const data = new Bytes().u32(new TextEncoder().encode(name).length).text(name).u32(queries.length);
  for (const query of queries) data.u32(new TextEncoder().encode(query).length).text(query);
  return data.done();
}

export interface OptionReplyMessage {
  readonly option: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** Splits what a server sent during option haggling. Throws when it is not whole replies. */
export function parseOptionReplies(bytes: Uint8Array): OptionReplyMessage[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const replies: OptionReplyMessage[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (view.getBigUint64(at) !== 0x3e889045565a9n) throw new Error(`no option reply at ${at}`);
    const lengthBytes = view.getUint32(at + 16);
    const data = bytes.subarray(at + 20, at + 20 + lengthBytes);
    if (data.length !== lengthBytes) throw new Error("option reply is cut off");
    replies.push({ option: view.getUint32(at + 8), type: view.getUint32(at + 12), data });
    at += 20 + lengthBytes;
  }
  return replies;
}

export interface RequestFields {
  readonly command: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint | number;
  readonly length?: bigint | number;
  readonly payload?: Uint8Array;
  readonly magic?: number;
}

export function request(fields: RequestFields, extended = false): Uint8Array {
  const bytes = new Bytes()
    .u32(fields.magic ?? (extended ? 0x21e41c71 : 0x25609513))
    .u16(fields.flags ?? 0)
    .u16(fields.command)
    .u64(fields.cookie ?? 1n)
    .u64(fields.offset ?? 0);
  const length = fields.length ?? fields.payload?.length ?? 0;
  if (extended) bytes.u64(length);
  else bytes.u32(Number(length));
  const header = bytes.done();
  return fields.payload === undefined ? header : concat(header, fields.payload);
}

export interface ReplyMessage {
  readonly kind: "simple" | "structured" | "extended";
  readonly cookie: bigint;
  /** Of a simple reply, or of an error chunk. */
  readonly error: number;
  readonly type: number;
  readonly last: boolean;
  readonly offset: bigint;
  readonly payload: Uint8Array;
}

/** Splits what a server sent in transmission. `readLength` tells how much data follows a simple reply to a read. */
export function parseReplies(
  bytes: Uint8Array,
  readLength: (cookie: bigint) => number = () => 0,
): ReplyMessage[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const replies: ReplyMessage[] = [];
  for (let at = 0; at < bytes.length; ) {
    const magic = view.getUint32(at);
    if (magic === 0x67446698) {
      const error = view.getUint32(at + 4);
      const cookie = view.getBigUint64(at + 8);
      const lengthBytes = error === 0 ? readLength(cookie) : 0;
      const payload = bytes.subarray(at + 16, at + 16 + lengthBytes);
      if (payload.length !== lengthBytes) throw new Error("simple reply is cut off");
      replies.push({ kind: "simple", cookie, error, type: 0, last: true, offset: 0n, payload });
      at += 16 + lengthBytes;
      continue;
    }
    const extended = magic === 0x6e8a278c;
    if (!extended && magic !== 0x668e33ef)
      throw new Error(`no reply at ${at}: magic 0x${magic.toString(16)}`);
    const headerBytes = extended ? 32 : 20;
    const lengthBytes = extended ? Number(view.getBigUint64(at + 24)) : view.getUint32(at + 16);
    const type = view.getUint16(at + 6);
    const payload = bytes.subarray(at + headerBytes, at + headerBytes + lengthBytes);
    if (payload.length !== lengthBytes) throw new Error("chunk is cut off");
    replies.push({
      kind: extended ? "extended" : "structured",
      cookie: view.getBigUint64(at + 8),
      error: (type & 0x8000) === 0 ? 0 : view.getUint32(at + headerBytes),
      type,
      last: (view.getUint16(at + 4) & 1) === 1,
      offset: extended ? view.getBigUint64(at + 16) : 0n,
      payload,
    });
    at += headerBytes + lengthBytes;
  }
  return replies;
}
