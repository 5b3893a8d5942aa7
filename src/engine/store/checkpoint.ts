/**
 * Writes the index of one segment into the checkpoint area that is not in force, a slice at a time while puts and
 * deletes go on: the copy is fuzzy, and the records from `journalStart` on, replayed over it, make it exact. It
 * comes into force only by the superblock written after a sync that covers it and every record it may reflect.
 *
 * A row is left out only when its delete record was written before or after the run began (either way replay ends
 * without it). Should a fuzzy walk meet more entries than the area holds (rows freed and taken again meanwhile), the
 * run starts again and finishes in one step.
 */
import { encodeBlockRef, type NativeBuffer, DiskStatus } from "../../base";
import { type BlockIndex, RowFlag } from "./block-index";
import { CHUNK_BYTES, CHUNK_HEADER_BYTES, ENTRIES_PER_CHUNK, ENTRY_BYTES, EXTENTS_PER_ENTRY } from "./layout";
import { entriesFor, type Segment } from "./segment";

const ROWS_PER_STEP = 65_536;
const ENTRIES_PER_STEP = 2048;
/** Chunks gathered for one write. */
export const CHUNKS_PER_WRITE = 16;
export const CHECKPOINT_SCRATCH_BYTES = CHUNKS_PER_WRITE * CHUNK_BYTES;

export type CheckpointStep = "more" | "written" | "failed";

export class CheckpointRun {
  readonly generation: number;
  readonly journalStart: number;
  chunkCount = 0;
  entryCount = 0;
  #slot = 1;
  #entriesInChunk = 0;
  /** Chunks in scratch, the one being filled included. */
  #chunksHeld = 0;
  #status: DiskStatus = DiskStatus.ok;

  constructor(
    private readonly segment: Segment,
    private readonly index: BlockIndex,
    private readonly extentsOf: (slot: number) => Uint32Array,
    private readonly scratch: NativeBuffer,
  ) {
    this.generation = segment.generation + 1;
    this.journalStart = segment.nextSequence;
  }

  /** Writes a bounded part; "written" when all is handed to the disk. */
  step(): CheckpointStep {
    return this.#walk(ROWS_PER_STEP, ENTRIES_PER_STEP);
  }

  /** Writes all that is left at once. */
  finish(): CheckpointStep {
    return this.#walk(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY);
  }

  #walk(rowsMax: number, entriesMax: number): CheckpointStep {
    const { index, segment } = this;
    const rowEnd = Math.min(index.slotEnd, this.#slot + rowsMax);
    const entryEnd = this.entryCount + entriesMax;
    while (this.entryCount < entryEnd) {
      const slot = index.nextOfSegment(segment.number, this.#slot, rowEnd);
      this.#slot = Math.min(slot + 1, rowEnd);
      if (slot >= rowEnd) break;
      if ((index.flagsOf(slot) & RowFlag.deleted) !== 0) continue;
      if (!this.#fits(slot)) return this.#restart();
      this.#addRow(slot);
      if (this.#status !== DiskStatus.ok) return "failed";
    }
    if (this.#slot < index.slotEnd) return "more";
    this.#flush();
    return this.#status === DiskStatus.ok ? "written" : "failed";
  }

  #restart(): CheckpointStep {
    this.#slot = 1;
    this.chunkCount = 0;
    this.entryCount = 0;
    this.#entriesInChunk = 0;
    this.#chunksHeld = 0;
    return this.finish();
  }

  #fits(slot: number): boolean {
    const scattered = (this.index.flagsOf(slot) & RowFlag.scattered) !== 0;
    const needed = entriesFor(scattered ? this.extentsOf(slot).length / 2 : 0);
    return this.entryCount + needed <= this.segment.geometry.entriesMax;
  }

  #addRow(slot: number): void {
    const { index } = this;
    const flags = index.flagsOf(slot);
    const extents = (flags & RowFlag.scattered) !== 0 ? this.extentsOf(slot) : undefined;
    const { view } = this.scratch;
    const offset = this.#nextEntry();
    encodeBlockRef(view, offset, index.refOf(slot));
    view.setUint32(offset + 24, extents === undefined ? index.unitOf(slot) : extents.length / 2, true);
    view.setUint32(offset + 28, index.lengthOf(slot), true);
    view.setUint32(offset + 32, index.headerCrcOf(slot), true);
    view.setUint32(offset + 36, flags & (RowFlag.suspect | RowFlag.scattered), true);
    if (extents === undefined) return;
    for (let first = 0; first < extents.length; first += 2 * EXTENTS_PER_ENTRY) {
      const more = this.#nextEntry();
      for (let word = first; word < Math.min(first + 2 * EXTENTS_PER_ENTRY, extents.length); word += 1)
        view.setUint32(more + 4 * (word - first), extents[word] as number, true);
    }
  }

  /** Offset in scratch of the next entry, zeroed. */
  #nextEntry(): number {
    if (this.#chunksHeld === 0 || this.#entriesInChunk === ENTRIES_PER_CHUNK) {
      if (this.#chunksHeld === CHUNKS_PER_WRITE) this.#flush();
      this.scratch.bytes.fill(0, this.#chunksHeld * CHUNK_BYTES, (this.#chunksHeld + 1) * CHUNK_BYTES);
      this.#chunksHeld += 1;
      this.#entriesInChunk = 0;
    }
    const chunk = (this.#chunksHeld - 1) * CHUNK_BYTES;
    this.#entriesInChunk += 1;
    this.entryCount += 1;
    this.scratch.view.setUint32(chunk + 12, this.#entriesInChunk, true);
    return chunk + CHUNK_HEADER_BYTES + (this.#entriesInChunk - 1) * ENTRY_BYTES;
  }

  #flush(): void {
    if (this.#chunksHeld === 0) return;
    const { segment, scratch } = this;
    const { geometry } = segment;
    for (let held = 0; held < this.#chunksHeld; held += 1) {
      const offset = held * CHUNK_BYTES;
      scratch.view.setUint32(offset + 4, this.generation, true);
      scratch.view.setUint32(offset + 8, this.chunkCount + held, true);
      const crc = Bun.hash.crc32(scratch.bytes.subarray(offset + 4, offset + CHUNK_BYTES), segment.seed);
      scratch.view.setUint32(offset, crc, true);
    }
    const area = geometry.checkpointOffset + (this.generation % 2) * geometry.checkpointAreaBytes;
    const status = segment.file.write(
      "checkpoint.write",
      area + this.chunkCount * CHUNK_BYTES,
      scratch,
      0,
      this.#chunksHeld * CHUNK_BYTES,
    );
    if (this.#status === DiskStatus.ok) this.#status = status;
    this.chunkCount += this.#chunksHeld;
    this.#chunksHeld = 0;
    this.#entriesInChunk = 0;
  }
}
