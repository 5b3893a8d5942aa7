/**
 * One segment: its superblock, its journal and the count of what is free in it. A record is appended to an image in
 * memory, written at the end of the turn and durable after the segment's next sync, together with the data written
 * before. The journal is a ring: a checkpoint of the index moves its start on.
 *
 * Invariants: startSequence <= durableEnd <= nextSequence; the ring's page that is being filled is never one that
 * still holds records from startSequence on; of the ring's pages, an eighth is kept for deletes and suspect marks,
 * so that a full store can always be emptied.
 */
import {
  type AllocateBuffer,
  type BlockRef,
  type ClusterId,
  type NativeBuffer,
  type PeerId,
  type Disk,
  type DiskFile,
  DiskStatus,
} from "../../base";
import {
  encodePlace,
  encodeRecord,
  EXTENTS_FIELD,
  EXTENTS_PER_RECORD,
  RecordKind,
  sealRecord,
} from "./journal-record";
import {
  encodeSuperblock,
  METADATA_PAGE_BYTES,
  RECORDS_PER_PAGE,
  type SegmentGeometry,
  segmentFileName,
  segmentGeometry,
  segmentSeed,
  superblockOffset,
} from "./layout";
import { RecordRing } from "./record-ring";

/** What all segments of a store share. */
export interface StoreContext {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly storeSeed: number;
  readonly unitBytes: number;
  readonly bootCount: number;
  readonly allocate: AllocateBuffer;
}

/** At most this many records of a segment may await a sync: replay looks this far for what damage cut off. */
export const UNSYNCED_RECORDS_MAX = 2048;

export class Segment {
  readonly geometry: SegmentGeometry;
  readonly seed: number;
  generation = 0;
  startSequence = 1;
  nextSequence = 1;
  durableEnd = 1;
  freeUnits: number;
  /** Checkpoint entries that all rows of this segment take. */
  entryCount = 0;
  /** Written since the last sync began; kept by the store, which lists its dirty segments. */
  isDirty = false;
  /** The value of nextSequence when the sync under way began. */
  syncingEnd = 1;
  /** Fragmented: no block of this many units finds room until something is released. */
  unitsImpossible = Number.POSITIVE_INFINITY;
  isCheckpointing = false;
  /** Beyond every unit written since the segment was made active, and beyond what was zeroed ahead. */
  writtenEnd = 0;
  zeroedEnd = 0;
  /** No record but marks came after the last sync that a record tells of. */
  isCovered = true;
  /** Pages of the journal that hold what is no record, and are to be cleared when no start needs them. */
  rottenPages: number[] = [];
  #ring: RecordRing | undefined;

  constructor(
    readonly number: number,
    readonly file: DiskFile,
    private readonly context: StoreContext,
  ) {
    this.geometry = segmentGeometry(file.sizeBytes, context.unitBytes);
    this.seed = segmentSeed(context.storeSeed, number);
    this.freeUnits = this.geometry.dataUnits;
  }

  /** Records the ring still takes; page-wise, because entering a page clears it. */
  get freeRecords(): number {
    const { journalSlots } = this.geometry;
    const startPage = Math.floor(this.startSequence / RECORDS_PER_PAGE);
    const usableEnd = startPage * RECORDS_PER_PAGE + journalSlots;
    const unsyncedEnd = this.durableEnd + Math.min(UNSYNCED_RECORDS_MAX, journalSlots / 2);
    return Math.min(usableEnd, unsyncedEnd) - this.nextSequence;
  }

  /** Records that puts leave alone. */
  get reservedRecords(): number {
    return Math.floor(this.geometry.journalSlots / 8);
  }

  /** Whether puts may take this many records now. */
  hasRecordsFor(count: number): boolean {
    const { journalSlots } = this.geometry;
    const startPage = Math.floor(this.startSequence / RECORDS_PER_PAGE);
    const ringLeft = startPage * RECORDS_PER_PAGE + journalSlots - this.nextSequence;
    return count <= this.freeRecords && count + this.reservedRecords <= ringLeft;
  }

  /** The ring is filling up: time for a checkpoint. */
  get wantsCheckpoint(): boolean {
    return this.nextSequence - this.startSequence > (this.geometry.journalSlots * 5) / 8;
  }

  fileOffsetOf(unit: number): number {
    return this.geometry.dataOffset + unit * this.geometry.unitBytes;
  }

  /** Goes on after the records that replay accepted. */
  resume(startSequence: number, nextSequence: number): DiskStatus {
    this.startSequence = startSequence;
    this.nextSequence = nextSequence;
    this.durableEnd = nextSequence;
    return this.#journal().resume(nextSequence, "journal.read");
  }

  appendPut(ref: BlockRef, unit: number, lengthBytes: number, headerCrc: number): DiskStatus {
    return this.#append(RecordKind.put, ref, unit, lengthBytes, headerCrc, 0);
  }

