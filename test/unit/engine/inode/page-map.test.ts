/** The page map against a plain Map of pages: any interleaving of writes, trims, checkpoints, reloads and evictions. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { asEpoch, asVolumeId } from "../../../../src/base";
import { VOLUME_PAGE_COUNT_MAX } from "../../../../src/engine/block";
import type { NodePointer } from "../../../../src/engine/head";
import {
  createPageMap,
  type FrozenMap,
  makeLocation,
  openPageMap,
  type PageMap,
  SLOTS_PER_LSN,
} from "../../../../src/engine/inode";
import { StorageStatus } from "../../../../src/engine/ports";
import { complete, InodeStore } from "./harness";

const VOLUME = 7;
const BUDGET_BYTES = 1 << 30;

/** Pages that lie together, apart, and at the far end of the largest volume. */
const PAGE_BASES = [0, 500, 1000, 5000, 2 ** 20 - 3, 2 ** 29, VOLUME_PAGE_COUNT_MAX - 40];
const pageArb = fc
  .tuple(fc.constantFrom(...PAGE_BASES), fc.integer({ min: 0, max: 30 }))
  .map(([base, offset]) => base + offset);

type Step =
  | { kind: "write"; page: number; count: number }
  | { kind: "trim"; page: number; count: number }
  | { kind: "seal" }
  | { kind: "checkpoint"; outcome: "commit" | "abandon" | "fail" }
  | { kind: "freeze" }
  | { kind: "reopen" }
  | { kind: "fork" };

const stepArb: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      page: pageArb,
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("trim" as const),
      page: pageArb,
      count: fc.integer({ min: 1, max: 9 }),
    }),
  },
  { weight: 4, arbitrary: fc.constant({ kind: "seal" as const }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("checkpoint" as const),
      outcome: fc.constantFrom("commit" as const, "abandon" as const, "fail" as const),
    }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: "freeze" as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: "reopen" as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: "fork" as const }) },
);

class Run {
  readonly store = new InodeStore();
  map: PageMap;
  model = new Map<number, number>();
  epoch = 1;
  volumeId = VOLUME;
  nextIndex = 1;
  openIndex = 1;
  slot = 0;
  root: NodePointer | null = null;
  immediate = false;
  rootModel = new Map<number, number>();
  frozen: FrozenMap | undefined;
  frozenModel = new Map<number, number>();

  constructor(
    readonly budgetBytes: number,
    readonly picks: () => number,
  ) {
    this.map = createPageMap({ reader: this.store, residentBytesMax: budgetBytes });
    this.map.beginEpoch(asVolumeId(VOLUME), asEpoch(this.epoch));
  }

  write(page: number, count: number): void {
    const lsn = this.map.claimLsn(this.openIndex);
    const status = complete(
      this.store,
      (done) => this.map.ensureWritable(page, count, lsn, done),
      () => this.map.setRange(page, count, makeLocation(lsn, this.slot)),
    );
    expect(status).toBe(StorageStatus.ok);
    for (let step = 0; step < count; step += 1)
      this.model.set(page + step, makeLocation(lsn, this.slot + step));
    this.slot += count;
    if (this.slot > 1000) this.seal();
  }

  trim(page: number, count: number): void {
    const status = complete(
      this.store,
      (done) => this.map.ensureWritable(page, count, 0, done),
      () => this.map.holeRange(page, count),
    );
    expect(status).toBe(StorageStatus.ok);
    for (let step = 0; step < count; step += 1) this.model.delete(page + step);
  }

  seal(): void {
    this.openIndex += 1;
    this.slot = 0;
  }

  freeze(): void {
    if (this.frozen !== undefined) return;
    this.seal();
    this.frozen = this.map.freeze(1 << 30);
    this.frozenModel = new Map(this.model);
  }

  async finish(outcome: "commit" | "abandon" | "fail"): Promise<void> {
    this.freeze();
    const frozen = this.frozen as FrozenMap;
    this.frozen = undefined;
    const sink = this.store.sink(this.volumeId, this.epoch, this.nextIndex);
    if (outcome === "fail") sink.failFrom = this.nextIndex + 1;
    sink.between = () => {
      const pick = this.picks();
      if (pick % 3 === 0) this.trim(PAGE_BASES[pick % PAGE_BASES.length] ?? 0, 1 + (pick % 3));
      else this.write((PAGE_BASES[pick % PAGE_BASES.length] ?? 0) + (pick % 11), 1 + (pick % 5));
    };
    const root = await frozen.write(sink).catch(() => null);
    this.nextIndex = sink.nextIndex;
    if (root === null || outcome === "abandon") {
      this.map.abandon(frozen);
      return;
    }
    this.map.commit(frozen);
    this.root = root;
    this.rootModel = this.frozenModel;
  }

  /** What was not checkpointed is gone; a new epoch goes on from the root. */
  async reopen(volumeId: number): Promise<void> {
    this.frozen = undefined;
    this.volumeId = volumeId;
    const options = { reader: this.store, residentBytesMax: this.budgetBytes };
    this.store.immediate = true;
    this.map = this.root === null ? createPageMap(options) : await openPageMap(options, this.root);
    this.store.immediate = this.immediate;
    this.model = new Map(this.rootModel);
    this.epoch += 1;
    this.map.beginEpoch(asVolumeId(volumeId), asEpoch(this.epoch));
    this.nextIndex = 1;
    this.openIndex = 1;
    this.slot = 0;
  }

