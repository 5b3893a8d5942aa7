/**
 * How much of the data each member ought to hold. Ideally in proportion to weight; but a member can hold at most one
 * copy of a block, and a zone at most (and at least) what its bounds say, so the shares are filled like
 * communicating vessels: all in proportion until one is full, the rest among the others. Zones come first, weights
 * second. All in exact integers (BigInt), because the result decides where data lives.
 */
import type { RingMember } from "./ring";
import { mapZones, type ZoneBounds, type ZoneMap, zoneBounds } from "./zones";

/** A copy of a partition is this many units, so that shares keep their fractions. */
export const SHARE_UNITS = 2 ** 20;
const UNITS = BigInt(SHARE_UNITS);
const LEVEL_SHIFT = 40n;
/** Weights are fixed-point with 10 bits after the point: GiB to a precision of MiB. */
const WEIGHT_SCALE = 1024;

/** The weight as a positive integer; 0 stays 0 (draining). */
export function weightUnits(weight: number): number {
  return weight === 0 ? 0 : Math.max(1, Math.round(weight * WEIGHT_SCALE));
}

/** Members, zones and limits of one ring as the optimiser and the planner need them. */
export interface ShareModel {
  readonly zones: ZoneMap;
  readonly bounds: ZoneBounds;
  /** min(replication, members with weight). */
  readonly copies: number;
  readonly partitionCount: number;
  /** Per member, in units of 1/SHARE_UNITS of a partition copy; sums to copies x partitions, nearly. 0 without weight only. */
  readonly idealUnits: Float64Array;
  /** Per zone, likewise. */
  readonly idealZoneUnits: Float64Array;
}

export function modelShares(
  members: readonly RingMember[],
  replication: number,
  partitionCount: number,
): ShareModel {
  const zones = mapZones(members);
  const weights = members.map((member) => BigInt(weightUnits(member.weight)));
  const eligible = weights.filter((weight) => weight > 0n).length;
  const copies = Math.min(replication, eligible);
  const membersOfZone: number[][] = zones.names.map(() => []);
  weights.forEach((weight, memberIndex) => {
    if (weight > 0n) (membersOfZone[zones.zoneOfMember[memberIndex] as number] as number[]).push(memberIndex);
  });
  const bounds = zoneBounds(
    membersOfZone.map((list) => list.length),
    copies,
  );

  const memberMax = BigInt(partitionCount) * UNITS;
  const shareOf = (memberIndex: number, level: bigint): bigint => {
    const share = ((weights[memberIndex] as bigint) * level) >> LEVEL_SHIFT;
    return share < memberMax ? share : memberMax;
  };
  const zoneShare = (zoneIndex: number, level: bigint): bigint => {
    let sum = 0n;
    for (const memberIndex of membersOfZone[zoneIndex] as number[]) sum += shareOf(memberIndex, level);
    return sum;
  };
  const clampedZoneShare = (zoneIndex: number, level: bigint): bigint => {
    const low = BigInt(bounds.low[zoneIndex] as number) * memberMax;
    const high = BigInt(bounds.high[zoneIndex] as number) * memberMax;
    const share = zoneShare(zoneIndex, level);
    return share < low ? low : share > high ? high : share;
  };
  const allZones = membersOfZone.map((_, zoneIndex) => zoneIndex);
  const levelMax = (memberMax << LEVEL_SHIFT) + 1n;
  const level = lowestLevel(
    levelMax,
    (candidate) =>
      allZones.reduce((sum, zone) => sum + clampedZoneShare(zone, candidate), 0n) >=
      BigInt(copies) * memberMax,
  );

  const idealUnits = new Float64Array(members.length);
  const idealZoneUnits = new Float64Array(membersOfZone.length);
  for (const zoneIndex of allZones) {
    const total = clampedZoneShare(zoneIndex, level);
    idealZoneUnits[zoneIndex] = Number(total);
    // A zone at one of its bounds fills to another level than the rest.
    const zoneLevel =
      total === zoneShare(zoneIndex, level)
        ? level
        : lowestLevel(levelMax, (candidate) => zoneShare(zoneIndex, candidate) >= total);
    for (const memberIndex of membersOfZone[zoneIndex] as number[])
      idealUnits[memberIndex] = Math.max(1, Number(shareOf(memberIndex, zoneLevel)));
  }
  return { zones, bounds, copies, partitionCount, idealUnits, idealZoneUnits };
}

