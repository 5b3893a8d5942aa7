/** Every bound of the NBD server, named, with its default; checked once when a server is made. */
import { assert } from "../../base";
import { PAYLOAD_BYTES_MAX } from "./protocol";

export interface NbdLimits {
  /** Connections at once; further ones are closed at once. */
  readonly connectionCountMax: number;
  /** From accept to the end of the handshake. */
  readonly handshakeTimeoutMs: number;
  /** A connection without any request for this long is closed. 0: never, as a mounted but quiet disk is normal. */
  readonly idleTimeoutMs: number;
  /** A client that began a request and sends nothing more of it for this long is closed. 0: never. */
  readonly requestTimeoutMs: number;
  /** A client that takes no reply, or stops in the middle of a request, for this long is closed, but only while others wait for its memory. */
  readonly stallTimeoutMs: number;
  /** Request data a client may have in flight, answers it has not taken included. One request always passes. */
  readonly clientBytesMax: number;
  /** Requests a client may have in flight. */
  readonly clientRequestCountMax: number;
  /** Request data of all clients together. */
  readonly bufferBytesMax: number;
}

const NBD_LIMITS_DEFAULT: NbdLimits = {
  connectionCountMax: 1024,
  handshakeTimeoutMs: 30_000,
  idleTimeoutMs: 0,
  requestTimeoutMs: 120_000,
  stallTimeoutMs: 30_000,
  clientBytesMax: 64 * 1024 * 1024,
  clientRequestCountMax: 1024,
  bufferBytesMax: 256 * 1024 * 1024,
};

export function checkedLimits(limits: Partial<NbdLimits>): NbdLimits {
  const merged = { ...NBD_LIMITS_DEFAULT, ...limits };
  for (const [name, value] of Object.entries(merged))
    assert(Number.isSafeInteger(value) && value >= 0, `NBD limit ${name} is ${value}, not a count`);
  assert(merged.connectionCountMax > 0, "NBD limit connectionCountMax is 0");
  assert(merged.clientRequestCountMax > 0, "NBD limit clientRequestCountMax is 0");
  // A simple reply to the largest read needs all of its data before its first byte leaves.
  assert(
    merged.bufferBytesMax >= 2 * PAYLOAD_BYTES_MAX,
    `NBD limit bufferBytesMax is ${merged.bufferBytesMax}, less than two of the largest requests`,
  );
  return merged;
}
