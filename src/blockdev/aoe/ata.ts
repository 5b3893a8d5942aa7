/**
 * The ATA disk that a target plays: which commands it knows, how they address sectors, and the page of 512 bytes with
 * which it describes itself (IDENTIFY DEVICE; words little-endian, text with its bytes swapped pairwise; ATA8-ACS).
 * Commands with 28-bit addresses reach 128 GiB, the EXT ones 48 bits.
 */
import type { NativeBuffer } from "../../base";
import { Offset, SECTOR_BYTES } from "./protocol";

export type AtaKind =
  | "identify"
  | "read"
  | "write"
  | "writeDurably"
  | "verify"
  | "flush"
  | "setFeatures"
  | "checkPower"
  | "nothing";

interface AtaCommand {
  readonly kind: AtaKind;
  readonly lba48: boolean;
}

const short = (kind: AtaKind): AtaCommand => ({ kind, lba48: false });
const long = (kind: AtaKind): AtaCommand => ({ kind, lba48: true });

const COMMANDS: ReadonlyMap<number, AtaCommand> = new Map([
  [0x20, short("read")], // READ SECTOR(S)
  [0x21, short("read")],
  [0xc4, short("read")], // READ MULTIPLE
  [0xc8, short("read")], // READ DMA
  [0xc9, short("read")],
  [0x24, long("read")], // READ SECTOR(S) EXT
  [0x25, long("read")], // READ DMA EXT
  [0x29, long("read")], // READ MULTIPLE EXT
  [0x30, short("write")], // WRITE SECTOR(S)
  [0x31, short("write")],
  [0xc5, short("write")], // WRITE MULTIPLE
  [0xca, short("write")], // WRITE DMA
  [0xcb, short("write")],
  [0x34, long("write")], // WRITE SECTOR(S) EXT
  [0x35, long("write")], // WRITE DMA EXT
  [0x39, long("write")], // WRITE MULTIPLE EXT
  [0x3d, long("writeDurably")], // WRITE DMA FUA EXT
  [0xce, long("writeDurably")], // WRITE MULTIPLE FUA EXT
  [0x40, short("verify")], // READ VERIFY SECTOR(S)
  [0x41, short("verify")],
  [0x42, long("verify")], // READ VERIFY SECTOR(S) EXT
  [0xe7, short("flush")], // FLUSH CACHE
  [0xea, long("flush")], // FLUSH CACHE EXT
  [0xec, short("identify")],
  [0xef, short("setFeatures")],
  [0xe5, short("checkPower")],
  [0xe0, short("nothing")], // STANDBY IMMEDIATE
  [0xe1, short("nothing")], // IDLE IMMEDIATE
]);

/** Undefined for a command that this disk does not know. */
export function ataCommand(code: number): AtaCommand | undefined {
  return COMMANDS.get(code);
}

export const AtaFeature = {
  enableWriteCache: 0x02,
  setTransferMode: 0x03,
  disableWriteCache: 0x82,
} as const;

/** Status register: ready; ready with an error, which the error register names. */
export const ATA_STATUS_READY = 0x40;
export const ATA_STATUS_ERROR = 0x51;
export const AtaError = { aborted: 0x04, noSuchSector: 0x10, uncorrectable: 0x40 } as const;

const LBA28_SECTORS_MAX = 2 ** 28 - 1;

/** The first sector that a request names. Exact: 48 bits fit into a number. */
export function readLba(frame: NativeBuffer, lba48: boolean): number {
  const { view } = frame;
  const low = view.getUint8(Offset.ataLba) + view.getUint16(Offset.ataLba + 1, true) * 2 ** 8;
  if (!lba48) return low + (view.getUint8(Offset.ataLba + 3) & 0x0f) * 2 ** 24;
  return low + view.getUint8(Offset.ataLba + 3) * 2 ** 24 + view.getUint16(Offset.ataLba + 4, true) * 2 ** 32;
}

export interface DiskIdentity {
  readonly sizeBytes: number;
  /** At most 20 characters. */
  readonly serial: string;
  /** At most 8. */
  readonly firmware: string;
  /** At most 40. */
  readonly model: string;
  readonly writeCacheEnabled: boolean;
}

function writeText(page: DataView, firstWord: number, wordCount: number, text: string): void {
  const printable = text.replace(/[^\x20-\x7e]/g, "?").padEnd(wordCount * 2, " ");
  for (let index = 0; index < wordCount * 2; index++)
    page.setUint8(firstWord * 2 + (index ^ 1), printable.charCodeAt(index));
}

/** Writes the 512 bytes of IDENTIFY DEVICE at `offset`. */
export function writeIdentity(frame: NativeBuffer, offset: number, disk: DiskIdentity): void {
  const bytes = frame.bytes.subarray(offset, offset + SECTOR_BYTES);
  bytes.fill(0);
  const page = new DataView(bytes.buffer, bytes.byteOffset, SECTOR_BYTES);
  const word = (index: number, value: number) => page.setUint16(index * 2, value, true);
  const sectorCount = Math.floor(disk.sizeBytes / SECTOR_BYTES);
  word(0, 0x0040);
  // The geometry that stands for "too large for a geometry".
  word(1, 16383);
  word(3, 16);
  word(6, 63);
  writeText(page, 10, 10, disk.serial);
  writeText(page, 23, 4, disk.firmware);
  writeText(page, 27, 20, disk.model);
  word(47, 0x8000);
  word(49, 0x0300); // LBA and DMA
  word(50, 0x4000);
  word(53, 0x0006);
  page.setUint32(60 * 2, Math.min(sectorCount, LBA28_SECTORS_MAX), true);
  word(63, 0x0007);
  word(64, 0x0003);
  word(80, 0x00f0); // ATA/ATAPI-4 to 7
  word(82, 0x0020); // write cache
  word(83, 0x4000 | 0x2000 | 0x1000 | 0x0400); // FLUSH CACHE EXT, FLUSH CACHE, 48 bits
  word(84, 0x4000 | 0x0040); // FUA
  word(85, disk.writeCacheEnabled ? 0x0020 : 0);
  word(86, 0x2000 | 0x1000 | 0x0400);
  word(87, 0x4000 | 0x0040);
  word(88, 0x003f);
  page.setUint32(100 * 2, sectorCount % 2 ** 32, true);
  page.setUint32(102 * 2, Math.floor(sectorCount / 2 ** 32), true);
  word(106, 0x6003); // 8 logical sectors in a physical one of 4 KiB
  word(209, 0x4000);
  page.setUint8(510, 0xa5);
  let sum = 0;
  for (let index = 0; index < 511; index++) sum += bytes[index] as number;
  page.setUint8(511, -sum & 0xff);
}
