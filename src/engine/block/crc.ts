/**
 * The checksums of a sealed block. Every slot's CRC32 starts from a seed made of the cluster id, the BlockRef and
 * the slot's number, so that rot, a misdirected write, a swapped slot and a block of another cluster all fail
 * alike. A read reply carries one `check`, the CRC32 over the slot CRCs of the header; the reader computes it again
 * from the bytes it got, and so needs no header.
 */
import {
  BLOCK_REF_BYTES,
  type BlockRef,
  type ClusterId,
  encodeBlockRef,
  type NativeBuffer,
} from "../../base";
import { PAGE_BYTES } from "./format";
import { PageViews } from "./page-views";

/** Golden ratio: neighbouring slots get seeds that differ in many bits. */
const SLOT_SEED_STEP = 0x9e3779b1;
const CLUSTER_ID_BYTES = 16;
const scratch = new Uint8Array(BLOCK_REF_BYTES);
const scratchView = new DataView(scratch.buffer);
const checkScratch = new Uint8Array(4 * 1024);
const checkScratchView = new DataView(checkScratch.buffer);

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
  const end = offsetBytes + lengthBytes;
  const views = PageViews.of(bytes);
  let slot = firstSlot;
  let check = 0;
  let filled = 0;
  for (let start = offsetBytes; start < end; start += PAGE_BYTES) {
    const stop = Math.min(start + PAGE_BYTES, end);
    checkScratchView.setUint32(filled, slotCrc(seedOfBlock, slot, views.range(start, stop)), true);
    slot += 1;
    filled += 4;
    if (filled === checkScratch.length) {
      check = Bun.hash.crc32(checkScratch, check);
      filled = 0;
    }
  }
  return filled === 0 ? check : Bun.hash.crc32(checkScratch.subarray(0, filled), check);
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
