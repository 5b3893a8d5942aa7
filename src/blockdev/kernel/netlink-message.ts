/**
 * Generic netlink messages as bytes (linux/netlink.h, linux/genetlink.h; numbers in the machine's order, which is
 * little-endian wherever torus runs):
 *
 *   message    0 4 length | 4 2 type | 6 2 flags | 8 4 sequence | 12 4 port      = 16
 *   generic    0 1 command | 1 1 version | 2 2 reserved                          = 4, then attributes
 *   attribute  0 2 length (of header and data) | 2 2 type | data, padded to 4
 *   error      0 4 -errno (0: done) | the header of the request                  (message type 2)
 */
export const NETLINK_HEADER_BYTES = 16;
export const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
export const NLMSG_ERROR = 2;
export const NLM_F_REQUEST = 1;
export const NLM_F_ACK = 4;
/** Set in the types of attributes that hold attributes. */
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

const padded = (lengthBytes: number) => (lengthBytes + 3) & ~3;

/** Attributes under construction; each method adds one. */
export class AttributeWriter {
  readonly #parts: Uint8Array[] = [];
  #lengthBytes = 0;

  bytes(type: number, data: Uint8Array): this {
    const attribute = new Uint8Array(padded(ATTRIBUTE_HEADER_BYTES + data.length));
    const view = new DataView(attribute.buffer);
    view.setUint16(0, ATTRIBUTE_HEADER_BYTES + data.length, true);
    view.setUint16(2, type, true);
    attribute.set(data, ATTRIBUTE_HEADER_BYTES);
    this.#parts.push(attribute);
    this.#lengthBytes += attribute.length;
    return this;
  }

  u32(type: number, value: number): this {
    const data = new Uint8Array(4);
    new DataView(data.buffer).setUint32(0, value, true);
    return this.bytes(type, data);
  }

  u64(type: number, value: number): this {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, BigInt(value), true);
    return this.bytes(type, data);
  }

  /** With the NUL that the kernel wants at its end. */
  text(type: number, value: string): this {
    return this.bytes(type, new TextEncoder().encode(`${value}\0`));
  }

  nested(type: number, inner: AttributeWriter): this {
    return this.bytes(type | NLA_F_NESTED, inner.finish());
  }

  finish(): Uint8Array {
    const all = new Uint8Array(this.#lengthBytes);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

export function encodeGenericMessage(
  family: number,
  sequence: number,
  command: number,
  attributes: Uint8Array,
): Uint8Array {
  const message = new Uint8Array(NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES + attributes.length);
  const view = new DataView(message.buffer);
  view.setUint32(0, message.length, true);
  view.setUint16(4, family, true);
  view.setUint16(6, NLM_F_REQUEST | NLM_F_ACK, true);
  view.setUint32(8, sequence, true);
  message[NETLINK_HEADER_BYTES] = command;
  message[NETLINK_HEADER_BYTES + 1] = 1;
  message.set(attributes, NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES);
  return message;
}

export interface NetlinkMessage {
  readonly type: number;
  readonly sequence: number;
  /** Of an error message: the positive errno, 0 for an acknowledgement. */
  readonly errno: number;
  /** Of any other message: what follows the generic header. */
  readonly attributes: ReadonlyMap<number, Uint8Array>;
}

/** Splits what one recv brought; undefined for bytes that are no netlink messages. */
export function parseMessages(bytes: Uint8Array): readonly NetlinkMessage[] | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + NETLINK_HEADER_BYTES > bytes.length) return undefined;
    const lengthBytes = view.getUint32(at, true);
    const type = view.getUint16(at + 4, true);
    const sequence = view.getUint32(at + 8, true);
    if (lengthBytes < NETLINK_HEADER_BYTES + 4 || at + lengthBytes > bytes.length) return undefined;
    const body = bytes.subarray(at + NETLINK_HEADER_BYTES, at + lengthBytes);
    if (type === NLMSG_ERROR) {
      const errno = Math.abs(view.getInt32(at + NETLINK_HEADER_BYTES, true));
      messages.push({ type, sequence, errno, attributes: new Map() });
    } else {
      const attributes = parseAttributes(body.subarray(GENERIC_HEADER_BYTES));
      if (attributes === undefined) return undefined;
      messages.push({ type, sequence, errno: 0, attributes: new Map(attributes) });
    }
    at += padded(lengthBytes);
  }
  return messages;
}

/** Type and data of each attribute, in order; undefined when they do not add up. */
export function parseAttributes(bytes: Uint8Array): readonly (readonly [number, Uint8Array])[] | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const attributes: [number, Uint8Array][] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + ATTRIBUTE_HEADER_BYTES > bytes.length) return undefined;
    const lengthBytes = view.getUint16(at, true);
    if (lengthBytes < ATTRIBUTE_HEADER_BYTES || at + lengthBytes > bytes.length) return undefined;
    const type = view.getUint16(at + 2, true) & NLA_TYPE_MASK;
    attributes.push([type, bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + lengthBytes)]);
    at += padded(lengthBytes);
  }
  return attributes;
}

/** A number attribute of 1, 2, 4 or 8 bytes. */
export function numberOf(data: Uint8Array | undefined): number | undefined {
  if (data === undefined) return undefined;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  switch (data.length) {
    case 1:
      return view.getUint8(0);
    case 2:
      return view.getUint16(0, true);
    case 4:
      return view.getUint32(0, true);
    case 8:
      return Number(view.getBigUint64(0, true));
    default:
      return undefined;
  }
}
