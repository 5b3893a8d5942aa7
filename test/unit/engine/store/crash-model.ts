/**
 * One schedule against a store on a simulated disk, from one seed: puts, deletes, fences and repairs at random, a
 * crash before any one disk operation (recovery's own included), and after each recovery the check against a model of
 * what may be there. The model knows of each block whether its put was acknowledged, whether its delete was, or
 * neither: then both outcomes are right, but never a wrong byte.
 */
import { type BlockRef, formatBlockRef, heapBuffer } from "../../../../src/base";
import {
  BLOCK_HEADROOM_BYTES,
  blockBufferBytes,
  PAGE_BYTES,
  type SealedBlock,
  sealInodeBlock,
} from "../../../../src/engine/block";
import { isStored, StorageStatus } from "../../../../src/engine/ports";
import { openSegmentStore, type SegmentStore, StoreError } from "../../../../src/engine/store";
import { SimulatedDisk } from "../../../sim/simulated-disk";
import { SeededRandom } from "../../../support/seeded-random";
import { VirtualLoop } from "../../../support/virtual-loop";
import { CLUSTER, dataRef, fillPage, inodeRef, read, sealer } from "./blocks";
import { PEER } from "./stores";
import { asEpoch, asVolumeId, BlockKind } from "../../../../src/base";

class Crash extends Error {}

type Fate = "acknowledged" | "put-pending" | "delete-pending" | "deleted";

interface Modelled {
  readonly block: SealedBlock;
  readonly bytes: Uint8Array;
  fate: Fate;
  /** Lives of the process before this one do not answer any more. */
  life: number;
  /** A put of it was not answered yet: a delete meanwhile could come before or after it. */
  isPutOpen: boolean;
  isSuspect: boolean;
}

export interface ScheduleReport {
  crashes: number;
  crashesInRecovery: number;
  puts: number;
  acknowledged: number;
  refusedForSpace: number;
  suspects: number;
  checkpoints: number;
  checks: number;
  readonly disk: SimulatedDisk["counts"];
}

const SEGMENT_BYTES = 256 * 1024;

export async function runSchedule(seed: number, stepCount = 120): Promise<ScheduleReport> {
  return new Schedule(seed).run(stepCount);
}

class Schedule {
  readonly #random: SeededRandom;
  readonly #loop = new VirtualLoop();
  readonly #disk: SimulatedDisk;
  readonly #blocks = new Map<string, Modelled>();
  readonly #fenceAcked = new Map<number, number>();
  readonly #fenceAsked = new Map<number, number>();
  #progressAcked = 0;
  /** Something was acknowledged in this life since progress was asked for. */
  #isAhead = false;
  readonly #sizeBytes: number;
  readonly #unitBytes: number;
  readonly #report: ScheduleReport;
  #store!: SegmentStore;
  #life = 0;
  #nextIndex = 1;
  #incarnation: string | undefined;
  #operationsLeft = Number.POSITIVE_INFINITY;
  #isPoisoned = false;

