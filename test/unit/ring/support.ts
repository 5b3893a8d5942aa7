/** Members, refs and arbitraries that the ring tests share. */
import fc from "fast-check";
import { asEpoch, asVolumeId, BlockKind, type BlockRef, type PeerId, parsePeerId } from "../../../src/base";
import { buildRing, type RingMember, type RingSpec, type RingType } from "../../../src/ring";

export function peerId(index: number): PeerId {
  const head = (Math.imul(index + 1, 0x9e3779b1) >>> 0).toString(16).padStart(8, "0");
  return parsePeerId(`${head}-0000-4000-8000-${index.toString(16).padStart(12, "0")}`);
}

export function member(index: number, weight = 100, zone = ""): RingMember {
  return { peerId: peerId(index), weight, zone };
}

export function members(count: number, weight = (_: number) => 100, zone = (_: number) => ""): RingMember[] {
  return Array.from({ length: count }, (_, index) => member(index, weight(index), zone(index)));
}

export function dataRef(volume: number, epoch: number, index: number): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(volume), epoch: asEpoch(epoch), index };
}

export const anyRef: fc.Arbitrary<BlockRef> = fc.record({
  kind: fc.constantFrom(BlockKind.data, BlockKind.inode),
  volumeId: fc.integer({ min: 1, max: 2 ** 40 - 1 }).map(asVolumeId),
  epoch: fc.maxSafeNat().map((n) => asEpoch(Math.max(1, n))),
  index: fc.maxSafeNat().map((n) => Math.max(1, n)),
});

export const MEMBER_TYPES: readonly RingType[] = ["mod", "ketama", "rendezvous", "table"];

/** 1-12 members with mixed weights (some draining) in up to 5 zones, some without zone; at least one has weight. */
export const anyMembers: fc.Arbitrary<RingMember[]> = fc
  .array(
    fc.record({
      weight: fc.oneof(
        { weight: 4, arbitrary: fc.integer({ min: 1, max: 8 }).map((n) => n * 50) },
        { weight: 1, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.double({ min: 0.01, max: 5000, noNaN: true }) },
      ),
      zone: fc.constantFrom("", "", "a", "b", "c", "d", "e"),
    }),
    { minLength: 1, maxLength: 12 },
  )
  .map((list) => list.map(({ weight, zone }, index) => member(index, weight, zone)))
  .filter((list) => list.some(({ weight }) => weight > 0));

/** What a ring is made of; properties take this rather than a spec so that a counterexample is short enough to read. */
export interface Plan {
  readonly replication: number;
  readonly list: RingMember[];
}
export const anyPlan: fc.Arbitrary<Plan> = fc.record({
  replication: fc.integer({ min: 1, max: 4 }),
  list: anyMembers,
});
/** Even weights and few members: tables of 256 to 1024 rows, small enough for the flow oracle. */
export const smallPlan: fc.Arbitrary<Plan> = fc.record({
  replication: fc.integer({ min: 1, max: 3 }),
  list: fc
    .array(
      fc.record({ weight: fc.constantFrom(100, 100, 200, 0), zone: fc.constantFrom("", "a", "b", "c") }),
      {
        minLength: 1,
        maxLength: 5,
      },
    )
    .map((list) => list.map(({ weight, zone }, index) => member(index, weight, zone)))
    .filter((list) => list.some(({ weight }) => weight > 0)),
});

/** The whole permutation of a block as member indexes. */
export function walk(spec: RingSpec, ref: BlockRef, count = spec.members.length): number[] {
  const out = new Uint16Array(spec.members.length + 1).fill(0xffff);
  const length = buildRing(spec).permutation(ref, count, out);
  return [...out.subarray(0, length)];
}
