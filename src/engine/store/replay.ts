/**
 * Reads one segment back into the index at start: superblock, checkpoint, then the journal's records in order. The
 * journal ends at the first slot that does not hold the next record of this or a later boot. What lies behind the
 * end tells a clean end from damage: a slot that is neither zero nor a record, or a record that calls something
 * durable which is missing, means that acknowledged blocks may be lost, and replay says so instead of going on.
 *
 * Puts up to the last sequence that some record calls durable were synced and are not read again (readers verify
 * anyway); the bytes of later ones are verified, and what does not match is suspect: it may never have been synced,
 * or it was acknowledged and has rotted.
 */
import { type NativeBuffer, type DiskFile, DiskStatus } from "../../base";
import { MutableRef } from "./block-bytes";
import { type BlockIndex, NO_SLOT, RowFlag } from "./block-index";
import {
  bootCountAt,
  durableEndAt,
  generationAt,
  extentCountAt,
  EXTENTS_FIELD,
  inspectRecord,
  kindAt,
  lengthAt,
  RecordKind,
  recordHeaderCrcAt,
  REF_FIELD,
  scatteredCountAt,
  sequenceAt,
  unitAt,
} from "./journal-record";
import {
  CHUNK_BYTES,
  CHUNK_HEADER_BYTES,
  decodeSuperblock,
  ENTRIES_PER_CHUNK,
  ENTRY_BYTES,
  EXTENTS_PER_ENTRY,
  isChunkOf,
  METADATA_PAGE_BYTES,
  RECORD_BYTES,
  type Superblock,
} from "./layout";
import { type Segment, UNSYNCED_RECORDS_MAX } from "./segment";

/** Bytes of one read of checkpoint or journal. */
export const REPLAY_READ_BYTES = 256 * 1024;

export interface ReplayTarget {
  readonly index: BlockIndex;
  /** Extents of scattered rows. */
  readonly extents: Map<number, Uint32Array>;
  /** Rows whose block was in the index already: one of each pair goes. */
  readonly duplicates: number[];
  /** REPLAY_READ_BYTES, overwritten. */
  readonly scratch: NativeBuffer;
}

export interface ReplayResult {
  /** What is wrong; undefined when the journal ends cleanly. */
  readonly damage: string | undefined;
  readonly journalStart: number;
  /** The first sequence without a record. */
  readonly journalEnd: number;
  /** Beyond every sequence that any slot looked at holds: safe to go on from after damage. */
  readonly sequenceSeen: number;
  readonly bootCountMax: number;
  /** Rows whose bytes must be verified: no record calls their puts durable. */
  readonly unverified: readonly number[];
  /** The first sequence that no record calls durable. */
  readonly durableEnd: number;
  /** Something other than marks may have been written and not synced. */
  readonly isUncovered: boolean;
  /** A record tells that the superblock was synced. */
  readonly isSuperblockDurable: boolean;
}

/** The superblock in force, "empty" when the segment was never formatted, or what is wrong. */
export function readSuperblock(file: DiskFile, scratch: NativeBuffer): Superblock | "empty" | "unreadable" {
  // Each for itself: the sector that cannot be read may be that of the other one.
  const [first, second] = [0, METADATA_PAGE_BYTES].map((at) =>
    file.read("superblock.read", at, scratch, 0, METADATA_PAGE_BYTES) === DiskStatus.ok
      ? decodeSuperblock(scratch, 0)
      : "invalid",
  );
  if (typeof first === "object" && typeof second === "object")
    return first.generation > second.generation ? first : second;
  if (typeof first === "object") return first;
  if (typeof second === "object") return second;
  return first === "empty" && second === "empty" ? "empty" : "unreadable";
}

export function replaySegment(segment: Segment, superblock: Superblock, target: ReplayTarget): ReplayResult {
  const replay = new Replay(segment, superblock, target);
  const damage = replay.loadCheckpoint() ?? replay.replayJournal();
  return replay.result(damage);
}

class Replay {
  readonly #ref = new MutableRef();
  #sequence: number;
  #sequenceSeen: number;
  #boot: number;
  #durableEnd = 0;
  /** One more than the last sequence that is not a mark's. */
  #meaningfulEnd = 0;
  #isSuperblockDurable = false;
  #pendingExtents: number[] = [];
  readonly #recent: { slot: number; sequence: number }[] = [];

  constructor(
    private readonly segment: Segment,
    private readonly superblock: Superblock,
    private readonly target: ReplayTarget,
  ) {
    this.#sequence = superblock.journalStart;
    this.#sequenceSeen = superblock.journalStart;
    this.#boot = superblock.bootCount;
  }