  constructor(private readonly seed: number) {
    this.#random = new SeededRandom(seed);
    this.#unitBytes = seed % 5 === 0 ? 4096 : 512;
    this.#disk = new SimulatedDisk({
      random: this.#random,
      unitBytes: this.#unitBytes,
      clock: this.#loop,
      isMappable: seed % 2 === 0,
      syncMs: () => this.#random.below(4),
    });
    this.#sizeBytes = 128 * 1024 + SEGMENT_BYTES * (1 + this.#random.below(3));
    this.#report = {
      crashes: 0,
      crashesInRecovery: 0,
      puts: 0,
      acknowledged: 0,
      refusedForSpace: 0,
      suspects: 0,
      checkpoints: 0,
      checks: 0,
      disk: this.#disk.counts,
    };
    this.#disk.onOperation = (operation, isSync) => {
      if (operation === "checkpoint.sync" && isSync) this.#report.checkpoints += 1;
      this.#operationsLeft -= 1;
      if (this.#operationsLeft > 0) return;
      this.#operationsLeft = Number.POSITIVE_INFINITY;
      this.#crash();
    };
  }

  #crash(): never {
    if (this.#random.chance(0.6)) this.#disk.powerLoss();
    else this.#disk.kill();
    throw new Crash();
  }

  #plantFault(): void {
    const choice = this.#random.below(4);
    if (choice === 0) this.#disk.failNextSync("segment.sync");
    else if (choice === 1)
      this.#disk.failNextWrite("data.write", this.#random.chance(0.5) ? "no-space" : "io-error");
    else if (choice === 2)
      this.#disk.failNextSync(this.#random.chance(0.5) ? "state.sync" : "superblock.sync");
    else this.#disk.failNextWrite("journal.write", "io-error");
  }

  async run(stepCount: number): Promise<ScheduleReport> {
    await this.#recover();
    for (let step = 0; step < stepCount; step += 1) {
      if (this.#random.chance(0.05)) this.#operationsLeft = 1 + this.#random.below(40);
      if (this.#random.chance(0.02)) this.#plantFault();
      try {
        this.#act();
        this.#loop.endTurn();
        for (let event = this.#random.below(4); event > 0; event -= 1) this.#loop.step();
        // The process ends after a failed write or sync, as it must.
        if (this.#isPoisoned) this.#crash();
      } catch (error) {
        if (!(error instanceof Crash)) throw this.#explain(error);
        this.#report.crashes += 1;
        await this.#recover();
      }
    }
    this.#operationsLeft = Number.POSITIVE_INFINITY;
    this.#loop.run();
    if (this.#isPoisoned) await this.#recover();
    else this.#explained(() => this.#check());
    return this.#report;
  }

  async #recover(): Promise<void> {
    for (;;) {
      this.#loop.clear();
      this.#life += 1;
      this.#isPoisoned = false;
      this.#isAhead = false;
      if (this.#random.chance(0.3)) this.#operationsLeft = 1 + this.#random.below(30);
      try {
        this.#store = await this.#loop.settle(this.#open());
        this.#operationsLeft = Number.POSITIVE_INFINITY;
        this.#loop.run();
        break;
      } catch (error) {
        // A planted fault fails the recovery; the process ends and is started again.
        const isFault = error instanceof StoreError && error.code === "io-failed";
        if (!(error instanceof Crash) && !isFault) throw this.#explain(error);
        if (isFault && this.#random.chance(0.5)) this.#disk.powerLoss();
        this.#report.crashesInRecovery += 1;
      }
    }
    this.#explained(() => this.#check());
  }

  #open(): Promise<SegmentStore> {
    return openSegmentStore({
      disk: this.#disk.attach(),
      clusterId: CLUSTER,
      peerId: PEER,
      sizeBytes: this.#sizeBytes,
      segmentBytes: SEGMENT_BYTES,
      indexChunkRows: 64,
      reserveSpace: this.seed % 3 === 0,
      allocate: heapBuffer,
      clock: this.#loop,
      random: this.#random,
      turns: this.#loop,
      onPoison: (reason) => {
        if (this.#disk.counts.faults === 0) throw new Error(`poisoned without a fault: ${reason}`);
        this.#isPoisoned = true;
      },
    });
  }

  #act(): void {
    const choice = this.#random.below(100);
    if (choice < 62) for (let count = 1 + this.#random.below(6); count > 0; count -= 1) this.#putNew();
    else if (choice < 72) this.#putAgain();
    else if (choice < 90) this.#deleteSome();
    else if (choice < 97) this.#fence();
    else if (choice < 99) this.#advance();
    else this.#checkRecords();
  }

  /** Nothing rots here: a look at the store's own records finds nothing, whatever goes on meanwhile. */
  #checkRecords(): void {
    const life = this.#life;
    this.#store.checkRecords(this.#random.below(3), ({ problem }) => {
      if (life !== this.#life) throw new Error("a dead process answered");
      if (problem !== undefined) throw new Error(`rot was found where there is none: ${problem}`);
      this.#report.checks += 1;
    });
  }

  #putNew(): void {
    const volumeId = 1 + this.#random.below(3);
    const index = this.#nextIndex++;
    const fence = this.#fenceAsked.get(volumeId) ?? 0;
    const epoch = Math.max(1, fence + this.#random.below(2));
    const ref = this.#random.chance(0.5) ? inodeRef(volumeId, epoch, index) : dataRef(volumeId, epoch, index);
    const payloadBytes = this.#random.chance(0.3)
      ? PAGE_BYTES * (1 + this.#random.below(8))
      : 1 + this.#random.below(1500);
    const block = tinyBlock(ref, payloadBytes);
    const bytes = block.buffer.bytes.slice(block.offset, block.offset + block.lengthBytes);
    const modelled: Modelled = {
      block,
      bytes,
      fate: "put-pending",
      life: this.#life,
      isPutOpen: false,
      isSuspect: false,
    };
    this.#put(modelled);
  }

  #put(modelled: Modelled): void {
    const { block } = modelled;
    const life = this.#life;
    // A repair that is refused leaves the suspect as it is.
    const isRepair = this.#store.has(block.ref);
    this.#report.puts += 1;
    const key = formatBlockRef(block.ref);
    this.#blocks.set(key, modelled);
    modelled.isPutOpen = true;
    this.#store.put({
      buffer: block.buffer,
      offset: block.offset,
      lengthBytes: block.lengthBytes,
      writerEpoch: block.ref.epoch,
      done: (status) => {
        if (life !== this.#life) throw new Error("a dead process answered");
        modelled.isPutOpen = false;
        if (isStored(status)) {
          this.#report.acknowledged += 1;
          modelled.isSuspect = false;
          const fence = this.#fenceAcked.get(block.ref.volumeId) ?? 0;
          if (block.ref.epoch < fence) throw new Error(`${key} was acknowledged behind fence ${fence}`);
          // Held already, it may be answered without anything new on the disk.
          this.#isAhead ||= modelled.fate === "put-pending";
          if (modelled.fate === "put-pending") modelled.fate = "acknowledged";
        } else if (status === StorageStatus.outOfSpace || status === StorageStatus.fenced) {
          if (status === StorageStatus.outOfSpace) this.#report.refusedForSpace += 1;
          if (isRepair) modelled.life = 0;
          else if (modelled.fate === "put-pending") this.#blocks.delete(key);
        } else if (status !== StorageStatus.unavailable || !this.#isPoisoned)
          throw new Error(`${key} was answered ${status}`);
      },
    });
  }

  #putAgain(): void {
    // At most one put of a block at a time. Suspects of an earlier life first, which this repairs; acknowledged ones,
    // answered at once; deleted ones.
    const modelled =
      this.#pick((each) => !each.isPutOpen && each.isSuspect) ??
      this.#pick((each) => !each.isPutOpen && (each.fate === "acknowledged" || each.fate === "deleted"));
    if (modelled === undefined) return;
    if (modelled.block.ref.epoch < (this.#fenceAsked.get(modelled.block.ref.volumeId) ?? 0)) return;
    if (modelled.fate === "deleted") modelled.fate = "put-pending";
    modelled.life = this.#life;
    this.#put(modelled);
  }

  #deleteSome(): void {
    const refs: BlockRef[] = [];
    const chosen: Modelled[] = [];
    for (let count = 1 + this.#random.below(8); count > 0; count -= 1) {
      const modelled = this.#pick((each) => each.fate === "acknowledged" && !each.isPutOpen);
      if (modelled === undefined) break;
      modelled.fate = "delete-pending";
      modelled.life = this.#life;
      refs.push(modelled.block.ref);
      chosen.push(modelled);
    }
    const life = this.#life;
    this.#store.delete(refs, (status) => {
      if (life !== this.#life) throw new Error("a dead process answered");
      if (status === StorageStatus.unavailable && this.#isPoisoned) return;
      if (status !== StorageStatus.ok) throw new Error(`a delete was answered ${status}`);
      for (const modelled of chosen) if (modelled.fate === "delete-pending") modelled.fate = "deleted";
      this.#isAhead = true;
    });
  }

  #fence(): void {
    const volumeId = 1 + this.#random.below(3);
    const epoch = (this.#fenceAsked.get(volumeId) ?? 0) + 1;
    this.#fenceAsked.set(volumeId, epoch);
    const life = this.#life;
    this.#store.fence(asVolumeId(volumeId), asEpoch(epoch), (status) => {
      if (life !== this.#life) throw new Error("a dead process answered");
      if (status === StorageStatus.unavailable && this.#isPoisoned) return;
      if (status !== StorageStatus.ok) throw new Error(`a fence was answered ${status}`);
      this.#fenceAcked.set(volumeId, Math.max(epoch, this.#fenceAcked.get(volumeId) ?? 0));
      this.#isAhead = true;
    });
  }

  #advance(): void {
    const before = this.#store.progress;
    const wasAhead = this.#isAhead;
    this.#isAhead = false;
    const life = this.#life;
    this.#store.advance((status) => {
      if (life !== this.#life) throw new Error("a dead process answered");
      if (status === StorageStatus.unavailable && this.#isPoisoned) return;
      if (status !== StorageStatus.ok) throw new Error(`an advance was answered ${status}`);
      const { progress } = this.#store;
      if (wasAhead && progress <= before)
        throw new Error(`progress stays at ${before} after an acknowledgement`);
      this.#progressAcked = Math.max(this.#progressAcked, progress);
    });
  }

  #pick(accept: (modelled: Modelled) => boolean): Modelled | undefined {
    const all = [...this.#blocks.values()].filter(accept);
    return all.length === 0 ? undefined : all[this.#random.below(all.length)];
  }

  /** Nothing is pending now; everything must agree with the model, which then takes over what it found. */
  #check(): void {
    const store = this.#store;
    this.#incarnation ??= store.incarnation;
    if (store.incarnation !== this.#incarnation) throw new Error("the incarnation changed");
    if (store.progress < this.#progressAcked)
      throw new Error(`progress ${store.progress}, acked ${this.#progressAcked}`);
    const unitBytes = this.#unitBytes;
    let usedBytes = 0;
    let held = 0;
    for (const [key, modelled] of this.#blocks) {
      const { block } = modelled;
      modelled.isPutOpen = false;
      const status = store.verify(block.ref);
      const isPresent = status !== StorageStatus.notFound;
      const mustBePresent = modelled.fate === "acknowledged";
      if (mustBePresent && status !== StorageStatus.ok)
        throw new Error(`${key} was acknowledged and is ${status}`);
      if (modelled.fate === "delete-pending" && isPresent && status !== StorageStatus.ok)
        throw new Error(`${key} is not deleted yet and is ${status}`);
      if (modelled.fate === "deleted" && isPresent) throw new Error(`${key} was deleted and is ${status}`);
      if (modelled.life === this.#life && modelled.fate === "put-pending")
        throw new Error(`the put of ${key} was never answered`);
      // It may have been acknowledged, for all the store knows: neither a copy nor a denial, until it is repaired.
      if (!isPresent && modelled.isSuspect) throw new Error(`${key} was suspect and is denied`);
      modelled.isSuspect = isPresent && status !== StorageStatus.ok;
      if (!isPresent) {
        if (modelled.fate !== "deleted") this.#blocks.delete(key);
        continue;
      }
      held += 1;
      usedBytes += Math.ceil(block.lengthBytes / unitBytes) * unitBytes;
      if (status === StorageStatus.ok) {
        this.#checkBytes(key, modelled);
        modelled.fate = "acknowledged";
      } else {
        // Torn, and listed as suspect; a repair brings it back.
        this.#report.suspects += 1;
        const tail = store.tail(block.ref.kind, block.ref.volumeId, block.ref.epoch, block.ref.index - 1);
        if (tail[0]?.index !== block.ref.index || !tail[0].suspect)
          throw new Error(`${key} is not listed as suspect`);
        modelled.fate = "put-pending";
        modelled.life = 0;
      }
    }
    const statistics = store.statistics();
    if (statistics.blockCount !== held) throw new Error(`${statistics.blockCount} blocks instead of ${held}`);
    if (statistics.usedBytes !== usedBytes)
      throw new Error(`${statistics.usedBytes} bytes used instead of ${usedBytes}`);
    this.#checkListing(held);
    for (const [volumeId, asked] of this.#fenceAsked) {
      const fence = store.fenceEpoch(asVolumeId(volumeId));
      const acked = this.#fenceAcked.get(volumeId) ?? 0;
      if (fence < acked || fence > asked)
        throw new Error(`fence ${fence} of volume ${volumeId}, acked ${acked}`);
      this.#fenceAsked.set(volumeId, Math.max(fence, acked));
    }
  }

  #checkBytes(key: string, modelled: Modelled): void {
    const { block, bytes } = modelled;
    const slotCount = Math.ceil((block.lengthBytes - block.headerBytes) / PAGE_BYTES);
    const answer = read(this.#store, block.ref, 0, slotCount);
    if (
      answer.status !== StorageStatus.ok ||
      Buffer.compare(answer.bytes, bytes.subarray(block.headerBytes)) !== 0
    )
      throw new Error(`${key} reads ${answer.status} or other bytes`);
  }

  #checkListing(held: number): void {
    let listed = 0;
    let cursor: string | undefined;
    do {
      const reply = this.#store.list({ limit: 50, ...(cursor === undefined ? {} : { cursor }) });
      for (const { ref } of reply.blocks)
        if (!this.#blocks.has(formatBlockRef(ref)))
          throw new Error(`${formatBlockRef(ref)} came from nowhere`);
      listed += reply.blocks.length;
      cursor = reply.cursor;
    } while (cursor !== undefined);
    if (listed !== held) throw new Error(`${listed} blocks listed instead of ${held}`);
  }

  #explained(body: () => void): void {
    try {
      body();
    } catch (error) {
      throw this.#explain(error);
    }
  }

  #explain(error: unknown): Error {
    return new Error(`seed ${this.seed}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}

const sealing = heapBuffer(blockBufferBytes(8 * PAGE_BYTES));

/** An INode block of any payload length, in memory of its own size. */
function tinyBlock(ref: BlockRef, payloadBytes: number): SealedBlock {
  const inode = { ...ref, kind: BlockKind.inode };
  fillPage(sealing.bytes.subarray(BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + payloadBytes), ref, 0, 0);
  const sealed = sealInodeBlock(sealing, payloadBytes, sealer, inode);
  const buffer = heapBuffer(sealed.lengthBytes);
  buffer.bytes.set(sealing.bytes.subarray(sealed.offset, sealed.offset + sealed.lengthBytes));
  return { ...sealed, buffer, offset: 0 };
}
