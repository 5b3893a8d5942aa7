/**
 * What rots, disappears or comes back old: the store says what is wrong, never serves a wrong byte, and either goes
 * on safely or refuses; with the loss accepted it keeps what is intact, as another incarnation.
 */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, BlockKind, DiskStatus, heapBuffer, type PeerId } from "../../../../src/base";
import { PAGE_BYTES, type SealedBlock } from "../../../../src/engine/block";
import { type RecordCheck, StorageStatus } from "../../../../src/engine/ports";
import {
  openSegmentStore,
  readStoreIdentity,
  type SegmentStore,
  StoreError,
} from "../../../../src/engine/store";
import { SimulatedDisk } from "../../../sim/simulated-disk";
import { SeededRandom } from "../../../support/seeded-random";
import { VirtualLoop } from "../../../support/virtual-loop";
import { CLUSTER, dataBlock, dataRef, inodeBlock, inodeRef, payloadOf, read } from "./blocks";
import { PEER } from "./stores";

const SEGMENT_BYTES = 512 * 1024;
const JOURNAL_OFFSET = 8192;
const METADATA_PAGE_BYTES = 4096;
const CHECKPOINT_OFFSET = 8192 + 16384;
const DATA_OFFSET = CHECKPOINT_OFFSET + 2 * 8192;

class Bench {
  readonly loop = new VirtualLoop();
  readonly random: SeededRandom;
  readonly disk: SimulatedDisk;
  store!: SegmentStore;
  poisonReason: string | undefined;

  constructor(isMappable = true, seed = 7) {
    this.random = new SeededRandom(seed);
    this.disk = new SimulatedDisk({ random: this.random, clock: this.loop, isMappable });
  }

  async open(
    more: { acceptLoss?: boolean; sizeBytes?: number; clusterId?: typeof CLUSTER; peerId?: PeerId } = {},
  ) {
    this.loop.clear();
    this.store = await this.loop.settle(
      openSegmentStore({
        disk: this.disk.attach(),
        clusterId: CLUSTER,
        peerId: PEER,
        sizeBytes: 128 * 1024 + 3 * SEGMENT_BYTES,
        segmentBytes: SEGMENT_BYTES,
        indexChunkRows: 64,
        reserveSpace: false,
        allocate: heapBuffer,
        clock: this.loop,
        random: this.random,
        turns: this.loop,
        onPoison: (reason) => {
          this.poisonReason = reason;
        },
        ...more,
      }),
    );
    return this.store;
  }

  async openError(more: Parameters<Bench["open"]>[0] = {}): Promise<StoreError> {
    try {
      await this.open(more);
    } catch (error) {
      if (error instanceof StoreError) return error;
      throw error;
    }
    throw new Error("the store opened");
  }

  /** Why the store is poisoned, forgotten for the next life. */
  takePoison(): string | undefined {
    const reason = this.poisonReason;
    this.poisonReason = undefined;
    return reason;
  }

  put(block: SealedBlock, writerEpoch: number = block.ref.epoch): StorageStatus {
    let answer: StorageStatus | undefined;
    const { buffer, offset, lengthBytes } = block;
    this.store.put({
      buffer,
      offset,
      lengthBytes,
      writerEpoch,
      done: (status) => {
        answer = status;
      },
    });
    this.loop.run();
    if (answer === undefined) throw new Error("a put was not answered");
    return answer;
  }

  putMany(count: number, pageCount = 2, volumeId = 1): SealedBlock[] {
    return Array.from({ length: count }, (_, index) => {
      const block = dataBlock(dataRef(volumeId, 1, index + 1), pageCount);
      expect(this.put(block)).toBe(StorageStatus.ok);
      return block;
    });
  }

  fence(volumeId: number, epoch: number): StorageStatus {
    let answer: StorageStatus | undefined;
    this.store.fence(asVolumeId(volumeId), asEpoch(epoch), (status) => {
      answer = status;
    });
    this.loop.run();
    if (answer === undefined) throw new Error("a fence was not answered");
    return answer;
  }

  async restart() {
    this.disk.kill();
    return this.open();
  }

  /** Looks at all of the store's own records; what was wrong is written anew when this returns. */
  checkRecords(): string[] {
    const problems: string[] = [];
    for (let part = 0, isLast = false; !isLast; part += 1) {
      let found: RecordCheck | undefined;
      this.store.checkRecords(part, (answer) => {
        found = answer;
      });
      this.loop.run();
      if (found === undefined) throw new Error("a check was not answered");
      if (found.problem !== undefined) problems.push(found.problem);
      ({ isLast } = found);
    }
    return problems;
  }
}

const fresh = async (isMappable = true) => {
  const bench = new Bench(isMappable);
  await bench.open();
  return bench;
};

/** Where the block's bytes lie in the segment file. */
function fileOffsetOf(bench: Bench, name: string, block: SealedBlock): number {
  const needle = block.buffer.bytes.subarray(block.offset, block.offset + 128);
  const at = Buffer.from(bench.disk.bytesOf(name)).indexOf(Buffer.from(needle));
  if (at < 0) throw new Error("the block is not in the file");
  return at;
}

