/** Reading damaged, foreign and newer records: always a typed error or a whole value, and gc is told. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Head } from "../../../src/engine/head";
import { isMetaError, type KeyValue } from "../../../src/meta";
import {
  decodeCounter,
  decodeEpoch,
  encodeEpoch,
  decodeHead,
  decodeLock,
  decodeName,
  decodePeer,
  decodeRequest,
  decodeRing,
  decodeSettings,
  decodeSnapshot,
  decodeVolume,
  encodeHead,
  encodeRing,
} from "../../../src/meta/records/codec";
import { keys, parseVolumeKey } from "../../../src/meta/records/layout";
import { asVolumeId } from "../../../src/base";
import { headOf, makeWorld, peerId } from "./support";

const entryOf = (value: Uint8Array | string, key = "k"): KeyValue => ({
  key,
  value: typeof value === "string" ? new TextEncoder().encode(value) : value,
  createRevision: 1,
  modRevision: 1,
  lease: "",
});

const decoders: Record<string, (entry: KeyValue) => unknown> = {
  ...{ decodeCounter, decodeEpoch, decodeHead, decodeLock, decodeName, decodePeer, decodeRequest },
  ...{ decodeRing, decodeSettings, decodeSnapshot, decodeVolume },
};

/** JSON with the fields that records have, so that fuzzing gets past the first check. */
const likely = fc.record(
  {
    format: fc.oneof(fc.constant(1), fc.anything()),
    ...Object.fromEntries(
      [
        ...["version", "epoch", "last", "volumeId", "lineageId", "sizeBytes", "createdMs", "dataIndex"],
        ...["inodeIndex", "replication", "bootCount", "ttlMs", "sinceMs", "weight", "usedBytes"],
      ].map((name) => [name, fc.oneof(fc.nat(), fc.jsonValue())]),
    ),
    ...Object.fromEntries(
      ["name", "type", "token", "commit", "holder", "address", "zone", "requestId"].map((name) => [
        name,
        fc.oneof(fc.string(), fc.jsonValue()),
      ]),
    ),
    ...Object.fromEntries(
      ["members", "ancestorIds", "pastLives", "root", "log", "request"].map((name) => [
        name,
        fc.oneof(fc.constant(null), fc.constant([]), fc.jsonValue()),
      ]),
    ),
  },
  { requiredKeys: [] },
);

describe("record decoders", () => {
  for (const [name, decode] of Object.entries(decoders))
    test(`${name} of anything gives a value or a typed error`, () => {
      const check = (entry: KeyValue) => {
        try {
          decode(entry);
        } catch (error) {
          if (!isMetaError(error, "bad-record", "newer-format")) throw error;
        }
      };
      fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => check(entryOf(bytes))));
      fc.assert(fc.property(fc.json(), (text) => check(entryOf(text))));
      fc.assert(fc.property(likely, (value) => check(entryOf(JSON.stringify(value)))));
    });

  test("a newer format is refused by name", () => {
    expect(() => decodeEpoch(entryOf('{"format":2,"epoch":1}', "torus/x"))).toThrow(
      "Cannot use metadata record torus/x: its format 2 is newer than 1; use a newer torus",
    );
  });

  test("a bad field is named", () => {
    expect(() => decodeEpoch(entryOf('{"format":1,"epoch":-1}', "torus/x"))).toThrow(
      "Cannot use metadata record torus/x: epoch is not a whole number of 0 to 9007199254740991; restore it from a backup",
    );
    const bad = { ...headOf(1, 1), commit: "c", log: { ringVersion: 1, members: [{}], width: 1 } };
    expect(() => decodeHead(entryOf(JSON.stringify({ format: 1, ...bad }), "h"))).toThrow(
      "Cannot use metadata record h: log.members[0].peerId is not text of at most 4096 characters",
    );
    const wide: Head = { ...headOf(1, 1), log: { ...headOf(1, 1).log, width: 2 } };
    expect(() => decodeHead(entryOf(encodeHead(wide, "c")))).toThrow("width");
  });

  test("epochs come back as they were put, and an older record knows only its own", () => {
    const epochs = {
      epoch: 9,
      completeAbove: 3,
      minted: [
        { from: 4, to: 6 },
        { from: 9, to: 9 },
      ],
    };
    expect(decodeEpoch(entryOf(encodeEpoch(epochs)))).toEqual(epochs);
    expect(decodeEpoch(entryOf('{"format":1,"epoch":9}'))).toEqual({
      epoch: 9,
      completeAbove: 9,
      minted: [],
    });
    for (const minted of ["[4]", "[6,4]", "[0,1]"])
      expect(() =>
        decodeEpoch(entryOf(`{"format":1,"epoch":9,"completeAbove":3,"minted":${minted}}`)),
      ).toThrow("minted");
  });

  test("heads and rings come back as they were put", () => {
    const head = headOf(5, 9);
    expect(decodeHead(entryOf(encodeHead(head, "abc")))).toEqual({ head, commit: "abc" });
    const spec = {
      ...{ version: 3, type: "table" as const, replication: 2 },
      members: [{ peerId: peerId(1), weight: 0, zone: "z" }],
      payload: { table: "abc" },
    };
    expect(decodeRing(entryOf(encodeRing(spec, "t")))).toEqual({ spec, token: "t" });
    const twice = { ...spec, members: [...spec.members, ...spec.members] };
    expect(() => decodeRing(entryOf(encodeRing(twice, "t")))).toThrow("a peer is a member twice");
  });
});

