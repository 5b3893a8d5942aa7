/**
 * Ring specs as they come from metadata, files and flags: read field by field, nothing believed. Whatever is wrong
 * is a RingError "bad-spec" that names the field, so that a daemon refuses a ring instead of placing by half of it.
 */
import { parsePeerId } from "../base";
import { RingError } from "./errors";
import type { RingMember, RingSpec, RingType } from "./ring";

export const RING_TYPES: readonly RingType[] = [
  "empty",
  "single",
  "mod",
  "ketama",
  "union",
  "rendezvous",
  "table",
];
/** New clusters get this type. */
export const DEFAULT_RING_TYPE: RingType = "table";
export const RING_MEMBERS_MAX = 1024;
export const REPLICATION_MAX = 16;
/** 2^40 GiB: weights beyond it would lose precision in the fixed-point shares. */
export const WEIGHT_MAX = 2 ** 40;
const ZONE_CHARACTERS_MAX = 128;

/** Members with weight: the only ones that take blocks. */
export function placingMembers(spec: RingSpec): readonly RingMember[] {
  return spec.members.filter((member) => member.weight > 0);
}

/** How many copies of a block the ring can keep: min(replication, members with weight). */
export function copyCount(spec: RingSpec): number {
  return Math.min(spec.replication, placingMembers(spec).length);
}

/** Reads the JSON value of one ring version; the payload is checked by buildRing. Throws RingError "bad-spec". */
export function parseRingSpec(value: unknown): RingSpec {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad("it is not an object");
  const { version, type, replication, members, payload } = value as Record<string, unknown>;
  if (!isInteger(version, 1, Number.MAX_SAFE_INTEGER - 1)) throw bad(`version is ${show(version)}`);
  if (!RING_TYPES.includes(type as RingType))
    throw bad(`type is ${show(type)}, not one of ${RING_TYPES.join(", ")}`);
  if (!isInteger(replication, 1, REPLICATION_MAX))
    throw bad(`replication is ${show(replication)}, not 1..${REPLICATION_MAX}`);
  if (!Array.isArray(members)) throw bad("members is not a list");
  const spec: RingSpec = {
    version,
    type: type as RingType,
    replication,
    members: members.map(parseMember),
    ...(payload === undefined ? {} : { payload }),
  };
  checkMembers(spec);
  return spec;
}

/** What must hold for the members of any ring; throws RingError "bad-spec". */
export function checkMembers(spec: RingSpec): void {
  const { members, type } = spec;
  if (members.length > RING_MEMBERS_MAX)
    throw bad(`it has ${members.length} members, more than ${RING_MEMBERS_MAX}`);
  const known = new Set<string>();
  for (const { peerId } of members) {
    if (known.has(peerId)) throw bad(`peer ${peerId} is a member twice`);
    known.add(peerId);
  }
  if (type === "empty" && members.length > 0) throw bad(`an empty ring has ${members.length} members`);
  if (type === "single" && members.length !== 1)
    throw bad(`a single ring has ${members.length} members, not one`);
}

function parseMember(value: unknown, position: number): RingMember {
  const { peerId, weight, zone } = (value ?? {}) as Record<string, unknown>;
  if (typeof peerId !== "string") throw bad(`member ${position} has no peerId`);
  if (!isWeight(weight)) throw bad(`the weight of member ${position} is ${show(weight)}, not 0..2^40`);
  if (!isZone(zone)) throw bad(`the zone of member ${position} is ${show(zone)}`);
  try {
    return { peerId: parsePeerId(peerId), weight, zone };
  } catch (cause) {
    throw new RingError("bad-spec", `Cannot read ring: member ${position} is ${show(peerId)}, not a UUID`, {
      cause,
    });
  }
}

export function isWeight(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && value <= WEIGHT_MAX;
}

/** Any short text without control characters; empty means "a zone of its own". */
export function isZone(value: unknown): value is string {
  return typeof value === "string" && value.length <= ZONE_CHARACTERS_MAX && !/\p{Cc}/u.test(value);
}

export function isReplication(value: unknown): value is number {
  return isInteger(value, 1, REPLICATION_MAX);
}

function isInteger(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}

function bad(what: string): RingError {
  return new RingError("bad-spec", `Cannot read ring: ${what}`);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
