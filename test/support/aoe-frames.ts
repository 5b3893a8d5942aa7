/**
 * AoE as a client writes it: frames built and read byte by byte, on purpose without the code under test, so that a
 * mistake in its table of offsets shows.
 */

export interface AoeRequest {
  readonly command: number;
  readonly tag?: number;
  readonly major?: number;
  readonly minor?: number;
  readonly argument: Uint8Array;
  readonly destination?: string;
  readonly source?: string;
  readonly version?: number;
}

export const TARGET_MAC = "02:00:00:00:00:01";
export const CLIENT_MAC = "02:00:00:00:00:02";
export const OTHER_MAC = "02:00:00:00:00:03";
export const EVERYBODY = "ff:ff:ff:ff:ff:ff";

export function macBytes(text: string): number[] {
  return text.split(":").map((digits) => Number.parseInt(digits, 16));
}

export function aoeFrame(request: AoeRequest): Uint8Array {
  const { major = 7, minor = 3, tag = 1, version = 1 } = request;
  return new Uint8Array([
    ...macBytes(request.destination ?? TARGET_MAC),
    ...macBytes(request.source ?? CLIENT_MAC),
    ...[0x88, 0xa2, version << 4, 0],
    ...[major >> 8, major & 0xff, minor, request.command],
    ...[(tag >>> 24) & 0xff, (tag >> 16) & 0xff, (tag >> 8) & 0xff, tag & 0xff],
    ...request.argument,
  ]);
}

export interface AtaArgument {
  readonly command: number;
  readonly lba?: number;
  readonly count?: number;
  readonly feature?: number;
  readonly data?: Uint8Array;
}

export function ataArgument({ command, lba = 0, count = 0, feature = 0, data }: AtaArgument): Uint8Array {
  const bytes = new Uint8Array(12 + (data?.length ?? 0));
  bytes.set([data === undefined ? 0x40 : 0x41, feature, count, command]);
  for (let index = 0; index < 6; index++) bytes[4 + index] = Math.floor(lba / 256 ** index) % 256;
  if (data !== undefined) bytes.set(data, 12);
  return bytes;
}

export function configArgument(command: number, text = ""): Uint8Array {
  const string = new TextEncoder().encode(text);
  return new Uint8Array([0, 0, 0, 0, 0, 0x10 | command, string.length >> 8, string.length & 0xff, ...string]);
}

export interface AoeAnswer {
  readonly destination: string;
  readonly source: string;
  readonly isResponse: boolean;
  readonly isError: boolean;
  readonly error: number;
  readonly major: number;
  readonly minor: number;
  readonly command: number;
  readonly tag: number;
  readonly argument: Uint8Array;
  /** Of ATA answers. */
  readonly ataStatus: number;
  readonly ataError: number;
  readonly data: Uint8Array;
  readonly lengthBytes: number;
}

export function readAnswer(frame: Uint8Array): AoeAnswer {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const mac = (at: number) =>
    [...frame.subarray(at, at + 6)].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
  return {
    destination: mac(0),
    source: mac(6),
    isResponse: (frame[14]! & 8) !== 0,
    isError: (frame[14]! & 4) !== 0,
    error: frame[15]!,
    major: view.getUint16(16),
    minor: frame[18]!,
    command: frame[19]!,
    tag: view.getUint32(20),
    argument: frame.subarray(24),
    ataStatus: frame[27]!,
    ataError: frame[25]!,
    data: frame.subarray(36),
    lengthBytes: frame.length,
  };
}