for (const isMappable of [true, false])
  describe(`SegmentStore and rot, ${isMappable ? "mapped" : "copied"}`, () => {
    test("a flipped bit in a page fails its reader's check, and a look makes it suspect; other blocks are unharmed", async () => {
      const bench = await fresh(isMappable);
      const blocks = bench.putMany(3);
      const bad = blocks[1] as SealedBlock;
      bench.disk.flipBit(
        "blocks-00000",
        fileOffsetOf(bench, "blocks-00000", bad) + bad.headerBytes + PAGE_BYTES + 5,
      );
      expect(read(bench.store, bad.ref, 0, 1).status).toBe(StorageStatus.ok);
      expect(read(bench.store, bad.ref, 1, 1).status).toBe(StorageStatus.corrupt);
      expect(bench.store.statistics().suspectCount).toBe(0);
      expect(bench.store.verify(bad.ref)).toBe(StorageStatus.corrupt);
      expect(read(bench.store, bad.ref, 0, 1).status).toBe(StorageStatus.corrupt);
      bench.loop.run();
      const tail = bench.store.tail(BlockKind.data, asVolumeId(1), 1, 0);
      expect(tail.map(({ index, suspect }) => [index, suspect])).toEqual([
        [1, false],
        [2, true],
        [3, false],
      ]);
      expect(bench.store.statistics().suspectCount).toBe(1);
      await bench.restart();
      expect(bench.store.statistics().suspectCount).toBe(1);
      expect(read(bench.store, bad.ref, 0, 1).status).toBe(StorageStatus.corrupt);
      expect(read(bench.store, (blocks[2] as SealedBlock).ref, 0, 2).bytes).toEqual(
        payloadOf(blocks[2] as SealedBlock),
      );
    });

    test("a suspect copy is replaced by the next put of the same block, and its space comes back", async () => {
      const bench = await fresh(isMappable);
      const [block] = bench.putMany(1) as [SealedBlock];
      const { usedBytes } = bench.store.statistics();
      bench.disk.flipBit("blocks-00000", fileOffsetOf(bench, "blocks-00000", block) + 70);
      expect(bench.store.verify(block.ref)).toBe(StorageStatus.corrupt);
      expect(bench.put(dataBlock(block.ref, 2, 1), 0)).toBe(StorageStatus.conflict);
      expect(bench.put(block, 0)).toBe(StorageStatus.ok);
      expect(bench.store.verify(block.ref)).toBe(StorageStatus.ok);
      expect(bench.store.statistics()).toMatchObject({ usedBytes, suspectCount: 0, blockCount: 1 });
      await bench.restart();
      expect(bench.store.statistics()).toMatchObject({ usedBytes, suspectCount: 0, blockCount: 1 });
      expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    });

    test("a suspect that is being repaired in another segment is never denied, whatever a crash leaves", async () => {
      for (let seed = 1; seed <= 12; seed += 1) {
        const bench = new Bench(isMappable, seed);
        await bench.open();
        const [block] = bench.putMany(60, 2) as [SealedBlock];
        expect(bench.disk.fileNames()).toContain("blocks-00001");
        bench.disk.flipBit("blocks-00000", fileOffsetOf(bench, "blocks-00000", block) + 70);
        expect(bench.store.verify(block.ref)).toBe(StorageStatus.corrupt);
        bench.loop.run();
        let syncsLeft = 1 + (seed % 3);
        bench.disk.onOperation = (operation, isSync) => {
          if (operation !== "segment.sync" || !isSync || --syncsLeft > 0) return;
          bench.disk.onOperation = undefined;
          bench.disk.powerLoss();
          throw new Error("power is gone");
        };
        let repaired: StorageStatus | undefined;
        expect(() => {
          const { buffer, offset, lengthBytes } = block;
          const done = (status: StorageStatus) => {
            repaired = status;
          };
          bench.store.put({ buffer, offset, lengthBytes, writerEpoch: 0, done });
          bench.putMany(1, 1, 2);
          bench.putMany(1, 1, 3);
        }).toThrow("power is gone");
        await bench.open();
        expect(bench.store.has(block.ref)).toBe(true);
        const answer = read(bench.store, block.ref, 0, 2);
        if (repaired === StorageStatus.ok) expect(answer.status).toBe(StorageStatus.ok);
        if (answer.status === StorageStatus.ok) expect(answer.bytes).toEqual(payloadOf(block));
        else expect(answer.status).toBe(StorageStatus.corrupt);
      }
    });

    test("a put of a held block finds the rot that nobody has read yet, and repairs it before it says ok", async () => {
      const bench = await fresh(isMappable);
      const [block] = bench.putMany(1) as [SealedBlock];
      bench.disk.flipBit("blocks-00000", fileOffsetOf(bench, "blocks-00000", block) + block.headerBytes + 9);
      expect(bench.put(block)).toBe(StorageStatus.ok);
      expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    });

    test("a read error of the disk makes a copy corrupt, not the process dead", async () => {
      const bench = await fresh(isMappable);
      const [block] = bench.putMany(1) as [SealedBlock];
      bench.disk.failNextRead("data.read");
      expect(bench.store.verify(block.ref)).toBe(StorageStatus.corrupt);
      expect(bench.store.verify(block.ref)).toBe(StorageStatus.corrupt);
    });

    test("a misdirected or dropped write of a block that was acknowledged is corrupt after a restart, never wrong", async () => {
      for (const fault of ["misdirected", "dropped"] as const) {
        const bench = await fresh(isMappable);
        bench.putMany(4);
        bench.disk.failNextWrite("data.write", fault);
        const block = dataBlock(dataRef(9, 1, 1), 1);
        expect(bench.put(block)).toBe(StorageStatus.ok);
        expect(read(bench.store, block.ref, 0, 1).status).toBe(StorageStatus.corrupt);
        // The misdirected bytes may have hit the store's own records: then it must refuse.
        bench.disk.kill();
        try {
          await bench.open();
        } catch (error) {
          expect(error).toBeInstanceOf(StoreError);
          continue;
        }
        expect(read(bench.store, block.ref, 0, 1).status).toBe(StorageStatus.corrupt);
      }
    });
  });

