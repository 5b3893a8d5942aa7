/**
 * The block store on a disk (DESIGN, "The store on a peer"): blocks in segment files, each with its own journal, an
 * index in memory, one sync for all puts of a turn. Opening is in open-store.ts; what is here runs while serving.
 *
 * A put writes its bytes, appends a journal record, enters the index and joins the open group. At the end of the turn
 * the group's journal pages are written and its segments synced; when all syncs are back its puts are acknowledged
 * and the next group starts. Whatever finds no room in a journal, or waits for a segment to be formatted, queues in
 * order and is tried again after each group, checkpoint and format.
 *
 * Invariants: a row is durable only after a sync that began after its record was written; space is given back only
 * when the delete record is durable and nobody has the bytes; a failed write or sync poisons the store for good.
 */
import {
  type BlockKind,
  BlockKind as BlockKinds,
  type BlockRef,
  type Clock,
  type ClusterId,
  type Epoch,
  type Incarnation,
  type NativeBuffer,
  type PeerId,
  type TurnScheduler,
  type VolumeId,
  type Disk,
  DiskError,
  DiskStatus,
} from "../../base";
import { BlockFault, PAGE_BYTES } from "../block";
import {
  type ListingVisitor,
  type ListReply,
  type ListRequest,
  type RecordCheck,
  type ServicePut,
  type ServiceRead,
  StorageStatus,
  type TailBlock,
} from "../ports";
import { finishingReserveBytes } from "../space";
import { HEADER_LENGTH_OFFSET, headerCrcAt, MutableRef } from "./block-bytes";
import { type BlockIndex, NO_SLOT, PINS_MAX, RowFlag } from "./block-index";
import { CHECKPOINT_SCRATCH_BYTES, CheckpointRun } from "./checkpoint";
import { BLOCK_EXTENTS_MAX, METADATA_PAGE_BYTES, segmentFileName, segmentGeometry } from "./layout";
import { Lending } from "./lending";
import { listByWalk, ListingRow } from "./listing";
import type { RowBytes } from "./row-bytes";
import { CHECK_STEP_BYTES, SegmentCheck } from "./segment-check";
import { createSegmentFile, entriesFor, Segment, type StoreContext } from "./segment";
import { SpaceMap } from "./space-map";
import type { StateLog } from "./state-log";
import type { BlockStore, StoreStatistics } from "./store";

/** Rows looked at by one `walk` call, so that a filtered listing never holds the loop for long. */
const LIST_ROWS_MAX = 16_384;
/** Segments tried for one put before it is refused. */
const ACTIVATIONS_MAX = 4;
/** Part of the space that only INode blocks may take: without it a full volume could not even record a trim. */
const INODE_RESERVE_DIVISOR = 64;
/** Blocks up to this are read whole when they must be copied; of longer ones the header and the slots wanted. */
const GATHER_WHOLE_BYTES = 64 * 1024;
/** Enough for the headers of most blocks of the default size. */
const HEADER_READ_BYTES = 4096;
/** Zeros are written this far ahead of the blocks, in steps, while little else is written. */
const ZERO_AHEAD_BYTES = 64 * 1024 * 1024;
const ZERO_STEP_BYTES = 256 * 1024;
const ZERO_PAUSE_MS = 10;
/** More than this put within a pause: the disk has better things to do. */
const ZERO_QUIET_BYTES = 256 * 1024;
/** Between two parts of a look at a segment's own records. */
const CHECK_PAUSE_MS = 1;
/** How long such a look waits for the state not to be written: a disk that hangs in a sync keeps nobody waiting for good. */
const STATE_WAIT_MS_MAX = 10_000;
/** Between two slices of a checkpoint. */
const CHECKPOINT_PAUSE_MS = 1;

export interface SegmentStoreParts {
  readonly disk: Disk;
  readonly state: StateLog;
  readonly context: StoreContext;
  readonly index: BlockIndex;
  readonly extents: Map<number, Uint32Array>;
  /** The formatted segments, in order; their free units and entries counted. */
  readonly segments: Segment[];
  readonly rows: RowBytes;
  readonly suspectCount: number;
  /** What was wrong, when the loss was accepted. */
  readonly acceptedDamage: readonly string[];
  /** Lengths of all segments the store may come to have. */
  readonly plan: readonly number[];
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly onPoison: (reason: string) => void;
}

/** What one sync makes durable. */
class Group {
  readonly puts: ServicePut[] = [];
  /** Rows to become durable. */
  readonly rows: number[] = [];
  /** Rows that a repaired copy replaced: deleted once the repair is durable. */
  readonly superseded: number[] = [];
  /** Rows whose delete record is in this group. */
  readonly deleted: number[] = [];
  readonly callbacks: ((status: StorageStatus) => void)[] = [];

  get isEmpty(): boolean {
    return (
      this.puts.length === 0 &&
      this.rows.length === 0 &&
      this.superseded.length === 0 &&
      this.deleted.length === 0 &&
      this.callbacks.length === 0
    );
  }

  clear(): void {
    this.puts.length = 0;
    this.rows.length = 0;
    this.superseded.length = 0;
    this.deleted.length = 0;
    this.callbacks.length = 0;
  }
}

type Placement = "placed" | "wait" | "refused";

/** Whether the sealed block at this place has a payload: the slot count of its header, see block/format.ts. */
function holdsData(buffer: NativeBuffer, offset: number): boolean {
  return buffer.view.getUint32(offset + SLOT_COUNT_OFFSET, true) > 0;
}
const SLOT_COUNT_OFFSET = 60;

export class SegmentStore implements BlockStore {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  /** What was wrong when it was opened, the loss being accepted. */
  readonly acceptedDamage: readonly string[];
  poisonReason: string | undefined;
  #isClosing = false;

  readonly #disk: Disk;
  readonly #state: StateLog;
  readonly #context: StoreContext;
  readonly #index: BlockIndex;
  readonly #extents: Map<number, Uint32Array>;
  readonly #segments: Segment[];
  readonly #plan: readonly number[];
  readonly #clock: Clock;
  readonly #turns: TurnScheduler;
  readonly #onPoison: (reason: string) => void;
  readonly #rows: RowBytes;
  readonly #lending: Lending;

  readonly #ref = new MutableRef();
  readonly #listing = new ListingRow();
  readonly #extentScratch = new Uint32Array(2 * BLOCK_EXTENTS_MAX);
  readonly #pageScratch: NativeBuffer;
  #checkpointScratch: NativeBuffer | undefined;