  check(): void {
    for (const base of PAGE_BASES) {
      const count = Math.min(45, VOLUME_PAGE_COUNT_MAX - base);
      const status = complete(
        this.store,
        (done) => this.map.ensureLoaded(base, count, done),
        () => {
          for (let page = base; page < base + count; page += 1)
            expect(this.map.locationOf(page)).toBe(this.model.get(page) ?? 0);
        },
      );
      expect(status).toBe(StorageStatus.ok);
    }
    this.checkUses();
    this.checkHoles();
  }

  private checkUses(): void {
    const live = new Map<number, number>();
    for (const location of this.model.values()) {
      const lsn = Math.floor(location / SLOTS_PER_LSN);
      live.set(lsn, (live.get(lsn) ?? 0) + 1);
    }
    const seen = new Map<number, number>();
    let dead = 0;
    let cursor = 1;
    while (cursor !== 0) {
      let next = -1;
      const visit = (use: { lsn: number; livePages: number; slotCount: number }) => {
        expect(use.livePages).toBeLessThanOrEqual(use.slotCount);
        seen.set(use.lsn, use.livePages);
        dead += use.slotCount - use.livePages;
      };
      this.map.scanBlocks(cursor, visit, (status, nextLsn) => {
        expect(status).toBe(StorageStatus.ok);
        next = nextLsn;
      });
      while (next === -1 && this.store.answerOne(0));
      cursor = next;
    }
    expect([...seen]).toEqual([...live].sort(([a], [b]) => a - b));
    const statistics = this.map.statistics();
    expect(statistics.livePageCount).toBe(this.model.size);
    expect(statistics.liveBlockCount).toBe(live.size);
    expect(statistics.deadSlotCount).toBe(dead);
    for (const lsn of live.keys()) expect(this.map.refOf(lsn)).toBeDefined();
  }

  private checkHoles(): void {
    const pages = [...this.model.keys()].sort((a, b) => a - b);
    let from = 0;
    for (;;) {
      const next = pages.find((page) => page >= from) ?? VOLUME_PAGE_COUNT_MAX;
      const skipped = this.map.skipHoles(from, VOLUME_PAGE_COUNT_MAX);
      expect(skipped).toBeLessThanOrEqual(next);
      if (next === VOLUME_PAGE_COUNT_MAX) return;
      from = next + 1;
    }
  }
}

async function play(
  steps: readonly Step[],
  budgetBytes: number,
  seed: number,
  immediate = false,
): Promise<Run> {
  let state = seed;
  const picks = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 8;
  };
  const run = new Run(budgetBytes, picks);
  run.immediate = immediate;
  run.store.immediate = immediate;
  for (const step of steps) {
    if (step.kind === "write") run.write(step.page, Math.min(step.count, VOLUME_PAGE_COUNT_MAX - step.page));
    else if (step.kind === "trim")
      run.trim(step.page, Math.min(step.count, VOLUME_PAGE_COUNT_MAX - step.page));
    else if (step.kind === "seal") run.seal();
    else if (step.kind === "freeze") run.freeze();
    else if (step.kind === "checkpoint") await run.finish(step.outcome);
    else await run.reopen(step.kind === "fork" ? run.volumeId + 1 : run.volumeId);
  }
  run.check();
  await run.finish("commit");
  await run.reopen(run.volumeId);
  run.check();
  return run;
}

describe("PageMap", () => {
  test("equals a Map of pages over writes, trims, checkpoints, aborted checkpoints, opens and clones", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stepArb, { maxLength: 60 }), fc.nat(), async (steps, seed) => {
        await play(steps, BUDGET_BYTES, seed);
      }),
      { numRuns: 150 },
    );
  });

  test("equals a Map of pages when every clean node is evicted as soon as nobody needs it", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stepArb, { maxLength: 60 }), fc.nat(), async (steps, seed) => {
        await play(steps, 0, seed);
      }),
      { numRuns: 150 },
    );
  });

  test("equals a Map of pages when the reader answers inside its call", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(stepArb, { maxLength: 60 }), fc.nat(), async (steps, seed) => {
        await play(steps, 0, seed, true);
      }),
      { numRuns: 100 },
    );
  });

  test("a trim asks for the live counts of the first leaf of blocks like for any other", async () => {
    const store = new InodeStore();
    const options = { reader: store, residentBytesMax: 0 };
    const map = createPageMap(options);
    map.beginEpoch(asVolumeId(VOLUME), asEpoch(1));
    const lsn = map.claimLsn(1);
    const write = (done: (status: StorageStatus) => void) => map.ensureWritable(0, 1, lsn, done);
    complete(store, write, () => map.setRange(0, 1, makeLocation(lsn, 0)));
    const frozen = map.freeze(4096);
    await frozen.write(store.sink(VOLUME, 1, 1));
    map.commit(frozen);
    expect(map.livePagesOf(lsn)).toBe(-1);
    options.residentBytesMax = BUDGET_BYTES;
    // The leaf of the map alone comes back; the live count of lsn 1 stays on disk.
    complete(store, (done) => map.ensureLoaded(0, 1, done));
    store.immediate = false;
    const trim = (done: (status: StorageStatus) => void) => map.ensureWritable(0, 1, 0, done);
    expect(complete(store, trim, () => map.holeRange(0, 1))).toBe(StorageStatus.ok);
    expect(map.statistics().livePageCount).toBe(0);
  });
});
