/** Loads that share reads, fail, or meet bytes that are no node; and the gradual rewrite. */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, type BlockRef, formatBlockRef } from "../../../../src/base";
import type { NodePointer } from "../../../../src/engine/head";
import {
  createPageMap,
  makeLocation,
  openPageMap,
  type PageMap,
  walkReferences,
} from "../../../../src/engine/inode";
import { StorageStatus } from "../../../../src/engine/ports";
import { complete, InodeStore } from "./harness";

const LARGE = 1 << 30;

interface Written {
  readonly store: InodeStore;
  readonly map: PageMap;
  readonly root: NodePointer;
}

function writeBlock(store: InodeStore, map: PageMap, index: number, page: number, count: number): void {
  const lsn = map.claimLsn(index);
  const start = (done: (status: StorageStatus) => void) => map.ensureWritable(page, count, lsn, done);
  const act = () => map.setRange(page, count, makeLocation(lsn, 0));
  expect(complete(store, start, act)).toBe(StorageStatus.ok);
}

/** `leafCount` leaves with one page each. */
async function written(leafCount: number, spread = 1024): Promise<Written> {
  const store = new InodeStore();
  const map = createPageMap({ reader: store, residentBytesMax: LARGE });
  map.beginEpoch(asVolumeId(1), asEpoch(5));
  for (let leaf = 0; leaf < leafCount; leaf += 1) writeBlock(store, map, leaf + 1, leaf * spread, 1);
  const frozen = map.freeze(1 << 20);
  const root = await frozen.write(store.sink(1, 5, 1));
  map.commit(frozen);
  return { store, map, root };
}

async function reopened(from: Written): Promise<PageMap> {
  return await openPageMap({ reader: from.store, residentBytesMax: LARGE }, from.root);
}

describe("ensureLoaded", () => {
  test("reads each node once however many wait for it", async () => {
    const origin = await written(4);
    const map = await reopened(origin);
    const { store } = origin;
    store.immediate = false;
    store.readCount = 0;
    const results: StorageStatus[] = [];
    for (let waiter = 0; waiter < 10; waiter += 1)
      expect(map.ensureLoaded(0, 2048, (status) => results.push(status))).toBe(false);
    while (store.answerOne(0));
    expect(results).toEqual(new Array(10).fill(StorageStatus.ok));
    // Two interiors below the top, which was loaded at the open, and two leaves.
    expect(store.readCount).toBe(4);
    expect(map.ensureLoaded(0, 2048, () => undefined)).toBe(true);
  });

  test("tells a failed read, and the next call tries again", async () => {
    const origin = await written(4);
    const map = await reopened(origin);
    const { store } = origin;
    store.immediate = false;
    store.failure = StorageStatus.unreachable;
    expect(complete(store, (done) => map.ensureLoaded(0, 4096, done))).toBe(StorageStatus.unreachable);
    store.failure = StorageStatus.ok;
    let location = 0;
    const start = (done: (status: StorageStatus) => void) => map.ensureLoaded(3072, 1, done);
    expect(
      complete(store, start, () => {
        location = map.locationOf(3072);
      }),
    ).toBe(StorageStatus.ok);
    expect(location).toBe(makeLocation(4, 0));
  });

  test("gives a typed error, or loads, for any damage to the bytes of its nodes", async () => {
    const origin = await written(6, 1500);
    const { store, root } = origin;
    const [name, good] = [...store.blocks][0] as [string, { bytes: Uint8Array; view: DataView }];
    const clean = good.bytes.slice();
    const outcomes = { refused: 0, corrupt: 0, loaded: 0 };
    for (let at = 0; at < clean.length; at += 1) {
      good.bytes.set(clean);
      good.bytes[at] = (good.bytes[at] as number) ^ (at % 2 === 0 ? 0xff : 0x01);
      store.immediate = true;
      const map = await openPageMap({ reader: store, residentBytesMax: LARGE }, root).catch((error) => {
        expect(["bad-node", "node-missing"]).toContain(error.code);
      });
      if (map === undefined) {
        outcomes.refused += 1;
        continue;
      }
      // What looks right may be loaded: the slots' CRCs are what tells a changed number from the right one.
      const status = complete(store, (done) => map.ensureLoaded(0, 9000, done));
      expect([StorageStatus.ok, StorageStatus.corrupt, StorageStatus.notFound]).toContain(status as 0);
      if (status === StorageStatus.ok) outcomes.loaded += 1;
      else outcomes.corrupt += 1;
    }
    good.bytes.set(clean);
    expect(name).toBe("1/5/1");
    for (const count of Object.values(outcomes)) expect(count).toBeGreaterThan(10);
  });
});