  #active: Segment | undefined;
  #activeMap: SpaceMap | undefined;
  #freeUnits = 0;
  #capacityUnits = 0;
  #inodeReserveUnits = 0;
  #finishingReserveUnits = 0;
  #isFormatting = false;
  #isZeroing = false;
  /** Being zeroed on the disk. */
  #zeroing: { readonly segment: Segment; readonly start: number; readonly count: number } | undefined;
  /** Put since zeroing ahead last looked. */
  #putBytes = 0;
  #isFormatImpossible = false;

  #open = new Group();
  #syncing = new Group();
  #isSyncing = false;
  #isCommitQueued = false;
  #dirtySegments: Segment[] = [];
  #syncingSegments: Segment[] = [];
  #syncsLeft = 0;
  #syncCount = 0;

  readonly #waitingPuts: ServicePut[] = [];
  /** Journal records that found no room: each answers whether it is done. */
  readonly #waitingRecords: (() => boolean)[] = [];
  readonly #checkpointQueue: Segment[] = [];
  #checkpoint: CheckpointRun | undefined;
  #onIdle: (() => void) | undefined;

  /** Fences in force, which may be ahead of what is durable. */
  readonly #fences: Map<number, number>;
  #ringVersion: number;
  /** As far as it is durable. */
  #progress: number;
  #suspectCount: number;
  #statePending = 0;
  /** Something was made durable since `progress` was raised. */
  #isAhead = false;

  constructor(parts: SegmentStoreParts) {
    this.#disk = parts.disk;
    this.#state = parts.state;
    this.#context = parts.context;
    this.#index = parts.index;
    this.#extents = parts.extents;
    this.#segments = parts.segments;
    this.#plan = parts.plan;
    this.#clock = parts.clock;
    this.#turns = parts.turns;
    this.#onPoison = parts.onPoison;
    this.clusterId = parts.context.clusterId;
    this.peerId = parts.context.peerId;
    this.acceptedDamage = parts.acceptedDamage;
    this.#rows = parts.rows;
    this.#suspectCount = parts.suspectCount;
    this.#lending = new Lending(parts.context.allocate, this.#unpin);
    this.#pageScratch = parts.context.allocate(METADATA_PAGE_BYTES);
    this.#fences = new Map(parts.state.fences);
    this.#ringVersion = parts.state.ringVersion;
    this.#progress = parts.state.progress;
    this.#countSpace();
  }

  get incarnation(): Incarnation {
    return this.#state.incarnation;
  }

  get bootCount(): number {
    return this.#state.bootCount;
  }

  get progress(): number {
    return this.#progress;
  }

  get ringVersion(): number {
    return this.#ringVersion;
  }