describe("SegmentStore and its records", () => {
  test("a flipped bit in a journal record that was durable refuses with the file and the record", async () => {
    const bench = await fresh();
    bench.putMany(10);
    bench.disk.kill();
    bench.disk.flipBit("blocks-00000", JOURNAL_OFFSET + 3 * 64 + 30);
    const error = await bench.openError();
    expect(error.code).toBe("damaged");
    expect(error.message).toBe(
      "Cannot open store in the simulated disk: blocks-00000: record 3 of the journal is damaged; acknowledged blocks may be lost: restore the files, or start with --accept-loss to go on with what is intact and let the replicas heal the rest",
    );
  });

  test("zeroed journal records before later ones are a loss, and so is a journal that ends early", async () => {
    const bench = await fresh();
    bench.putMany(40);
    bench.disk.kill();
    bench.disk.corrupt("blocks-00000", JOURNAL_OFFSET + 5 * 64, (bytes) => bytes.fill(0, 0, 3 * 64));
    expect((await bench.openError()).message).toContain("record 5 of the journal was durable and is lost");
  });

  test("with the loss accepted it keeps what is intact under a new incarnation, and serves on", async () => {
    const bench = await fresh();
    const blocks = bench.putMany(10);
    const { incarnation, bootCount } = bench.store;
    bench.fence(5, 77);
    bench.disk.kill();
    bench.disk.flipBit("blocks-00000", JOURNAL_OFFSET + 6 * 64 + 30);
    await bench.open({ acceptLoss: true });
    expect(bench.store.incarnation).not.toBe(incarnation);
    expect(bench.store.bootCount).toBe(bootCount + 1);
    expect(bench.store.fenceEpoch(asVolumeId(5))).toBe(77);
    const kept = blocks.filter(({ ref }) => bench.store.has(ref));
    expect(kept.length).toBe(5);
    for (const block of kept) expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    for (const block of blocks) expect(bench.put(block)).toBe(StorageStatus.ok);
    const renewed = bench.store.incarnation;
    await bench.restart();
    expect(bench.store.incarnation).toBe(renewed);
    for (const block of blocks) expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
  });

  test("with the loss accepted once, it opens as ever from then on, however soon it is restarted", async () => {
    for (const record of [1, 6, 9, 40]) {
      const bench = await fresh();
      const blocks = bench.putMany(10);
      bench.disk.kill();
      bench.disk.corrupt("blocks-00000", JOURNAL_OFFSET + record * 64, (bytes) => bytes.fill(0x5a, 0, 128));
      await bench.open({ acceptLoss: true });
      expect(bench.store.acceptedDamage).toHaveLength(1);
      const { incarnation } = bench.store;
      for (let life = 0; life < 3; life += 1) {
        await bench.restart();
        expect(bench.store.acceptedDamage).toEqual([]);
        expect(bench.store.incarnation).toBe(incarnation);
      }
      for (const block of blocks) expect(bench.put(block)).toBe(StorageStatus.ok);
      await bench.restart();
      for (const block of blocks) expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    }
  });

  test("a deleted segment file refuses; accepted, the other segments' blocks remain", async () => {
    const bench = await fresh();
    const blocks = bench.putMany(90);
    expect(bench.disk.fileNames()).toContain("blocks-00001");
    const { incarnation } = bench.store;
    bench.disk.kill();
    bench.disk.deleteFile("blocks-00000");
    const error = await bench.openError();
    expect(error.code).toBe("damaged");
    expect(error.message).toContain("blocks-00000 is missing");
    await bench.open({ acceptLoss: true });
    expect(bench.store.incarnation).not.toBe(incarnation);
    const kept = blocks.filter(({ ref }) => bench.store.has(ref));
    expect(kept.length).toBeGreaterThan(0);
    expect(kept.length).toBeLessThan(blocks.length);
    for (const block of kept) expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    for (const block of blocks) expect(bench.put(block)).toBe(StorageStatus.ok);
    await bench.restart();
    expect(bench.store.statistics().blockCount).toBe(90);
  });

  test("a file that was cut off, or is gone, is made anew in the size there is for it", async () => {
    const sizeBytes = 500 * 1024;
    const damages: ((bench: Bench) => void)[] = [
      (bench) => bench.disk.deleteFile("blocks-00000"),
      ...[0, 512, 5_000, JOURNAL_OFFSET + 100, DATA_OFFSET + 4_096].map(
        (length) => (bench: Bench) => bench.disk.truncate("blocks-00000", length),
      ),
    ];
    for (const damage of damages) {
      const bench = new Bench();
      await bench.open({ sizeBytes });
      const blocks = bench.putMany(10);
      const { capacityBytes } = bench.store.statistics();
      bench.disk.kill();
      damage(bench);
      expect((await bench.openError({ sizeBytes })).message).toContain("blocks-00000");
      await bench.open({ sizeBytes, acceptLoss: true });
      expect(bench.store.statistics().capacityBytes).toBe(capacityBytes);
      for (const block of blocks) expect(bench.put(block)).toBe(StorageStatus.ok);
      bench.disk.kill();
      await bench.open({ sizeBytes });
      for (const block of blocks) expect(read(bench.store, block.ref, 0, 2).bytes).toEqual(payloadOf(block));
    }
  });

  test("a missing state file refuses; accepted, it takes a new incarnation, its blocks and no fences", async () => {
    const bench = await fresh();
    bench.putMany(5);
    bench.fence(1, 9);
    const { incarnation, peerId } = bench.store;
    bench.disk.kill();
    bench.disk.deleteFile("state");
    const error = await bench.openError();
    expect(error.code).toBe("damaged");
    expect(error.message).toContain("state is missing");
    await bench.open({ acceptLoss: true });
    expect(bench.store.incarnation).not.toBe(incarnation);
    expect(bench.store.peerId).toBe(peerId);
    expect(bench.store.statistics().blockCount).toBe(5);
  });

  test("rot anywhere in the state file is noticed or harmless: no fence is ever lost silently", async () => {
    const reference = await fresh();
    reference.putMany(3);
    for (let volume = 1; volume <= 5; volume += 1)
      expect(reference.fence(volume, 10 + volume)).toBe(StorageStatus.ok);
    reference.disk.powerLoss();
    const image = reference.disk.image();
    let refused = 0;
    for (let offset = 0; offset < (image.get("state")?.length ?? 0); offset += 61) {
      const bench = new Bench();
      bench.disk.restore(image);
      bench.disk.flipBit("state", offset, offset % 8);
      try {
        await bench.open();
      } catch (error) {
        expect((error as StoreError).code).toBe("damaged");
        refused += 1;
        continue;
      }
      for (let volume = 1; volume <= 5; volume += 1)
        expect(bench.store.fenceEpoch(asVolumeId(volume))).toBe(10 + volume);
    }
    expect(refused).toBeGreaterThan(5);
  }, 60_000);

  test("rot anywhere in a segment's own parts is noticed or harmless", async () => {
    const reference = await fresh();
    const blocks = reference.putMany(8, 1);
    reference.disk.powerLoss();
    const image = reference.disk.image();
    for (let offset = 0; offset < DATA_OFFSET; offset += 37) {
      const bench = new Bench();
      bench.disk.restore(image);
      bench.disk.flipBit("blocks-00000", offset, offset % 8);
      try {
        await bench.open();
      } catch (error) {
        expect((error as StoreError).code).toBe("damaged");
        continue;
      }
      for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
    }
  }, 60_000);

  test("garbage over any part of any file: refused or unharmed, and with the loss accepted it opens and serves no wrong byte", async () => {
    const reference = await fresh();
    const blocks = [...reference.putMany(70, 2), ...reference.putMany(20, 1, 2)];
    reference.fence(1, 1);
    reference.disk.powerLoss();
    const image = reference.disk.image();
    const random = new SeededRandom(11);
    let refused = 0;
    for (let round = 0; round < 60; round += 1) {
      const bench = new Bench(round % 2 === 0, round);
      bench.disk.restore(image);
      const names = bench.disk.fileNames();
      const name = names[random.below(names.length)] as string;
      const length = 1 + random.below(20_000);
      const limit = name === "state" || round % 3 === 0 ? DATA_OFFSET : SEGMENT_BYTES - length;
      const garbage = Uint8Array.from({ length }, () => random.below(256));
      bench.disk.corrupt(name, random.below(limit), (bytes) => bytes.set(garbage.subarray(0, bytes.length)));
      try {
        await bench.open();
      } catch (error) {
        expect(error).toBeInstanceOf(StoreError);
        refused += 1;
        try {
          await bench.open({ acceptLoss: true });
        } catch (still) {
          // Nothing tells any more whose store this was.
          expect((still as StoreError).code).toBe("damaged");
          continue;
        }
        await bench.restart();
      }
      for (const block of blocks) {
        const answer = read(bench.store, block.ref, 0, 1);
        if (answer.status === StorageStatus.ok)
          expect(answer.bytes).toEqual(payloadOf(block).slice(0, PAGE_BYTES));
        expect(bench.put(block)).toBe(StorageStatus.ok);
        expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block).slice(0, PAGE_BYTES));
      }
    }
    expect(refused).toBeGreaterThan(10);
  }, 60_000);

  test("a state older than the blocks is noticed", async () => {
    const bench = await fresh();
    bench.putMany(2);
    bench.disk.powerLoss();
    const old = bench.disk.image().get("state") as Uint8Array;
    await bench.open();
    bench.putMany(3, 1, 2);
    await bench.loop.settle(bench.store.close());
    bench.disk.corrupt("state", 0, (bytes) => bytes.set(old));
    expect((await bench.openError()).message).toContain("state is older than the blocks");
  });
});

