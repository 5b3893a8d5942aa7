/**
 * Minting epochs: above the previous one, and, as a belt against metadata that was rolled back to a backup (R12),
 * not below the wall clock in milliseconds. The epochs minted since the head's are kept beside the last one, in the
 * same transaction, so that a peer which was fenced for another knows that the metadata was rolled back (R3c).
 */
import { asEpoch, type Clock } from "../../base";
import { type EpochRange, MINTED_RANGES_MAX } from "../../engine";
import type { StoredEpoch } from "./codec";

/** A wall clock beyond this (the year 144683) is nonsense and must not use the numbers up. */
const WALL_MS_MAX = 2 ** 52;

/** What a volume starts with. */
export const NO_EPOCH: StoredEpoch = { epoch: 0, completeAbove: 0, minted: [] };

/**
 * The next epoch. Those up to the head's need not be known one by one: `headEpoch` may be an earlier head's. When
 * very many openings in a row failed, the oldest become one range.
 */
export function mintEpoch(previous: StoredEpoch, headEpoch: number, clock: Clock): StoredEpoch {
  const wallMs = Math.floor(clock.wallMs());
  const epoch = asEpoch(Math.max(previous.epoch + 1, wallMs <= WALL_MS_MAX ? wallMs : 0));
  const completeAbove = Math.max(previous.completeAbove, headEpoch);
  const minted: EpochRange[] = previous.minted.filter(({ to }) => to > completeAbove);
  minted.push({ from: epoch, to: epoch });
  const [oldest, second] = minted;
  if (minted.length > MINTED_RANGES_MAX && oldest !== undefined && second !== undefined)
    minted.splice(0, 2, { from: oldest.from, to: second.to });
  return { epoch, completeAbove, minted };
}
