/**
 * Brings one sealed block into the page map: first its holes, then its data extents, as replay is defined. Map
 * nodes may have to be loaded on the way, so it goes step by step and says when it is done; nothing else may touch
 * the map's pages meanwhile. Used for every acknowledged block of a writer and for the tail that an opener adopts.
 */
import { type Clock, formatBlockRef, type NativeBuffer } from "../../base";
import { BlockFault, BlockHeader, HOLE_SLOT } from "../block";
import { LOAD_PAGE_COUNT_MAX, makeLocation, type PageMap } from "../inode";
import { StorageStatus } from "../ports";
import { VolumeError } from "./errors";

const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 5_000;
/** About ten minutes, with the backoff: then the map node is given up and the volume fails. */
const RETRY_COUNT_MAX = 126;

export type Applied = (error: VolumeError | undefined) => void;

export class BlockApplier {
  readonly header = new BlockHeader();
  readonly #clock: Clock;
  readonly #map: PageMap;
  readonly #extent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
  #lsn = 0;
  #extentIndex = 0;
  /** Pages of the current extent that are done. */
  #pagesDone = 0;
  #stepPage = 0;
  #stepCount = 0;
  #retries = 0;
  /** Of these, those after which every peer had answered that it does not have the node. */
  #missing = 0;
  #done: Applied | undefined;
  #stopped = false;

  /** A node that no peer has is asked for again `missingCountMax` times: an opener, which waits, does not wait long. */
  constructor(
    clock: Clock,
    map: PageMap,
    private readonly missingCountMax: number = RETRY_COUNT_MAX,
  ) {
    this.#clock = clock;
    this.#map = map;
  }

  get busy(): boolean {
    return this.#done !== undefined;
  }

  /**
   * Applies the block whose header is at buffer.bytes[offset ..]; the bytes must stay until `done`, which runs
   * once, possibly before this returns.
   */
  apply(buffer: NativeBuffer, offset: number, availableBytes: number, lsn: number, done: Applied): void {
    const fault = this.header.parse(buffer, offset, availableBytes);
    if (fault !== BlockFault.none)
      return done(
        new VolumeError("unreadable", `Cannot apply block at lsn ${lsn}: its header is bad (${fault})`),
      );
    this.#lsn = lsn;
    this.#extentIndex = 0;
    this.#pagesDone = 0;
    this.#retries = 0;
    this.#missing = 0;
    this.#done = done;
    this.#step();
  }

  stop(): void {
    this.#stopped = true;
    this.#done = undefined;
  }

  #step(): void {
    while (this.#extentIndex < this.header.extentCount) {
      this.header.extent(this.#extentIndex, this.#extent);
      const { firstPage, pageCount, firstSlot } = this.#extent;
      const endPage = firstPage + pageCount;
      let page = firstPage + this.#pagesDone;
      if (firstSlot === HOLE_SLOT) page = this.#map.skipHoles(page, endPage);
      if (page >= endPage) {
        this.#extentIndex++;
        this.#pagesDone = 0;
        continue;
      }
      this.#pagesDone = page - firstPage;
      this.#stepPage = page;
      this.#stepCount = Math.min(endPage - page, LOAD_PAGE_COUNT_MAX);
      const lsn = firstSlot === HOLE_SLOT ? 0 : this.#lsn;
      if (!this.#map.ensureWritable(page, this.#stepCount, lsn, this.#onWritable)) return;
      this.#change();
    }
    const done = this.#done;
    this.#done = undefined;
    done?.(undefined);
  }

  #change(): void {
    const { firstPage, firstSlot } = this.#extent;
    if (firstSlot === HOLE_SLOT) this.#map.holeRange(this.#stepPage, this.#stepCount);
    else {
      const slot = firstSlot + (this.#stepPage - firstPage);
      this.#map.setRange(this.#stepPage, this.#stepCount, makeLocation(this.#lsn, slot));
    }
    this.#pagesDone = this.#stepPage + this.#stepCount - firstPage;
  }

  readonly #onWritable = (status: StorageStatus): void => {
    if (this.#stopped || !this.#done) return;
    if (status === StorageStatus.ok) {
      this.#retries = 0;
      this.#missing = 0;
      this.#change();
      return this.#step();
    }
    this.#retries++;
    if (status === StorageStatus.notFound) this.#missing++;
    if (this.#retries > RETRY_COUNT_MAX || this.#missing > this.missingCountMax) {
      const done = this.#done;
      this.#done = undefined;
      return done(this.#unreadable(status));
    }
    const delayMs = Math.min(RETRY_MS_MIN * 2 ** (this.#retries - 1), RETRY_MS_MAX);
    this.#clock.schedule(delayMs, () => {
      if (!this.#stopped && this.#done) this.#step();
    });
  };

  #unreadable(status: StorageStatus): VolumeError {
    const name = formatBlockRef(this.header.ref);
    return status === StorageStatus.notFound
      ? new VolumeError("map-missing", `Cannot map ${name}: no peer has the node of the map that it changes`)
      : new VolumeError(
          "unreadable",
          `Cannot map ${name}: the node of the map that it changes gave storage status ${status}`,
        );
  }
}