describe("SegmentStore and rot in its own records while it serves", () => {
  /** A store with a checkpoint in force, records after it, deleted blocks and a fence. */
  async function served() {
    const bench = await fresh();
    let checkpointCount = 0;
    bench.disk.onOperation = (operation, isSync) => {
      if (operation === "checkpoint.sync" && isSync) checkpointCount += 1;
    };
    const blocks = bench.putMany(60, 1);
    bench.store.delete(
      blocks.splice(0, 10).map(({ ref }) => ref),
      () => undefined,
    );
    // Enough records for a checkpoint: 5/8 of the journal's 256 slots.
    while (checkpointCount === 0) {
      const extra = dataBlock(dataRef(2, 1, 1), 1);
      bench.put(extra);
      bench.store.delete([extra.ref], () => undefined);
      bench.loop.run();
    }
    expect(bench.fence(7, 21)).toBe(StorageStatus.ok);
    for (const index of [101, 102, 103]) {
      const block = dataBlock(dataRef(1, 1, index), 1);
      expect(bench.put(block)).toBe(StorageStatus.ok);
      blocks.push(block);
    }
    return { bench, blocks };
  }

  function expectWhole(bench: Bench, blocks: readonly SealedBlock[]): void {
    expect(bench.store.acceptedDamage).toEqual([]);
    expect(bench.store.fenceEpoch(asVolumeId(7))).toBe(21);
    expect(bench.store.statistics().blockCount).toBe(blocks.length);
    for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
  }

  test("a store that is well is left as it is", async () => {
    const { bench, blocks } = await served();
    const writes = bench.disk.counts.writes;
    expect(bench.checkRecords()).toEqual([]);
    expect(bench.disk.counts.writes).toBe(writes);
    await bench.restart();
    expectWhole(bench, blocks);
  });

  test("each kind is named", async () => {
    const kinds: [(bench: Bench) => void, RegExp][] = [
      [
        (bench) => {
          for (const at of [100, METADATA_PAGE_BYTES + 100]) bench.disk.flipBit("blocks-00000", at);
        },
        /blocks-00000 has lost its superblock/,
      ],
      [
        (bench) => {
          for (const at of [CHECKPOINT_OFFSET + 99, CHECKPOINT_OFFSET + 8192 + 99])
            bench.disk.flipBit("blocks-00000", at);
        },
        /blocks-00000: the index checkpoint is damaged \(chunk 0\)/,
      ],
      [
        (bench) => {
          for (let slot = 0; slot < 256; slot += 1)
            bench.disk.flipBit("blocks-00000", JOURNAL_OFFSET + slot * 64 + 40);
        },
        /blocks-00000: record \d+ of the journal is damaged/,
      ],
      [
        (bench) => {
          const areaBytes = bench.disk.bytesOf("state").length / 2;
          for (const at of [40, areaBytes + 40]) bench.disk.flipBit("state", at);
        },
        /state holds no readable snapshot/,
      ],
    ];
    for (const [damage, message] of kinds) {
      const { bench, blocks } = await served();
      damage(bench);
      const problems = bench.checkRecords();
      expect(problems).toHaveLength(1);
      expect(problems[0]).toMatch(message);
      expect(bench.checkRecords()).toEqual([]);
      await bench.restart();
      expectWhole(bench, blocks);
    }
  });

  test("rot anywhere in them, once looked for, keeps no start from finding all", async () => {
    const reference = await served();
    reference.bench.disk.powerLoss();
    const image = reference.bench.disk.image();
    const places = [
      ...Array.from(
        { length: Math.ceil(DATA_OFFSET / 41) },
        (_, index) => ["blocks-00000", index * 41] as const,
      ),
      ...Array.from(
        { length: Math.ceil((image.get("state")?.length ?? 0) / 211) },
        (_, index) => ["state", index * 211] as const,
      ),
    ];
    let found = 0;
    for (const [name, offset] of places) {
      const bench = new Bench();
      bench.disk.restore(image);
      await bench.open();
      bench.disk.flipBit(name, offset, offset % 8);
      found += bench.checkRecords().length;
      expect(bench.checkRecords()).toEqual([]);
      if (offset % 2 === 0) bench.disk.powerLoss();
      else bench.disk.kill();
      await bench.open();
      expectWhole(bench, reference.blocks);
    }
    expect(found).toBeGreaterThan(10);
  }, 120_000);
});

