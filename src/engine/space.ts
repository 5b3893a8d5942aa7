/**
 * The space a peer keeps back. A volume that is told "no space" must still be able to finish: to store what it had
 * accepted before, to put the trims that free space, and to checkpoint, without which nothing is ever freed. So a
 * peer says that it is nearly full while this much is left, and writers stop taking new data there and then; copies
 * that only move data about are refused from there on.
 */
const MIB = 1024 * 1024;
/** A writer's buffer, once or twice. */
const RESERVE_BYTES_MIN = 48 * MIB;
const RESERVE_BYTES_MAX = 256 * MIB;
const RESERVE_DIVISOR = 64;
/** Of a small store no more than this part. */
const RESERVE_PART_MAX = 4;

/** Bytes of a store of this capacity that are kept for finishing what was begun. */
export function finishingReserveBytes(capacityBytes: number): number {
  const wanted = Math.min(Math.max(capacityBytes / RESERVE_DIVISOR, RESERVE_BYTES_MIN), RESERVE_BYTES_MAX);
  return Math.floor(Math.min(wanted, capacityBytes / RESERVE_PART_MAX));
}

export interface SpaceFigures {
  readonly capacityBytes: number;
  readonly usedBytes: number;
}

/** Whether a peer of these figures is nearly full. */
export function isLowOnSpace(figures: SpaceFigures): boolean {
  return figures.capacityBytes - figures.usedBytes < finishingReserveBytes(figures.capacityBytes);
}

/** Bytes that a peer of these figures can take before it is nearly full. */
export function roomUntilLow({ capacityBytes, usedBytes }: SpaceFigures): number {
  return Math.max(0, capacityBytes - usedBytes - finishingReserveBytes(capacityBytes));
}

/**
 * How much new data fits until fewer than `width` peers have room, if peers have such rooms and of all data there are
 * `copies` on different peers, `width` at least.
 */
export function roomForCopies(rooms: readonly number[], copies: number, width: number): number {
  const ascending = [...rooms].sort((one, other) => one - other);
  const needed = Math.min(Math.max(width, 1), ascending.length);
  let left = ascending.reduce((sum, room) => sum + room, 0);
  // Who has none gets no copy, as long as `width` have.
  const holders = ascending.filter((room) => room > 0).length;
  let fits = left / Math.max(Math.min(copies, holders), needed, 1);
  // However much the roomiest have, they hold one copy each: the others must find room elsewhere.
  for (let apart = 0; apart < needed; apart++) {
    fits = Math.min(fits, left / (needed - apart));
    left -= ascending[ascending.length - 1 - apart] as number;
  }
  return fits;
}
