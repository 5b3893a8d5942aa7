/**
 * The union of an old and a new ring, for reads while data moves: first where the new ring wants the block, then
 * where the old one had it, then the rest of the new walk and of the old. Its spec is not placed by; version and
 * replication are the new ring's, the payload holds both specs.
 */
import type { BlockRef, PeerId } from "../base";
import type { Ring, RingSpec } from "./ring";
import { PermutationScratch } from "./scratch";

export class UnionRing implements Ring {
  readonly peers: readonly PeerId[];
  private readonly memberOfOld: Uint16Array;
  private readonly memberOfNew: Uint16Array;
  private readonly walk: Uint16Array;
  private readonly members: PermutationScratch;

  constructor(
    readonly spec: RingSpec,
    readonly older: Ring,
    readonly newer: Ring,
  ) {
    this.peers = spec.members.map((member) => member.peerId);
    const indexOf = new Map(this.peers.map((peerId, index) => [peerId, index]));
    const translate = (ring: Ring) => Uint16Array.from(ring.peers, (peerId) => indexOf.get(peerId) as number);
    this.memberOfOld = translate(older);
    this.memberOfNew = translate(newer);
    this.walk = new Uint16Array(Math.max(older.peers.length, newer.peers.length));
    this.members = new PermutationScratch(this.peers.length);
  }

  permutation(ref: BlockRef, count: number, out: Uint16Array): number {
    this.members.begin();
    const total = Math.min(count, this.peers.length);
    let length = 0;
    length = this.append(this.newer, this.memberOfNew, this.newer.spec.replication, ref, out, length, total);
    length = this.append(this.older, this.memberOfOld, this.older.spec.replication, ref, out, length, total);
    length = this.append(this.newer, this.memberOfNew, this.memberOfNew.length, ref, out, length, total);
    return this.append(this.older, this.memberOfOld, this.memberOfOld.length, ref, out, length, total);
  }

  private append(
    ring: Ring,
    memberOf: Uint16Array,
    depth: number,
    ref: BlockRef,
    out: Uint16Array,
    length: number,
    total: number,
  ): number {
    if (length >= total) return length;
    const walked = ring.permutation(ref, depth, this.walk);
    let end = length;
    for (let i = 0; i < walked && end < total; i++) {
      const member = memberOf[this.walk[i] as number] as number;
      if (this.members.take(member)) out[end++] = member;
    }
    return end;
  }
}
