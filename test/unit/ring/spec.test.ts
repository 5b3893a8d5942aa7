import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  buildRing,
  createRing,
  nextRing,
  parseRingSpec,
  RING_MEMBERS_MAX,
  RingError,
  type RingSpec,
} from "../../../src/ring";
import { dataRef, member, members, peerId } from "./support";

const good = createRing({ replication: 2, members: members(3) });
const viaJson = (spec: unknown): unknown => JSON.parse(JSON.stringify(spec));

describe("parseRingSpec", () => {
  test("reads back what createRing made, through JSON", () => {
    for (const type of ["mod", "ketama", "rendezvous", "table"] as const) {
      const spec = createRing({
        type,
        replication: 2,
        members: members(
          4,
          (i) => i + 0.5,
          (i) => `z${i}`,
        ),
      });
      expect(parseRingSpec(viaJson(spec))).toEqual(spec);
    }
  });

  test.each<[string, unknown, string]>([
    ["null", null, "Cannot read ring: it is not an object"],
    ["a list", [], "Cannot read ring: it is not an object"],
    ["version 0", { ...good, version: 0 }, "Cannot read ring: version is 0"],
    ["a version of text", { ...good, version: "1" }, 'Cannot read ring: version is "1"'],
    [
      "an unknown type",
      { ...good, type: "crush" },
      'Cannot read ring: type is "crush", not one of empty, single, mod, ketama, union, rendezvous, table',
    ],
    ["replication 0", { ...good, replication: 0 }, "Cannot read ring: replication is 0, not 1..16"],
    ["replication 17", { ...good, replication: 17 }, "Cannot read ring: replication is 17, not 1..16"],
    ["no members", { ...good, members: undefined }, "Cannot read ring: members is not a list"],
    ["a member without id", { ...good, members: [{}] }, "Cannot read ring: member 0 has no peerId"],
    ["a null member", { ...good, members: [null] }, "Cannot read ring: member 0 has no peerId"],
    [
      "a member that is no UUID",
      { ...good, members: [{ ...member(0), peerId: "x" }] },
      'Cannot read ring: member 0 is "x", not a UUID',
    ],
    [
      "a negative weight",
      { ...good, members: [member(0, -1)] },
      "Cannot read ring: the weight of member 0 is -1, not 0..2^40",
    ],
    [
      "a missing weight",
      { ...good, members: [{ peerId: peerId(0), zone: "" }] },
      "Cannot read ring: the weight of member 0 is missing, not 0..2^40",
    ],
    [
      "a zone with a line feed",
      { ...good, members: [member(0, 1, "a\nb")] },
      'Cannot read ring: the zone of member 0 is "a\\nb"',
    ],
    [
      "a member twice",
      { ...good, members: [member(0), member(0)] },
      `Cannot read ring: peer ${peerId(0)} is a member twice`,
    ],
    [
      "two members of single",
      { ...good, type: "single" },
      "Cannot read ring: a single ring has 3 members, not one",
    ],
    ["members of empty", { ...good, type: "empty" }, "Cannot read ring: an empty ring has 3 members"],
    [
      "too many members",
      { ...good, members: members(RING_MEMBERS_MAX + 1) },
      "Cannot read ring: it has 1025 members, more than 1024",
    ],
  ])("refuses %s", (_, value, message) => {
    expect(() => parseRingSpec(value)).toThrow(new RingError("bad-spec", message));
  });

  test("throws nothing but RingError for any JSON, nor does building the ring", () => {
    const anything = fc.oneof(
      fc.jsonValue(),
      fc.record(
        {
          version: fc.oneof(fc.constant(1), fc.jsonValue()),
          type: fc.constantFrom("empty", "single", "mod", "ketama", "union", "rendezvous", "table"),
          replication: fc.oneof(fc.constant(2), fc.jsonValue()),
          members: fc.oneof(fc.constant(viaJson(members(3))), fc.jsonValue()),
          payload: fc.oneof(
            fc.jsonValue(),
            fc.record({
              partitionBits: fc.oneof(fc.constant(1), fc.jsonValue()),
              copies: fc.oneof(fc.constant(2), fc.jsonValue()),
              table: fc.oneof(
                fc.constantFrom("AAECAA==", "AAEBAg==", "AAEBAw==", "AAE", "AAEA", "!"),
                fc.jsonValue(),
              ),
            }),
            fc.record({
              older: fc.constant(viaJson(good)),
              newer: fc.oneof(fc.jsonValue(), fc.constant(viaJson(good))),
            }),
          ),
        },
        { requiredKeys: [] },
      ),
    );
    fc.assert(
      fc.property(anything, (value) => {
        try {
          const ring = buildRing(parseRingSpec(value));
          const out = new Uint16Array(16);
          return ring.permutation(dataRef(1, 1, 1), 16, out) <= 16;
        } catch (error) {
          return error instanceof RingError && error.code === "bad-spec";
        }
      }),
      { numRuns: 2000 },
    );
  }, 60_000);
});

