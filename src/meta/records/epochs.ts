/**
 * Minting epochs: above the previous one, and, as a belt against metadata that was rolled back to a backup (R12),
 * not below the wall clock in milliseconds.
 */
import { asEpoch, type Clock, type Epoch } from "../../base";

/** A wall clock beyond this (the year 144683) is nonsense and must not use the numbers up. */
const WALL_MS_MAX = 2 ** 52;

export function mintEpoch(previous: number, clock: Clock): Epoch {
  const wallMs = Math.floor(clock.wallMs());
  return asEpoch(Math.max(previous + 1, wallMs <= WALL_MS_MAX ? wallMs : 0));
}
