/**
 * Opens a block store: takes the disk, makes a new store on an empty one, or reads an existing one back: identity,
 * every segment's checkpoint and journal, and what no sync is known to have covered. Before it serves, everything
 * replayed from beyond the last known sync is written again and synced: after a crash of the process alone it was
 * readable though perhaps never on the disk, and after a failed sync the kernel calls lost pages clean.
 *
 * Damage (a missing file, a gap in a journal, an unreadable state) means that acknowledged blocks or fences may be
 * gone. A store that went on under its old name would deny blocks that it once acknowledged; so it refuses, unless
 * told to accept the loss, and then keeps what is intact under a new incarnation, which for every earlier log set is
 * another peer.
 */
import {
  type AllocateBuffer,
  assert,
  type Clock,
  type ClusterId,
  type Incarnation,
  type NativeBuffer,
  type PeerId,
  type Random,
  type TurnScheduler,
  type Disk,
  type DiskFile,
  type DiskOperation,
  DiskStatus,
} from "../../base";
import { BlockIndex, NO_SLOT, RowFlag } from "./block-index";
import { CHECKPOINT_SCRATCH_BYTES, CheckpointRun } from "./checkpoint";
import { StoreError } from "./errors";
import {
  encodeSuperblock,
  isZero,
  METADATA_PAGE_BYTES,
  RECORD_BYTES,
  RECORDS_PER_PAGE,
  SEGMENT_BYTES_DEFAULT,
  SEGMENT_BYTES_MIN,
  segmentFileName,
  segmentOfFileName,
  segmentPlan,
  STATE_FILE_NAME,
  superblockOffset,
  type Superblock,
} from "./layout";
import { REPLAY_READ_BYTES, readSuperblock, type ReplayResult, replaySegment } from "./replay";
import { RowBytes } from "./row-bytes";
import { createSegmentFile, entriesFor, Segment, type StoreContext } from "./segment";
import { SegmentStore } from "./segment-store";
import { type StateIdentity, StateLog, stateAreaBytes } from "./state-log";

export interface OpenStoreOptions {
  readonly disk: Disk;
  readonly clusterId: ClusterId;
  /** Who this store is expected to be; without it an existing store says, and a new one gets a random id. */
  readonly peerId?: PeerId;
  /** All files together stay within this. */
  readonly sizeBytes: number;
  /** Length of a segment of a new store, at most 1 GiB. */
  readonly segmentBytes?: number;
  /** Reserve all of the size now, so that it cannot be missing later; default true. */
  readonly reserveSpace?: boolean;
  /** Open a damaged store with what is intact, as a new incarnation. */
  readonly acceptLoss?: boolean;
  /** Rows of one chunk of the index, a power of two. */
  readonly indexChunkRows?: number;
  readonly allocate: AllocateBuffer;
  readonly clock: Clock;
  readonly random: Random;
  readonly turns: TurnScheduler;
  /** A write or sync failed: the process should say so and end. */
  readonly onPoison: (reason: string) => void;
}

export interface StoreIdentity {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly incarnation: Incarnation;
  readonly bootCount: number;
}

/** Who lives on this disk, without opening it; undefined when it holds no readable store. */
export function readStoreIdentity(disk: Disk, allocate: AllocateBuffer): StoreIdentity | undefined {
  if (!disk.list().some((entry) => entry.name === STATE_FILE_NAME)) return undefined;
  const state = StateLog.load(disk.open(STATE_FILE_NAME), allocate);
  if (typeof state === "string") return undefined;
  const { clusterId, peerId } = state.identity;
  return { clusterId, peerId, incarnation: state.incarnation, bootCount: state.bootCount };
}

/** Throws StoreError, and DiskError (disk-in-use, disk-full, disk-foreign) as the disk does. */
export async function openSegmentStore(options: OpenStoreOptions): Promise<SegmentStore> {
  options.disk.lock();
  try {
    return await new Opening(options).run();
  } catch (error) {
    options.disk.close();
    throw error;
  }
}

interface Replayed {
  readonly segment: Segment;
  readonly superblock: Superblock;
  readonly result: ReplayResult;
}

class Opening {
  readonly #options: OpenStoreOptions;
  readonly #disk: Disk;
  #index: BlockIndex;
  readonly #extents = new Map<number, Uint32Array>();
  readonly #duplicates: number[] = [];
  readonly #segments: Segment[] = [];
  readonly #replayed: Replayed[] = [];
  readonly #scratch: NativeBuffer;
  readonly #problems: string[] = [];
  #blockScratch: NativeBuffer | undefined;

