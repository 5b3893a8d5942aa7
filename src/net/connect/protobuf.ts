/**
 * Protobuf's wire format by hand, for the two messages whose bulk is block bytes: a generic codec copies those several
 * times. Every field starts with a varint (field number << 3 | wire type); type 0 is a varint, 1 eight bytes,
 * 2 a length and that many bytes, 5 four bytes. Readers look only at the range they were given and throw
 * "malformed" for anything else; unknown fields are skipped, as protobuf demands.
 */
import { ConnectStorageError } from "./errors";

export const WireType = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

function malformed(problem: string): ConnectStorageError {
  return new ConnectStorageError("malformed", `Cannot read a message: ${problem}`);
}

export function tagOf(field: number, wireType: number): number {
  return (field << 3) | wireType;
}

export class FieldReader {
  #position: number;
  readonly #view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    start = 0,
    private readonly end = bytes.length,
  ) {
    this.#position = start;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get position(): number {
    return this.#position;
  }

  /** The next field's tag, or 0 at the end. */
  tag(): number {
    if (this.#position >= this.end) return 0;
    const tag = this.varint();
    if (tag < 8 || tag > 0xffffffff) throw malformed(`field tag ${tag}`);
    return tag;
  }

  /** Any varint; above 2^53-1 the value is capped there: it names nothing that can exist. */
  varint(): number {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#position >= this.end) throw malformed("it ends inside a number");
      const byte = this.bytes[this.#position++] as number;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return Math.min(value, Number.MAX_SAFE_INTEGER);
    }
    throw malformed("a number of more than ten bytes");
  }

  fixed32(): number {
    const at = this.#advance(4);
    return this.#view.getUint32(at, true);
  }

  /** Skips a length-delimited field's body and answers where it starts; it ends at `position`. */
  block(): number {
    return this.#advance(this.varint());
  }

  skip(tag: number): void {
    switch (tag & 7) {
      case WireType.varint:
        this.varint();
        return;
      case WireType.fixed64:
        this.#advance(8);
        return;
      case WireType.bytes:
        this.block();
        return;
      case WireType.fixed32:
        this.#advance(4);
        return;
      default:
        throw malformed(`wire type ${tag & 7}`);
    }
  }

  #advance(lengthBytes: number): number {
    if (lengthBytes > this.end - this.#position)
      throw malformed(`a field of ${lengthBytes} bytes with ${this.end - this.#position} left`);
    const at = this.#position;
    this.#position += lengthBytes;
    return at;
  }
}

export function varintBytes(value: number): number {
  let count = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) count++;
  return count;
}

/** Writes into memory that is known to be large enough. */
export class FieldWriter {
  position: number;
  readonly #view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    start = 0,
  ) {
    this.position = start;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  varint(value: number): this {
    let rest = value;
    while (rest >= 0x80) {
      this.bytes[this.position++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.bytes[this.position++] = rest;
    return this;
  }

  fixed32(value: number): this {
    this.#view.setUint32(this.position, value, true);
    this.position += 4;
    return this;
  }

  raw(source: Uint8Array): this {
    this.bytes.set(source, this.position);
    this.position += source.length;
    return this;
  }
}