describe("SegmentStore and rot that is found while much goes on", () => {
  /** What was asked of the store has time for everything but a checkpoint whose sync is slow. */
  function answered(bench: Bench, start: (done: (status: StorageStatus) => void) => void): void {
    let answer: StorageStatus | undefined;
    start((status) => {
      answer = status;
    });
    while (answer === undefined) {
      bench.loop.endTurn();
      bench.loop.step();
    }
    expect(answer).toBe(StorageStatus.ok);
  }

  function putBesides(bench: Bench, block: SealedBlock): void {
    const { buffer, offset, lengthBytes } = block;
    answered(bench, (done) => bench.store.put({ buffer, offset, lengthBytes, writerEpoch: 1, done }));
  }

  /** Until a checkpoint has begun whose sync takes long. */
  function beginSlowCheckpoint(bench: Bench): void {
    bench.disk.slowSyncs("checkpoint.sync", 60_000);
    let isBegun = false;
    bench.disk.onOperation = (operation) => {
      if (operation === "checkpoint.sync") isBegun = true;
    };
    // The superblock in force, whichever it is, for as long as the look at it takes.
    const flip = () => {
      for (const at of [100, METADATA_PAGE_BYTES + 100]) bench.disk.flipBit("blocks-00000", at);
    };
    flip();
    bench.store.checkRecords(0, () => undefined);
    flip();
    while (!isBegun) {
      bench.loop.endTurn();
      bench.loop.step();
    }
  }

  test("a record that rots after the checkpoint under way began is left behind by the next", async () => {
    const bench = await fresh();
    const blocks = bench.putMany(5, 1);
    beginSlowCheckpoint(bench);
    const rottenSlot = 1 + blocks.length + 3;
    // A page of records and more, so that the rotten one is not in the page that is being filled.
    for (let index = 101; index < 180; index += 1) {
      const block = dataBlock(dataRef(1, 1, index), 1);
      putBesides(bench, block);
      if (index < 110) blocks.push(block);
      else answered(bench, (done) => bench.store.delete([block.ref], done));
    }
    bench.disk.flipBit("blocks-00000", JOURNAL_OFFSET + rottenSlot * 64 + 40);
    const problems: string[] = [];
    let isDone = false;
    bench.store.checkRecords(0, ({ problem }) => {
      if (problem !== undefined) problems.push(problem);
      isDone = true;
    });
    while (!isDone) {
      bench.loop.endTurn();
      bench.loop.step();
    }
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(/record \d+ of the journal is damaged/);
    bench.loop.run();
    await bench.restart();
    expect(bench.store.acceptedDamage).toEqual([]);
    for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
  });

  test("rot in two places of a segment is written anew in both", async () => {
    const bench = await fresh();
    const blocks = bench.putMany(50, 1);
    for (const at of [100, METADATA_PAGE_BYTES + 100]) bench.disk.flipBit("blocks-00000", at);
    bench.disk.flipBit("blocks-00000", JOURNAL_OFFSET + 20 * 64 + 40);
    expect(bench.checkRecords()).toHaveLength(1);
    // As far as the ring's next turn, for which the rotten slot is one of those behind the end.
    for (let turn = 0; turn < 60; turn += 1) {
      const extra = dataBlock(dataRef(2, 1, 1), 1);
      bench.put(extra);
      bench.store.delete([extra.ref], () => undefined);
      bench.loop.run();
      await bench.restart();
    }
    for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
  });

  test("a state that was being written is looked at all the same", async () => {
    const bench = await fresh();
    expect(bench.fence(7, 1)).toBe(StorageStatus.ok);
    bench.disk.slowSyncs("state.sync", 20);
    for (const area of [0, bench.disk.bytesOf("state").length / 2])
      bench.disk.flipBit("state", area + METADATA_PAGE_BYTES + 200 * 64 + 40);
    bench.store.fence(asVolumeId(7), asEpoch(2), () => undefined);
    bench.loop.endTurn();
    expect(bench.checkRecords()).toEqual([expect.stringMatching(/state has a damaged record/)]);
    await bench.restart();
    expect(bench.store.fenceEpoch(asVolumeId(7))).toBe(2);
  });

  test("a state whose writing hangs keeps no check from its end", async () => {
    const bench = await fresh();
    const HANG_MS = 60_000;
    bench.disk.slowSyncs("state.sync", HANG_MS);
    bench.store.fence(asVolumeId(7), asEpoch(2), () => undefined);
    bench.loop.endTurn();
    const startMs = bench.loop.nowMs();
    let answeredMs = Number.POSITIVE_INFINITY;
    bench.store.checkRecords(0, () => {
      answeredMs = bench.loop.nowMs();
    });
    bench.loop.run();
    expect(answeredMs - startMs).toBeLessThan(HANG_MS / 2);
  });

  test("the state's rot and a segment's are both told", async () => {
    const bench = await fresh();
    expect(bench.fence(7, 1)).toBe(StorageStatus.ok);
    for (const area of [0, bench.disk.bytesOf("state").length / 2]) bench.disk.flipBit("state", area + 40);
    for (const page of [0, METADATA_PAGE_BYTES]) bench.disk.flipBit("blocks-00000", page + 40);
    expect(bench.checkRecords()).toEqual([
      expect.stringMatching(/state holds no readable snapshot; blocks-00000/),
    ]);
  });

  test("a superblock whose sector cannot be read is mended, whichever of the two it is", async () => {
    for (const page of [0, 1]) {
      const bench = await fresh();
      const blocks = bench.putMany(5, 1);
      // Until its sector is written again.
      let isBad = true;
      const attach = bench.disk.attach.bind(bench.disk);
      bench.disk.attach = () => {
        const disk = attach();
        const open = disk.open.bind(disk);
        disk.open = (name) => {
          const file = open(name);
          const [read, write] = [file.read.bind(file), file.write.bind(file)];
          const hits = (offset: number, lengthBytes: number) =>
            name === "blocks-00000" &&
            offset <= page * METADATA_PAGE_BYTES &&
            offset + lengthBytes > page * METADATA_PAGE_BYTES;
          file.read = (operation, offset, buffer, at, lengthBytes) =>
            isBad && hits(offset, lengthBytes)
              ? DiskStatus.ioError
              : read(operation, offset, buffer, at, lengthBytes);
          file.write = (operation, offset, buffer, at, lengthBytes) => {
            if (hits(offset, lengthBytes)) isBad = false;
            return write(operation, offset, buffer, at, lengthBytes);
          };
          return file;
        };
        return disk;
      };
      isBad = false;
      await bench.restart();
      isBad = true;
      bench.checkRecords();
      await bench.restart();
      expect(bench.store.acceptedDamage).toEqual([]);
      for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
    }
  });

  test("rot in either area of the state is in the way of no later start", async () => {
    for (let place = 0; place < 24; place += 1) {
      const bench = await fresh();
      expect(bench.fence(7, 21)).toBe(StorageStatus.ok);
      const areaBytes = bench.disk.bytesOf("state").length / 2;
      const at = (place % 2) * areaBytes + Math.floor((place * areaBytes) / 24);
      bench.disk.flipBit("state", at + 40);
      bench.checkRecords();
      expect(bench.checkRecords()).toEqual([]);
      for (let start = 0; start < 3; start += 1) {
        await bench.restart();
        expect(bench.store.fenceEpoch(asVolumeId(7))).toBe(21);
      }
    }
  });
});