  constructor(options: OpenStoreOptions) {
    this.#options = options;
    this.#disk = options.disk;
    this.#index = new BlockIndex(options.indexChunkRows);
    this.#scratch = options.allocate(REPLAY_READ_BYTES);
  }

  async run(): Promise<SegmentStore> {
    const state = await this.#openState();
    this.#checkIdentity(state.identity);
    const { clusterId, peerId, storeSeed, unitBytes } = state.identity;
    const context = {
      clusterId,
      peerId,
      storeSeed,
      unitBytes,
      bootCount: 0,
      allocate: this.#options.allocate,
    };
    this.#replayAll(state, context);
    const bootCountSeen = Math.max(0, ...this.#replayed.map(({ result }) => result.bootCountMax));
    if (bootCountSeen > state.bootCount)
      this.#problems.push(
        `${STATE_FILE_NAME} is older than the blocks: it is from boot ${state.bootCount}, they from ${bootCountSeen}`,
      );
    this.#refuseDamage();
    context.bootCount = Math.max(state.bootCount, bootCountSeen) + 1;
    const plan = this.#planSegments(state);
    // Before anything else is written: what an earlier boot left behind in a journal must stay older than this one.
    state.bootCount = context.bootCount;
    // The new name before the repair removes the signs of the damage.
    if (this.#problems.length > 0) state.incarnation = this.#options.random.hex(8) as Incarnation;
    await this.#settled("state", (done) => state.writeSnapshot(done));
    const rows = new RowBytes(this.#index, this.#extents, this.#segments, unitBytes, clusterId);
    await this.#repairDamaged(context, rows);
    const suspects = await this.#secureUnsynced(rows);
    const losers = this.#chooseDuplicates(rows);
    const suspectCount = this.#countRows(rows);
    if (state.segmentCount !== this.#segments.length)
      await this.#settled("state", (done) => state.setSegmentCount(this.#segments.length, done));
    this.#reserve(plan);
    const { clock, turns, onPoison } = this.#options;
    const store = new SegmentStore({
      disk: this.#disk,
      state,
      context,
      index: this.#index,
      extents: this.#extents,
      segments: this.#segments,
      rows,
      suspectCount,
      acceptedDamage: this.#problems,
      plan,
      clock,
      turns,
      onPoison,
    });
    store.settleReplayed(suspects, losers);
    await store.idle();
    if (store.poisonReason !== undefined) throw new StoreError("io-failed", store.poisonReason);
    return store;
  }

  // -------------------------------------------------------------------------------------------------------------
  // Identity

  async #openState(): Promise<StateLog> {
    const entries = this.#disk.list();
    const hasState = entries.some((entry) => entry.name === STATE_FILE_NAME);
    const known = this.#findSuperblock();
    if (hasState) {
      const state = StateLog.load(this.#disk.open(STATE_FILE_NAME), this.#options.allocate);
      if (typeof state !== "string") return state;
      if (known === undefined && this.#isStateBlank()) return this.#createState(undefined);
      this.#problems.push(state);
    } else if (known !== undefined) this.#problems.push(`${STATE_FILE_NAME} is missing`);
    this.#refuseDamage();
    return this.#createState(known);
  }

  /** Any segment's superblock: it tells a store that lost its state from a disk without a store. */
  #findSuperblock(): Superblock | undefined {
    for (const { name } of this.#disk.list()) {
      if (segmentOfFileName(name) === undefined) continue;
      const superblock = readSuperblock(this.#disk.open(name), this.#scratch);
      if (typeof superblock === "object") return superblock;
    }
    return undefined;
  }

  /** A store that died before its first snapshot was durable never served anybody. */
  #isStateBlank(): boolean {
    const file = this.#disk.open(STATE_FILE_NAME);
    const half = file.sizeBytes / 2;
    for (const offset of [0, half]) {
      if (file.read("state.read", offset, this.#scratch, 0, METADATA_PAGE_BYTES) !== DiskStatus.ok)
        return false;
      if (!isZero(this.#scratch.bytes, 0, METADATA_PAGE_BYTES)) return false;
    }
    return true;
  }

  /** A new state, of a new store, or of one that lost its own (then `known` says who it was). */
  async #createState(known: Superblock | undefined): Promise<StateLog> {
    const { sizeBytes, clusterId, peerId, random, allocate } = this.#options;
    const segmentBytes = this.#options.segmentBytes ?? SEGMENT_BYTES_DEFAULT;
    assert(
      segmentBytes <= SEGMENT_BYTES_DEFAULT && segmentBytes % METADATA_PAGE_BYTES === 0,
      `segments of ${segmentBytes} bytes`,
    );
    const areaBytes = stateAreaBytes(sizeBytes);
    segmentPlan(sizeBytes - 2 * areaBytes, segmentBytes);
    if (this.#disk.list().some((entry) => entry.name === STATE_FILE_NAME)) this.#disk.remove(STATE_FILE_NAME);
    const file = this.#disk.create(STATE_FILE_NAME, 2 * areaBytes, 2 * areaBytes);
    const identity: StateIdentity = {
      clusterId: known?.clusterId ?? clusterId,
      peerId: known?.peerId ?? peerId ?? (random.uuid() as PeerId),
      storeSeed: known?.storeSeed ?? random.nextU32(),
      segmentBytes,
      unitBytes: known?.unitBytes ?? this.#disk.unitBytes,
    };
    const state = StateLog.create(file, identity, random.hex(8) as Incarnation, allocate);
    if (known !== undefined) state.segmentCount = this.#highestSegment() + 1;
    await this.#settled("state", (done) => state.writeSnapshot(done));
    return state;
  }

  #highestSegment(): number {
    let highest = -1;
    for (const { name } of this.#disk.list()) {
      const number = segmentOfFileName(name);
      if (number === undefined || number <= highest) continue;
      if (readSuperblock(this.#disk.open(name), this.#scratch) !== "empty") highest = number;
    }
    return highest;
  }

  #checkIdentity(identity: StateIdentity): void {
    const { clusterId, peerId } = this.#options;
    const where = this.#disk.description;
    if (identity.clusterId !== clusterId)
      throw new StoreError(
        "wrong-cluster",
        `Cannot open store in ${where}: it belongs to cluster ${identity.clusterId}, not to ${clusterId}; use another data directory or join that cluster`,
      );
    if (peerId !== undefined && identity.peerId !== peerId)
      throw new StoreError(
        "wrong-peer",
        `Cannot open store in ${where}: it belongs to peer ${identity.peerId}, not to ${peerId}; use that peer's data directory`,
      );
    if (identity.unitBytes % this.#disk.unitBytes !== 0)
      throw new StoreError(
        "foreign-disk",
        `Cannot open store in ${where}: it was made for ${identity.unitBytes}-byte sectors, the disk has ${this.#disk.unitBytes}`,
      );
  }

  // -------------------------------------------------------------------------------------------------------------
  // Replay

  #replayAll(state: StateLog, context: StoreContext): void {
    const sizes = new Map(this.#disk.list().map((entry) => [entry.name, entry.sizeBytes]));
    this.#index = new BlockIndex(this.#options.indexChunkRows, this.#countEntries(state, sizes));
    for (let number = 0; number < state.segmentCount; number += 1) {
      const name = segmentFileName(number);
      if (!sizes.has(name)) {
        this.#problems.push(`${name} is missing`);
        this.#segments.push(this.#replaceSegment(number, state, context));
        continue;
      }
      const segment = new Segment(number, this.#disk.open(name), context);
      const superblock = readSuperblock(segment.file, this.#scratch);
      const problem = checkSuperblock(segment, superblock, context);
      if (problem !== undefined || typeof superblock !== "object") {
        this.#problems.push(`${name} ${problem ?? "has no superblock"}`);
        this.#segments.push(this.#replaceSegment(number, state, context));
        continue;
      }
      this.#segments.push(segment);
      this.#replayOne(segment, superblock);
    }
  }

  /** About how many blocks there are. */
  #countEntries(state: StateLog, sizes: ReadonlyMap<string, number>): number {
    let entryCount = 0;
    for (let number = 0; number < state.segmentCount; number += 1) {
      if (!sizes.has(segmentFileName(number))) continue;
      const superblock = readSuperblock(this.#disk.open(segmentFileName(number)), this.#scratch);
      if (typeof superblock === "object") entryCount += superblock.entryCount;
    }
    return entryCount;
  }

  #replayOne(segment: Segment, superblock: Superblock): void {
    segment.generation = superblock.generation;
    const result = replaySegment(segment, superblock, {
      index: this.#index,
      extents: this.#extents,
      duplicates: this.#duplicates,
      scratch: this.#scratch,
    });
    if (result.damage !== undefined) this.#problems.push(result.damage);
    else if (segment.resume(result.journalStart, result.journalEnd) !== DiskStatus.ok)
      this.#problems.push(`${segment.file.name}: the journal cannot be read`);
    this.#replayed.push({ segment, superblock, result });
  }

  /** An empty segment in the place of one that is lost; made only when the loss is accepted. */
  #replaceSegment(number: number, state: StateLog, context: StoreContext): Segment {
    this.#refuseDamage();
    const name = segmentFileName(number);
    if (this.#disk.list().some((entry) => entry.name === name)) this.#disk.remove(name);
    const lengthBytes = this.#lengthLeft(state.identity.segmentBytes);
    const file = createSegmentFile(this.#disk, number, lengthBytes, context.unitBytes);
    return new Segment(number, file, context);
  }

  /** The length of a segment that the other files leave room for: what is left of a damaged one says nothing. */
  #lengthLeft(segmentBytes: number): number {
    const usedBytes = this.#disk.list().reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const leftBytes = Math.min(segmentBytes, this.#options.sizeBytes - usedBytes);
    return Math.max(SEGMENT_BYTES_MIN, leftBytes - (leftBytes % METADATA_PAGE_BYTES));
  }

  #refuseDamage(): void {
    if (this.#problems.length === 0 || this.#options.acceptLoss === true) return;
    throw new StoreError(
      "damaged",
      `Cannot open store in ${this.#disk.description}: ${this.#problems.join("; ")}; acknowledged blocks may be lost: restore the files, or start with --accept-loss to go on with what is intact and let the replicas heal the rest`,
    );
  }

  // -------------------------------------------------------------------------------------------------------------
  // Making it whole

  /** Gives damaged and replaced segments a fresh checkpoint of what is intact, and a journal far from the old one. */
  async #repairDamaged(context: StoreContext, rows: RowBytes): Promise<void> {
    for (const segment of this.#segments) {
      const replayed = this.#replayed.find((candidate) => candidate.segment === segment);
      if (replayed !== undefined && replayed.result.damage === undefined) continue;
      this.#dropBrokenRows(segment, rows);
      const jump = 4 * segment.geometry.journalSlots;
      const next = (replayed?.result.sequenceSeen ?? 0) + jump;
      const status = segment.resume(next, next - (next % RECORDS_PER_PAGE));
      if (status !== DiskStatus.ok) throw this.#failure(`read the journal of ${segment.file.name}`);
      segment.startSequence = segment.nextSequence;
      const scratch = context.allocate(CHECKPOINT_SCRATCH_BYTES);
      const extentsOf = (slot: number) => this.#extents.get(slot) as Uint32Array;
      const run = new CheckpointRun(segment, this.#index, extentsOf, scratch);
      if (run.finish() !== "written") throw this.#failure(`write the checkpoint of ${segment.file.name}`);
      await this.#synced(segment.file, "checkpoint.sync");
      const written = segment.writeSuperblock(
        run.generation,
        run.chunkCount,
        run.entryCount,
        run.journalStart,
        scratch,
      );
      if (written !== DiskStatus.ok) throw this.#failure(`write the superblock of ${segment.file.name}`);
      await this.#synced(segment.file, "superblock.sync");
      segment.generation = run.generation;
      this.#wipeJournal(segment);
      await this.#synced(segment.file, "segment.sync");
    }
  }

  /** The checkpoint has all that was intact: what was damaged must not be taken for new damage later. */
  #wipeJournal(segment: Segment): void {
    const { journalOffset, journalSlots } = segment.geometry;
    const endOffset = journalOffset + journalSlots * RECORD_BYTES;
    this.#scratch.bytes.fill(0);
    for (let offset = journalOffset; offset < endOffset; offset += REPLAY_READ_BYTES) {
      const lengthBytes = Math.min(REPLAY_READ_BYTES, endOffset - offset);
      if (segment.file.write("journal.write", offset, this.#scratch, 0, lengthBytes) !== DiskStatus.ok)
        throw this.#failure(`write the journal of ${segment.file.name}`);
    }
  }

  /** After lost records, rows may name bytes that belong to other blocks by now. */
  #dropBrokenRows(segment: Segment, rows: RowBytes): void {
    const end = this.#index.slotEnd;
    for (let slot = 1; ; slot += 1) {
      slot = this.#index.nextOfSegment(segment.number, slot, end);
      if (slot >= end) return;
      if (rows.isIntact(slot, this.#blockBuffer(slot))) continue;
      this.#index.unlink(slot);
      this.#index.free(slot);
      this.#extents.delete(slot);
    }
  }

  /** Verifies puts that no sync is known to have covered, and makes them, and their records, durable now. */
  async #secureUnsynced(rows: RowBytes): Promise<number[]> {
    const suspects: number[] = [];
    for (const { segment, superblock, result } of this.#replayed) {
      if (result.damage !== undefined) continue;
      if (!result.isSuperblockDurable) await this.#rewriteSuperblock(segment, superblock);
      const from = Math.max(result.durableEnd, result.journalStart);
      // Marks alone need no sync: they are written again, and the next sync covers them.
      this.#rewriteJournal(segment, from, result.journalEnd);
      segment.isCovered = !result.isUncovered;
      if (!result.isUncovered) continue;
      for (const slot of result.unverified) {
        if (
          (this.#index.flagsOf(slot) & RowFlag.linked) === 0 ||
          this.#index.segmentOf(slot) !== segment.number
        )
          continue;
        const buffer = this.#blockBuffer(slot);
        if (!rows.isIntact(slot, buffer)) suspects.push(slot);
        else if (rows.rewrite(slot, buffer) !== DiskStatus.ok)
          throw this.#failure(`write ${segment.file.name}`);
      }
      await this.#synced(segment.file, "segment.sync");
    }
    return suspects;
  }

  async #rewriteSuperblock(segment: Segment, superblock: Superblock): Promise<void> {
    encodeSuperblock(this.#scratch, 0, superblock);
    const at = superblockOffset(superblock.generation);
    if (segment.file.write("superblock.write", at, this.#scratch, 0, METADATA_PAGE_BYTES) !== DiskStatus.ok)
      throw this.#failure(`write the superblock of ${segment.file.name}`);
    await this.#synced(segment.file, "superblock.sync");
  }

  #rewriteJournal(segment: Segment, from: number, to: number): void {
    const { journalOffset, journalSlots } = segment.geometry;
    for (let sequence = from - (from % RECORDS_PER_PAGE); sequence < to; sequence += RECORDS_PER_PAGE) {
      const at = journalOffset + (sequence % journalSlots) * RECORD_BYTES;
      const page = METADATA_PAGE_BYTES;
      if (
        segment.file.read("journal.read", at, this.#scratch, 0, page) !== DiskStatus.ok ||
        segment.file.write("journal.write", at, this.#scratch, 0, page) !== DiskStatus.ok
      )
        throw this.#failure(`write the journal of ${segment.file.name}`);
    }
  }

  /** Of each block found at two places, the row to give up: never the only good one. */
  #chooseDuplicates(rows: RowBytes): number[] {
    const losers: number[] = [];
    for (const slot of this.#duplicates) {
      if (!this.#index.isRow(slot) || (this.#index.flagsOf(slot) & RowFlag.linked) === 0) continue;
      if (losers.includes(slot)) continue;
      const other = this.#index.findOther(slot);
      if (other === NO_SLOT || losers.includes(other)) continue;
      losers.push(rows.isIntact(slot, this.#blockBuffer(slot)) ? other : slot);
    }
    return losers;
  }

  /** Counts what each segment holds; returns how many blocks are suspect. */
  #countRows(rows: RowBytes): number {
    let suspectCount = 0;
    for (let slot = 1; slot < this.#index.slotEnd; slot += 1) {
      if (!this.#index.isRow(slot)) continue;
      const flags = this.#index.flagsOf(slot);
      if ((flags & RowFlag.suspect) !== 0) suspectCount += 1;
      const segment = this.#segments[this.#index.segmentOf(slot)] as Segment;
      segment.freeUnits -= rows.unitsOf(slot);
      const extents = (flags & RowFlag.scattered) !== 0 ? this.#extents.get(slot) : undefined;
      segment.entryCount += entriesFor(extents === undefined ? 0 : extents.length / 2);
    }
    return suspectCount;
  }

  // -------------------------------------------------------------------------------------------------------------
  // Size

  /** The lengths of all segments: those that exist, then what the size leaves room for. */
  #planSegments(state: StateLog): number[] {
    const { sizeBytes } = this.#options;
    const budget = sizeBytes - this.#disk.open(STATE_FILE_NAME).sizeBytes;
    const existing = this.#segments.map((segment) => segment.file.sizeBytes);
    let usedBytes = existing.reduce((sum, lengthBytes) => sum + lengthBytes, 0);
    while (usedBytes > budget && this.#isSegmentEmpty(this.#segments.length - 1)) {
      usedBytes -= existing.pop() as number;
      this.#segments.pop();
    }
    if (usedBytes > budget)
      throw new StoreError(
        "bad-size",
        `Cannot shrink store in ${this.#disk.description} to ${sizeBytes} bytes: its blocks lie in ${usedBytes} bytes of files; move blocks away first or give at least ${usedBytes + sizeBytes - budget} bytes`,
        { exitCode: 2 },
      );
    const rest = budget - usedBytes;
    if (existing.length === 0) return segmentPlan(rest, state.identity.segmentBytes);
    const growthMin = state.identity.segmentBytes / 16;
    return rest < growthMin ? existing : [...existing, ...planOrNothing(rest, state.identity.segmentBytes)];
  }

  #isSegmentEmpty(number: number): boolean {
    const end = this.#index.slotEnd;
    return number >= 0 && this.#index.nextOfSegment(number, 1, end) === end;
  }

  /** Removes files beyond the plan and reserves those that are planned. */
  #reserve(plan: readonly number[]): void {
    const sizes = new Map(this.#disk.list().map((entry) => [entry.name, entry.sizeBytes]));
    for (const [name, sizeBytes] of sizes) {
      const number = segmentOfFileName(name);
      if (number === undefined || number < this.#segments.length || plan[number] === sizeBytes) continue;
      this.#disk.remove(name);
      sizes.delete(name);
    }
    if (this.#options.reserveSpace === false) return;
    for (let number = this.#segments.length; number < plan.length; number += 1)
      if (!sizes.has(segmentFileName(number)))
        createSegmentFile(this.#disk, number, plan[number] as number, this.#disk.unitBytes);
  }

  // -------------------------------------------------------------------------------------------------------------

  /** Room for the bytes of a row. */
  #blockBuffer(slot: number): NativeBuffer {
    const lengthBytes = this.#index.lengthOf(slot);
    if (this.#blockScratch === undefined || this.#blockScratch.bytes.length < lengthBytes)
      this.#blockScratch = this.#options.allocate(2 ** Math.ceil(Math.log2(lengthBytes)));
    return this.#blockScratch;
  }

  #synced(file: DiskFile, operation: DiskOperation): Promise<void> {
    return this.#settled(file.name, (done) => file.sync(operation, done));
  }

  #settled(what: string, start: (done: (status: DiskStatus) => void) => void): Promise<void> {
    return new Promise((resolve, reject) =>
      start((status) => (status === DiskStatus.ok ? resolve() : reject(this.#failure(`write ${what}`)))),
    );
  }

  #failure(action: string): StoreError {
    return new StoreError(
      "io-failed",
      `Cannot ${action} in ${this.#disk.description}: the disk reports an error`,
    );
  }
}

function planOrNothing(sizeBytes: number, segmentBytes: number): number[] {
  return sizeBytes < Math.max(segmentBytes / 16, 128 * 1024) ? [] : segmentPlan(sizeBytes, segmentBytes);
}

/** What makes a superblock unusable for this file of this store. */
function checkSuperblock(
  segment: Segment,
  superblock: ReturnType<typeof readSuperblock>,
  context: StoreContext,
): string | undefined {
  if (superblock === "empty") return "is empty";
  if (superblock === "unreadable") return "has no readable superblock";
  if (superblock.segment !== segment.number || superblock.segmentBytes !== segment.file.sizeBytes)
    return `is not what its superblock says (segment ${superblock.segment} of ${superblock.segmentBytes} bytes)`;
  if (superblock.peerId !== context.peerId || superblock.clusterId !== context.clusterId)
    return `belongs to peer ${superblock.peerId}`;
  return superblock.storeSeed === context.storeSeed ? undefined : "belongs to an earlier store";
}
