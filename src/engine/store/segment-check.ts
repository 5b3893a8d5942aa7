/**
 * Looks at what a start would read of a segment besides blocks: the superblock in force, its index checkpoint and the
 * journal. A store that serves has all of it in memory and would notice rot there only when it is opened again, and then
 * refuse. Whoever finds some has a checkpoint made: what is in force then was just written.
 *
 * A slot of the journal that no start needs may still look like damage to one: its page is named, to be cleared.
 */
import { DiskStatus, type NativeBuffer } from "../../base";
import { inspectRecord, sequenceAt } from "./journal-record";
import {
  CHUNK_BYTES,
  decodeSuperblock,
  isChunkOf,
  METADATA_PAGE_BYTES,
  RECORD_BYTES,
  RECORDS_PER_PAGE,
  superblockOffset,
} from "./layout";
import type { Segment } from "./segment";

/** Bytes of one read, and so of one step. */
export const CHECK_STEP_BYTES = 256 * 1024;

const NO_PAGES: ReadonlySet<number> = new Set();

export class SegmentCheck {
  /** What is wrong with what a start needs. */
  problem: string | undefined;
  bytesChecked = 0;
  /** Pages of the journal with slots that are no records, and that no start needs. */
  readonly rottenPages: number[] = [];
  readonly #generation: number;
  #chunkCount = 0;
  #chunksDone = 0;
  #slotsDone = 0;

  constructor(
    private readonly segment: Segment,
    private readonly scratch: NativeBuffer,
  ) {
    this.#generation = segment.generation;
    this.#checkSuperblock();
  }

  /** Checks a part; false when there is no more. All reading is done before it returns. */
  step(): boolean {
    // What came into force meanwhile was just written.
    if (this.#chunksDone < this.#chunkCount && this.segment.generation === this.#generation)
      this.#checkChunks();
    else this.#checkSlots();
    // The journal to its end, whatever was found: what else is rotten there would be in the way of a later start.
    return this.#slotsDone < this.segment.geometry.journalSlots;
  }

  #checkSuperblock(): void {
    const { file, generation } = this.segment;
    const at = superblockOffset(generation);
    const isRead = file.read("superblock.read", at, this.scratch, 0, METADATA_PAGE_BYTES) === DiskStatus.ok;
    const superblock = isRead ? decodeSuperblock(this.scratch, 0) : "invalid";
    this.bytesChecked += METADATA_PAGE_BYTES;
    if (typeof superblock === "string" || superblock.generation !== generation)
      this.problem = `${file.name} has lost its superblock`;
    else this.#chunkCount = superblock.chunkCount;
  }

  #checkChunks(): void {
    const { file, geometry, seed } = this.segment;
    const first = this.#chunksDone;
    const count = Math.min(CHECK_STEP_BYTES / CHUNK_BYTES, this.#chunkCount - first);
    const area = geometry.checkpointOffset + (this.#generation % 2) * geometry.checkpointAreaBytes;
    const at = area + first * CHUNK_BYTES;
    const isRead = file.read("checkpoint.read", at, this.scratch, 0, count * CHUNK_BYTES) === DiskStatus.ok;
    for (let chunk = 0; chunk < count; chunk += 1)
      if (!isRead || !isChunkOf(this.scratch, chunk * CHUNK_BYTES, seed, this.#generation, first + chunk)) {
        this.problem = `${file.name}: the index checkpoint is damaged (chunk ${first + chunk})`;
        this.#chunksDone = this.#chunkCount;
        return;
      }
    this.#chunksDone += count;
    this.bytesChecked += count * CHUNK_BYTES;
  }

  #checkSlots(): void {
    const { file, geometry, seed, startSequence, durableEnd, nextSequence } = this.segment;
    const { journalOffset, journalSlots } = geometry;
    const first = this.#slotsDone;
    const count = Math.min(CHECK_STEP_BYTES / RECORD_BYTES, journalSlots - first);
    const at = journalOffset + first * RECORD_BYTES;
    const isRead = file.read("journal.read", at, this.scratch, 0, count * RECORD_BYTES) === DiskStatus.ok;
    const pagesUnread = isRead ? NO_PAGES : this.#readPages(at, count / RECORDS_PER_PAGE);
    for (let record = 0; record < count; record += 1) {
      const slot = first + record;
      // The sequence of this turn of the ring that the slot is for.
      const sequence =
        startSequence + ((slot - (startSequence % journalSlots) + journalSlots) % journalSlots);
      if (sequence >= durableEnd && sequence < nextSequence) continue;
      const isUnread = pagesUnread.has(Math.floor(record / RECORDS_PER_PAGE));
      const kind = isUnread ? "damaged" : inspectRecord(this.scratch, record * RECORD_BYTES, seed);
      const isNeeded = sequence < durableEnd;
      if (isNeeded && (kind !== "valid" || sequenceAt(this.scratch, record * RECORD_BYTES) !== sequence)) {
        this.problem ??= `${file.name}: record ${sequence} of the journal is damaged`;
        this.#notePage(slot);
      } else if (!isNeeded && kind === "damaged") this.#notePage(slot);
    }
    this.#slotsDone += count;
    this.bytesChecked += count * RECORD_BYTES;
  }

  /** Each page for itself: those around one that cannot be read are no rot. Returns which of them cannot be read. */
  #readPages(at: number, count: number): ReadonlySet<number> {
    const unread = new Set<number>();
    for (let page = 0; page < count; page += 1) {
      const offset = page * METADATA_PAGE_BYTES;
      const { file } = this.segment;
      if (file.read("journal.read", at + offset, this.scratch, offset, METADATA_PAGE_BYTES) !== DiskStatus.ok)
        unread.add(page);
    }
    return unread;
  }

  #notePage(slot: number): void {
    const page = Math.floor(slot / RECORDS_PER_PAGE);
    if (this.rottenPages.at(-1) !== page) this.rottenPages.push(page);
  }
}
