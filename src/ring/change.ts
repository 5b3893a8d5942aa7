/**
 * Ring changes as a pure function from one spec to the next: what `ctl peer ...` and `ctl ring ...` ask for. The
 * metadata stores the result by compare-and-set on the version, so that of two concurrent changes one is made anew
 * on top of the other. Members are kept sorted by peer id: the same change gives the same spec everywhere.
 */
import type { PeerId } from "../base";
import { RingError } from "./errors";
import type { RingMember, RingSpec, RingType } from "./ring";
import {
  checkMembers,
  DEFAULT_RING_TYPE,
  isReplication,
  isWeight,
  isZone,
  placingMembers,
  REPLICATION_MAX,
} from "./spec";
import { makeTablePayload } from "./table-spec";

export type RingChange =
  | { readonly kind: "add"; readonly members: readonly RingMember[] }
  | { readonly kind: "remove"; readonly peerIds: readonly PeerId[] }
  /** Weight 0: the peer's blocks move away, it takes no new ones. */
  | { readonly kind: "drain"; readonly peerId: PeerId }
  /** The ring does not remember what a drained peer weighed. */
  | { readonly kind: "undrain"; readonly peerId: PeerId; readonly weight: number }
  | { readonly kind: "set-weight"; readonly peerId: PeerId; readonly weight: number }
  | { readonly kind: "set-zone"; readonly peerId: PeerId; readonly zone: string }
  | { readonly kind: "set-replication"; readonly replication: number }
  /** Another type, replication or set of members at once; what is not given stays. */
  | {
      readonly kind: "manual";
      readonly type: RingType;
      readonly replication?: number;
      readonly members?: readonly RingMember[];
    };

/** What an administrator may set of one peer. */
export interface PeerSettings {
  readonly peerId: PeerId;
  readonly weight?: number;
  readonly zone?: string;
}

/** What a change sets of one peer beyond this ring: its own record has to say the same. */
export function peerSettingsOf(change: RingChange): PeerSettings | undefined {
  switch (change.kind) {
    case "undrain":
    case "set-weight":
      return { peerId: change.peerId, weight: change.weight };
    case "set-zone":
      return { peerId: change.peerId, zone: change.zone };
    default:
      return undefined;
  }
}

export interface RingRequest {
  readonly type?: RingType;
  readonly replication: number;
  readonly members: readonly RingMember[];
}

/** The first ring of a cluster, version 1; a table unless told otherwise. Throws RingError. */
export function createRing(request: RingRequest): RingSpec {
  return finish({
    version: 1,
    type: request.type ?? DEFAULT_RING_TYPE,
    replication: request.replication,
    members: request.members,
  });
}

/** The ring after `change`, one version up; throws RingError and leaves `previous` as it is. */
export function nextRing(previous: RingSpec, change: RingChange): RingSpec {
  const next = { ...withoutPayload(previous), version: previous.version + 1 };
  switch (change.kind) {
    case "add":
      return finish(
        { ...next, type: typeForAdding(previous), members: addMembers(previous, change.members) },
        previous,
      );
    case "remove":
      return finish({ ...next, ...removeMembers(previous, change.peerIds) }, previous);
    case "drain":
      return finish({ ...next, members: reweigh(previous, change.peerId, 0) }, previous);
    case "undrain":
    case "set-weight":
      checkWeight(change.peerId, change.weight);
      return finish({ ...next, members: reweigh(previous, change.peerId, change.weight) }, previous);
    case "set-zone": {
      const { zone } = change;
      return finish(
        { ...next, members: replaceMember(previous, change.peerId, (member) => ({ ...member, zone })) },
        previous,
      );
    }
    case "set-replication":
      return finish({ ...next, replication: change.replication }, previous, false);
    case "manual":
      return finish(
        {
          ...next,
          type: change.type,
          replication: change.replication ?? previous.replication,
          members: change.members ?? previous.members,
        },
        previous,
      );
  }
}