describe("keys", () => {
  test("every name gives a key of its own that stores accept", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (name) => {
        fc.pre(name.isWellFormed());
        const key = keys.name(name);
        expect(key).toMatch(/^torus\/names\/[A-Za-z0-9%._~-]*$/);
        expect(decodeURIComponent(key.slice("torus/names/".length))).toBe(name);
      }),
    );
  });

  test("parseVolumeKey finds the volume, and nothing in foreign keys", () => {
    expect(parseVolumeKey(keys.head(asVolumeId(7)))).toEqual({ volumeId: asVolumeId(7), rest: "head" });
    for (const key of [keys.counter, "torus/volumes/7/head", "torus/volumes/0000000000000/head", "x"])
      expect(parseVolumeKey(key)).toBeUndefined();
  });
});

describe("collectionView", () => {
  const damaged = async (key: string, text: string | undefined) => {
    const world = await makeWorld();
    await world.run(world.volumes.create("a", 4096));
    await world.run(world.volumes.create("b", 4096));
    await world.run(world.snapshots.create("a", "s"));
    const value = new TextEncoder().encode(text ?? "");
    await world.run(
      world.store.transact({
        compares: [],
        operations: [text === undefined ? { kind: "delete", key } : { kind: "put", key, value }],
      }),
    );
    return world.run(world.registry.collectionView());
  };
  const one = asVolumeId(1);

  test("a damaged head or snapshot holds its lineage back", async () => {
    for (const key of [keys.head(one), keys.snapshot(one, "s")]) {
      const view = await damaged(key, "{");
      expect(view.damage).toMatchObject([{ key, lineageId: one }]);
      expect(view.volumes.some((volume) => volume.volumeId === asVolumeId(2))).toBe(true);
    }
    expect((await damaged(keys.head(one), undefined)).damage).toMatchObject([{ lineageId: one }]);
  });

  test("a damaged record or counter holds everything back", async () => {
    for (const key of [keys.record(one), keys.counter])
      expect((await damaged(key, "[]")).damage).toMatchObject([{ key, lineageId: undefined }]);
    expect((await damaged(keys.record(one), undefined)).damage).toMatchObject([{ lineageId: undefined }]);
  });

  test("a sound store has no damage", async () => {
    const view = await damaged("torus/other", "x");
    expect(view.damage).toEqual([]);
    expect(view.volumeIdLast).toBe(2);
    expect(view.volumes.map((volume) => volume.snapshots.length)).toEqual([1, 0]);
  });

  test("the other commands survive damage too", async () => {
    const world = await makeWorld();
    await world.run(world.volumes.create("a", 4096));
    await world.run(world.volumes.create("b", 4096));
    await world.run(
      world.store.transact({
        compares: [],
        operations: [{ kind: "put", key: keys.head(one), value: new Uint8Array([0xff]) }],
      }),
    );
    const list = await world.run(world.volumes.list());
    expect(list.volumes.map((volume) => [volume.name, volume.head === undefined])).toEqual([
      ["a", true],
      ["b", false],
    ]);
    expect(list.damage.length).toBe(1);
    expect(await world.code(world.volumes.info("a"))).toBe("bad-record");
    expect(await world.code(world.registry.openVolume("a", "x"))).toBe("bad-record");
  });
});