describe("SegmentStore and failing writes", () => {
  test("a failed sync poisons it: nothing pending is acknowledged, everything answers unavailable", async () => {
    const bench = await fresh();
    const [before] = bench.putMany(1) as [SealedBlock];
    bench.disk.failNextSync("segment.sync");
    expect(bench.put(dataBlock(dataRef(1, 1, 2), 1))).toBe(StorageStatus.unavailable);
    expect(bench.poisonReason).toContain("Cannot sync the store");
    expect(bench.put(dataBlock(dataRef(1, 1, 3), 1))).toBe(StorageStatus.unavailable);
    expect(read(bench.store, before.ref, 0, 1).status).toBe(StorageStatus.unavailable);
    expect(bench.fence(1, 5)).toBe(StorageStatus.unavailable);
  });

  test("a full file system under it refuses the put and goes on", async () => {
    const bench = await fresh();
    bench.disk.failNextWrite("data.write", "no-space");
    const block = dataBlock(dataRef(1, 1, 1), 1);
    expect(bench.put(block)).toBe(StorageStatus.outOfSpace);
    expect(bench.store.statistics().usedBytes).toBe(0);
    expect(bench.put(block)).toBe(StorageStatus.ok);
  });

  test("a fence whose record cannot be made durable is not answered ok", async () => {
    const bench = await fresh();
    bench.disk.failNextSync("state.sync");
    expect(bench.fence(1, 5)).toBe(StorageStatus.unavailable);
    expect(bench.poisonReason).toContain("Cannot write the store's state");
  });
});

