/**
 * Which log set the volume should have now (rules R2 and R4): the placing members of the current ring that can be
 * reached, each in the incarnation it has now, and as many copies as the write level asks for and members there
 * are. A member is taken in only when it has answered just now, as who it said it is: its registration, and what was heard
 * of it long ago, may be of a disk that is gone, and a set that names that one waits for it at the next open. The same
 * holds of members that stay when the width is lowered: of a set of width W no more than W - 1 may be missing at an open,
 * so one that the wider set could spare, the narrower may not. But while one may still answer, a set that has its copies
 * is not left for one with fewer. A pure function of what is known; the volume decides when to act on it, and acts by a
 * checkpoint.
 */
import type { Incarnation, PeerId } from "../../base";
import { placingMembers, type Ring } from "../../ring";
import type { PeerHealth } from "../distributor";
import type { LogMember, LogSet } from "../head";
import type { ClusterView, PeerRecord } from "../ports";
import { type WriteLevel, widthOf } from "./options";

export interface MembershipView {
  readonly cluster: ClusterView;
  readonly ring: Ring;
  readonly current: LogSet;
  readonly health: PeerHealth;
  readonly writeLevel: WriteLevel;
  /** A member that is gone for longer than this is left out, ... */
  readonly goneMsMax: number;
  /** ... and one that only does not answer, for longer than this: a slow disk is no reason to have fewer copies. */
  readonly silentMsMax: number;
  /** Incarnations that an earlier set had and a later one replaced: they never come back. */
  readonly retired: ReadonlySet<Incarnation>;
}

/** The set to have, or undefined when the present one stays: no member can be reached, or one is worth waiting for. */
export function desiredLogSet(view: MembershipView): LogSet | undefined {
  const { members, isAwaited, width } = reachable(view);
  if (members.length === 0) return undefined;
  const ringVersion = view.ring.spec.version;
  if (width >= view.current.width) return { ringVersion, members, width };
  const vouched = members.filter(
    (member) => view.health.freshIncarnation(member.peerId) === member.incarnation,
  );
  if ((isAwaited || vouched.length < members.length) && hasItsCopies(view)) return undefined;
  // Those that keep silent are gone after a while, and then the width is what the others can hold.
  return vouched.length < width ? undefined : { ringVersion, members: vouched, width };
}

interface Reachable {
  readonly members: readonly LogMember[];
  readonly width: number;
  /** One that is not in the present set may answer yet. */
  readonly isAwaited: boolean;
}

/** The placing members that are not given up, and the width with all of them. */
function reachable(view: MembershipView): Reachable {
  const records = new Map<PeerId, PeerRecord>();
  for (const record of view.cluster.peers) records.set(record.peerId, record);
  const present = new Map<PeerId, Incarnation>();
  for (const member of view.current.members) present.set(member.peerId, member.incarnation);
  const members: LogMember[] = [];
  let isAwaited = false;
  for (const { peerId } of placingMembers(view.ring.spec)) {
    const record = records.get(peerId);
    const toleratedMs = view.health.isGone(peerId) ? view.goneMsMax : view.silentMsMax;
    if (view.health.silentMs(peerId) > toleratedMs) continue;
    // Without a live registration only a member that still answers stays; it is not taken in anew.
    if (!record?.live && (!present.has(peerId) || !view.health.isUp(peerId))) continue;
    const before = present.get(peerId);
    const incarnation =
      before === undefined
        ? newcomer(view, peerId)
        : incarnationOf(view, before, record?.incarnation, peerId);
    if (incarnation !== undefined) members.push({ peerId, incarnation });
    else if (view.health.freshIncarnation(peerId) === "") isAwaited = true;
  }
  const width = Math.min(widthOf(view.writeLevel, view.ring.spec.replication), members.length);
  return { members, width, isAwaited };
}

/** Whether as many members of the present set as its width answer, as who they are there. */
function hasItsCopies({ current, health }: MembershipView): boolean {
  const answering = current.members.filter(({ peerId, incarnation }) => {
    const heard = health.incarnation(peerId);
    return health.isUp(peerId) && (heard === "" || heard === incarnation);
  });
  return answering.length >= current.width;
}

/** Who has to be asked who they are: placing members that are not in the set, and all when the width would be lowered. */
export function peersToAsk(view: MembershipView): readonly PeerId[] {
  const { ring, current } = view;
  const isLowered = reachable(view).width < current.width;
  return placingMembers(ring.spec)
    .map(({ peerId }) => peerId)
    .filter((peerId) => isLowered || !current.members.some((member) => member.peerId === peerId));
}

function newcomer(view: MembershipView, peerId: PeerId): Incarnation | undefined {
  const heard = view.health.freshIncarnation(peerId);
  return heard === "" || view.retired.has(heard) ? undefined : heard;
}

/** A store's incarnation only ever moves on: one that differs from the present set's, and was not before it, is newer. */
function incarnationOf(
  view: MembershipView,
  present: Incarnation,
  registered: Incarnation | undefined,
  peerId: PeerId,
): Incarnation {
  const heard = view.health.incarnation(peerId);
  for (const one of [registered, heard])
    if (one !== undefined && one !== "" && one !== present && !view.retired.has(one)) return one;
  return present;
}

export function sameLogSet(one: LogSet, other: LogSet): boolean {
  if (one.ringVersion !== other.ringVersion || one.width !== other.width) return false;
  if (one.members.length !== other.members.length) return false;
  return one.members.every((member) =>
    other.members.some((peer) => peer.peerId === member.peerId && peer.incarnation === member.incarnation),
  );
}