describe("table payload", () => {
  const payload = good.payload as { partitionBits: number; copies: number; table: string };
  const withPayload = (change: object): RingSpec => ({ ...good, payload: { ...payload, ...change } });
  test.each<[string, RingSpec, string]>([
    [
      "missing",
      { ...good, payload: undefined },
      "Cannot read partition table: partitionBits is missing, not 0..16",
    ],
    [
      "too fine",
      withPayload({ partitionBits: 17 }),
      "Cannot read partition table: partitionBits is 17, not 0..16",
    ],
    [
      "of more copies than members",
      withPayload({ copies: 4 }),
      "Cannot read partition table: copies is 4, not 0..3",
    ],
    ["that is no text", withPayload({ table: 5 }), "Cannot read partition table: table is not text"],
    ["that is no base64", withPayload({ table: "?" }), "Cannot read partition table: it is not base64"],
    [
      "of the wrong size",
      withPayload({ partitionBits: 9 }),
      "Cannot read partition table: the table has 512 bytes for 1024 entries",
    ],
    [
      "naming an unknown member",
      withPayload({ partitionBits: 0, copies: 2, table: "AAM=" }),
      "Cannot read partition table: partition 0 names member 3 of 3",
    ],
    [
      "naming a member twice",
      withPayload({ partitionBits: 1, copies: 2, table: "AAECAg==" }),
      "Cannot read partition table: partition 1 names member 2 twice",
    ],
  ])("%s is refused", (_, spec, message) => {
    expect(() => buildRing(spec)).toThrow(new RingError("bad-spec", message));
  });

  test("names more than 256 members in two bytes each", () => {
    const spec = createRing({ replication: 2, members: members(260) });
    const out = new Uint16Array(260);
    const seen = new Set<number>();
    const ring = buildRing(spec);
    for (let index = 1; index <= 20_000; index++) {
      ring.permutation(dataRef(1, 1, index), 2, out);
      seen.add(out[0] as number).add(out[1] as number);
    }
    expect(seen.size).toBe(260);
    expect(ring.permutation(dataRef(1, 1, 1), 260, out)).toBe(260);
    expect(new Set(out).size).toBe(260);
  }, 60_000);
});

describe("nextRing", () => {
  test.each<[string, () => unknown, string, string]>([
    [
      "adding a member twice",
      () => nextRing(good, { kind: "add", members: [member(1)] }),
      "peer-exists",
      `Cannot add peer ${peerId(1)}: it is in the ring already`,
    ],
    [
      "adding nobody",
      () => nextRing(good, { kind: "add", members: [] }),
      "bad-change",
      "Cannot add to the ring: no peer is given",
    ],
    [
      "removing a stranger",
      () => nextRing(good, { kind: "remove", peerIds: [peerId(9)] }),
      "unknown-peer",
      `Cannot change peer ${peerId(9)}: it is not in the ring`,
    ],
    [
      "removing nobody",
      () => nextRing(good, { kind: "remove", peerIds: [] }),
      "bad-change",
      "Cannot remove from the ring: no peer is given",
    ],
    [
      "weight 0",
      () => nextRing(good, { kind: "set-weight", peerId: peerId(1), weight: 0 }),
      "bad-change",
      `Cannot weigh peer ${peerId(1)} at 0: give a number above 0, at most 2^40 (drain it to take its blocks away)`,
    ],
    [
      "weight NaN",
      () => nextRing(good, { kind: "undrain", peerId: peerId(1), weight: Number.NaN }),
      "bad-change",
      `Cannot weigh peer ${peerId(1)} at NaN: give a number above 0, at most 2^40 (drain it to take its blocks away)`,
    ],
    [
      "a zone with control characters",
      () => nextRing(good, { kind: "set-zone", peerId: peerId(1), zone: "\u0007" }),
      "bad-change",
      `Cannot put peer ${peerId(1)} into that zone: give at most 128 printable characters`,
    ],
    [
      "replication 0",
      () => nextRing(good, { kind: "set-replication", replication: 0 }),
      "bad-change",
      "Cannot set replication 0: give 1 to 16",
    ],
    [
      "a union",
      () => nextRing(good, { kind: "manual", type: "union" }),
      "bad-change",
      "Cannot make a union ring: it only exists for reads during a change",
    ],
    [
      "a single ring of three",
      () => nextRing(good, { kind: "manual", type: "single" }),
      "bad-change",
      "Cannot make this ring: a single ring has 3 members, not one",
    ],
    [
      "draining the last member",
      () =>
        nextRing(createRing({ replication: 1, members: [member(0)] }), { kind: "drain", peerId: peerId(0) }),
      "bad-change",
      `Cannot drain peer ${peerId(0)}: no other peer could take its blocks`,
    ],
    [
      "adding to a single ring",
      () =>
        nextRing(createRing({ type: "single", replication: 1, members: [member(0)] }), {
          kind: "add",
          members: [member(1)],
        }),
      "bad-change",
      "Cannot add to a single ring: change its type first (ring manual-change)",
    ],
  ])("refuses %s", (_, act, code, message) => {
    expect(act).toThrow(new RingError(code as "bad-change", message));
    try {
      act();
    } catch (error) {
      expect((error as RingError).code).toBe(code as "bad-change");
    }
  });

  test("grows the version by one and leaves the previous spec alone", () => {
    const before = structuredClone(good);
    expect(nextRing(good, { kind: "set-weight", peerId: peerId(1), weight: 300 }).version).toBe(2);
    expect(good).toEqual(before);
  });

  test("changes the type by hand and keeps members and replication unless given", () => {
    const ketama = nextRing(good, { kind: "manual", type: "ketama" });
    expect([ketama.type, ketama.replication, ketama.members.length, ketama.payload]).toEqual([
      "ketama",
      2,
      3,
      undefined,
    ]);
    const back = nextRing(ketama, { kind: "manual", type: "table", replication: 1, members: [member(5)] });
    expect([back.type, back.version, back.members[0]?.peerId]).toEqual(["table", 3, peerId(5)]);
  });

  test("an empty ring becomes a table with its first peers, a single one empty with its last gone", () => {
    const empty = createRing({ type: "empty", replication: 2, members: [] });
    expect(nextRing(empty, { kind: "add", members: members(2) }).type).toBe("table");
    const single = createRing({ type: "single", replication: 1, members: [member(0)] });
    expect(nextRing(single, { kind: "remove", peerIds: [peerId(0)] }).type).toBe("empty");
  });
});