describe("SegmentStore after a failed sync, a restart and then a power loss", () => {
  test("no fence is lost when the snapshot of a start was never synced and the next one is torn", async () => {
    for (let seed = 1; seed <= 30; seed += 1) {
      const bench = new Bench(true, seed);
      await bench.open();
      expect(bench.fence(1, 5)).toBe(StorageStatus.ok);
      bench.disk.kill();
      bench.disk.failNextSync("state.sync");
      expect((await bench.openError()).code).toBe("io-failed");
      bench.disk.onOperation = (operation, isSync) => {
        if (operation !== "state.sync" || !isSync) return;
        bench.disk.onOperation = undefined;
        bench.disk.powerLoss();
        throw new Error("power is gone");
      };
      await expect(bench.open()).rejects.toThrow("power is gone");
      await bench.open();
      expect(bench.store.fenceEpoch(asVolumeId(1))).toBe(5);
    }
  });

  test("no block is lost when the superblock of a checkpoint was never synced and the journal went round", async () => {
    const bench = await fresh();
    const blocks: SealedBlock[] = [];
    bench.disk.failNextSync("checkpoint.sync");
    bench.disk.failNextSync("superblock.sync");
    let index = 0;
    const putUntilPoisoned = (most: number) => {
      for (let count = 0; count < most && bench.poisonReason === undefined; count += 1) {
        index += 1;
        const block = inodeBlock(inodeRef(1, 1, index), 300);
        if (bench.put(block) === StorageStatus.ok) blocks.push(block);
      }
    };
    putUntilPoisoned(400);
    expect(bench.takePoison()).toContain("Cannot write the index checkpoint");
    await bench.restart();
    putUntilPoisoned(400);
    expect(bench.takePoison()).toContain("Cannot write the index checkpoint");
    await bench.restart();
    putUntilPoisoned(130);
    expect(bench.takePoison()).toBeUndefined();
    bench.disk.powerLoss();
    await bench.open();
    for (const block of blocks) expect(read(bench.store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
  });
});

describe("openSegmentStore and whose disk it is", () => {
  test("another cluster's or another peer's store is refused by name", async () => {
    const bench = await fresh();
    bench.disk.kill();
    const other = "aaaaaaaa-2222-3333-4444-555555555555" as typeof CLUSTER;
    const wrongCluster = await bench.openError({ clusterId: other });
    expect(wrongCluster.code).toBe("wrong-cluster");
    expect(wrongCluster.message).toBe(
      `Cannot open store in the simulated disk: it belongs to cluster ${CLUSTER}, not to ${other}; use another data directory or join that cluster`,
    );
    const wrongPeer = await bench.openError({ peerId: other as string as PeerId });
    expect(wrongPeer.code).toBe("wrong-peer");
  });

  test("an empty disk gets a new incarnation each time it is made anew", async () => {
    const first = await fresh();
    const second = new Bench();
    second.random.nextU32();
    await second.open();
    expect(second.store.incarnation).not.toBe(first.store.incarnation);
    expect(first.store.bootCount).toBe(1);
  });

  test("readStoreIdentity tells who lives there without opening", async () => {
    const bench = await fresh();
    const { incarnation, bootCount } = bench.store;
    bench.disk.kill();
    expect(readStoreIdentity(bench.disk.attach(), heapBuffer)).toEqual({
      clusterId: CLUSTER,
      peerId: PEER,
      incarnation,
      bootCount,
    });
    expect(readStoreIdentity(new Bench().disk.attach(), heapBuffer)).toBeUndefined();
  });

  test("it grows when opened with a larger size and shrinks only when nothing lies there", async () => {
    const bench = await fresh();
    const small = bench.store.statistics().capacityBytes;
    const larger = 128 * 1024 + 6 * SEGMENT_BYTES;
    await bench.open({ sizeBytes: larger });
    expect(bench.store.statistics().capacityBytes).toBe(2 * small);
    const blocks = bench.putMany(200);
    const error = await bench.openError({ sizeBytes: 128 * 1024 + SEGMENT_BYTES });
    expect(error.code).toBe("bad-size");
    expect(error.message).toContain("Cannot shrink store in the simulated disk");
    await bench.open({ sizeBytes: larger });
    let done = false;
    bench.store.delete(
      blocks.slice(30).map(({ ref }) => ref),
      () => {
        done = true;
      },
    );
    bench.loop.run();
    expect(done).toBe(true);
    await bench.loop.settle(bench.store.close());
    await bench.open({ sizeBytes: 128 * 1024 + 2 * SEGMENT_BYTES });
    expect(bench.store.statistics().blockCount).toBe(30);
    expect(bench.disk.fileNames()).toEqual(["blocks-00000", "blocks-00001", "state"]);
    expect(read(bench.store, (blocks[7] as SealedBlock).ref, 0, 2).bytes).toEqual(
      payloadOf(blocks[7] as SealedBlock),
    );
  });

  test("a size too small for anything is refused", async () => {
    const error = await new Bench().openError({ sizeBytes: 200 * 1024 });
    expect(error.code).toBe("bad-size");
    expect(error.exitCode).toBe(2);
  });
});
