/**
 * The rings without tables: empty (no members), single (one member) and mod (hash modulo the number of members, then
 * its neighbours), as CoreOS Torus had them. mod balances well but moves nearly everything on any change, and knows
 * neither weights nor zones; members without weight only come last.
 */
import type { BlockRef, PeerId } from "../base";
import { hashBlockRef } from "./hash";
import type { Ring, RingSpec } from "./ring";

export class EmptyRing implements Ring {
  readonly peers: readonly PeerId[] = [];
  constructor(readonly spec: RingSpec) {}

  permutation(): number {
    return 0;
  }
}

export class SingleRing implements Ring {
  readonly peers: readonly PeerId[];
  constructor(readonly spec: RingSpec) {
    this.peers = spec.members.map((member) => member.peerId);
  }

  permutation(_ref: BlockRef, count: number, out: Uint16Array): number {
    if (count < 1) return 0;
    out[0] = 0;
    return 1;
  }
}

export class ModRing implements Ring {
  readonly peers: readonly PeerId[];
  private readonly placing: Uint16Array;
  private readonly draining: Uint16Array;

  constructor(readonly spec: RingSpec) {
    this.peers = spec.members.map((member) => member.peerId);
    const indexes = spec.members.map((_, index) => index);
    this.placing = Uint16Array.from(indexes.filter((index) => spec.members[index]?.weight !== 0));
    this.draining = Uint16Array.from(indexes.filter((index) => spec.members[index]?.weight === 0));
  }

  permutation(ref: BlockRef, count: number, out: Uint16Array): number {
    const { placing, draining } = this;
    const total = Math.min(count, placing.length + draining.length);
    const first = placing.length > 0 ? hashBlockRef(ref) % placing.length : 0;
    for (let i = 0; i < total; i++)
      out[i] = (
        i < placing.length ? placing[(first + i) % placing.length] : draining[i - placing.length]
      ) as number;
    return total;
  }
}
