/**
 * DER, as far as certificates need it (X.690). Every value is tag, length, content; lengths below 128 take one
 * byte, others a byte that counts the big-endian bytes that follow.
 */

function encodeLength(lengthBytes: number): number[] {
  if (lengthBytes < 0x80) return [lengthBytes];
  const bytes: number[] = [];
  for (let rest = lengthBytes; rest > 0; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256);
  return [0x80 | bytes.length, ...bytes];
}

export function tagged(tag: number, content: Uint8Array): Uint8Array {
  return Buffer.concat([Uint8Array.from([tag, ...encodeLength(content.length)]), content]);
}

export const sequence = (...parts: readonly Uint8Array[]) => tagged(0x30, Buffer.concat(parts));
export const set = (...parts: readonly Uint8Array[]) => tagged(0x31, Buffer.concat(parts));
export const octetString = (content: Uint8Array) => tagged(0x04, content);
export const utf8String = (text: string) => tagged(0x0c, Buffer.from(text));
export const boolean = (value: boolean) => tagged(0x01, Uint8Array.from([value ? 0xff : 0]));
/** `[number]` around whole values. */
export const explicit = (number: number, content: Uint8Array) => tagged(0xa0 | number, content);
/** `[number]` in place of a primitive value's own tag. */
export const implicit = (number: number, content: Uint8Array) => tagged(0x80 | number, content);

/** Of unsigned big-endian bytes. */
export function integer(bytes: Uint8Array): Uint8Array {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const trimmed = bytes.subarray(start);
  // The first bit is the sign.
  return tagged(
    0x02,
    ((trimmed[0] ?? 0) & 0x80) === 0 ? trimmed : Buffer.concat([Uint8Array.of(0), trimmed]),
  );
}

/** `unused` bits at the end do not count. */
export const bitString = (content: Uint8Array, unused = 0) =>
  tagged(0x03, Buffer.concat([Uint8Array.of(unused), content]));

/** Of dotted text. */
export function objectIdentifier(dotted: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const septets = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      septets.unshift(0x80 | (left & 0x7f));
    bytes.push(...septets);
  }
  return tagged(0x06, Uint8Array.from(bytes));
}

/** UTCTime until 2049 and GeneralizedTime from 2050, as RFC 5280 wants it; to the second. */
export function time(wallMs: number): Uint8Array {
  const text = `${new Date(wallMs).toISOString().slice(0, 19).replace(/[-T:]/g, "")}Z`;
  return text < "2050" ? tagged(0x17, Buffer.from(text.slice(2))) : tagged(0x18, Buffer.from(text));
}
