/** Which ranges of a volume hold data and which are holes, for NBD's block status, dumps and diffs. */
import { PAGE_BYTES } from "../block";
import { LOAD_PAGE_COUNT_MAX, type PageMap } from "../inode";
import { StorageStatus } from "../ports";
import { HOLE_LOCATION, NOT_IN_OVERLAY, type PageOverlay } from "./page-overlay";

export interface VolumeExtent {
  lengthBytes: number;
  hole: boolean;
}

/** Mapped pages looked at in one call; the answer then covers less than was asked for. */
const PAGES_SCANNED_MAX = 256 * 1024;

export type ExtentsDone = (status: StorageStatus, extents: readonly VolumeExtent[]) => void;

/** Walks the range; the answer starts at `offsetBytes` and may end early, but never covers nothing. */
export class ExtentScan {
  readonly #map: PageMap;
  readonly #overlay: PageOverlay | undefined;
  readonly #extents: VolumeExtent[] = [];
  readonly #overlayPages: Float64Array;
  readonly #endPage: number;
  readonly #extentCountMax: number;
  readonly #done: ExtentsDone;
  #page: number;
  #scanned = 0;
  #overlayAt = 0;
  #skipBytes: number;
  #leftBytes: number;

  constructor(
    map: PageMap,
    overlay: PageOverlay | undefined,
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: ExtentsDone,
  ) {
    this.#map = map;
    this.#overlay = overlay;
    this.#page = Math.floor(offsetBytes / PAGE_BYTES);
    this.#endPage = Math.ceil((offsetBytes + lengthBytes) / PAGE_BYTES);
    this.#skipBytes = offsetBytes - this.#page * PAGE_BYTES;
    this.#leftBytes = lengthBytes;
    this.#extentCountMax = extentCountMax;
    this.#done = done;
    this.#overlayPages = overlay?.pagesIn(this.#page, this.#endPage) ?? new Float64Array(0);
  }

  run(): void {
    while (this.#page < this.#endPage && this.#scanned < PAGES_SCANNED_MAX) {
      const next = this.#nextMaybeMapped(this.#page);
      if (next > this.#page) {
        if (!this.#add(next - this.#page, true)) return this.#finish();
        continue;
      }
      const count = Math.min(this.#endPage - this.#page, LOAD_PAGE_COUNT_MAX, 1024 - (this.#page % 1024));
      if (!this.#map.ensureLoaded(this.#page, count, this.#onLoaded)) return;
      if (!this.#scan(count)) return this.#finish();
    }
    this.#finish();
  }

  readonly #onLoaded = (status: StorageStatus): void => {
    if (status === StorageStatus.ok) this.run();
    else this.#done(status, []);
  };

  /** The first page from here on that the map or the overlay may know. */
  #nextMaybeMapped(page: number): number {
    while (
      this.#overlayAt < this.#overlayPages.length &&
      (this.#overlayPages[this.#overlayAt] as number) < page
    )
      this.#overlayAt++;
    const inOverlay = this.#overlayPages[this.#overlayAt] ?? this.#endPage;
    return Math.min(inOverlay, this.#map.skipHoles(page, this.#endPage));
  }

  #scan(count: number): boolean {
    const end = this.#page + count;
    while (this.#page < end) {
      const hole = this.#isHole(this.#page);
      let next = this.#page + 1;
      while (next < end && this.#isHole(next) === hole) next++;
      this.#scanned += next - this.#page;
      if (!this.#add(next - this.#page, hole)) return false;
    }
    return true;
  }

  #isHole(page: number): boolean {
    let location = this.#overlay?.locate(page) ?? NOT_IN_OVERLAY;
    if (location === NOT_IN_OVERLAY) location = this.#map.locationOf(page);
    return location === HOLE_LOCATION;
  }

  /** False when another extent would be one too many. */
  #add(pageCount: number, hole: boolean): boolean {
    const last = this.#extents.at(-1);
    if (last?.hole !== hole && this.#extents.length === this.#extentCountMax) return false;
    const lengthBytes = Math.min(pageCount * PAGE_BYTES - this.#skipBytes, this.#leftBytes);
    this.#skipBytes = 0;
    this.#leftBytes -= lengthBytes;
    this.#page += pageCount;
    if (last?.hole === hole) last.lengthBytes += lengthBytes;
    else this.#extents.push({ lengthBytes, hole });
    return true;
  }

  #finish(): void {
    this.#done(StorageStatus.ok, this.#extents);
  }
}
