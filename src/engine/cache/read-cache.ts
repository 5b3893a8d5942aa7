/**
 * The read cache: 4 KiB pages of sealed blocks, which never change, under one byte limit for all volumes of a
 * process. Pages live in an arena; what is known about them in typed arrays: key, chain of the hash bucket, and the
 * bit of the CLOCK hand. A hit is a hash, a compare and a copy, and allocates nothing.
 *
 * A page enters without its bit, so that pages read once (a scan) leave before pages read twice. Each open of a
 * volume gets a space of its own, because locations mean something only within one open; the pages of a closed
 * space are never found again and leave as the hand passes.
 */
import { type AllocateBuffer, assert, type NativeBuffer } from "../../base";
import { PAGE_BYTES } from "../block";

/** The arena grows by this much, so that a cache that is not used costs nothing. */
const CHUNK_PAGES = 1024;
/** Beside the page: key, space, bit, chain, bucket, and the view that copies need. */
const ENTRY_OVERHEAD_BYTES = 160;
const NONE = -1;
const TWO_32 = 2 ** 32;

export interface ReadCacheStatistics {
  readonly pageCount: number;
  readonly pageCountMax: number;
  readonly hits: number;
  readonly misses: number;
  readonly evictions: number;
}

/** The pages of one open of a volume; what the volume's read path calls a PageCache. */
export class CacheSpace {
  constructor(
    private readonly cache: ReadCache,
    private readonly space: number,
  ) {}

  /** Copies the page to destination.bytes[offset ..] when it is there. */
  read(location: number, destination: NativeBuffer, offset: number): boolean {
    return this.cache.read(this.space, location, destination, offset);
  }

  /** Keeps a copy of the page at source.bytes[offset ..]. */
  insert(location: number, source: NativeBuffer, offset: number): void {
    this.cache.insert(this.space, location, source, offset);
  }

  has(location: number): boolean {
    return this.cache.has(this.space, location);
  }
}

export class ReadCache {
  readonly pageCountMax: number;
  private readonly locations: Float64Array;
  private readonly spaces: Uint32Array;
  private readonly next: Int32Array;
  private readonly touched: Uint8Array;
  private readonly buckets: Int32Array;
  private readonly pages: Uint8Array[] = [];
  private count = 0;
  private hand = 0;
  private spaceCount = 0;
  private hits = 0;
  private misses = 0;
  private evictions = 0;

  /** Pages and all that is kept about them stay within `limitBytes`; 0 is a cache that keeps nothing. */
  constructor(
    private readonly allocate: AllocateBuffer,
    limitBytes: number,
  ) {
    this.pageCountMax = Math.max(0, Math.floor(limitBytes / (PAGE_BYTES + ENTRY_OVERHEAD_BYTES)));
    const size = Math.max(1, this.pageCountMax);
    this.locations = new Float64Array(size);
    this.spaces = new Uint32Array(size);
    this.next = new Int32Array(size);
    this.touched = new Uint8Array(size);
    this.buckets = new Int32Array(2 ** Math.ceil(Math.log2(size))).fill(NONE);
  }

  /** For one open of a volume. */
  openSpace(): CacheSpace {
    this.spaceCount += 1;
    assert(this.spaceCount < TWO_32, "the read cache ran out of spaces");
    return new CacheSpace(this, this.spaceCount);
  }

  read(space: number, location: number, destination: NativeBuffer, offset: number): boolean {
    const entry = this.find(space, location);
    if (entry === NONE) {
      this.misses += 1;
      return false;
    }
    this.hits += 1;
    this.touched[entry] = 1;
    destination.bytes.set(this.pages[entry] as Uint8Array, offset);
    return true;
  }

  has(space: number, location: number): boolean {
    return this.find(space, location) !== NONE;
  }

  insert(space: number, location: number, source: NativeBuffer, offset: number): void {
    if (this.pageCountMax === 0 || this.find(space, location) !== NONE) return;
    const entry = this.count < this.pageCountMax ? this.grow() : this.evict();
    this.locations[entry] = location;
    this.spaces[entry] = space;
    this.touched[entry] = 0;
    const bucket = this.bucketOf(space, location);
    this.next[entry] = this.buckets[bucket] as number;
    this.buckets[bucket] = entry;
    (this.pages[entry] as Uint8Array).set(source.bytes.subarray(offset, offset + PAGE_BYTES));
  }

  statistics(): ReadCacheStatistics {
    const { count, pageCountMax, hits, misses, evictions } = this;
    return { pageCount: count, pageCountMax, hits, misses, evictions };
  }

  private find(space: number, location: number): number {
    let entry = this.buckets[this.bucketOf(space, location)] as number;
    while (entry !== NONE && (this.locations[entry] !== location || this.spaces[entry] !== space))
      entry = this.next[entry] as number;
    return entry;
  }

  private bucketOf(space: number, location: number): number {
    let hash = (location % TWO_32) ^ Math.imul(Math.floor(location / TWO_32), 0x85ebca6b);
    hash = Math.imul(hash ^ Math.imul(space, 0xc2b2ae35), 0x9e3779b1);
    return ((hash ^ (hash >>> 15)) >>> 0) & (this.buckets.length - 1);
  }

  private grow(): number {
    const entry = this.count;
    if (entry === this.pages.length) {
      const pageCount = Math.min(CHUNK_PAGES, this.pageCountMax - entry);
      const { bytes } = this.allocate(pageCount * PAGE_BYTES);
      for (let page = 0; page < pageCount; page += 1)
        this.pages.push(bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
    }
    this.count += 1;
    return entry;
  }

  /** The first page from the hand on that was not read since the hand passed it; at most two rounds. */
  private evict(): number {
    for (;;) {
      const entry = this.hand;
      this.hand = entry + 1 === this.count ? 0 : entry + 1;
      if (this.touched[entry] === 1) {
        this.touched[entry] = 0;
        continue;
      }
      this.unlink(entry);
      this.evictions += 1;
      return entry;
    }
  }

  private unlink(entry: number): void {
    const bucket = this.bucketOf(this.spaces[entry] as number, this.locations[entry] as number);
    let at = this.buckets[bucket] as number;
    if (at === entry) {
      this.buckets[bucket] = this.next[entry] as number;
      return;
    }
    while (this.next[at] !== entry) at = this.next[at] as number;
    this.next[at] = this.next[entry] as number;
  }
}
