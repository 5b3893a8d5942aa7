/**
 * Writes 64-byte records into consecutive slots of a region of a file, by whole sectors, through an image of the
 * one page being filled. A page is zeroed when the writer enters it, so that nothing of an older turn stays in it;
 * the rest of the region is left as it is. Both the segments' journals (rings) and the state log use it.
 */
import {
  type AllocateBuffer,
  type NativeBuffer,
  type DiskFile,
  type DiskOperation,
  DiskStatus,
} from "../../base";
import { METADATA_PAGE_BYTES, RECORD_BYTES, RECORDS_PER_PAGE } from "./layout";

export class RecordRing {
  readonly page: NativeBuffer;
  #pageNumber = -1;
  #dirtyStart = METADATA_PAGE_BYTES;
  #dirtyEnd = 0;

  constructor(
    private readonly file: DiskFile,
    private readonly operation: DiskOperation,
    private readonly offsetBytes: number,
    private readonly slotCount: number,
    private readonly unitBytes: number,
    allocate: AllocateBuffer,
  ) {
    this.page = allocate(METADATA_PAGE_BYTES);
  }

  get isDirty(): boolean {
    return this.#dirtyEnd > this.#dirtyStart;
  }

  /** Takes over at `sequence` after a restart: records before it in its page stay, whatever follows goes. */
  resume(sequence: number, readOperation: DiskOperation): DiskStatus {
    const slot = sequence % this.slotCount;
    const keptBytes = (slot % RECORDS_PER_PAGE) * RECORD_BYTES;
    this.#dirtyStart = METADATA_PAGE_BYTES;
    this.#dirtyEnd = 0;
    if (keptBytes === 0) {
      this.#pageNumber = -1;
      return DiskStatus.ok;
    }
    this.#pageNumber = Math.floor(slot / RECORDS_PER_PAGE);
    const pageOffset = this.offsetBytes + this.#pageNumber * METADATA_PAGE_BYTES;
    const status = this.file.read(readOperation, pageOffset, this.page, 0, METADATA_PAGE_BYTES);
    this.page.bytes.fill(0, keptBytes);
    return status;
  }

  /**
   * Prepares the record's slot: `slotOffset(sequence)` in `page` is zeroed, to be filled by the caller before
   * anything else runs. Enters a new page, writing the old one, when needed.
   */
  prepare(sequence: number): DiskStatus {
    const slot = sequence % this.slotCount;
    const pageNumber = Math.floor(slot / RECORDS_PER_PAGE);
    if (pageNumber !== this.#pageNumber) {
      const status = this.flush();
      if (status !== DiskStatus.ok) return status;
      this.#pageNumber = pageNumber;
      this.page.bytes.fill(0);
      this.#dirtyStart = 0;
      this.#dirtyEnd = METADATA_PAGE_BYTES;
      return DiskStatus.ok;
    }
    const start = (slot % RECORDS_PER_PAGE) * RECORD_BYTES;
    this.#dirtyStart = Math.min(this.#dirtyStart, start - (start % this.unitBytes));
    this.#dirtyEnd = Math.max(this.#dirtyEnd, start - (start % this.unitBytes) + this.unitBytes);
    return DiskStatus.ok;
  }

  /** Has all of the page written again that is being filled, if it is this one. */
  touch(pageNumber: number): boolean {
    if (pageNumber !== this.#pageNumber) return false;
    this.#dirtyStart = 0;
    this.#dirtyEnd = METADATA_PAGE_BYTES;
    return true;
  }

  slotOffset(sequence: number): number {
    return (sequence % RECORDS_PER_PAGE) * RECORD_BYTES;
  }

  /** Writes what changed of the page; durable after the file's next sync. */
  flush(): DiskStatus {
    if (!this.isDirty) return DiskStatus.ok;
    const offset = this.offsetBytes + this.#pageNumber * METADATA_PAGE_BYTES + this.#dirtyStart;
    const length = this.#dirtyEnd - this.#dirtyStart;
    const status = this.file.write(this.operation, offset, this.page, this.#dirtyStart, length);
    this.#dirtyStart = METADATA_PAGE_BYTES;
    this.#dirtyEnd = 0;
    return status;
  }
}