  get #isStopped(): boolean {
    return this.poisonReason !== undefined || this.#isClosing;
  }

  // -------------------------------------------------------------------------------------------------------------
  // Puts

  put(request: ServicePut): void {
    if (this.#isStopped) return request.done(StorageStatus.unavailable);
    if (!this.#ref.loadFromHeader(request.buffer, request.offset))
      return request.done(StorageStatus.badRequest);
    if (this.#isFenced(request)) return request.done(StorageStatus.fenced);
    if (this.#waitingPuts.length > 0 || !this.#tryPut(request)) this.#waitingPuts.push(request);
  }

  /** The fence test, against the request's epoch; `#ref` holds the block's name. */
  #isFenced(request: ServicePut): boolean {
    if (request.writerEpoch === 0) return false;
    const fence = this.#fences.get(this.#ref.volumeId);
    return fence !== undefined && request.writerEpoch < fence;
  }

  /** False when the put must wait. `#ref` holds the block's name. */
  #tryPut(request: ServicePut): boolean {
    const held = this.#index.find(this.#ref);
    if (held !== NO_SLOT) {
      if (this.#index.headerCrcOf(held) !== headerCrcAt(request.buffer, request.offset)) {
        request.done(StorageStatus.conflict);
        return true;
      }
      const flags = this.#index.flagsOf(held);
      if ((flags & RowFlag.suspect) === 0) {
        if ((flags & RowFlag.durable) === 0) {
          this.#open.puts.push(request);
          this.#queueCommit();
          return true;
        }
        if (this.#isIntact(held)) {
          request.done(StorageStatus.ok);
          return true;
        }
        this.#markSuspect(held);
      }
    }
    return this.#place(request, held) !== "wait";
  }

  /** Finds room, writes the bytes and the record, and answers when refused. `replaced` is a bad copy, or NO_SLOT. */
  #place(request: ServicePut, replaced: number): Placement {
    const units = Math.ceil(request.lengthBytes / this.#context.unitBytes);
    const reserve = this.#reserveUnitsFor(request);
    if (units + reserve > this.#freeUnits) return this.#refuse(request, StorageStatus.outOfSpace);
    for (let activation = 0; ; activation += 1) {
      const placed = this.#placeInActive(request, units, replaced);
      if (placed !== undefined) return placed;
      const next = activation < ACTIVATIONS_MAX ? this.#chooseSegment(units) : undefined;
      if (next === undefined) break;
      this.#activate(next);
    }
    if (this.#formatNext() || this.#isRoomBlocked(units)) return "wait";
    return this.#refuse(request, StorageStatus.outOfSpace);
  }

  /** INode blocks and blocks of holes alone are what frees space; copies that only move about come last. */
  #reserveUnitsFor(request: ServicePut): number {
    if (this.#ref.kind === BlockKinds.inode || !holdsData(request.buffer, request.offset)) return 0;
    return request.writerEpoch === 0 ? this.#finishingReserveUnits : this.#inodeReserveUnits;
  }

  #refuse(request: ServicePut, status: StorageStatus): Placement {
    request.done(status);
    return "refused";
  }

  /** Undefined when the active segment cannot take it. */
  #placeInActive(request: ServicePut, units: number, replaced: number): Placement | undefined {
    const segment = this.#active;
    const map = this.#activeMap;
    if (segment === undefined || map === undefined || !this.#canTake(segment, units)) return undefined;
    const start = map.allocate(units);
    if (start >= 0) return this.#writeContiguous(request, segment, map, start, units, replaced);
    const extentCount = map.allocateScattered(units, this.#extentScratch);
    const entries = entriesFor(extentCount);
    if (extentCount > 0) {
      if (segment.hasRecordsFor(entries) && segment.entryCount + entries <= segment.geometry.entriesMax)
        return this.#writeScattered(request, segment, map, extentCount, units, replaced);
      for (let extent = 0; extent < extentCount; extent += 1)
        map.release(this.#extentScratch[2 * extent] as number, this.#extentScratch[2 * extent + 1] as number);
    }
    segment.unitsImpossible = Math.min(segment.unitsImpossible, units);
    return undefined;
  }

  #canTake(segment: Segment, units: number): boolean {
    return (
      segment.freeUnits >= units &&
      segment.unitsImpossible > units &&
      segment.entryCount < segment.geometry.entriesMax &&
      segment.hasRecordsFor(1)
    );
  }

  #writeContiguous(
    request: ServicePut,
    segment: Segment,
    map: SpaceMap,
    start: number,
    units: number,
    replaced: number,
  ): Placement {
    const { buffer, offset, lengthBytes } = request;
    const at = segment.fileOffsetOf(start);
    const status = segment.file.write("data.write", at, buffer, offset, lengthBytes);
    if (status !== DiskStatus.ok) {
      map.release(start, units);
      return this.#refuseFailedWrite(request, segment, status);
    }
    const headerCrc = headerCrcAt(buffer, offset);
    if (segment.appendPut(this.#ref, start, lengthBytes, headerCrc) !== DiskStatus.ok)
      return this.#refuseFailedWrite(request, segment, DiskStatus.ioError);
    this.#enterRow(request, segment, start, units, 0, headerCrc, replaced);
    return "placed";
  }

  #writeScattered(
    request: ServicePut,
    segment: Segment,
    map: SpaceMap,
    extentCount: number,
    units: number,
    replaced: number,
  ): Placement {
    const { buffer, offset, lengthBytes } = request;
    const extents = this.#extentScratch.slice(0, 2 * extentCount);
    let written = 0;
    for (let extent = 0; extent < extentCount; extent += 1) {
      const length = Math.min(
        (extents[2 * extent + 1] as number) * this.#context.unitBytes,
        lengthBytes - written,
      );
      const at = segment.fileOffsetOf(extents[2 * extent] as number);
      const status = segment.file.write("data.write", at, buffer, offset + written, length);
      if (status !== DiskStatus.ok) {
        for (let taken = 0; taken < extentCount; taken += 1)
          map.release(extents[2 * taken] as number, extents[2 * taken + 1] as number);
        return this.#refuseFailedWrite(request, segment, status);
      }
      written += length;
    }
    const headerCrc = headerCrcAt(buffer, offset);
    if (segment.appendScatteredPut(this.#ref, extents, lengthBytes, headerCrc) !== DiskStatus.ok)
      return this.#refuseFailedWrite(request, segment, DiskStatus.ioError);
    const slot = this.#enterRow(
      request,
      segment,
      extents[0] as number,
      units,
      extentCount,
      headerCrc,
      replaced,
    );
    this.#extents.set(slot, extents);
    return "placed";
  }

  #refuseFailedWrite(request: ServicePut, segment: Segment, status: DiskStatus): Placement {
    if (status === DiskStatus.noSpace) return this.#refuse(request, StorageStatus.outOfSpace);
    this.#poison(`Cannot write ${segment.file.name} in ${this.#disk.description}: the disk reports an error`);
    return this.#refuse(request, StorageStatus.unavailable);
  }

  #enterRow(
    request: ServicePut,
    segment: Segment,
    unit: number,
    units: number,
    extentCount: number,
    headerCrc: number,
    replaced: number,
  ): number {
    if (replaced !== NO_SLOT) {
      this.#unlink(replaced);
      this.#open.superseded.push(replaced);
    }
    const flags = extentCount > 0 ? RowFlag.scattered : 0;
    const slot = this.#index.insert(this.#ref, segment.number, unit, request.lengthBytes, headerCrc, flags);
    segment.freeUnits -= units;
    this.#freeUnits -= units;
    segment.entryCount += entriesFor(extentCount);
    if (extentCount === 0) segment.writtenEnd = Math.max(segment.writtenEnd, unit + units);
    this.#putBytes += request.lengthBytes;
    this.#zeroAhead(segment);
    this.#open.puts.push(request);
    this.#open.rows.push(slot);
    this.#markDirty(segment);
    if (segment.freeUnits * 4 < segment.geometry.dataUnits) this.#formatAhead();
    return slot;
  }

  // -------------------------------------------------------------------------------------------------------------
  // Segments

  /** The segment with the most room that could take the block now, but for the active one. */
  #chooseSegment(units: number): Segment | undefined {
    let best: Segment | undefined;
    for (const segment of this.#segments)
      if (segment !== this.#active && this.#canTake(segment, units))
        if (best === undefined || segment.freeUnits > best.freeUnits) best = segment;
    return best;
  }

  /** Whether some segment would have room, were its journal not full or unsynced: then its turn comes. */
  #isRoomBlocked(units: number): boolean {
    let isBlocked = false;
    for (const segment of this.#segments) {
      if (segment.freeUnits < units || segment.unitsImpossible <= units) continue;
      if (segment.entryCount >= segment.geometry.entriesMax || segment.hasRecordsFor(1)) continue;
      isBlocked = true;
      if (segment.freeRecords > 0) this.#requestCheckpoint(segment);
      else this.#awaitRecords(segment);
    }
    return isBlocked;
  }

  #activate(segment: Segment): void {
    const map = new SpaceMap(segment.geometry.dataUnits);
    const { slotEnd } = this.#index;
    if (segment.entryCount > 0)
      for (
        let slot = this.#index.nextOfSegment(segment.number, 1, slotEnd);
        slot < slotEnd;
        slot = this.#index.nextOfSegment(segment.number, slot + 1, slotEnd)
      )
        this.#rows.forEachRun(slot, (start, count) => {
          map.take(start, count);
          segment.writtenEnd = Math.max(segment.writtenEnd, start + count);
        });
    const zeroing = this.#zeroing;
    if (zeroing?.segment === segment) map.take(zeroing.start, zeroing.count);
    this.#active = segment;
    this.#activeMap = map;
    this.#zeroAhead(segment);
  }

  /**
   * The first write to reserved space makes the file system change its records within the next sync, which doubles
   * what that costs; so zeros go there first, in the background, never over anything that is or was taken.
   */
  #zeroAhead(segment: Segment): void {
    if (this.#isZeroing || segment.file.zero === undefined || segment !== this.#active) return;
    const aheadUnits = ZERO_AHEAD_BYTES / this.#context.unitBytes;
    segment.zeroedEnd = Math.max(segment.zeroedEnd, segment.writtenEnd);
    const isEnough = segment.zeroedEnd - segment.writtenEnd > aheadUnits / 2;
    if (isEnough || segment.zeroedEnd >= segment.geometry.dataUnits) return;
    this.#isZeroing = true;
    this.#stepZeroing(segment, segment.zeroedEnd + aheadUnits);
  }

  #stepZeroing(segment: Segment, endUnit: number): void {
    const map = this.#activeMap;
    segment.zeroedEnd = Math.max(segment.zeroedEnd, segment.writtenEnd);
    const start = segment.zeroedEnd;
    const stepUnits = ZERO_STEP_BYTES / this.#context.unitBytes;
    const count = Math.min(stepUnits, segment.geometry.dataUnits - start);
    const isOver = this.#isStopped || segment !== this.#active || start >= endUnit || count <= 0;
    if (isOver || map === undefined || !map.isFree(start, count)) {
      this.#isZeroing = false;
      return;
    }
    if (this.#putBytes > ZERO_QUIET_BYTES) {
      this.#putBytes = 0;
      this.#clock.schedule(ZERO_PAUSE_MS, () => this.#stepZeroing(segment, endUnit));
      return;
    }
    this.#putBytes = 0;
    // Nobody else may have these units meanwhile, nor after another segment was active in between.
    map.take(start, count);
    this.#zeroing = { segment, start, count };
    segment.zeroedEnd = start + count;
    segment.file.zero?.(segment.fileOffsetOf(start), count * this.#context.unitBytes, (status) => {
      this.#zeroing = undefined;
      if (segment === this.#active) this.#activeMap?.release(start, count);
      segment.unitsImpossible = Number.POSITIVE_INFINITY;
      if (status === DiskStatus.ioError)
        return this.#poison(
          `Cannot write ${segment.file.name} in ${this.#disk.description}: the disk reports an error`,
        );
      // Without room there is nothing to prepare.
      if (status !== DiskStatus.ok) return;
      this.#clock.schedule(ZERO_PAUSE_MS, () => this.#stepZeroing(segment, endUnit));
    });
  }

  /** Has a fresh segment ready before the last one is full. */
  #formatAhead(): void {
    const last = this.#segments.at(-1);
    if (last !== undefined && last.freeUnits * 4 < last.geometry.dataUnits) this.#formatNext();
  }

  /** Starts to make the next segment; whether one is on its way. */
  #formatNext(): boolean {
    if (this.#isFormatting) return true;
    const number = this.#segments.length;
    const lengthBytes = this.#plan[number];
    if (lengthBytes === undefined || this.#isFormatImpossible || this.#isStopped) return false;
    const segment = this.#createSegment(number, lengthBytes);
    if (segment === undefined) return false;
    this.#isFormatting = true;
    const status = segment.writeSuperblock(1, 0, 0, segment.startSequence, this.#pageScratch);
    const fail = () => this.#poison(`Cannot format ${segment.file.name} in ${this.#disk.description}`);
    if (status !== DiskStatus.ok) {
      fail();
      return false;
    }
    segment.generation = 1;
    segment.file.sync("superblock.sync", (synced) => {
      if (synced !== DiskStatus.ok) return fail();
      this.#state.setSegmentCount(number + 1, (recorded) => {
        if (recorded !== DiskStatus.ok) return fail();
        this.#segments.push(segment);
        this.#isFormatting = false;
        this.#retryWaiting();
        this.#checkIdle();
      });
    });
    return true;
  }

  #createSegment(number: number, lengthBytes: number): Segment | undefined {
    const name = segmentFileName(number);
    try {
      const exists = this.#disk.list().some((entry) => entry.name === name);
      const file = exists
        ? this.#disk.open(name)
        : createSegmentFile(this.#disk, number, lengthBytes, this.#context.unitBytes);
      return new Segment(number, file, this.#context);
    } catch (error) {
      if (!(error instanceof DiskError) || error.code !== "disk-full") throw error;
      // The file system under the store is full: the store is as large as it can be until it is opened again.
      this.#isFormatImpossible = true;
      this.#countSpace();
      return undefined;
    }
  }

  #countSpace(): void {
    let capacity = 0;
    let free = 0;
    for (const segment of this.#segments) {
      capacity += segment.geometry.dataUnits;
      free += segment.freeUnits;
    }
    if (!this.#isFormatImpossible)
      for (const [number, lengthBytes] of this.#plan.entries())
        if (number >= this.#segments.length) {
          const { dataUnits } = segmentGeometry(lengthBytes, this.#context.unitBytes);
          capacity += dataUnits;
          free += dataUnits;
        }
    this.#capacityUnits = capacity;
    this.#freeUnits = free;
    this.#inodeReserveUnits = Math.floor(capacity / INODE_RESERVE_DIVISOR);
    const { unitBytes } = this.#context;
    this.#finishingReserveUnits = Math.floor(finishingReserveBytes(capacity * unitBytes) / unitBytes);
  }

  // -------------------------------------------------------------------------------------------------------------
  // Group commit

  #markDirty(segment: Segment): void {
    if (!segment.isDirty) {
      segment.isDirty = true;
      this.#dirtySegments.push(segment);
    }
    if (segment.wantsCheckpoint) this.#requestCheckpoint(segment);
    this.#queueCommit();
  }

  #queueCommit(): void {
    if (this.#isCommitQueued || this.#isSyncing) return;
    this.#isCommitQueued = true;
    this.#turns.afterTurn(this.#commitTurn);
  }

  readonly #commitTurn = (): void => {
    this.#isCommitQueued = false;
    if (!this.#isSyncing) this.#startSync();
  };

  #startSync(): void {
    if (this.poisonReason !== undefined) return;
    if (this.#open.isEmpty && this.#dirtySegments.length === 0) return this.#checkIdle();
    [this.#open, this.#syncing] = [this.#syncing, this.#open];
    [this.#dirtySegments, this.#syncingSegments] = [this.#syncingSegments, this.#dirtySegments];
    this.#isSyncing = true;
    this.#syncsLeft = this.#syncingSegments.length;
    for (const segment of this.#syncingSegments) {
      if (segment.flushJournal() !== DiskStatus.ok)
        return this.#poison(`Cannot write the journal of ${segment.file.name} in ${this.#disk.description}`);
      segment.isDirty = false;
      segment.syncingEnd = segment.nextSequence;
    }
    if (this.#syncsLeft === 0) return this.#finishGroup();
    this.#syncCount += this.#syncsLeft;
    for (const segment of this.#syncingSegments) segment.file.sync("segment.sync", this.#onSynced);
  }

  readonly #onSynced = (status: DiskStatus): void => {
    if (this.poisonReason !== undefined) return;
    if (status !== DiskStatus.ok)
      return this.#poison(`Cannot sync the store in ${this.#disk.description}: the disk reports an error`);
    this.#syncsLeft -= 1;
    if (this.#syncsLeft === 0) this.#finishGroup();
  };

  #finishGroup(): void {
    const group = this.#syncing;
    this.#isAhead ||= !group.isEmpty;
    for (const segment of this.#syncingSegments)
      segment.durableEnd = Math.max(segment.durableEnd, segment.syncingEnd);
    this.#syncingSegments.length = 0;
    for (const slot of group.rows) this.#index.addFlags(slot, RowFlag.durable);
    for (const slot of group.deleted) {
      this.#index.addFlags(slot, RowFlag.releasable);
      if (this.#index.pinsOf(slot) === 0) this.#release(slot);
    }
    for (const slot of group.superseded) this.#recordDelete(slot);
    // Not syncing any more, so that what the callbacks put is committed at the end of this turn.
    this.#isSyncing = false;
    const isLow = this.#freeUnits < this.#finishingReserveUnits;
    const stored = isLow ? StorageStatus.storedLowSpace : StorageStatus.ok;
    for (const request of group.puts) request.done(request.writerEpoch === 0 ? StorageStatus.ok : stored);
    for (const callback of group.callbacks) callback(StorageStatus.ok);
    group.clear();
    if (this.poisonReason !== undefined) return;
    this.#retryWaiting();
    if (!this.#isSyncing && !this.#isCommitQueued) this.#startSync();
  }

  #retryWaiting(): void {
    let done = 0;
    while (done < this.#waitingRecords.length && this.#waitingRecords[done]?.()) done += 1;
    this.#waitingRecords.splice(0, done);
    for (
      let request = this.#waitingPuts.shift();
      request !== undefined;
      request = this.#waitingPuts.shift()
    ) {
      this.#ref.loadFromHeader(request.buffer, request.offset);
      if (this.#isFenced(request)) request.done(StorageStatus.fenced);
      else if (!this.#tryPut(request)) {
        this.#waitingPuts.unshift(request);
        return;
      }
    }
  }

  #poison(reason: string): void {
    if (this.poisonReason !== undefined) return;
    this.poisonReason = reason;
    this.#onPoison(reason);
    // A group that is being answered stays as it is: it is durable.
    for (const group of this.#isSyncing ? [this.#syncing, this.#open] : [this.#open]) {
      const puts = [...group.puts];
      const callbacks = [...group.callbacks];
      group.clear();
      for (const request of puts) request.done(StorageStatus.unavailable);
      for (const callback of callbacks) callback(StorageStatus.unavailable);
    }
    for (const request of this.#waitingPuts.splice(0)) request.done(StorageStatus.unavailable);
    this.#waitingRecords.length = 0;
    this.#checkIdle();
  }

  // -------------------------------------------------------------------------------------------------------------
  // Checkpoints

  #requestCheckpoint(segment: Segment): void {
    if (segment.isCheckpointing || this.poisonReason !== undefined) return;
    segment.isCheckpointing = true;
    this.#checkpointQueue.push(segment);
    this.#startCheckpoint();
  }

  /** One at a time, for all share their scratch; the next one when it is in force. */
  #startCheckpoint(): void {
    if (this.#checkpoint !== undefined) return;
    const segment = this.#checkpointQueue.shift();
    if (segment === undefined) return this.#checkIdle();
    this.#checkpointScratch ??= this.#context.allocate(CHECKPOINT_SCRATCH_BYTES);
    const extentsOf = (slot: number) => this.#extents.get(slot) as Uint32Array;
    const run = new CheckpointRun(segment, this.#index, extentsOf, this.#checkpointScratch);
    this.#checkpoint = run;
    this.#clock.schedule(CHECKPOINT_PAUSE_MS, () => this.#stepCheckpoint(segment, run));
  }

  #stepCheckpoint(segment: Segment, run: CheckpointRun): void {
    if (this.poisonReason !== undefined) return;
    const failed = () =>
      this.#poison(`Cannot write the index checkpoint of ${segment.file.name} in ${this.#disk.description}`);
    const step = run.step();
    if (step === "failed") return failed();
    if (step === "more") {
      this.#clock.schedule(CHECKPOINT_PAUSE_MS, () => this.#stepCheckpoint(segment, run));
      return;
    }
    if (segment.flushJournal() !== DiskStatus.ok) return failed();
    segment.file.sync("checkpoint.sync", (synced) => {
      if (this.poisonReason !== undefined) return;
      if (synced !== DiskStatus.ok) return failed();
      const { generation, chunkCount, entryCount, journalStart } = run;
      const written = segment.writeSuperblock(
        generation,
        chunkCount,
        entryCount,
        journalStart,
        this.#pageScratch,
      );
      if (written !== DiskStatus.ok) return failed();
      segment.file.sync("superblock.sync", (inForce) => {
        if (this.poisonReason !== undefined) return;
        if (inForce !== DiskStatus.ok) return failed();
        segment.generation = generation;
        segment.startSequence = journalStart;
        segment.isCheckpointing = false;
        this.#checkpoint = undefined;
        // Tells a later start that this superblock is durable, and everything before it.
        if (segment.appendMark() !== DiskStatus.ok) return failed();
        this.#clearRotten(segment);
        // Found when this checkpoint was under way, or beside its first record: the next one leaves it behind.
        if (segment.rottenPages.length > 0) this.#requestCheckpoint(segment);
        this.#markDirty(segment);
        this.#retryWaiting();
        this.#startCheckpoint();
      });
    });
  }

  // -------------------------------------------------------------------------------------------------------------
  // Deletes, suspects and space

  delete(refs: readonly BlockRef[], done: (status: StorageStatus) => void): void {
    if (this.#isStopped) return done(StorageStatus.unavailable);
    for (const ref of refs) {
      const slot = this.#index.find(ref);
      if (slot === NO_SLOT) continue;
      this.#unlink(slot);
      this.#recordDelete(slot);
    }
    this.#afterRecords(() => {
      this.#open.callbacks.push(done);
      this.#queueCommit();
      return true;
    });
  }

  #unlink(slot: number): void {
    if ((this.#index.flagsOf(slot) & RowFlag.suspect) !== 0) this.#suspectCount -= 1;
    this.#index.unlink(slot);
  }

  /** Runs in order behind the records that wait for room. */
  #afterRecords(attempt: () => boolean): void {
    if (this.#waitingRecords.length > 0 || !attempt()) this.#waitingRecords.push(attempt);
  }

  /** Writes the delete record of an unlinked row, now or when its journal has room. */
  #recordDelete(slot: number): void {
    this.#afterRecords(() => {
      const segment = this.#segmentOf(slot);
      if (segment.freeRecords < 1) return this.#awaitRecords(segment);
      const { unit, lengthBytes, headerCrc, ref } = this.#placeOf(slot);
      if (segment.appendDelete(ref, unit, lengthBytes, headerCrc) !== DiskStatus.ok) {
        this.#poison(`Cannot write the journal of ${segment.file.name} in ${this.#disk.description}`);
        return true;
      }
      this.#index.addFlags(slot, RowFlag.deleted);
      this.#open.deleted.push(slot);
      this.#markDirty(segment);
      return true;
    });
  }

  #markSuspect(slot: number): void {
    if ((this.#index.flagsOf(slot) & RowFlag.suspect) !== 0) return;
    this.#index.addFlags(slot, RowFlag.suspect);
    this.#suspectCount += 1;
    if (this.#isStopped) return;
    const { ref, unit } = this.#placeOf(slot);
    this.#afterRecords(() => {
      const segment = this.#segmentOf(slot);
      // The row may have been deleted, and even reused, while this waited.
      if (!this.#index.isRow(slot) || this.#index.findAt(ref, segment.number, unit) !== slot) return true;
      if (segment.freeRecords < 1) return this.#awaitRecords(segment);
      const { lengthBytes, headerCrc } = this.#placeOf(slot);
      if (segment.appendSuspect(ref, unit, lengthBytes, headerCrc) !== DiskStatus.ok) {
        this.#poison(`Cannot write the journal of ${segment.file.name} in ${this.#disk.description}`);
        return true;
      }
      this.#markDirty(segment);
      return true;
    });
  }

  /** Sees to it that the segment's journal gets room: by the sync under way or a checkpoint. Always false. */
  #awaitRecords(segment: Segment): false {
    if (segment.durableEnd === segment.nextSequence) this.#requestCheckpoint(segment);
    else this.#markDirty(segment);
    return false;
  }

  #segmentOf(slot: number): Segment {
    return this.#segments[this.#index.segmentOf(slot)] as Segment;
  }

  #placeOf(slot: number): { ref: BlockRef; unit: number; lengthBytes: number; headerCrc: number } {
    const index = this.#index;
    return {
      ref: index.refOf(slot),
      unit: index.unitOf(slot),
      lengthBytes: index.lengthOf(slot),
      headerCrc: index.headerCrcOf(slot),
    };
  }

  readonly #unpin = (slot: number): void => {
    const pins = this.#index.addPins(slot, -1);
    if (pins === 0 && (this.#index.flagsOf(slot) & RowFlag.releasable) !== 0) this.#release(slot);
  };

  /** The delete is durable and nobody has the bytes: the space may be used again. */
  #release(slot: number): void {
    const segment = this.#segmentOf(slot);
    const units = this.#rows.unitsOf(slot);
    const map = this.#activeMap;
    if (segment === this.#active && map !== undefined)
      this.#rows.forEachRun(slot, (start, count) => map.release(start, count));
    const extents = this.#extents.get(slot);
    segment.entryCount -= entriesFor(extents === undefined ? 0 : extents.length / 2);
    segment.freeUnits += units;
    segment.unitsImpossible = Number.POSITIVE_INFINITY;
    this.#freeUnits += units;
    this.#extents.delete(slot);
    this.#index.free(slot);
  }

  // -------------------------------------------------------------------------------------------------------------
  // Reads

  read(request: ServiceRead): void {
    if (this.#isStopped) return request.done(StorageStatus.unavailable, undefined, 0, 0, 0);
    const slot = this.#index.find(request.ref);
    if (slot === NO_SLOT) return request.done(StorageStatus.notFound, undefined, 0, 0, 0);
    const flags = this.#index.flagsOf(slot);
    if ((flags & RowFlag.suspect) !== 0) return request.done(StorageStatus.corrupt, undefined, 0, 0, 0);
    const segment = this.#segmentOf(slot);
    const isContiguous = (flags & RowFlag.scattered) === 0 && this.#index.pinsOf(slot) < PINS_MAX;
    const mapped = isContiguous ? segment.file.map() : undefined;
    if (mapped === undefined) return this.#readGathered(request, slot);
    this.#answer(request, slot, mapped, segment.fileOffsetOf(this.#index.unitOf(slot)), undefined);
  }

  #readGathered(request: ServiceRead, slot: number): void {
    const buffer = this.#lending.takeBuffer(this.#index.lengthOf(slot));
    if (!this.#gatherFor(request, slot, buffer)) {
      this.#lending.giveBuffer(buffer);
      this.#markSuspect(slot);
      return request.done(StorageStatus.corrupt, undefined, 0, 0, 0);
    }
    this.#answer(request, slot, buffer, 0, buffer);
  }

  /** Copies what the request needs of a block to its place in `buffer`: the header and the slots. */
  #gatherFor(request: ServiceRead, slot: number, buffer: NativeBuffer): boolean {
    const lengthBytes = this.#index.lengthOf(slot);
    if (lengthBytes <= GATHER_WHOLE_BYTES) return this.#rows.gather(slot, buffer);
    if (!this.#rows.gatherRange(slot, 0, HEADER_READ_BYTES, buffer)) return false;
    // Not checked yet: whatever it says, nothing beyond the block is read, and the check follows.
    const headerBytes = Math.min(buffer.view.getUint32(HEADER_LENGTH_OFFSET, true), lengthBytes);
    const firstByte = headerBytes + request.firstSlot * PAGE_BYTES;
    return (
      this.#rows.gatherRange(slot, HEADER_READ_BYTES, headerBytes, buffer) &&
      this.#rows.gatherRange(slot, firstByte, firstByte + request.slotCount * PAGE_BYTES, buffer)
    );
  }

  /** The block's bytes lie at source.bytes[at ..]; `gathered` is the pooled buffer they were copied to, if any. */
  #answer(
    request: ServiceRead,
    slot: number,
    source: NativeBuffer,
    at: number,
    gathered: NativeBuffer | undefined,
  ): void {
    const { firstSlot, slotCount } = request;
    const { header } = this.#rows.verifier;
    const heldBytes = this.#index.lengthOf(slot);
    // The reader checks the slots. A header that is all it gets is checked here too.
    const fault =
      slotCount === 0 ? header.parse(source, at, heldBytes) : header.locate(source, at, heldBytes);
    const isOurs =
      fault === BlockFault.none &&
      header.lengthBytes === heldBytes &&
      header.headerCrc === this.#index.headerCrcOf(slot);
    if (!isOurs) return this.#answerBad(request, slot, gathered, StorageStatus.corrupt);
    if (firstSlot + slotCount > header.slotCount)
      return this.#answerBad(request, slot, gathered, StorageStatus.badRequest);
    if (slotCount === 0)
      return request.done(StorageStatus.ok, source, at, header.headerBytes, 0, this.#lend(slot, gathered));
    const start = at + header.headerBytes + firstSlot * PAGE_BYTES;
    const lengthBytes = Math.min(slotCount * PAGE_BYTES, header.payloadBytes - firstSlot * PAGE_BYTES);
    const check = header.check(firstSlot, slotCount);
    request.done(StorageStatus.ok, source, start, lengthBytes, check, this.#lend(slot, gathered));
  }

  #lend(slot: number, gathered: NativeBuffer | undefined): () => void {
    if (gathered === undefined) this.#index.addPins(slot, 1);
    return this.#lending.lend(gathered === undefined ? slot : NO_SLOT, gathered).release;
  }

  #answerBad(
    request: ServiceRead,
    slot: number,
    gathered: NativeBuffer | undefined,
    status: StorageStatus,
  ): void {
    if (gathered !== undefined) this.#lending.giveBuffer(gathered);
    if (status === StorageStatus.corrupt) this.#markSuspect(slot);
    request.done(status, undefined, 0, 0, 0);
  }

  #isIntact(slot: number): boolean {
    const scratch = this.#lending.takeBuffer(this.#index.lengthOf(slot));
    const isIntact = this.#rows.isIntact(slot, scratch);
    this.#lending.giveBuffer(scratch);
    return isIntact;
  }

  has(ref: BlockRef): boolean {
    return this.#index.find(ref) !== NO_SLOT;
  }

  lookUp(ref: BlockRef): StorageStatus {
    if (this.#isStopped) return StorageStatus.unavailable;
    const slot = this.#index.find(ref);
    if (slot === NO_SLOT) return StorageStatus.notFound;
    const flags = this.#index.flagsOf(slot);
    if ((flags & RowFlag.suspect) !== 0) return StorageStatus.corrupt;
    return (flags & RowFlag.durable) === 0 ? StorageStatus.unavailable : StorageStatus.ok;
  }

  verify(ref: BlockRef): StorageStatus {
    // One that is not durable: its sync may fail yet, or the power. Nobody may drop a copy because of it (R8).
    const known = this.lookUp(ref);
    if (known !== StorageStatus.ok) return known;
    const slot = this.#index.find(ref);
    if (this.#isIntact(slot)) return StorageStatus.ok;
    this.#markSuspect(slot);
    return StorageStatus.corrupt;
  }

  // -------------------------------------------------------------------------------------------------------------
  // Listings

  list(request: ListRequest): ListReply {
    return listByWalk(this, request);
  }

  walk(request: ListRequest, visit: ListingVisitor): string | undefined {
    const index = this.#index;
    const listing = this.#listing;
    const end = index.slotEnd;
    const from = this.#parseCursor(request.cursor);
    const stop = Math.min(end, from + LIST_ROWS_MAX);
    let slot = from;
    for (let count = 0; slot < stop && count < request.limit; slot += 1) {
      if (!index.isRow(slot)) continue;
      const flags = index.flagsOf(slot);
      if ((flags & RowFlag.linked) === 0 || (flags & RowFlag.durable) === 0) continue;
      if (request.volumeId !== undefined && index.logOf(slot).volumeId !== request.volumeId) continue;
      index.refInto(slot, listing.ref);
      listing.lengthBytes = index.lengthOf(slot);
      listing.headerCrc = index.headerCrcOf(slot);
      listing.suspect = (flags & RowFlag.suspect) !== 0;
      count += 1;
      visit(listing);
    }
    return slot < end ? `${this.bootCount}:${slot}` : undefined;
  }

  /** Rows are numbered anew at every start: a cursor of an earlier one begins again rather than miss blocks. */
  #parseCursor(cursor: string | undefined): number {
    const match = cursor === undefined ? null : /^(\d+):(\d+)$/.exec(cursor);
    if (match === null || Number(match[1]) !== this.bootCount) return 1;
    return Math.max(1, Number(match[2]));
  }

  tail(kind: BlockKind, volumeId: VolumeId, epoch: number, afterIndex: number): TailBlock[] {
    const tail: TailBlock[] = [];
    this.#index.forEachOfLog(kind, volumeId, epoch, (slot) => {
      const index = this.#index.indexOf(slot);
      if (index <= afterIndex) return;
      const flags = this.#index.flagsOf(slot);
      tail.push({
        index,
        headerCrc: this.#index.headerCrcOf(slot),
        lengthBytes: this.#index.lengthOf(slot),
        // A copy on its way to the disk, by a rebalance or repair, is no copy yet: a power loss would take it.
        suspect: (flags & (RowFlag.suspect | RowFlag.durable)) !== RowFlag.durable,
      });
    });
    return tail.sort((a, b) => a.index - b.index);
  }

  // -------------------------------------------------------------------------------------------------------------
  // What must never be forgotten

  fenceEpoch(volumeId: VolumeId): number {
    return this.#fences.get(volumeId) ?? 0;
  }

  heldEpochMax(kind: BlockKind, volumeId: VolumeId): number {
    return this.#index.epochMax(kind, volumeId);
  }

  fence(volumeId: VolumeId, epoch: Epoch, done: (status: StorageStatus) => void): void {
    if (this.#isStopped) return done(StorageStatus.unavailable);
    const known = this.#fences.get(volumeId);
    if (known === undefined && this.#fences.size >= this.#state.fencesMax)
      return done(StorageStatus.outOfSpace);
    if (known === undefined || epoch > known) this.#fences.set(volumeId, epoch);
    this.#open.callbacks.push((status) => {
      if (status !== StorageStatus.ok) return done(status);
      const raised = this.#stateDone((raisedStatus) => {
        this.#isAhead ||= raisedStatus === StorageStatus.ok;
        done(raisedStatus);
      });
      this.#state.raiseFence(volumeId, this.#fences.get(volumeId) as number, raised);
    });
    this.#queueCommit();
  }

  adoptRingVersion(version: number, done: (status: StorageStatus) => void): void {
    if (this.#isStopped) return done(StorageStatus.unavailable);
    const adopted = Math.max(version, this.#state.ringVersion);
    this.#state.setRingVersion(
      adopted,
      this.#stateDone((status) => {
        if (status === StorageStatus.ok) {
          this.#ringVersion = Math.max(this.#ringVersion, adopted);
          this.#isAhead = true;
        }
        done(status);
      }),
    );
  }

  advance(done: (status: StorageStatus) => void): void {
    if (this.#isStopped) return done(StorageStatus.unavailable);
    if (!this.#isAhead) return done(StorageStatus.ok);
    // What becomes durable from here on is for the next time.
    this.#isAhead = false;
    const next = this.#state.advance(
      this.#stateDone((status) => {
        if (status === StorageStatus.ok) this.#progress = Math.max(this.#progress, next);
        done(status);
      }),
    );
  }

  renewIncarnation(incarnation: Incarnation, done: (status: StorageStatus) => void): void {
    if (this.#isStopped) return done(StorageStatus.unavailable);
    this.#state.setIncarnation(incarnation, this.#stateDone(done));
  }

  #stateDone(done: (status: StorageStatus) => void): (status: DiskStatus) => void {
    this.#statePending += 1;
    return (status) => {
      this.#statePending -= 1;
      if (status !== DiskStatus.ok)
        this.#poison(`Cannot write the store's state in ${this.#disk.description}`);
      done(this.poisonReason === undefined ? StorageStatus.ok : StorageStatus.unavailable);
      this.#checkIdle();
    };
  }

  // -------------------------------------------------------------------------------------------------------------
  // Rot in the store's own records

  checkRecords(part: number, done: (found: RecordCheck) => void): void {
    const segment = this.#segments[part];
    if (this.#isStopped || segment === undefined)
      return done({ bytesChecked: 0, problem: undefined, isLast: true });
    let stateProblem: string | undefined;
    let isStateDue = part === 0;
    const stateUntilMs = this.#clock.nowMs() + STATE_WAIT_MS_MAX;
    const check = new SegmentCheck(segment, this.#context.allocate(CHECK_STEP_BYTES));
    let isMore = true;
    const finish = () => {
      if (!this.#isStopped) this.#renewRotten(segment, check);
      done({
        bytesChecked: check.bytesChecked,
        problem: [stateProblem, check.problem].filter((found) => found !== undefined).join("; ") || undefined,
        isLast: part + 1 >= this.#segments.length,
      });
    };
    const step = () => {
      if (this.#isStopped) return finish();
      // While it is being written nothing can be said of it; after the longest wait it is left to the next scrub.
      if (isStateDue && !this.#state.isBusy) {
        stateProblem = this.#checkState();
        isStateDue = false;
      } else if (this.#clock.nowMs() >= stateUntilMs) isStateDue = false;
      isMore &&= check.step();
      if (!isMore && !isStateDue) finish();
      else this.#clock.schedule(CHECK_PAUSE_MS, step);
    };
    this.#clock.schedule(CHECK_PAUSE_MS, step);
  }

  #checkState(): string | undefined {
    const problem = this.#state.findRot();
    if (problem !== undefined) this.#state.renew(this.#stateDone(() => undefined));
    return problem;
  }

  #renewRotten(segment: Segment, check: SegmentCheck): void {
    segment.rottenPages = check.rottenPages;
    this.#clearRotten(segment);
    // Rotten pages are left where a start needs other records of them, which a checkpoint changes.
    if (check.problem !== undefined || segment.rottenPages.length > 0) this.#requestCheckpoint(segment);
  }

  #clearRotten(segment: Segment): void {
    if (segment.rottenPages.length === 0) return;
    this.#pageScratch.bytes.fill(0);
    if (segment.clearRottenPages(this.#pageScratch) === DiskStatus.ok) return this.#markDirty(segment);
    this.#poison(`Cannot write the journal of ${segment.file.name} in ${this.#disk.description}`);
  }

  // -------------------------------------------------------------------------------------------------------------

  statistics(): StoreStatistics {
    const { unitBytes } = this.#context;
    return {
      capacityBytes: this.#capacityUnits * unitBytes,
      usedBytes: (this.#capacityUnits - this.#freeUnits) * unitBytes,
      blockCount: this.#index.linkedCount,
      suspectCount: this.#suspectCount,
      syncCount: this.#syncCount + this.#state.syncCount,
      indexBytes: this.#index.memoryBytes,
      lentCount: this.#lending.lentCount,
    };
  }

  /**
   * For opening: rows found suspect, and rows that lost against another copy of the same block. A new store gets its
   * first segment.
   */
  settleReplayed(suspects: readonly number[], losers: readonly number[]): void {
    if (this.#segments.length === 0) this.#formatNext();
    for (const slot of losers) {
      this.#unlink(slot);
      this.#recordDelete(slot);
    }
    for (const slot of suspects)
      if ((this.#index.flagsOf(slot) & RowFlag.linked) !== 0) this.#markSuspect(slot);
  }

  /** Resolves when nothing is pending any more. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      const previous = this.#onIdle;
      this.#onIdle = () => {
        previous?.();
        resolve();
      };
      this.#checkIdle();
    });
  }

  async close(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    for (const request of this.#waitingPuts.splice(0)) request.done(StorageStatus.unavailable);
    await this.idle();
    if (this.poisonReason === undefined) {
      for (const segment of this.#segments)
        if (!segment.isCovered && segment.freeRecords > 0) {
          // Tells the next start that all before is durable, so that it need not read it again.
          if (segment.appendMark() === DiskStatus.ok) this.#markDirty(segment);
        }
      await this.idle();
    }
    this.#disk.close();
  }

  #checkIdle(): void {
    if (this.#onIdle === undefined) return;
    const isPending =
      this.#isSyncing ||
      this.#isCommitQueued ||
      this.#isFormatting ||
      this.#checkpoint !== undefined ||
      this.#waitingRecords.length > 0 ||
      this.#statePending > 0 ||
      !this.#open.isEmpty ||
      this.#dirtySegments.length > 0;
    if (isPending && this.poisonReason === undefined) return;
    const resolve = this.#onIdle;
    this.#onIdle = undefined;
    resolve();
  }
}
