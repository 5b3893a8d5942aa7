/**
 * Ketama, the consistent hash ring of CoreOS Torus: every member has points on a circle of 32-bit hashes, in number
 * proportional to its weight (160 for an average one); a block goes to the members met first clockwise. Kept for
 * comparison and for those who trust it: it moves little but balances to several per cent only, and knows no zones.
 * Our points come from our own hash, so placement is not that of another program's ketama.
 */
import type { BlockRef, PeerId } from "../base";
import { hashBlockRef, hashText, mix } from "./hash";
import type { Ring, RingSpec } from "./ring";
import { PermutationScratch } from "./scratch";
import { weightUnits } from "./shares";

const POINTS_AVERAGE = 160;
/** A member far above the average weight gets no more than this; nobody with weight gets none. */
const POINTS_MAX = POINTS_AVERAGE * 64;

export class KetamaRing implements Ring {
  readonly peers: readonly PeerId[];
  private readonly points: Uint32Array;
  private readonly owners: Uint16Array;
  private readonly members: PermutationScratch;

  constructor(readonly spec: RingSpec) {
    this.peers = spec.members.map((member) => member.peerId);
    this.members = new PermutationScratch(this.peers.length);
    const circle = placePoints(spec);
    this.points = Uint32Array.from(circle, ([point]) => point);
    this.owners = Uint16Array.from(circle, ([, owner]) => owner);
  }

  permutation(ref: BlockRef, count: number, out: Uint16Array): number {
    const { points, owners, members } = this;
    const memberCount = this.peers.length;
    const total = Math.min(count, memberCount);
    members.begin();
    let length = 0;
    let position = this.firstAtOrAfter(hashBlockRef(ref));
    for (let walked = 0; walked < points.length && length < total; walked++) {
      if (position === points.length) position = 0;
      const owner = owners[position++] as number;
      if (members.take(owner)) out[length++] = owner;
    }
    // Members without weight have no points and come last.
    for (let member = 0; member < memberCount && length < total; member++)
      if (members.take(member)) out[length++] = member;
    return length;
  }

  private firstAtOrAfter(hash: number): number {
    const { points } = this;
    let low = 0;
    let high = points.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((points[middle] as number) < hash) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function placePoints(spec: RingSpec): [number, number][] {
  const weights = spec.members.map((member) => weightUnits(member.weight));
  const placing = weights.filter((weight) => weight > 0).length;
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const circle: [number, number][] = [];
  spec.members.forEach((member, owner) => {
    const weight = weights[owner] as number;
    if (weight === 0) return;
    const pointCount = Math.min(
      POINTS_MAX,
      Math.max(1, Math.round((POINTS_AVERAGE * placing * weight) / sum)),
    );
    const seed = hashText(member.peerId);
    for (let i = 0; i < pointCount; i++) circle.push([mix(seed, i), owner]);
  });
  return circle.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}
