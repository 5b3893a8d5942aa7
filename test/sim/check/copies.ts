/** Where copies of blocks are: looked up in the stores themselves, behind the protocol's back. */
import { formatBlockRef } from "../../../src/base";
import { type LogMember, type LogSet, StorageStatus } from "../../../src/engine";
import type { SegmentStore } from "../../../src/engine/store";
import type { SimPeer } from "../actors/peer";

/** Names of the blocks of which a store has a good copy. */
function goodCopies(store: SegmentStore, verifies: boolean): Set<string> {
  const copies = new Set<string>();
  let cursor: string | undefined;
  do {
    const reply = store.list({ limit: 4096, ...(cursor !== undefined && { cursor }) });
    for (const { ref, suspect } of reply.blocks)
      if (!suspect && (!verifies || store.verify(ref) === StorageStatus.ok)) copies.add(formatBlockRef(ref));
    cursor = reply.cursor;
  } while (cursor !== undefined);
  return copies;
}

/** Whether the log set stays openable when the disk of this peer becomes another one. */
export function canSpare(set: LogSet, peer: SimPeer, peers: readonly SimPeer[]): boolean {
  const isGone = (member: LogMember): boolean =>
    member.peerId === peer.peerId ||
    !peers.some((each) => each.peerId === member.peerId && each.store?.incarnation === member.incarnation);
  const isMember = set.members.some((member) => member.peerId === peer.peerId);
  return !isMember || set.members.filter(isGone).length <= set.width - 1;
}

/**
 * Whether every block of `peer` has a good copy on another peer; where a disk lost something before, each copy is
 * read and checked. Only asked while all peers run: what a stopped one has nobody can tell.
 */
export function everythingIsElsewhere(peer: SimPeer, peers: readonly SimPeer[]): boolean {
  if (peers.some((each) => !each.serving || each.store === undefined || each.process.paused)) return false;
  if (peers.some((each) => each !== peer && each.isDoubtful)) return false;
  const others = new Set<string>();
  for (const other of peers) {
    if (other === peer || other.store === undefined) continue;
    for (const name of goodCopies(other.store, other.lostData)) others.add(name);
  }
  if (peer.store === undefined) return false;
  for (const name of goodCopies(peer.store, false)) if (!others.has(name)) return false;
  return true;
}
