/**
 * Writing and reading the little-endian bodies of control frames. The reader takes bytes from anywhere: every read
 * is checked against the end, every count against what is left before anything is allocated for it, and every
 * number against the range that a JavaScript number holds exactly.
 */
import {
  BLOCK_REF_BYTES,
  type BlockRef,
  type ClusterId,
  decodeBlockRef,
  encodeBlockRef,
  type Incarnation,
  type PeerId,
} from "../../base";
import { AdpError } from "./errors";

export const UUID_BYTES = 16;
export const INCARNATION_BYTES = 8;
const TWO_32 = 2 ** 32;

/** Writes `lengthBytes` bytes from hexadecimal digits with or without dashes; an empty text becomes zeros. */
export function writeHex(bytes: Uint8Array, offset: number, lengthBytes: number, text: string): void {
  const digits = text.replaceAll("-", "");
  for (let index = 0; index < lengthBytes; index++)
    bytes[offset + index] = digits === "" ? 0 : Number.parseInt(digits.slice(2 * index, 2 * index + 2), 16);
}

function hexDigits(bytes: Uint8Array, offset: number, lengthBytes: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, lengthBytes).toString("hex");
}

export function readUuid(bytes: Uint8Array, offset: number): string {
  const digits = hexDigits(bytes, offset, UUID_BYTES);
  return [
    digits.slice(0, 8),
    digits.slice(8, 12),
    digits.slice(12, 16),
    digits.slice(16, 20),
    digits.slice(20),
  ].join("-");
}

export function readIncarnation(bytes: Uint8Array, offset: number): Incarnation {
  return hexDigits(bytes, offset, INCARNATION_BYTES) as Incarnation;
}

export class ByteWriter {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  u8(value: number): this {
    const offset = this.#grow(1);
    this.#view.setUint8(offset, value);
    return this;
  }

  u16(value: number): this {
    const offset = this.#grow(2);
    this.#view.setUint16(offset, value, true);
    return this;
  }

  u32(value: number): this {
    const offset = this.#grow(4);
    this.#view.setUint32(offset, value, true);
    return this;
  }

  u64(value: number): this {
    const offset = this.#grow(8);
    this.#view.setUint32(offset, value % TWO_32, true);
    this.#view.setUint32(offset + 4, Math.floor(value / TWO_32), true);
    return this;
  }

  ref(ref: BlockRef): this {
    const offset = this.#grow(BLOCK_REF_BYTES);
    encodeBlockRef(this.#view, offset, ref);
    return this;
  }

  hex(lengthBytes: number, text: string): this {
    const offset = this.#grow(lengthBytes);
    writeHex(this.#bytes, offset, lengthBytes, text);
    return this;
  }

  /** u16 length, then UTF-8. */
  text(text: string): this {
    const encoded = Buffer.from(text);
    this.u16(encoded.length);
    const offset = this.#grow(encoded.length);
    this.#bytes.set(encoded, offset);
    return this;
  }

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  /** May replace bytes and view: take the offset first. */
  #grow(lengthBytes: number): number {
    const offset = this.#length;
    this.#length += lengthBytes;
    if (this.#length > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length));
      bytes.set(this.#bytes);
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer);
    }
    return offset;
  }
}

/** Throws AdpError "bad-frame". */
export class ByteReader {
  readonly #view: DataView;
  #offset = 0;

  constructor(private readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): number {
    const offset = this.#take(8);
    const value = this.#view.getUint32(offset + 4, true) * TWO_32 + this.#view.getUint32(offset, true);
    if (!Number.isSafeInteger(value)) throw badFrame("a number is above 2^53");
    return value;
  }

  ref(): BlockRef {
    const ref = decodeBlockRef(this.#view, this.#take(BLOCK_REF_BYTES));
    if (ref === undefined) throw badFrame("a block name cannot exist");
    return ref;
  }

  uuid(): string {
    return readUuid(this.bytes, this.#take(UUID_BYTES));
  }

  peerId(): PeerId {
    return this.uuid() as PeerId;
  }

  clusterId(): ClusterId {
    return this.uuid() as ClusterId;
  }

  incarnation(): Incarnation {
    return readIncarnation(this.bytes, this.#take(INCARNATION_BYTES));
  }

  text(): string {
    const lengthBytes = this.u16();
    const offset = this.#take(lengthBytes);
    return Buffer.from(this.bytes.subarray(offset, offset + lengthBytes)).toString();
  }

  /** A u32 count of items of at least `itemBytes` each, which must still be there. */
  count(itemBytes: number, countMax: number): number {
    const count = this.u32();
    if (count > countMax) throw badFrame(`${count} items are more than ${countMax}`);
    if (count * itemBytes > this.bytes.length - this.#offset) throw badFrame("items are missing");
    return count;
  }

  get isAtEnd(): boolean {
    return this.#offset === this.bytes.length;
  }

  end(): void {
    if (!this.isAtEnd) throw badFrame("bytes are left over");
  }

  #take(lengthBytes: number): number {
    const offset = this.#offset;
    if (lengthBytes > this.bytes.length - offset) throw badFrame("it ends too early");
    this.#offset = offset + lengthBytes;
    return offset;
  }
}

export function badFrame(problem: string): AdpError {
  return new AdpError("bad-frame", `Cannot read a frame: ${problem}`);
}
