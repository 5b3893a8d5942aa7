/**
 * The bytes of ATA over Ethernet (AoE, protocol version 1; "AoEr11"). Every frame is one Ethernet frame of type
 * 0x88A2, all numbers big-endian but for the LBA. Nothing here does I/O or keeps state.
 *
 *   offset size field
 *        0    6 destination MAC
 *        6    6 source MAC
 *       12    2 Ethernet type 0x88A2
 *       14    1 version (high 4 bits) = 1; flags: 8 response, 4 error
 *       15    1 error code of a response with the error flag
 *       16    2 major address ("shelf"); 0xFFFF: any
 *       18    1 minor address ("slot"); 0xFF: any
 *       19    1 command: 0 ATA, 1 config, 2 MAC mask list, 3 reserve/release
 *       20    4 tag: the client's, returned as it is
 *       24      the command's arguments:
 *
 *   ATA                             config                         MAC mask list        reserve/release
 *   24 1 flags (40 LBA48, 01 write) 24 2 buffer count              24 1 reserved        24 1 0 read, 1 set, 2 force
 *   25 1 feature / error            26 2 firmware version          25 1 0 read, 1 edit  25 1 MAC count
 *   26 1 sector count               28 1 sectors a frame at most   26 1 error           26 6 each MAC
 *   27 1 command / status           29 1 version; 0 read, 1 test,  27 1 directive count
 *   28 6 LBA, little-endian              2 test prefix, 3 set if   28 8 each: reserved,
 *   34 2 reserved                        empty, 4 set              1 add or 2 delete, MAC
 *   36   data                       30 2 string length, 32 string
 */
import type { NativeBuffer } from "../../base";

export const ETHERNET_TYPE_AOE = 0x88a2;
export const ETHERNET_HEADER_BYTES = 14;
/** Shorter frames are padded with zeroes. */
export const ETHERNET_FRAME_BYTES_MIN = 60;
export const SECTOR_BYTES = 512;
export const AOE_VERSION = 1;

export const Offset = {
  destination: 0,
  source: 6,
  type: 12,
  versionAndFlags: 14,
  error: 15,
  major: 16,
  minor: 18,
  command: 19,
  tag: 20,
  argument: 24,
  ataFlags: 24,
  ataFeature: 25,
  ataSectorCount: 26,
  ataCommand: 27,
  ataLba: 28,
  ataData: 36,
  configBufferCount: 24,
  configFirmware: 26,
  configSectorCount: 28,
  configCommand: 29,
  configLength: 30,
  configString: 32,
  maskCommand: 25,
  maskError: 26,
  maskCount: 27,
  maskDirectives: 28,
  reserveCommand: 24,
  reserveCount: 25,
  reserveAddresses: 26,
} as const;

export const FLAG_RESPONSE = 8;
export const FLAG_ERROR = 4;
export const MAJOR_ANY = 0xffff;
export const MINOR_ANY = 0xff;
export const MAJOR_MAX = 0xfffe;
export const MINOR_MAX = 0xfe;
export const CONFIG_STRING_BYTES_MAX = 1024;
export const MASK_DIRECTIVE_BYTES = 8;
export const MAC_BYTES = 6;

export const AoeCommand = { ata: 0, config: 1, macMask: 2, reserve: 3 } as const;

export const AoeErrorCode = {
  unknownCommand: 1,
  badArgument: 2,
  unavailable: 3,
  configPresent: 4,
  badVersion: 5,
  reserved: 6,
} as const;
export type AoeErrorCode = (typeof AoeErrorCode)[keyof typeof AoeErrorCode];

export const ConfigCommand = { read: 0, test: 1, testPrefix: 2, setIfEmpty: 3, set: 4 } as const;
export const MaskCommand = { read: 0, edit: 1 } as const;
export const MaskDirective = { none: 0, add: 1, delete: 2 } as const;
export const MaskError = { none: 0, unspecified: 1, badDirective: 2, full: 3 } as const;
export const ReserveCommand = { read: 0, set: 1, forceSet: 2 } as const;

/** What a MAC is compared and kept by: its 48 bits as one number. */
export type MacAddress = number & { readonly __brand: "MacAddress" };
export const MAC_BROADCAST = 0xffff_ffff_ffff as MacAddress;

export function readMac(frame: NativeBuffer, offset: number): MacAddress {
  return (frame.view.getUint16(offset) * 2 ** 32 + frame.view.getUint32(offset + 2)) as MacAddress;
}

export function writeMac(frame: NativeBuffer, offset: number, address: MacAddress): void {
  frame.view.setUint16(offset, Math.floor(address / 2 ** 32));
  frame.view.setUint32(offset + 2, address % 2 ** 32);
}

export function formatMac(address: MacAddress): string {
  return address
    .toString(16)
    .padStart(12, "0")
    .replace(/..(?!$)/g, "$&:");
}

/** `00:1a:2b:3c:4d:5e`, also with dashes; undefined for anything else. */
export function parseMac(text: string): MacAddress | undefined {
  if (!/^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$/i.test(text)) return undefined;
  return Number.parseInt(text.replace(/[:-]/g, ""), 16) as MacAddress;
}

/**
 * Sectors that fit into one frame. From 8 on it is a whole number of 4 KiB pages, since a page cut in two costs two
 * read-modify-writes.
 */
export function sectorsPerFrame(mtuBytes: number): number {
  const headerBytes = Offset.ataData - ETHERNET_HEADER_BYTES;
  const count = Math.min(Math.floor((mtuBytes - headerBytes) / SECTOR_BYTES), 255);
  return count >= 8 ? count & ~7 : count;
}

/** Makes a request frame its own response: to whom it came from, from this address. */
export function turnAround(frame: NativeBuffer, own: MacAddress, major: number, minor: number): void {
  writeMac(frame, Offset.destination, readMac(frame, Offset.source));
  writeMac(frame, Offset.source, own);
  frame.view.setUint8(Offset.versionAndFlags, (AOE_VERSION << 4) | FLAG_RESPONSE);
  frame.view.setUint8(Offset.error, 0);
  frame.view.setUint16(Offset.major, major);
  frame.view.setUint8(Offset.minor, minor);
}
