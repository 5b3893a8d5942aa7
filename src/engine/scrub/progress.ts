/**
 * A scrub goes through the blocks in parts, by a hash of their names: a store lists its blocks in another order after
 * each start, so that only names tell what was checked. What a scrub remembers over a restart, as text for the daemon's state: where it is and what it found so far. Text
 * from another version or a damaged file starts the scrub anew; nothing else depends on it.
 */
import type { BlockRef } from "../../base";

export interface ScrubProgress {
  /** In how many parts; 0: none is under way. */
  readonly parts: number;
  /** Parts that are done. */
  readonly partsDone: number;
  readonly startedWallMs: number;
  readonly blocksChecked: number;
  readonly bytesChecked: number;
  readonly blocksCorrupt: number;
  readonly blocksRepaired: number;
  /** When the last whole scrub ended; 0 before the first. */
  readonly finishedWallMs: number;
}

/** Where the progress is kept between runs of the daemon. */
export interface ScrubProgressStore {
  load(): Promise<string | undefined>;
  save(text: string): Promise<void>;
}

/** Blocks in a part, at the least; a restart repeats at most one part. */
const PART_BLOCKS_MIN = 256;
/** Each part walks the whole listing, which costs about a microsecond a block. */
const PARTS_MAX = 64;
const FORMAT = 2;

export function encodeProgress(progress: ScrubProgress): string {
  return JSON.stringify({ version: FORMAT, ...progress });
}

/** Undefined for anything that is not a progress of this version. */
export function decodeProgress(text: string | undefined): ScrubProgress | undefined {
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return isProgress(value) ? value : undefined;
  } catch {
    // Not JSON: a damaged file, which costs one scrub from the start.
    return undefined;
  }
}

const COUNTS = [
  "parts",
  "partsDone",
  "startedWallMs",
  "blocksChecked",
  "bytesChecked",
  "blocksCorrupt",
  "blocksRepaired",
  "finishedWallMs",
] as const;

function isProgress(value: unknown): value is ScrubProgress {
  if (typeof value !== "object" || value === null) return false;
  const fields = value as Record<string, unknown>;
  if (fields.version !== FORMAT) return false;
  if (!COUNTS.every((name) => Number.isSafeInteger(fields[name]) && (fields[name] as number) >= 0))
    return false;
  const { parts, partsDone } = fields as { parts: number; partsDone: number };
  return parts <= PARTS_MAX && partsDone <= parts;
}

export function partCount(blocks: number): number {
  return Math.min(PARTS_MAX, Math.max(1, Math.ceil(blocks / PART_BLOCKS_MIN)));
}

/** Which part a block belongs to: the same in every run and on every peer. */
export function partOf({ kind, volumeId, epoch, index }: BlockRef, parts: number): number {
  let hash = mixed(0x9e3779b1 ^ kind, volumeId);
  hash = mixed(hash, epoch);
  hash = mixed(hash, index);
  return (hash >>> 0) % parts;
}

/** A number of up to 53 bits, both halves of it. */
function mixed(hash: number, value: number): number {
  let next = Math.imul(hash ^ (value >>> 0), 0x85ebca6b);
  next = Math.imul(next ^ (next >>> 15) ^ Math.floor(value / 2 ** 32), 0xc2b2ae35);
  return next ^ (next >>> 13);
}