/** Sorts, checks and, for a table, computes; `mayMove` false: only the replication differs. */
function finish(draft: RingSpec, previous?: RingSpec, mayMove = true): RingSpec {
  if (draft.type === "union")
    throw new RingError("bad-change", "Cannot make a union ring: it only exists for reads during a change");
  if (!isReplication(draft.replication))
    throw new RingError(
      "bad-change",
      `Cannot set replication ${draft.replication}: give 1 to ${REPLICATION_MAX}`,
    );
  for (const { peerId, weight, zone } of draft.members) {
    checkZone(peerId, zone);
    if (!isWeight(weight)) checkWeight(peerId, weight);
  }
  const members = draft.members.toSorted((a, b) => (a.peerId < b.peerId ? -1 : a.peerId > b.peerId ? 1 : 0));
  const spec: RingSpec = { ...draft, members };
  try {
    checkMembers(spec);
  } catch (cause) {
    throw new RingError(
      "bad-change",
      `Cannot make this ring: ${(cause as Error).message.replace("Cannot read ring: ", "")}`,
      { cause },
    );
  }
  if (spec.type !== "table") return spec;
  const payload = makeTablePayload({
    members,
    replication: spec.replication,
    ...(previous?.type === "table" ? { previous } : {}),
    mayMove,
  });
  return { ...spec, payload };
}

function withoutPayload(spec: RingSpec): RingSpec {
  const { version, type, replication, members } = spec;
  return { version, type, replication, members };
}

function typeForAdding(previous: RingSpec): RingType {
  if (previous.type === "single")
    throw new RingError(
      "bad-change",
      "Cannot add to a single ring: change its type first (ring manual-change)",
    );
  return previous.type === "empty" ? DEFAULT_RING_TYPE : previous.type;
}

function addMembers(previous: RingSpec, added: readonly RingMember[]): RingMember[] {
  if (added.length === 0) throw new RingError("bad-change", "Cannot add to the ring: no peer is given");
  for (const { peerId } of added)
    if (previous.members.some((member) => member.peerId === peerId))
      throw new RingError("peer-exists", `Cannot add peer ${peerId}: it is in the ring already`);
  return [...previous.members, ...added];
}

function removeMembers(previous: RingSpec, removed: readonly PeerId[]): Pick<RingSpec, "type" | "members"> {
  if (removed.length === 0)
    throw new RingError("bad-change", "Cannot remove from the ring: no peer is given");
  for (const peerId of removed) findMember(previous, peerId);
  const members = previous.members.filter((member) => !removed.includes(member.peerId));
  return { type: previous.type === "single" && members.length === 0 ? "empty" : previous.type, members };
}

function reweigh(previous: RingSpec, peerId: PeerId, weight: number): RingMember[] {
  const others = placingMembers(previous).filter((member) => member.peerId !== peerId);
  if (weight === 0 && others.length === 0)
    throw new RingError("bad-change", `Cannot drain peer ${peerId}: no other peer could take its blocks`);
  return replaceMember(previous, peerId, (member) => ({ ...member, weight }));
}

function replaceMember(
  previous: RingSpec,
  peerId: PeerId,
  replace: (member: RingMember) => RingMember,
): RingMember[] {
  findMember(previous, peerId);
  return previous.members.map((member) => (member.peerId === peerId ? replace(member) : member));
}

function findMember(spec: RingSpec, peerId: PeerId): RingMember {
  const member = spec.members.find((candidate) => candidate.peerId === peerId);
  if (!member) throw new RingError("unknown-peer", `Cannot change peer ${peerId}: it is not in the ring`);
  return member;
}

/** Throws RingError for a weight or zone that no ring takes; for a peer that is in none yet. */
export function checkPeerSettings({ peerId, weight, zone }: PeerSettings): void {
  if (weight !== undefined) checkWeight(peerId, weight);
  if (zone !== undefined) checkZone(peerId, zone);
}

function checkZone(peerId: PeerId, zone: string): void {
  if (isZone(zone)) return;
  throw new RingError(
    "bad-change",
    `Cannot put peer ${peerId} into that zone: give at most 128 printable characters`,
  );
}

function checkWeight(peerId: PeerId, weight: number): void {
  if (!isWeight(weight) || weight === 0)
    throw new RingError(
      "bad-change",
      `Cannot weigh peer ${peerId} at ${weight}: give a number above 0, at most 2^40 (drain it to take its blocks away)`,
    );
}
