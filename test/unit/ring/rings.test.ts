import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { BlockKind } from "../../../src/base";
import {
  buildRing,
  copyCount,
  createRing,
  nextRing,
  type RingSpec,
  type RingType,
  unionSpec,
} from "../../../src/ring";
import { anyMembers, anyRef, dataRef, MEMBER_TYPES, member, members, peerId, walk } from "./support";

function specOf(type: RingType, memberList = members(7), replication = 3): RingSpec {
  return createRing({ type, replication, members: memberList });
}

describe.each(MEMBER_TYPES)("%s ring", (type) => {
  test("permutation lists every member exactly once, those without weight last", () => {
    fc.assert(
      fc.property(anyMembers, fc.integer({ min: 1, max: 4 }), anyRef, (list, replication, ref) => {
        const spec = createRing({ type, replication, members: list });
        const whole = walk(spec, ref);
        expect(whole.toSorted((a, b) => a - b)).toEqual(list.map((_, index) => index));
        const draining = whole.map((index) => spec.members[index]?.weight === 0);
        expect(draining.indexOf(true) === -1 || draining.slice(draining.indexOf(true)).every(Boolean)).toBe(
          true,
        );
      }),
      { numRuns: 30 },
    );
  }, 60_000);

  test("permutation of fewer is the start of the whole one, and nothing is written behind it", () => {
    const spec = specOf(type);
    const ring = buildRing(spec);
    fc.assert(
      fc.property(anyRef, fc.integer({ min: 0, max: 9 }), (ref, count) => {
        const out = new Uint16Array(12).fill(0xffff);
        const length = ring.permutation(ref, count, out);
        expect(length).toBe(Math.min(count, 7));
        expect([...out.subarray(0, length)]).toEqual(walk(spec, ref).slice(0, length));
        expect(out.subarray(length).every((value) => value === 0xffff)).toBe(true);
      }),
    );
  });

  test("is the same for any order in which members were given", () => {
    const forward = specOf(type, members(9));
    const backward = specOf(type, members(9).toReversed());
    expect(backward).toEqual(forward);
  });

  test("spreads consecutive blocks of a volume over all members", () => {
    const ring = buildRing(specOf(type, members(5), 1));
    const out = new Uint16Array(1);
    const counts = new Int32Array(5);
    for (let index = 1; index <= 500; index++) {
      ring.permutation(dataRef(3, 1_700_000_000_000, index), 1, out);
      counts[out[0] as number]!++;
    }
    for (const count of counts) expect(count).toBeWithin(55, 150);
  });
});

describe("weights and zones without a table", () => {
  function firstCopies(spec: RingSpec, blocks: number): number[] {
    const ring = buildRing(spec);
    const out = new Uint16Array(spec.members.length);
    const counts = spec.members.map(() => 0);
    for (let index = 1; index <= blocks; index++) {
      const length = ring.permutation(dataRef(1, 5, index), copyCount(spec), out);
      for (let i = 0; i < length; i++) counts[out[i] as number]!++;
    }
    return counts;
  }

  test.each(["rendezvous", "ketama"] as const)("%s follows weights", (type) => {
    const list = [member(0, 100), member(1, 200), member(2, 400), member(3, 100), member(4, 200)];
    const spec = createRing({ type, replication: 1, members: list });
    const counts = firstCopies(spec, 40_000);
    spec.members.forEach(({ weight }, index) => {
      const share = (counts[index] as number) / 40_000 / (weight / 1000);
      expect(share).toBeWithin(type === "rendezvous" ? 0.95 : 0.7, type === "rendezvous" ? 1.05 : 1.3);
    });
  });

  test("rendezvous puts copies into different zones and then the rest", () => {
    const spec = createRing({
      type: "rendezvous",
      replication: 3,
      members: members(
        9,
        () => 100,
        (index) => `z${index % 3}`,
      ),
    });
    for (let index = 1; index <= 300; index++) {
      const zones = walk(spec, dataRef(1, 1, index)).map((position) => spec.members[position]?.zone);
      expect(new Set(zones.slice(0, 3)).size).toBe(3);
    }
  });

  test("rendezvous moves only to an added member", () => {
    const before = createRing({ type: "rendezvous", replication: 1, members: members(6) });
    const after = nextRing(before, { kind: "add", members: [member(6)] });
    for (let index = 1; index <= 500; index++) {
      const ref = dataRef(1, 1, index);
      const old = before.members[walk(before, ref, 1)[0] as number]?.peerId;
      const now = after.members[walk(after, ref, 1)[0] as number]?.peerId;
      expect(now === old || now === peerId(6)).toBe(true);
    }
  });
});

