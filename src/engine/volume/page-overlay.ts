/**
 * Where pages live that are newer than the map: those of the open block and of sealed blocks whose acknowledgement
 * is not yet in the map. The map itself holds acknowledged blocks only, so it can be frozen for a checkpoint at any
 * moment and never covers a block that is not acknowledged (rule R2); and a write never waits for a map node.
 *
 * An open-addressing table on typed arrays: page index to location. Trims are ranges, kept beside it in log order:
 * a trim removes the entries it covers, so an entry that is present is always newer than every range over it.
 */
const EMPTY = -1;
const CAPACITY_MIN = 1024;
/** What `locate` answers for a page of which the overlay knows nothing. */
export const NOT_IN_OVERLAY = -1;
/** Location of a page that reads as zeroes. */
export const HOLE_LOCATION = 0;

interface PendingHole {
  firstPage: number;
  endPage: number;
  /** The block that carries it. */
  lsn: number;
}

export class PageOverlay {
  #pages = new Float64Array(CAPACITY_MIN).fill(EMPTY);
  #locations = new Float64Array(CAPACITY_MIN);
  #mask = CAPACITY_MIN - 1;
  #count = 0;
  #holes: PendingHole[] = [];

  /** Pages held. */
  get pageCount(): number {
    return this.#count;
  }

  get holeCount(): number {
    return this.#holes.length;
  }

  /** The page's location, HOLE_LOCATION when trimmed, NOT_IN_OVERLAY when the map decides. */
  locate(page: number): number {
    if (this.#count > 0) {
      const location = this.#find(page);
      if (location !== NOT_IN_OVERLAY) return location;
    }
    for (const hole of this.#holes) if (page >= hole.firstPage && page < hole.endPage) return HOLE_LOCATION;
    return NOT_IN_OVERLAY;
  }

  #find(page: number): number {
    for (let at = this.#slotOf(page); ; at = (at + 1) & this.#mask) {
      const found = this.#pages[at] as number;
      if (found === page) return this.#locations[at] as number;
      if (found === EMPTY) return NOT_IN_OVERLAY;
    }
  }

  set(page: number, location: number): void {
    for (let at = this.#slotOf(page); ; at = (at + 1) & this.#mask) {
      const found = this.#pages[at] as number;
      if (found === page) {
        this.#locations[at] = location;
        return;
      }
      if (found === EMPTY) {
        this.#pages[at] = page;
        this.#locations[at] = location;
        this.#count++;
        if (this.#count * 2 > this.#mask) this.#resize((this.#mask + 1) * 2);
        return;
      }
    }
  }

  /** Forgets the page if it still maps to `location`: the map has it now. */
  settle(page: number, location: number): void {
    for (let at = this.#slotOf(page); ; at = (at + 1) & this.#mask) {
      const found = this.#pages[at] as number;
      if (found === EMPTY) return;
      if (found !== page) continue;
      if (this.#locations[at] === location) this.#removeAt(at);
      return;
    }
  }

  /** Records a trim carried by block `lsn`; later writes to the range are set again. */
  addHole(firstPage: number, pageCount: number, lsn: number): void {
    const endPage = firstPage + pageCount;
    if (pageCount <= this.#count) for (let page = firstPage; page < endPage; page++) this.#remove(page);
    else this.#removeRange(firstPage, endPage);
    const last = this.#holes.at(-1);
    if (last && last.lsn === lsn && firstPage <= last.endPage && last.firstPage <= endPage) {
      last.firstPage = Math.min(last.firstPage, firstPage);
      last.endPage = Math.max(last.endPage, endPage);
    } else this.#holes.push({ firstPage, endPage, lsn });
  }

  /** The pages held in [firstPage, endPage), ascending. */
  pagesIn(firstPage: number, endPage: number): Float64Array {
    const found: number[] = [];
    if (this.#count > 0)
      for (const page of this.#pages) if (page >= firstPage && page < endPage) found.push(page);
    return Float64Array.from(found).sort();
  }

  /** Forgets the trims of blocks up to `lsn`: the map has them now. */
  settleHoles(lsn: number): void {
    let settled = 0;
    while (settled < this.#holes.length && (this.#holes[settled] as PendingHole).lsn <= lsn) settled++;
    if (settled > 0) this.#holes.splice(0, settled);
  }

  #slotOf(page: number): number {
    const low = page | 0;
    const high = (page / 4294967296) | 0;
    const mixed = Math.imul(low ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1);
    return (mixed ^ (mixed >>> 15)) & this.#mask;
  }

  #remove(page: number): void {
    for (let at = this.#slotOf(page); ; at = (at + 1) & this.#mask) {
      const found = this.#pages[at] as number;
      if (found === EMPTY) return;
      if (found === page) return this.#removeAt(at);
    }
  }

  #removeRange(firstPage: number, endPage: number): void {
    const doomed: number[] = [];
    for (const page of this.#pages) if (page >= firstPage && page < endPage) doomed.push(page);
    for (const page of doomed) this.#remove(page);
  }

  /** Deletes without tombstones: entries behind the gap that would not be found any more move into it. */
  #removeAt(gap: number): void {
    this.#count--;
    let hole = gap;
    for (let at = (gap + 1) & this.#mask; ; at = (at + 1) & this.#mask) {
      const page = this.#pages[at] as number;
      if (page === EMPTY) break;
      const home = this.#slotOf(page);
      if (((at - home) & this.#mask) < ((at - hole) & this.#mask)) continue;
      this.#pages[hole] = page;
      this.#locations[hole] = this.#locations[at] as number;
      hole = at;
    }
    this.#pages[hole] = EMPTY;
  }

  #resize(capacity: number): void {
    const pages = this.#pages;
    const locations = this.#locations;
    this.#pages = new Float64Array(capacity).fill(EMPTY);
    this.#locations = new Float64Array(capacity);
    this.#mask = capacity - 1;
    this.#count = 0;
    for (let at = 0; at < pages.length; at++)
      if (pages[at] !== EMPTY) this.set(pages[at] as number, locations[at] as number);
  }
}
