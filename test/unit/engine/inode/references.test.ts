/** References of roots, whole and as differences, against what the maps really hold. */
import { expect, test } from "bun:test";
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

class Collected {
  readonly data = new Set<string>();
  readonly inodes = new Map<string, number>();
  visits = 0;

  visitor = {
    data: (ref: BlockRef, present: boolean) => {
      this.visits += 1;
      const name = formatBlockRef(ref);
      if (present === this.data.has(name)) throw new Error(`${name} came or went twice`);
      if (present) this.data.add(name);
      else this.data.delete(name);
    },
    inode: (ref: BlockRef, change: 1 | -1) => {
      this.visits += 1;
      const name = formatBlockRef(ref);
      const sum = (this.inodes.get(name) ?? 0) + change;
      if (sum === 0) this.inodes.delete(name);
      else this.inodes.set(name, sum);
    },
  };
}

class Writer {
  index = 1;
  inodeIndex = 1;

  constructor(
    readonly store: InodeStore,
    readonly map: PageMap,
    readonly volumeId: number,
    readonly epoch: number,
  ) {
    map.beginEpoch(asVolumeId(volumeId), asEpoch(epoch));
  }

  write(page: number, count: number): void {
    const lsn = this.map.claimLsn(this.index);
    this.index += 1;
    const start = (done: (status: StorageStatus) => void) => this.map.ensureWritable(page, count, lsn, done);
    const act = () => this.map.setRange(page, count, makeLocation(lsn, 0));
    expect(complete(this.store, start, act)).toBe(StorageStatus.ok);
  }

  async checkpoint(): Promise<NodePointer> {
    const frozen = this.map.freeze(1 << 30);
    const sink = this.store.sink(this.volumeId, this.epoch, this.inodeIndex);
    const root = await frozen.write(sink);
    this.inodeIndex = sink.nextIndex;
    this.map.commit(frozen);
    return root;
  }
}

/** By the map itself: every block that a page lies in. */
async function dataBlocks(store: InodeStore, root: NodePointer): Promise<Set<string>> {
  const map = await openPageMap({ reader: store, residentBytesMax: 1 << 30 }, root);
  const names = new Set<string>();
  let page = 0;
  for (;;) {
    page = map.skipHoles(page, 2 ** 34);
    if (page === 2 ** 34) return names;
    const start = (done: (status: StorageStatus) => void) => map.ensureLoaded(page, 1, done);
    expect(complete(store, start)).toBe(StorageStatus.ok);
    const location = map.locationOf(page);
    const ref = location === 0 ? undefined : map.refOf(Math.floor(location / 2048));
    if (ref !== undefined) names.add(formatBlockRef(ref));
    page += location === 0 ? 0 : 1;
  }
}

async function whole(store: InodeStore, root: NodePointer): Promise<Collected> {
  const collected = new Collected();
  await walkReferences(root, store, collected.visitor);
  return collected;
}

test("walkReferences lists the blocks with live pages and every INode block that is read", async () => {
  const store = new InodeStore();
  const writer = new Writer(store, createPageMap({ reader: store, residentBytesMax: 0 }), 3, 10);
  for (let step = 0; step < 50; step += 1) writer.write((step * 977) % 5000, 40);
  const root = await writer.checkpoint();
  for (let step = 0; step < 20; step += 1) writer.write((step * 977) % 5000, 40);
  const next = await writer.checkpoint();
  for (const pointer of [root, next]) {
    const collected = await whole(store, pointer);
    const kept = new InodeStore();
    for (const [name, buffer] of store.blocks)
      if (collected.inodes.has(`inode ${name}`)) kept.blocks.set(name, buffer);
    expect([...(await dataBlocks(kept, pointer))].sort()).toEqual([...collected.data].sort());
    expect((await whole(kept, pointer)).visits).toBe(collected.visits);
  }
});

test("walkReferences with a known root visits the difference alone, on two lines from one snapshot too", async () => {
  const store = new InodeStore();
  const reader = { reader: store, residentBytesMax: 1 << 30 };
  const writer = new Writer(store, createPageMap(reader), 3, 10);
  for (let step = 0; step < 400; step += 1) writer.write(step * 5000, 20);
  const snapshot = await writer.checkpoint();
  writer.write(100_000, 30);
  writer.write(7, 3);
  const head = await writer.checkpoint();
  const clone = new Writer(store, await openPageMap(reader, snapshot), 4, 12);
  clone.write(100_003, 30);
  clone.write(0, 20);
  const cloneHead = await clone.checkpoint();
  const roots = [snapshot, head, cloneHead];
  for (const from of roots)
    for (const to of roots) {
      const collected = await whole(store, from);
      const full = collected.visits;
      collected.visits = 0;
      await walkReferences(to, store, collected.visitor, from);
      const expected = await whole(store, to);
      expect([...collected.data].sort()).toEqual([...expected.data].sort());
      expect([...collected.inodes].sort()).toEqual([...expected.inodes].sort());
      expect(collected.visits).toBeLessThan(full / 10);
    }
  expect((await whole(store, cloneHead)).data.has("data 4/12/1")).toBe(true);
  expect((await whole(store, head)).data.has("data 3/10/401")).toBe(true);
});

test("walkReferences rejects when an INode block cannot be read or is not what it should be", async () => {
  const store = new InodeStore();
  const writer = new Writer(store, createPageMap({ reader: store, residentBytesMax: 0 }), 3, 10);
  writer.write(0, 10);
  const root = await writer.checkpoint();
  store.failure = StorageStatus.unreachable;
  const walk = () => walkReferences(root, store, new Collected().visitor);
  await expect(walk()).rejects.toMatchObject({
    code: "node-unreadable",
    message: "Cannot read the volume's map: INode block 3/10/1 gave storage status 9",
    retryable: true,
  });
  store.failure = StorageStatus.ok;
  for (const buffer of store.blocks.values()) buffer.bytes.fill(0x33);
  await expect(walk()).rejects.toMatchObject({ code: "bad-node" });
});