/** The lowest level in 0..levelMax for which `reached` holds; it must hold at levelMax. */
function lowestLevel(levelMax: bigint, reached: (level: bigint) => boolean): bigint {
  let low = 0n;
  let high = levelMax;
  while (low < high) {
    const middle = (low + high) >> 1n;
    if (reached(middle)) high = middle;
    else low = middle + 1n;
  }
  return low;
}

export interface Targets {
  /** Whole partition copies per member. */
  readonly members: Int32Array;
  /** Whole partition copies per zone. */
  readonly zones: Int32Array;
}

/**
 * Whole-number targets within one of the ideal, in total exactly copies x partitions. Rounding favours what members
 * have already, so that rounding alone never moves anything.
 */
export function roundTargets(model: ShareModel, have: Int32Array): Targets {
  const { zones, bounds, partitionCount, copies } = model;
  const haveOfZone = new Int32Array(zones.names.length);
  have.forEach((count, memberIndex) => {
    haveOfZone[zones.zoneOfMember[memberIndex] as number]! += count;
  });
  const zoneTargets = roundToTotal(
    model.idealZoneUnits,
    copies * partitionCount,
    haveOfZone,
    Int32Array.from(bounds.high, (high) => high * partitionCount),
  );
  const memberTargets = new Int32Array(have.length);
  for (let zoneIndex = 0; zoneIndex < zoneTargets.length; zoneIndex++) {
    const list: number[] = [];
    zones.zoneOfMember.forEach((zone, memberIndex) => {
      if (zone === zoneIndex && (model.idealUnits[memberIndex] as number) > 0) list.push(memberIndex);
    });
    const rounded = roundToTotal(
      Float64Array.from(list, (memberIndex) => model.idealUnits[memberIndex] as number),
      zoneTargets[zoneIndex] as number,
      Int32Array.from(list, (memberIndex) => have[memberIndex] as number),
      Int32Array.from(list, () => partitionCount),
    );
    list.forEach((memberIndex, position) => {
      memberTargets[memberIndex] = rounded[position] as number;
    });
  }
  return { members: memberTargets, zones: zoneTargets };
}

/** Largest remainders, but whoever has more than its floor already is rounded up first; never above `most`. */
function roundToTotal(units: Float64Array, total: number, have: Int32Array, most: Int32Array): Int32Array {
  const result = Int32Array.from(units, (value) => Math.floor(value / SHARE_UNITS));
  let missing = total - result.reduce((sum, value) => sum + value, 0);
  const order = Array.from(units, (_, index) => index);
  const fraction = (index: number) =>
    (units[index] as number) - Math.floor((units[index] as number) / SHARE_UNITS) * SHARE_UNITS;
  const hasMore = (index: number) => ((have[index] as number) > (result[index] as number) ? 1 : 0);
  const rank = order.map((index) => ({ index, hasMore: hasMore(index), fraction: fraction(index) }));
  rank.sort((a, b) => b.hasMore - a.hasMore || b.fraction - a.fraction || a.index - b.index);
  while (missing !== 0) {
    const before = missing;
    if (missing > 0) {
      for (const { index } of rank) {
        if (missing === 0) break;
        if ((result[index] as number) >= (most[index] as number)) continue;
        result[index]!++;
        missing--;
      }
    } else {
      for (const { index } of rank.toReversed()) {
        if (missing === 0) break;
        if ((result[index] as number) === 0) continue;
        result[index]!--;
        missing++;
      }
    }
    if (missing === before) break;
  }
  return result;
}
