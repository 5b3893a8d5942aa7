/**
 * Failure domains as numbers: which zone each member is in, and how many copies of one block a zone may hold. The
 * bounds are the tightest that can be met: copies spread over as many zones as there are, and as evenly as the
 * zones' numbers of members allow.
 */
import type { RingMember } from "./ring";

export interface ZoneMap {
  /** Zone index of each member, in the order of the members. */
  readonly zoneOfMember: Uint16Array;
  /** A named zone's name; a member without zone is a zone of its own, shown by its peer id. */
  readonly names: readonly string[];
}

export function mapZones(members: readonly RingMember[]): ZoneMap {
  const zoneOfMember = new Uint16Array(members.length);
  const names: string[] = [];
  const indexOfName = new Map<string, number>();
  members.forEach((member, memberIndex) => {
    const known = member.zone === "" ? undefined : indexOfName.get(member.zone);
    if (known !== undefined) {
      zoneOfMember[memberIndex] = known;
      return;
    }
    zoneOfMember[memberIndex] = names.length;
    if (member.zone !== "") indexOfName.set(member.zone, names.length);
    names.push(member.zone === "" ? member.peerId : member.zone);
  });
  return { zoneOfMember, names };
}

export interface ZoneBounds {
  /** Copies of one block that each zone must hold at least. */
  readonly low: Uint16Array;
  /** Copies of one block that each zone may hold at most. */
  readonly high: Uint16Array;
  /** The most distinct zones that a block's copies can be in. */
  readonly distinct: number;
}

/** Bounds for `copies` copies over zones with these numbers of eligible members; copies is at most their sum. */
export function zoneBounds(memberCounts: readonly number[], copies: number): ZoneBounds {
  let level = 0;
  let reach = 0;
  while (reach < copies) {
    level++;
    reach = memberCounts.reduce((sum, count) => sum + Math.min(level, count), 0);
  }
  return {
    low: Uint16Array.from(memberCounts, (count) => Math.min(Math.max(0, level - 1), count)),
    high: Uint16Array.from(memberCounts, (count) => Math.min(level, count)),
    distinct: Math.min(copies, memberCounts.filter((count) => count > 0).length),
  };
}