describe("empty, single and union", () => {
  test("empty answers no member", () => {
    expect(walk(createRing({ type: "empty", replication: 2, members: [] }), dataRef(1, 1, 1))).toEqual([]);
  });

  test("single answers its one member", () => {
    expect(
      walk(createRing({ type: "single", replication: 2, members: [member(0)] }), dataRef(1, 1, 1)),
    ).toEqual([0]);
  });

  test("union asks the new ring's peers, then the old one's, then covers all members of both", () => {
    const older = createRing({ replication: 2, members: members(4) });
    const newer = nextRing(nextRing(older, { kind: "add", members: [member(4), member(5)] }), {
      kind: "remove",
      peerIds: [peerId(0)],
    });
    const union = unionSpec(older, newer);
    expect(union.version).toBe(newer.version);
    for (let index = 1; index <= 200; index++) {
      const ref = dataRef(9, 2, index);
      const names = (spec: RingSpec, count?: number) =>
        walk(spec, ref, count).map((i) => spec.members[i]?.peerId);
      const whole = names(union);
      expect(new Set(whole).size).toBe(6);
      expect(whole.slice(0, 2)).toEqual(names(newer, 2));
      const oldOnly = names(older, 2).filter((name) => !whole.slice(0, 2).includes(name));
      expect(whole.slice(2, 2 + oldOnly.length)).toEqual(oldOnly);
    }
  });

  test("a union inside a union is refused", () => {
    const older = createRing({ replication: 2, members: members(2) });
    const union = unionSpec(older, older);
    expect(() => buildRing(unionSpec(older, union))).toThrow("Cannot read ring: a union of unions");
  });
});

describe("golden vectors", () => {
  // These hold placement still over machines and versions: a change here would move all data of all clusters.
  const refs = [
    dataRef(1, 1, 1),
    dataRef(1, 1, 2),
    dataRef(2 ** 40 - 1, 1_700_000_000_123, 2 ** 33 + 5),
    {
      kind: BlockKind.inode,
      volumeId: dataRef(7, 1, 1).volumeId,
      epoch: dataRef(1, 2 ** 52, 1).epoch,
      index: 65_536,
    },
  ];
  const list = members(
    6,
    (index) => [100, 200.5, 400][index % 3] as number,
    (index) => ["a", "b", "", "a", "c", ""][index] as string,
  );

  test.each([
    ["mod", ["123450", "501234", "501234", "501234"], 1022718929],
    ["ketama", ["530142", "350421", "230514", "054132"], 1493369627],
    ["rendezvous", ["405132", "125403", "540123", "420513"], 941784492],
    ["table", ["540312", "105423", "241503", "540123"], 3174045511],
  ] as const)("%s", (type, expected, checksum) => {
    const spec = createRing({ type, replication: 2, members: list });
    expect(refs.map((ref) => walk(spec, ref).join(""))).toEqual([...expected]);
    const ring = buildRing(spec);
    const out = new Uint16Array(6);
    let crc = 0;
    for (let index = 1; index <= 5000; index++) {
      ring.permutation(dataRef((index % 17) + 1, 1_700_000_000_000 + (index % 3), index * 1009), 6, out);
      crc = Bun.hash.crc32(out, crc);
    }
    expect(crc).toBe(checksum);
  });

  test("table payload after a change", () => {
    const spec = nextRing(createRing({ replication: 2, members: list }), {
      kind: "add",
      members: [member(6, 300, "c")],
    });
    expect(Bun.hash.crc32(JSON.stringify(spec))).toBe(108177861);
  });
});
