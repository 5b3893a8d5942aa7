/**
 * The hashes that placement stands on: 32-bit integer mixing only (Math.imul, shifts, xor), so that every machine and
 * every version of torus computes the same. None allocates. Changing anything here moves all data of all clusters:
 * golden vectors in the tests hold it still.
 *
 * The finaliser is MurmurHash3's (Austin Appleby, public domain); the rest is composition.
 */
import type { BlockRef } from "../base";

const GOLDEN = 0x9e3779b1;

/** Bijective scrambling of 32 bits; the result is signed. */
function scramble(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** Mixes one more 32-bit word into a hash; unsigned. */
export function mix(hash: number, word: number): number {
  return scramble(Math.imul(hash ^ 0x5bd1e995, GOLDEN) + word) >>> 0;
}

/** Seed of a peer (or any name) for rendezvous and ketama; unsigned. */
export function hashText(text: string): number {
  let h = text.length;
  for (let i = 0; i < text.length; i++) h = mix(h, text.charCodeAt(i));
  return h;
}

const TWO_32 = 2 ** 32;

/** The hash of everything in a BlockRef but the index; unsigned. */
function hashLog(ref: BlockRef): number {
  let h = mix(ref.kind, ref.volumeId >>> 0);
  h = mix(h, (ref.volumeId / TWO_32) >>> 0);
  h = mix(h, ref.epoch >>> 0);
  return mix(h, (ref.epoch / TWO_32) >>> 0);
}

/** 32 unsigned bits that look random for any set of BlockRefs, consecutive ones too. */
export function hashBlockRef(ref: BlockRef): number {
  return mix(mix(hashLog(ref), ref.index >>> 0), (ref.index / TWO_32) >>> 0);
}

/** Partitions are numbered with this many bits at most; a table of fewer uses the low ones. */
export const PARTITION_BITS_MAX = 16;
const PARTITION_MASK = 2 ** PARTITION_BITS_MAX - 1;
const WINDOW_BLOCKS = 2 ** PARTITION_BITS_MAX;

/**
 * The block's partition in 0..65535; a ring of 2^k partitions takes the low k bits, so that a table twice as fine
 * splits partitions and moves nothing. Consecutive indexes stride through the partitions: any 2^k of them in a
 * row, within a window of 65,536, touch each of the 2^k partitions exactly once, which balances even small volumes.
 */
export function hashToPartition(ref: BlockRef): number {
  const window = mix(hashLog(ref), (ref.index / WINDOW_BLOCKS) >>> 0);
  return (window + Math.imul(ref.index >>> 0, PARTITION_STRIDE)) & PARTITION_MASK;
}

/** From one index to the next the partition grows by this, modulo their number. */
export const PARTITION_STRIDE = GOLDEN;

/** How many consecutive indexes share one window of hashToPartition. */
export const PARTITION_WINDOW_BLOCKS = WINDOW_BLOCKS;
