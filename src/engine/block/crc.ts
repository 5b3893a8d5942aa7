/**
 * The checksums of a sealed block. Every slot's CRC32 starts from a seed made of the cluster id, the BlockRef and
 * the slot's number, so that rot, a misdirected write, a swapped slot and a block of another cluster all fail
 * alike. A read reply carries one `check`, the slot CRCs of the header joined; the reader computes it again from the
 * bytes it got, and so needs no header.
 *
 * Joining uses that CRC32 is linear. Of bytes A followed by B, with past(x, n) for "x gone past n zero bytes",
 *
 *     crc(A B) = past(crc(A), length of B) ^ crc(B),     crc(B from seed s) = past(s, length of B) ^ crc(B)
 *
 * so the joined CRCs of many slots are one CRC over all their bytes, in one call, and what the seeds add to it, which
 * takes no bytes to compute.
 */
import {
  BLOCK_REF_BYTES,
  type BlockRef,
  type ClusterId,
  encodeBlockRef,
  type NativeBuffer,
} from "../../base";
import { PAGE_BYTES, SLOT_CRC_BYTES } from "./format";

/** Golden ratio: neighbouring slots get seeds that differ in many bits. */
const SLOT_SEED_STEP = 0x9e3779b1;
const CLUSTER_ID_BYTES = 16;
const scratch = new Uint8Array(BLOCK_REF_BYTES);
const scratchView = new DataView(scratch.buffer);
const ZERO_PAGE = new Uint8Array(PAGE_BYTES);

/** The 16 bytes of a cluster id as headers hold them. */
export function clusterIdBytes(clusterId: ClusterId): Uint8Array {
  const digits = clusterId.replaceAll("-", "");
  const bytes = new Uint8Array(CLUSTER_ID_BYTES);
  for (let index = 0; index < CLUSTER_ID_BYTES; index += 1)
    bytes[index] = Number.parseInt(digits.slice(index * 2, index * 2 + 2), 16);
  return bytes;
}

/** CRC32 of the cluster id: the part of every block seed that a process computes once. */
export function clusterSeed(clusterId: ClusterId): number {
  return Bun.hash.crc32(clusterIdBytes(clusterId));
}

/** CRC32 of cluster id and BlockRef, from a `clusterSeed`. */
export function blockSeed(seedOfCluster: number, ref: BlockRef): number {
  encodeBlockRef(scratchView, 0, ref);
  return Bun.hash.crc32(scratch, seedOfCluster);
}

export function slotSeed(seedOfBlock: number, slot: number): number {
  return (seedOfBlock + Math.imul(slot, SLOT_SEED_STEP)) >>> 0;
}

/** CRC32 of one slot's bytes, as the header holds it. */
export function slotCrc(seedOfBlock: number, slot: number, bytes: Uint8Array): number {
  return Bun.hash.crc32(bytes, slotSeed(seedOfBlock, slot));
}

/** The check of consecutive slots whose CRCs stand from view[offset] on; all are whole pages but perhaps the last. */
export function joinSlotCrcs(
  view: DataView,
  offset: number,
  slotCount: number,
  lastSlotBytes: number,
): number {
  if (slotCount === 0) return 0;
  const last = offset + (slotCount - 1) * SLOT_CRC_BYTES;
  let joined = 0;
  for (let at = offset; at < last; at += SLOT_CRC_BYTES) joined = pastPage(joined) ^ view.getInt32(at, true);
  return (pastBytes(joined, lastSlotBytes) ^ view.getInt32(last, true)) >>> 0;
}

/**
 * The check that belongs to the bytes of consecutive slots, computed from the bytes: compare it with the one the
 * reply carried. Every slot is a whole page but for the last, which ends where the bytes end.
 */
export function readCheck(
  seedOfBlock: number,
  firstSlot: number,
  bytes: Uint8Array,
  offsetBytes: number,
  lengthBytes: number,
): number {
  const range = bytes.subarray(offsetBytes, offsetBytes + lengthBytes);
  if (lengthBytes <= PAGE_BYTES) return lengthBytes === 0 ? 0 : slotCrc(seedOfBlock, firstSlot, range);
  const lastSlot = firstSlot + Math.ceil(lengthBytes / PAGE_BYTES) - 1;
  let seeds = 0;
  for (let slot = firstSlot; slot < lastSlot; slot += 1)
    seeds = pastPage(seeds ^ slotSeed(seedOfBlock, slot));
  const lastSlotBytes = lengthBytes - (lastSlot - firstSlot) * PAGE_BYTES;
  seeds = pastBytes(seeds ^ slotSeed(seedOfBlock, lastSlot), lastSlotBytes);
  return (Bun.hash.crc32(range) ^ seeds) >>> 0;
}

/** What becomes of each byte of a CRC that goes past a page of zeroes: four tables, lowest byte first. */
const pastPageTables = ((): Int32Array => {
  const tables = new Int32Array(4 * 256);
  const none = Bun.hash.crc32(ZERO_PAGE);
  for (let bit = 0; bit < 32; bit += 1) {
    const image = Bun.hash.crc32(ZERO_PAGE, 2 ** bit) ^ none;
    const table = (bit >> 3) * 256;
    const step = 1 << (bit & 7);
    for (let byte = 0; byte < step; byte += 1)
      tables[table + step + byte] = (tables[table + byte] as number) ^ image;
  }
  return tables;
})();

function pastPage(crc: number): number {
  return (
    (pastPageTables[crc & 0xff] as number) ^
    (pastPageTables[256 + ((crc >>> 8) & 0xff)] as number) ^
    (pastPageTables[512 + ((crc >>> 16) & 0xff)] as number) ^
    (pastPageTables[768 + (crc >>> 24)] as number)
  );
}

/** The same for up to a page. */
function pastBytes(crc: number, lengthBytes: number): number {
  if (lengthBytes === PAGE_BYTES) return pastPage(crc);
  const zeroes = ZERO_PAGE.subarray(0, lengthBytes);
  return Bun.hash.crc32(zeroes, crc >>> 0) ^ Bun.hash.crc32(zeroes);
}

/** CRC32 of bytes [offset, offset+length) with the four at `hole` taken as zero. */
export function crcWithHole(
  buffer: NativeBuffer,
  offsetBytes: number,
  lengthBytes: number,
  holeBytes: number,
): number {
  const { bytes } = buffer;
  const before = Bun.hash.crc32(bytes.subarray(offsetBytes, offsetBytes + holeBytes));
  const across = Bun.hash.crc32(FOUR_ZEROES, before);
  return Bun.hash.crc32(bytes.subarray(offsetBytes + holeBytes + 4, offsetBytes + lengthBytes), across);
}

const FOUR_ZEROES = new Uint8Array(4);