describe("openPageMap", () => {
  test("names the INode block it cannot read", async () => {
    const { store, root } = await written(1);
    const open = () => openPageMap({ reader: store, residentBytesMax: LARGE }, root);
    store.failure = StorageStatus.unreachable;
    await expect(open()).rejects.toMatchObject({
      code: "node-unreadable",
      message: "Cannot read the volume's map: INode block 1/5/1 gave storage status 9",
    });
    store.failure = StorageStatus.notFound;
    await expect(open()).rejects.toMatchObject({
      code: "node-missing",
      message: "Cannot read the volume's map: no peer has INode block 1/5/1",
    });
  });

  test("goes on with the lsns of the head's epoch, and gives a new epoch fresh ones", async () => {
    const origin = await written(3);
    const map = await reopened(origin);
    map.beginEpoch(asVolumeId(1), asEpoch(5));
    expect(map.claimLsn(4)).toBe(4);
    expect(map.claimLsn(9)).toBe(9);
    map.beginEpoch(asVolumeId(1), asEpoch(6));
    expect(map.claimLsn(1)).toBe(10);
    const names = [3, 9, 10].map((lsn) => formatBlockRef(map.refOf(lsn) as BlockRef));
    expect(names).toEqual(["data 1/5/3", "data 1/5/9", "data 1/6/1"]);
    expect(map.refOf(11)).toBeUndefined();
  });
});

describe("epochs", () => {
  test("are dropped from the table once nothing maps to them, and their lsns name nothing then", async () => {
    const store = new InodeStore();
    const map = createPageMap({ reader: store, residentBytesMax: LARGE });
    for (let epoch = 1; epoch <= 100; epoch += 1) {
      map.beginEpoch(asVolumeId(1), asEpoch(epoch));
      writeBlock(store, map, 1, epoch === 50 ? 7 : 0, 1);
      writeBlock(store, map, 2, 1, 1);
    }
    const frozen = map.freeze(4096);
    const root = await frozen.write(store.sink(1, 100, 1));
    map.commit(frozen);
    expect(map.statistics().epochCount).toBe(2);
    const again = await openPageMap({ reader: store, residentBytesMax: LARGE }, root);
    expect(again.refOf(99)).toMatchObject({ epoch: 50, index: 1 });
    expect(again.refOf(97)).toBeUndefined();
    expect(again.refOf(101)).toBeUndefined();
    expect(again.refOf(200)).toMatchObject({ epoch: 100, index: 2 });
  });

  test("that never had a block leave no trace", () => {
    const map = createPageMap({ reader: new InodeStore(), residentBytesMax: LARGE });
    for (let epoch = 1; epoch <= 100; epoch += 1) map.beginEpoch(asVolumeId(1), asEpoch(epoch));
    expect(map.statistics().epochCount).toBe(1);
    expect(map.claimLsn(1)).toBe(1);
    expect(map.refOf(1)).toMatchObject({ epoch: 100, index: 1 });
  });
});

test("rewriteStep leaves no old INode block referenced after enough checkpoints", async () => {
  const store = new InodeStore();
  const options = { reader: store, residentBytesMax: 0, rewriteBytesMin: 200_000 };
  let map = createPageMap(options);
  let epoch = 1;
  let inodeIndex = 1;
  let blockIndex = 1;
  let root: NodePointer | null = null;
  map.beginEpoch(asVolumeId(1), asEpoch(epoch));
  const step = async (page: number) => {
    writeBlock(store, map, blockIndex, page, 2);
    blockIndex += 1;
    expect(
      complete(store, (done) => {
        map.rewriteStep(done);
        return false;
      }),
    ).toBe(StorageStatus.ok);
    const frozen = map.freeze(1 << 20);
    const sink = store.sink(1, epoch, inodeIndex);
    root = await frozen.write(sink);
    inodeIndex = sink.nextIndex;
    map.commit(frozen);
  };
  for (let leaf = 0; leaf < 600; leaf += 1) writeBlock(store, map, blockIndex++, leaf * 1024, 3);
  await step(0);
  const first = await references(store, root as unknown as NodePointer);
  let round = 0;
  for (; round < 400; round += 1) {
    if (round % 7 === 3 && root !== null) {
      map = await openPageMap(options, root);
      epoch += 1;
      inodeIndex = 1;
      blockIndex = 1;
      map.beginEpoch(asVolumeId(1), asEpoch(epoch));
    }
    await step((round % 5) * 1024);
    const now = await references(store, root as unknown as NodePointer);
    if (![...first].some((name) => now.has(name))) break;
  }
  expect(round).toBeGreaterThan(3);
  expect(round).toBeLessThan(400);
  expect(map.statistics().livePageCount).toBe(1800);
});

async function references(store: InodeStore, root: NodePointer): Promise<Set<string>> {
  const names = new Set<string>();
  const visitor = { data: () => undefined, inode: (ref: BlockRef) => void names.add(formatBlockRef(ref)) };
  await walkReferences(root, store, visitor);
  return names;
}
