/** Where copies of blocks are: looked up in the stores themselves, behind the protocol's back. */
import { formatBlockRef } from "../../../src/base";
import type { SegmentStore } from "../../../src/engine/store";
import type { SimPeer } from "../actors/peer";

/** Good copies by name, with the CRC that names their content. */
function goodCopies(store: SegmentStore): Map<string, number> {
  const copies = new Map<string, number>();
  let cursor: string | undefined;
  do {
    const reply = store.list({ limit: 4096, ...(cursor !== undefined && { cursor }) });
    for (const { ref, headerCrc, suspect } of reply.blocks)
      if (!suspect) copies.set(formatBlockRef(ref), headerCrc);
    cursor = reply.cursor;
  } while (cursor !== undefined);
  return copies;
}

/**
 * Whether every block of `peer` has a good copy on another peer that never lost anything itself since. Only asked
 * while all peers run: what a stopped one has nobody can tell.
 */
export function everythingIsElsewhere(peer: SimPeer, peers: readonly SimPeer[]): boolean {
  if (peers.some((each) => !each.serving || each.store === undefined || each.process.paused)) return false;
  const others = new Set<string>();
  for (const other of peers) {
    if (other === peer || other.lostData || other.store === undefined) continue;
    for (const name of goodCopies(other.store).keys()) others.add(name);
  }
  if (peer.store === undefined) return false;
  for (const name of goodCopies(peer.store).keys()) if (!others.has(name)) return false;
  return true;
}
