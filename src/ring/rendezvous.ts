/**
 * Weighted rendezvous hashing: every member draws an exponentially distributed score from the hash of block and
 * member, divided by its weight; the smallest scores win, so shares follow weights and a change moves only what the
 * changed member wins or loses (the "logarithmic method" of weighted rendezvous hashing). The first copies go to
 * different zones. Members without weight come last. Also the order in which `table` walks on beyond its copies.
 */
import type { BlockRef, PeerId } from "../base";
import { hashBlockRef, hashText, mix } from "./hash";
import { negativeLogOfHash } from "./logarithm";
import type { Ring, RingSpec } from "./ring";
import { PermutationScratch } from "./scratch";
import { weightUnits } from "./shares";
import { mapZones } from "./zones";

/** Puts members into rendezvous order behind what is in `out` already; shared by the two rings. */
export class RendezvousOrder {
  readonly memberCount: number;
  private readonly seeds: Uint32Array;
  private readonly weights: Float64Array;
  private readonly zoneOf: Uint16Array;
  private readonly zoneCount: number;
  private readonly members: PermutationScratch;
  private readonly zones: PermutationScratch;

  constructor(spec: RingSpec) {
    this.memberCount = spec.members.length;
    this.seeds = Uint32Array.from(spec.members, (member) => hashText(member.peerId));
    this.weights = Float64Array.from(spec.members, (member) => weightUnits(member.weight));
    const zones = mapZones(spec.members);
    this.zoneOf = zones.zoneOfMember;
    this.zoneCount = zones.names.length;
    this.members = new PermutationScratch(this.memberCount);
    this.zones = new PermutationScratch(this.zoneCount);
  }

  /** Extends out[start .. start+taken) to `count` members (at most all); returns how many there are then. */
  extend(hash: number, out: Uint16Array, start: number, taken: number, count: number): number {
    const { members, zones, zoneOf, memberCount, zoneCount } = this;
    members.begin();
    zones.begin();
    let zonesUsed = 0;
    for (let i = start; i < start + taken; i++) {
      const member = out[i] as number;
      members.take(member);
      if (zones.take(zoneOf[member] as number)) zonesUsed++;
    }
    for (let member = 0; member < memberCount; member++)
      if (!members.isTaken(member)) members.scores[member] = this.score(hash, member);
    const total = Math.min(count, memberCount);
    let length = taken;
    while (length < total) {
      let best = this.smallest(zonesUsed < zoneCount);
      // The zones left may hold only members without weight: those do not go before members with weight.
      if (best < 0 || members.scores[best] === Number.POSITIVE_INFINITY) best = this.smallest(false);
      members.take(best);
      if (zones.take(zoneOf[best] as number)) zonesUsed++;
      out[start + length++] = best;
    }
    return length;
  }

  private score(hash: number, member: number): number {
    const weight = this.weights[member] as number;
    if (weight === 0) return Number.POSITIVE_INFINITY;
    return negativeLogOfHash(mix(hash, this.seeds[member] as number)) / weight;
  }

  private smallest(onlyNewZones: boolean): number {
    const { members, zones, zoneOf } = this;
    let best = -1;
    for (let member = 0; member < this.memberCount; member++) {
      if (members.isTaken(member) || (onlyNewZones && zones.isTaken(zoneOf[member] as number))) continue;
      if (best < 0 || (members.scores[member] as number) < (members.scores[best] as number)) best = member;
    }
    return best;
  }
}

export class RendezvousRing implements Ring {
  readonly peers: readonly PeerId[];
  private readonly order: RendezvousOrder;

  constructor(readonly spec: RingSpec) {
    this.peers = spec.members.map((member) => member.peerId);
    this.order = new RendezvousOrder(spec);
  }

  permutation(ref: BlockRef, count: number, out: Uint16Array): number {
    return this.order.extend(hashBlockRef(ref), out, 0, 0, count);
  }
}