  /** A put of a block in several extents, given as start, count pairs: its extents go first, the put seals them. */
  appendScatteredPut(
    ref: BlockRef,
    extents: Uint32Array,
    lengthBytes: number,
    headerCrc: number,
  ): DiskStatus {
    const extentCount = extents.length / 2;
    for (let first = 0; first < extentCount; first += EXTENTS_PER_RECORD) {
      const count = Math.min(EXTENTS_PER_RECORD, extentCount - first);
      const status = this.#begin(RecordKind.extents);
      if (status !== DiskStatus.ok) return status;
      const { page } = this.#journal();
      const offset = this.#journal().slotOffset(this.nextSequence);
      page.bytes[offset + 5] = count;
      for (let pair = 0; pair < 2 * count; pair += 1)
        page.view.setUint32(offset + EXTENTS_FIELD + 4 * pair, extents[2 * first + pair] as number, true);
      this.#end();
    }
    return this.#append(RecordKind.put, ref, extents[0] as number, lengthBytes, headerCrc, extentCount);
  }

  appendDelete(ref: BlockRef, unit: number, lengthBytes: number, headerCrc: number): DiskStatus {
    return this.#append(RecordKind.delete, ref, unit, lengthBytes, headerCrc, 0);
  }

  appendSuspect(ref: BlockRef, unit: number, lengthBytes: number, headerCrc: number): DiskStatus {
    return this.#append(RecordKind.suspect, ref, unit, lengthBytes, headerCrc, 0);
  }

  /** A record that says nothing but that all before it is durable. */
  appendMark(): DiskStatus {
    const status = this.#begin(RecordKind.mark);
    if (status === DiskStatus.ok) this.#end();
    return status;
  }

  /** Writes the journal's last page, if it changed; the next sync makes it durable. */
  flushJournal(): DiskStatus {
    return this.#ring === undefined ? DiskStatus.ok : this.#ring.flush();
  }

  /**
   * Clears rotten pages of the journal that hold no record from its start on; the one that is being filled is written
   * again. A commit should follow.
   */
  clearRottenPages(zeros: NativeBuffer): DiskStatus {
    const { journalOffset, journalSlots } = this.geometry;
    const pageCount = journalSlots / RECORDS_PER_PAGE;
    const firstPage = Math.floor(this.startSequence / RECORDS_PER_PAGE);
    const pagesInUse = Math.floor(this.nextSequence / RECORDS_PER_PAGE) - firstPage + 1;
    const left: number[] = [];
    for (const page of this.rottenPages) {
      if (this.#ring?.touch(page) === true) continue;
      if ((page - (firstPage % pageCount) + pageCount) % pageCount < pagesInUse) {
        left.push(page);
        continue;
      }
      const at = journalOffset + page * METADATA_PAGE_BYTES;
      const status = this.file.write("journal.write", at, zeros, 0, METADATA_PAGE_BYTES);
      if (status !== DiskStatus.ok) return status;
    }
    this.rottenPages = left;
    return DiskStatus.ok;
  }

  /** Writes the superblock that puts a checkpoint in force; a sync must follow. */
  writeSuperblock(
    generation: number,
    chunkCount: number,
    entryCount: number,
    journalStart: number,
    scratch: NativeBuffer,
  ): DiskStatus {
    const { clusterId, peerId, storeSeed, unitBytes, bootCount } = this.context;
    encodeSuperblock(scratch, 0, {
      segment: this.number,
      generation,
      clusterId,
      peerId,
      segmentBytes: this.file.sizeBytes,
      unitBytes,
      storeSeed,
      chunkCount,
      entryCount,
      bootCount,
      journalStart,
    });
    return this.file.write("superblock.write", superblockOffset(generation), scratch, 0, METADATA_PAGE_BYTES);
  }

  #append(
    kind: RecordKind,
    ref: BlockRef,
    unit: number,
    lengthBytes: number,
    headerCrc: number,
    extentCount: number,
  ): DiskStatus {
    const status = this.#begin(kind);
    if (status !== DiskStatus.ok) return status;
    const ring = this.#journal();
    encodePlace(
      ring.page,
      ring.slotOffset(this.nextSequence),
      ref,
      unit,
      lengthBytes,
      headerCrc,
      extentCount,
    );
    this.#end();
    return DiskStatus.ok;
  }

  #begin(kind: RecordKind): DiskStatus {
    const ring = this.#journal();
    const status = ring.prepare(this.nextSequence);
    if (status !== DiskStatus.ok) return status;
    const offset = ring.slotOffset(this.nextSequence);
    const { bootCount } = this.context;
    encodeRecord(ring.page, offset, kind, this.nextSequence, bootCount, this.durableEnd, this.generation);
    this.isCovered = kind === RecordKind.mark;
    return DiskStatus.ok;
  }

  #end(): void {
    const ring = this.#journal();
    sealRecord(ring.page, ring.slotOffset(this.nextSequence), this.seed);
    this.nextSequence += 1;
  }

  #journal(): RecordRing {
    const { journalOffset, journalSlots, unitBytes } = this.geometry;
    this.#ring ??= new RecordRing(
      this.file,
      "journal.write",
      journalOffset,
      journalSlots,
      unitBytes,
      this.context.allocate,
    );
    return this.#ring;
  }
}

/** Makes a segment's file; its superblocks, journal and checkpoints are backed by space from the start. */
export function createSegmentFile(
  disk: Disk,
  number: number,
  lengthBytes: number,
  unitBytes: number,
): DiskFile {
  const { dataOffset } = segmentGeometry(lengthBytes, unitBytes);
  return disk.create(segmentFileName(number), lengthBytes, dataOffset);
}

/** Checkpoint entries, and journal records, that a block in this many extents takes (0: contiguous). */
export function entriesFor(extentCount: number): number {
  return 1 + Math.ceil(extentCount / EXTENTS_PER_RECORD);
}
