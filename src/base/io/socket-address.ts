/**
 * Stream addresses (`host:port`, `[v6]:port`, `unix:/path`) between their text and the kernel's sockaddr.
 * The loop takes numeric hosts only; `resolveStreamAddress` turns a host name into one beforehand, off the loop.
 *
 *   | family   | layout of the sockaddr                                                        |
 *   |----------|-------------------------------------------------------------------------------|
 *   | AF_INET  | u16 family, u16 port (big-endian), 4 address bytes, 8 zero: 16 bytes           |
 *   | AF_INET6 | u16 family, u16 port (big-endian), u32 flow, 16 address bytes, u32 scope: 28   |
 *   | AF_UNIX  | u16 family, path, NUL: at most 110                                             |
 */
import { lookup } from "node:dns/promises";
import { isIP, isIPv4, isIPv6 } from "node:net";
import { IoError } from "./errors";
import { C } from "./libc";
import type { StreamAddress } from "./stream";

const UNIX_PATH_BYTES_MAX = 107;
const UNIX_PREFIX = "unix:";

export type ParsedAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

function badAddress(address: string, problem: string): IoError {
  return new IoError(
    "bad-address",
    `Cannot use address "${address}": ${problem}; write host:port, [v6]:port or unix:/path`,
    { exitCode: 2 },
  );
}

/** Throws IoError "bad-address". The host may still be a name. */
export function parseStreamAddress(address: StreamAddress): ParsedAddress {
  if (address.startsWith(UNIX_PREFIX)) {
    const path = address.slice(UNIX_PREFIX.length);
    const lengthBytes = Buffer.byteLength(path);
    if (lengthBytes === 0 || path.includes("\0"))
      throw badAddress(address, "the socket path is empty or has a NUL");
    if (lengthBytes > UNIX_PATH_BYTES_MAX)
      throw badAddress(
        address,
        `the socket path has ${lengthBytes} bytes, at most ${UNIX_PATH_BYTES_MAX} fit`,
      );
    return { kind: "unix", path };
  }
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]/\s]+)):([0-9]{1,5})$/.exec(address);
  if (match === null) throw badAddress(address, "it has no such form");
  const host = (match[1] ?? match[2]) as string;
  const port = Number(match[3]);
  if (port > 65535) throw badAddress(address, `port ${port} is above 65535`);
  if (match[1] !== undefined && !isIPv6(host)) throw badAddress(address, "the brackets hold no IPv6 address");
  return { kind: "tcp", host, port };
}

export function formatStreamAddress(parsed: ParsedAddress): StreamAddress {
  if (parsed.kind === "unix") return UNIX_PREFIX + parsed.path;
  return isIPv6(parsed.host) ? `[${parsed.host}]:${parsed.port}` : `${parsed.host}:${parsed.port}`;
}

function ipv6Groups(text: string): number[] {
  if (text === "") return [];
  return text.split(":").flatMap((group) => {
    if (!group.includes(".")) return [Number.parseInt(group, 16)];
    const [a = 0, b = 0, c = 0, d = 0] = group.split(".").map(Number);
    return [a * 256 + b, c * 256 + d];
  });
}

function ipv6Bytes(host: string): number[] {
  const [left = "", right] = host.split("::");
  const head = ipv6Groups(left);
  const tail = right === undefined ? [] : ipv6Groups(right);
  const zeros = right === undefined ? 0 : 8 - head.length - tail.length;
  return [...head, ...Array<number>(zeros).fill(0), ...tail].flatMap((group) => [group >> 8, group & 0xff]);
}

/** The sockaddr of a numeric address; throws IoError "bad-address" for a host name. */
export function encodeSocketAddress(parsed: ParsedAddress): { family: number; bytes: Uint8Array } {
  if (parsed.kind === "unix") {
    const path = Buffer.from(`${parsed.path}\0`);
    const bytes = new Uint8Array(2 + path.length);
    new DataView(bytes.buffer).setUint16(0, C.AF_UNIX, true);
    bytes.set(path, 2);
    return { family: C.AF_UNIX, bytes };
  }
  const isV6 = isIPv6(parsed.host);
  if (!isV6 && !isIPv4(parsed.host))
    throw badAddress(formatStreamAddress(parsed), "the host name was not resolved");
  const family = isV6 ? C.AF_INET6 : C.AF_INET;
  const bytes = new Uint8Array(isV6 ? 28 : 16);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, parsed.port, false);
  if (isV6) bytes.set(ipv6Bytes(parsed.host), 8);
  else bytes.set(parsed.host.split(".").map(Number), 4);
  return { family, bytes };
}

/** The text of a sockaddr as the kernel fills it in; `unix` for a socket without a name. */
export function decodeSocketAddress(bytes: Uint8Array): StreamAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const family = view.getUint16(0, true);
  if (family === C.AF_INET) return `${bytes.subarray(4, 8).join(".")}:${view.getUint16(2, false)}`;
  if (family === C.AF_INET6) {
    const groups = Array.from({ length: 8 }, (_, index) => view.getUint16(8 + 2 * index, false).toString(16));
    // URL knows the one canonical short form.
    const host = new URL(`http://[${groups.join(":")}]`).hostname.slice(1, -1);
    return `[${host}]:${view.getUint16(2, false)}`;
  }
  return "unix";
}

/** Turns a host name into a numeric address, preferring IPv4. Throws IoError "resolve-failed" after `timeoutMs`. */
export async function resolveStreamAddress(
  address: StreamAddress,
  timeoutMs: number,
): Promise<StreamAddress> {
  const parsed = parseStreamAddress(address);
  if (parsed.kind === "unix" || isIP(parsed.host) !== 0) return address;
  const failed = (reason: string, cause?: unknown) =>
    new IoError("resolve-failed", `Cannot resolve host "${parsed.host}" of ${address}: ${reason}`, {
      retryable: true,
      cause,
    });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(failed(`no answer in ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    const found = await Promise.race([lookup(parsed.host, { all: true }), timeout]);
    const best = found.find((entry) => entry.family === 4) ?? found[0];
    if (best === undefined) throw failed("it has no address");
    return formatStreamAddress({ kind: "tcp", host: best.address, port: parsed.port });
  } catch (error) {
    if (error instanceof IoError) throw error;
    throw failed(error instanceof Error ? error.message : String(error), error);
  } finally {
    clearTimeout(timer);
  }
}
