/** Differences of two roots against a model that knows, for every page, which write put it there. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { asEpoch, asVolumeId } from "../../../../src/base";
import type { NodePointer } from "../../../../src/engine/head";
import {
  createPageMap,
  diffRoots,
  makeLocation,
  openPageMap,
  type PageDifference,
  type PageMap,
} from "../../../../src/engine/inode";
import { StorageStatus } from "../../../../src/engine/ports";
import { complete, InodeStore } from "./harness";

/** Where a page lies, named so that equal names mean equal places; holes are absent. */
type Model = Map<number, string>;

class Line {
  index = 1;
  inodeIndex = 1;

  constructor(
    readonly store: InodeStore,
    readonly map: PageMap,
    readonly volumeId: number,
    readonly epoch: number,
    readonly model: Model = new Map(),
  ) {
    map.beginEpoch(asVolumeId(volumeId), asEpoch(epoch));
  }

  write(page: number, count: number): void {
    const lsn = this.map.claimLsn(this.index);
    for (let slot = 0; slot < count; slot += 1)
      this.model.set(page + slot, `${this.volumeId}/${this.epoch}/${this.index}:${slot}`);
    this.index += 1;
    const start = (done: (status: StorageStatus) => void) => this.map.ensureWritable(page, count, lsn, done);
    const act = () => this.map.setRange(page, count, makeLocation(lsn, 0));
    expect(complete(this.store, start, act)).toBe(StorageStatus.ok);
  }

  hole(page: number, count: number): void {
    for (let slot = 0; slot < count; slot += 1) this.model.delete(page + slot);
    const start = (done: (status: StorageStatus) => void) => this.map.ensureWritable(page, count, 0, done);
    expect(complete(this.store, start, () => this.map.holeRange(page, count))).toBe(StorageStatus.ok);
  }

  async checkpoint(): Promise<Point> {
    const frozen = this.map.freeze(1 << 30);
    const sink = this.store.sink(this.volumeId, this.epoch, this.inodeIndex);
    const root = await frozen.write(sink);
    this.inodeIndex = sink.nextIndex;
    this.map.commit(frozen);
    return { root, model: new Map(this.model) };
  }

  /** Another volume that starts as `point` is. */
  async branch(point: Point, volumeId: number): Promise<Line> {
    const options = { reader: this.store, residentBytesMax: 1 << 20 };
    const map = point.root === null ? createPageMap(options) : await openPageMap(options, point.root);
    return new Line(this.store, map, volumeId, this.epoch + volumeId, new Map(point.model));
  }
}

interface Point {
  readonly root: NodePointer | null;
  readonly model: Model;
}

const EMPTY: Point = { root: null, model: new Map() };

function expected(after: Model, before: Model): PageDifference[] {
  const pages = [...new Set([...after.keys(), ...before.keys()])]
    .filter((page) => after.get(page) !== before.get(page))
    .sort((a, b) => a - b);
  const merged: { firstPage: number; pageCount: number; isHole: boolean }[] = [];
  for (const page of pages) {
    const isHole = !after.has(page);
    const last = merged.at(-1);
    if (last?.isHole === isHole && last.firstPage + last.pageCount === page) last.pageCount += 1;
    else merged.push({ firstPage: page, pageCount: 1, isHole });
  }
  return merged;
}

async function differences(store: InodeStore, after: Point, before: Point): Promise<PageDifference[]> {
  return Array.fromAsync(diffRoots(after.root, before.root, store));
}

function newLine(store: InodeStore): Line {
  return new Line(store, createPageMap({ reader: store, residentBytesMax: 1 << 20 }), 3, 10);
}

test("diffRoots agrees with a model for any two points of any history, also on different branches", async () => {
  const step = fc.record({
    kind: fc.constantFrom("write", "write", "write", "hole", "checkpoint", "branch"),
    /** Near leaf and subtree edges, and far away. */
    base: fc.constantFrom(0, 1000, 524_000, 2 ** 28 - 20, 2 ** 33),
    offset: fc.nat(60),
    count: fc.integer({ min: 1, max: 40 }),
    line: fc.nat(5),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const store = new InodeStore();
      const lines = [newLine(store)];
      const points = [EMPTY];
      for (const { kind, base, offset, count, line } of steps) {
        const writer = lines[line % lines.length] as Line;
        if (kind === "write") writer.write(base + offset, count);
        else if (kind === "hole") writer.hole(base + offset, count);
        else {
          const point = await writer.checkpoint();
          points.push(point);
          if (kind === "branch" && lines.length < 4) lines.push(await writer.branch(point, 3 + lines.length));
        }
      }
      for (const line of lines) points.push(await line.checkpoint());
      for (const after of points)
        for (const before of points)
          expect(await differences(store, after, before)).toEqual(expected(after.model, before.model));
    }),
    { numRuns: 40 },
  );
}, 60_000);

test("diffRoots reads what changed, not the whole map", async () => {
  const store = new InodeStore();
  const line = newLine(store);
  for (let index = 0; index < 1000; index += 1) line.write(index * 5000, 20);
  const before = await line.checkpoint();
  line.write(2_500_003, 9);
  const after = await line.checkpoint();
  store.readCount = 0;
  expect(await differences(store, after, before)).toEqual([
    { firstPage: 2_500_003, pageCount: 9, isHole: false },
  ]);
  expect(store.readCount).toBeLessThanOrEqual(12);
  store.readCount = 0;
  expect(await differences(store, after, after)).toEqual([]);
  expect(store.readCount).toBe(0);
});

test("diffRoots rejects when a node cannot be read or is not what it should be", async () => {
  const store = new InodeStore();
  const line = newLine(store);
  line.write(0, 10);
  const point = await line.checkpoint();
  store.failure = StorageStatus.unreachable;
  await expect(differences(store, point, EMPTY)).rejects.toMatchObject({ code: "node-unreadable" });
  store.failure = StorageStatus.ok;
  for (const buffer of store.blocks.values()) buffer.bytes.fill(0x33);
  await expect(differences(store, EMPTY, point)).rejects.toMatchObject({ code: "bad-node" });
});