  result(damage: string | undefined): ReplayResult {
    const { index } = this.target;
    const unverified = this.#recent
      .filter(({ slot, sequence }) => sequence >= this.#durableEnd && index.isRow(slot))
      .map(({ slot }) => slot);
    return {
      damage,
      journalStart: this.superblock.journalStart,
      journalEnd: this.#sequence,
      sequenceSeen: Math.max(this.#sequenceSeen, this.#sequence),
      bootCountMax: this.#boot,
      unverified: [...new Set(unverified)],
      durableEnd: this.#durableEnd,
      isUncovered: this.#meaningfulEnd > this.#durableEnd,
      isSuperblockDurable: this.#isSuperblockDurable,
    };
  }

  loadCheckpoint(): string | undefined {
    const { segment, superblock, target } = this;
    const { geometry, file, seed } = segment;
    const { scratch } = target;
    const area = geometry.checkpointOffset + (superblock.generation % 2) * geometry.checkpointAreaBytes;
    if (superblock.chunkCount * CHUNK_BYTES > geometry.checkpointAreaBytes)
      return `${file.name}: the superblock names a checkpoint that is too long`;
    const chunksPerRead = REPLAY_READ_BYTES / CHUNK_BYTES;
    let entries = 0;
    for (let first = 0; first < superblock.chunkCount; first += chunksPerRead) {
      const count = Math.min(chunksPerRead, superblock.chunkCount - first);
      const offset = area + first * CHUNK_BYTES;
      if (file.read("checkpoint.read", offset, scratch, 0, count * CHUNK_BYTES) !== DiskStatus.ok)
        return `${file.name}: the index checkpoint cannot be read`;
      for (let chunk = 0; chunk < count; chunk += 1) {
        const at = chunk * CHUNK_BYTES;
        if (!isChunkOf(scratch, at, seed, superblock.generation, first + chunk))
          return `${file.name}: the index checkpoint is damaged (chunk ${first + chunk})`;
        const entryCount = Math.min(scratch.view.getUint32(at + 12, true), ENTRIES_PER_CHUNK);
        for (let entry = 0; entry < entryCount; entry += 1)
          this.#loadEntry(at + CHUNK_HEADER_BYTES + entry * ENTRY_BYTES);
        entries += entryCount;
      }
    }
    return entries === superblock.entryCount && this.#awaitedExtents === 0
      ? undefined
      : `${file.name}: the index checkpoint has ${entries} entries instead of ${superblock.entryCount}`;
  }

  /** A scattered entry whose extents follow. */
  #scatteredFlags = 0;
  #scatteredLength = 0;
  #scatteredCrc = 0;
  #awaitedExtents = 0;

  #loadEntry(offset: number): void {
    const { view } = this.target.scratch;
    if (this.#awaitedExtents > 0) {
      const count = Math.min(this.#awaitedExtents, EXTENTS_PER_ENTRY);
      for (let word = 0; word < 2 * count; word += 1)
        this.#pendingExtents.push(view.getUint32(offset + 4 * word, true));
      this.#awaitedExtents -= count;
      if (this.#awaitedExtents === 0)
        this.#addScattered(this.#scatteredLength, this.#scatteredCrc, this.#scatteredFlags);
      return;
    }
    if (!this.#ref.load(view, offset)) return;
    const unit = view.getUint32(offset + 24, true);
    const lengthBytes = view.getUint32(offset + 28, true);
    const headerCrc = view.getUint32(offset + 32, true);
    const flags = view.getUint32(offset + 36, true) & (RowFlag.suspect | RowFlag.scattered);
    if ((flags & RowFlag.scattered) === 0) {
      this.#addRow(unit, lengthBytes, headerCrc, flags);
      return;
    }
    this.#pendingExtents = [];
    this.#awaitedExtents = unit;
    this.#scatteredLength = lengthBytes;
    this.#scatteredCrc = headerCrc;
    this.#scatteredFlags = flags;
  }

  replayJournal(): string | undefined {
    const { segment, target } = this;
    const { geometry, file, seed } = segment;
    const { scratch } = target;
    const recordsPerRead = REPLAY_READ_BYTES / RECORD_BYTES;
    const ringEnd = this.superblock.journalStart + geometry.journalSlots;
    while (this.#sequence < ringEnd) {
      const slot = this.#sequence % geometry.journalSlots;
      const count = Math.min(recordsPerRead, geometry.journalSlots - slot, ringEnd - this.#sequence);
      const offset = geometry.journalOffset + slot * RECORD_BYTES;
      if (file.read("journal.read", offset, scratch, 0, count * RECORD_BYTES) !== DiskStatus.ok)
        return `${file.name}: the journal cannot be read`;
      for (let record = 0; record < count; record += 1) {
        const at = record * RECORD_BYTES;
        if (inspectRecord(scratch, at, seed) !== "valid") return this.#inspectEnd();
        const sequence = sequenceAt(scratch, at);
        if (sequence !== this.#sequence || bootCountAt(scratch, at) < this.#boot) return this.#inspectEnd();
        this.#boot = bootCountAt(scratch, at);
        this.#durableEnd = Math.max(this.#durableEnd, durableEndAt(scratch, at));
        if (generationAt(scratch, at) === (this.superblock.generation & 0xffff))
          this.#isSuperblockDurable = true;
        this.#apply(at);
        this.#sequence += 1;
      }
    }
    return undefined;
  }

  /** Looks at the slots after the end for signs that the end is a hole in what was durable. */
  #inspectEnd(): string | undefined {
    const { segment, target } = this;
    const { geometry, file, seed } = segment;
    const { scratch } = target;
    const window = Math.min(UNSYNCED_RECORDS_MAX, geometry.journalSlots / 2) + 1;
    const ringEnd = this.superblock.journalStart + geometry.journalSlots;
    const end = Math.min(this.#sequence + window, ringEnd);
    const boot = this.#boot;
    for (let sequence = this.#sequence; sequence < end; ) {
      const slot = sequence % geometry.journalSlots;
      const count = Math.min(REPLAY_READ_BYTES / RECORD_BYTES, geometry.journalSlots - slot, end - sequence);
      const offset = geometry.journalOffset + slot * RECORD_BYTES;
      if (file.read("journal.read", offset, scratch, 0, count * RECORD_BYTES) !== DiskStatus.ok)
        return `${file.name}: the journal cannot be read`;
      for (let record = 0; record < count; record += 1, sequence += 1) {
        const at = record * RECORD_BYTES;
        const kind = inspectRecord(scratch, at, seed);
        if (kind === "zero") continue;
        if (kind === "damaged") return `${file.name}: record ${sequence} of the journal is damaged`;
        const found = sequenceAt(scratch, at);
        this.#sequenceSeen = Math.max(this.#sequenceSeen, found);
        if (found > sequence)
          return `${file.name}: the journal goes on beyond record ${this.#sequence}, which is older`;
        if (
          found === sequence &&
          bootCountAt(scratch, at) >= boot &&
          durableEndAt(scratch, at) > this.#sequence
        )
          return `${file.name}: record ${this.#sequence} of the journal was durable and is lost`;
      }
    }
    return undefined;
  }

  #apply(at: number): void {
    const { scratch, index } = this.target;
    const kind = kindAt(scratch, at);
    if (kind === RecordKind.mark) return;
    this.#meaningfulEnd = this.#sequence + 1;
    if (kind === RecordKind.extents) {
      for (let word = 0; word < 2 * extentCountAt(scratch, at); word += 1)
        this.#pendingExtents.push(scratch.view.getUint32(at + EXTENTS_FIELD + 4 * word, true));
      return;
    }
    if (!this.#ref.load(scratch.view, at + REF_FIELD)) return;
    const unit = unitAt(scratch, at);
    const lengthBytes = lengthAt(scratch, at);
    const headerCrc = recordHeaderCrcAt(scratch, at);
    if (kind === RecordKind.put) {
      const extentCount = scatteredCountAt(scratch, at);
      // Extents whose put a crash cut off may stand before those of this put.
      this.#pendingExtents.splice(0, this.#pendingExtents.length - 2 * extentCount);
      const slot =
        extentCount > 0
          ? this.#addScattered(lengthBytes, headerCrc, RowFlag.scattered)
          : this.#addRow(unit, lengthBytes, headerCrc, 0);
      this.#recent.push({ slot, sequence: this.#sequence });
      return;
    }
    const slot = index.findAt(this.#ref, this.segment.number, unit);
    if (slot === NO_SLOT) return;
    if (kind === RecordKind.suspect) {
      index.addFlags(slot, RowFlag.suspect);
      return;
    }
    index.unlink(slot);
    index.free(slot);
    this.target.extents.delete(slot);
  }

  #addScattered(lengthBytes: number, headerCrc: number, flags: number): number {
    const extents = Uint32Array.from(this.#pendingExtents);
    this.#pendingExtents = [];
    const slot = this.#addRow(extents[0] as number, lengthBytes, headerCrc, flags);
    this.target.extents.set(slot, extents);
    return slot;
  }

  #addRow(unit: number, lengthBytes: number, headerCrc: number, flags: number): number {
    const { index, duplicates } = this.target;
    const same = index.find(this.#ref);
    if (same !== NO_SLOT) {
      const known = index.findAt(this.#ref, this.segment.number, unit);
      if (known !== NO_SLOT) return known;
    }
    const slot = index.insert(
      this.#ref,
      this.segment.number,
      unit,
      lengthBytes,
      headerCrc,
      // True once the store is open: opening syncs what it replayed before it serves.
      flags | RowFlag.durable,
    );
    if (same !== NO_SLOT) duplicates.push(slot);
    return slot;
  }
}
