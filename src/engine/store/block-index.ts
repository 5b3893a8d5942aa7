/**
 * The store's index in memory: where each block lies, in typed arrays, about 45 bytes a block. A block is a row
 * (its "slot" in the columns); rows come in chunks of equal size, so the index grows without ever copying, and the
 * hash table is a linear-hashing one with chains, which grows by one bucket an insertion: no insertion ever waits
 * for a rehash. Blocks of one (kind, volume, epoch) share a Log, which a row names by number and which links its
 * rows, so that the tail of a log is found without looking at anything else.
 *
 * Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.
 *
 * Invariants: slot 0 is no row; a row is in the hash chains and in its log's list exactly while LINKED; a log lives
 * while any row, linked or not, names it.
 */
import { assert, BlockKind, type BlockRef, type Epoch, type VolumeId } from "../../base";
import type { MutableRef } from "./block-bytes";

export const NO_SLOT = 0;

export const RowFlag = {
  /** Found by lookups and listings. */
  linked: 1,
  /** The bytes did not match: neither a copy nor a denial. */
  suspect: 2,
  /** The put's record and bytes are synced. */
  durable: 4,
  /** A delete record was written; the row waits until it is durable and no reader has the bytes. */
  deleted: 8,
  /** The delete record is durable. */
  releasable: 16,
  /** The block lies in several extents, kept in the store's side table. */
  scattered: 32,
} as const;

/** The blocks of one kind of one epoch of one volume. */
export interface Log {
  readonly id: number;
  readonly kind: BlockKind;
  readonly volumeId: VolumeId;
  readonly epoch: Epoch;
  firstSlot: number;
  linkedCount: number;
  rowCount: number;
}

/** Words of a row's key: index low and high, log number (0: no row), next row of its hash chain or of the free list. */
const KEY_WORDS = 4;
const KEY_LOG = 2;
const KEY_NEXT = 3;
const TWO_32 = 2 ** 32;

class Chunk {
  /** What a lookup reads of a row lies side by side, in one line of the CPU's cache. */
  readonly key: Uint32Array;
  readonly unit: Uint32Array;
  readonly lengthBytes: Uint32Array;
  readonly headerCrc: Uint32Array;
  readonly segment: Uint16Array;
  readonly pins: Uint16Array;
  readonly flags: Uint8Array;
  readonly logNext: Uint32Array;
  readonly logPrevious: Uint32Array;

  constructor(rowCount: number) {
    this.key = new Uint32Array(KEY_WORDS * rowCount);
    this.unit = new Uint32Array(rowCount);
    this.lengthBytes = new Uint32Array(rowCount);
    this.headerCrc = new Uint32Array(rowCount);
    this.segment = new Uint16Array(rowCount);
    this.pins = new Uint16Array(rowCount);
    this.flags = new Uint8Array(rowCount);
    this.logNext = new Uint32Array(rowCount);
    this.logPrevious = new Uint32Array(rowCount);
  }
}

const ROW_BYTES = 41;
const BUCKET_BYTES = 4;
export const PINS_MAX = 0xffff;

interface VolumeLogs {
  readonly data: Map<number, Log>;
  readonly inode: Map<number, Log>;
}

export class BlockIndex {
  readonly #shift: number;
  readonly #mask: number;
  readonly #chunks: Chunk[] = [];
  /** Rows ever used: slots 1 .. slotEnd-1. */
  #slotEnd = 1;
  #freeSlot = NO_SLOT;
  #linkedCount = 0;

  readonly #buckets: Uint32Array[] = [];
  #roundBuckets: number;
  #splitBucket = 0;

  readonly #logs: (Log | undefined)[] = [undefined];
  readonly #freeLogs: number[] = [];
  readonly #volumes = new Map<number, VolumeLogs>();
  #lastLog: Log | undefined;

  /**
   * `chunkRows` is a power of two: 65,536 in production, less where many small stores live. For `expectedRows` the
   * hash table is made at once.
   */
  constructor(chunkRows = 65_536, expectedRows = 0) {
    assert(Number.isInteger(Math.log2(chunkRows)), "index chunks must hold a power of two of rows");
    this.#shift = Math.log2(chunkRows);
    this.#mask = chunkRows - 1;
    this.#roundBuckets = Math.max(chunkRows, 2 ** Math.ceil(Math.log2(Math.max(1, expectedRows))));
    for (let bucket = 0; bucket < this.#roundBuckets; bucket += chunkRows)
      this.#buckets.push(new Uint32Array(chunkRows));
  }

  /** Blocks that lookups find. */
  get linkedCount(): number {
    return this.#linkedCount;
  }

  /** One more than the highest slot ever used: the end of a walk over all rows. */
  get slotEnd(): number {
    return this.#slotEnd;
  }

  get memoryBytes(): number {
    return (this.#chunks.length * ROW_BYTES + this.#buckets.length * BUCKET_BYTES) * (this.#mask + 1);
  }

  isRow(slot: number): boolean {
    return this.#chunk(slot).key[KEY_WORDS * (slot & this.#mask) + KEY_LOG] !== 0;
  }

  indexOf(slot: number): number {
    return indexAt(this.#chunk(slot).key, KEY_WORDS * (slot & this.#mask));
  }

  unitOf(slot: number): number {
    return this.#chunk(slot).unit[slot & this.#mask] as number;
  }

  segmentOf(slot: number): number {
    return this.#chunk(slot).segment[slot & this.#mask] as number;
  }

  lengthOf(slot: number): number {
    return this.#chunk(slot).lengthBytes[slot & this.#mask] as number;
  }

  headerCrcOf(slot: number): number {
    return this.#chunk(slot).headerCrc[slot & this.#mask] as number;
  }

  flagsOf(slot: number): number {
    return this.#chunk(slot).flags[slot & this.#mask] as number;
  }

  addFlags(slot: number, flags: number): void {
    const chunk = this.#chunk(slot);
    chunk.flags[slot & this.#mask] = (chunk.flags[slot & this.#mask] as number) | flags;
  }

  pinsOf(slot: number): number {
    return this.#chunk(slot).pins[slot & this.#mask] as number;
  }

  addPins(slot: number, change: number): number {
    const chunk = this.#chunk(slot);
    const pins = (chunk.pins[slot & this.#mask] as number) + change;
    if (pins < 0 || pins > PINS_MAX) assert(false, `row ${slot} would have ${pins} pins`);
    chunk.pins[slot & this.#mask] = pins;
    return pins;
  }

  logOf(slot: number): Log {
    const { key } = this.#chunk(slot);
    return this.#logs[key[KEY_WORDS * (slot & this.#mask) + KEY_LOG] as number] as Log;
  }

  refOf(slot: number): BlockRef {
    const log = this.logOf(slot);
    return { kind: log.kind, volumeId: log.volumeId, epoch: log.epoch, index: this.indexOf(slot) };
  }

  refInto(slot: number, ref: MutableRef): void {
    const log = this.logOf(slot);
    ref.kind = log.kind;
    ref.volumeId = log.volumeId;
    ref.epoch = log.epoch;
    ref.index = this.indexOf(slot);
  }

  /** The slot of a linked block, or NO_SLOT. */
  find(ref: BlockRef): number {
    const log = this.#findLog(ref);
    if (log === undefined) return NO_SLOT;
    const low = ref.index >>> 0;
    const high = Math.floor(ref.index / TWO_32);
    let slot = this.#bucketHead(this.#bucketOf(log.id, ref.index));
    while (slot !== NO_SLOT) {
      const { key } = this.#chunk(slot);
      const at = KEY_WORDS * (slot & this.#mask);
      if (key[at] === low && key[at + 1] === high && key[at + KEY_LOG] === log.id) return slot;
      slot = key[at + KEY_NEXT] as number;
    }
    return NO_SLOT;
  }

  /** The linked row of this block at this very place: replay may meet a block at two places. */
  findAt(ref: BlockRef, segment: number, unit: number): number {
    const log = this.#findLog(ref);
    if (log === undefined) return NO_SLOT;
    let slot = this.find(ref);
    while (slot !== NO_SLOT) {
      const chunk = this.#chunk(slot);
      const row = slot & this.#mask;
      const isSameBlock = indexAt(chunk.key, KEY_WORDS * row) === ref.index && this.logOf(slot) === log;
      if (isSameBlock && chunk.unit[row] === unit && chunk.segment[row] === segment) return slot;
      slot = chunk.key[KEY_WORDS * row + KEY_NEXT] as number;
    }
    return NO_SLOT;
  }

  /** Adds a linked row; the caller has looked whether the block is there already. */
  insert(
    ref: BlockRef,
    segment: number,
    unit: number,
    lengthBytes: number,
    headerCrc: number,
    flags: number,
  ): number {
    const log = this.#findLog(ref) ?? this.#addLog(ref);
    const slot = this.#takeSlot();
    const chunk = this.#chunk(slot);
    const row = slot & this.#mask;
    chunk.key[KEY_WORDS * row] = ref.index >>> 0;
    chunk.key[KEY_WORDS * row + 1] = Math.floor(ref.index / TWO_32);
    chunk.key[KEY_WORDS * row + KEY_LOG] = log.id;
    chunk.unit[row] = unit;
    chunk.segment[row] = segment;
    chunk.lengthBytes[row] = lengthBytes;
    chunk.headerCrc[row] = headerCrc;
    chunk.flags[row] = flags | RowFlag.linked;
    chunk.pins[row] = 0;
    this.#link(slot, log);
    return slot;
  }

  /** Takes a block out of lookups and listings; the row stays until `free`. */
  unlink(slot: number): void {
    const chunk = this.#chunk(slot);
    const row = slot & this.#mask;
    const flags = chunk.flags[row] as number;
    if ((flags & RowFlag.linked) === 0) assert(false, `row ${slot} is not linked`);
    chunk.flags[row] = flags & ~RowFlag.linked;
    const log = this.logOf(slot);
    this.#unchain(slot, this.#bucketOf(log.id, this.indexOf(slot)));
    const next = chunk.logNext[row] as number;
    const previous = chunk.logPrevious[row] as number;
    if (next !== NO_SLOT) this.#chunk(next).logPrevious[next & this.#mask] = previous;
    if (previous === NO_SLOT) log.firstSlot = next;
    else this.#chunk(previous).logNext[previous & this.#mask] = next;
    log.linkedCount -= 1;
    this.#linkedCount -= 1;
  }

  /** Gives an unlinked row up for reuse. */
  free(slot: number): void {
    const chunk = this.#chunk(slot);
    const row = slot & this.#mask;
    if (((chunk.flags[row] as number) & RowFlag.linked) !== 0) assert(false, `row ${slot} is still linked`);
    const log = this.logOf(slot);
    log.rowCount -= 1;
    if (log.rowCount === 0) this.#removeLog(log);
    chunk.key[KEY_WORDS * row + KEY_LOG] = 0;
    chunk.key[KEY_WORDS * row + KEY_NEXT] = this.#freeSlot;
    chunk.flags[row] = 0;
    this.#freeSlot = slot;
  }

  /** The first row of a segment at or after `slot` and before `end`, else `end`: a walk over a whole segment. */
  nextOfSegment(segment: number, slot: number, end: number): number {
    let at = slot;
    while (at < end) {
      const chunk = this.#chunk(at);
      const { segment: segments, key } = chunk;
      const stop = Math.min(this.#mask + 1, (at & this.#mask) + end - at);
      for (let row = at & this.#mask; row < stop; row += 1, at += 1)
        if (segments[row] === segment && key[KEY_WORDS * row + KEY_LOG] !== 0) return at;
    }
    return end;
  }

  /** Another linked row of the same block: replay may meet a block at two places. */
  findOther(slot: number): number {
    const index = this.indexOf(slot);
    const log = this.logOf(slot);
    let other = this.#bucketHead(this.#bucketOf(log.id, index));
    while (other !== NO_SLOT) {
      if (other !== slot && this.indexOf(other) === index && this.logOf(other) === log) return other;
      other = this.#nextInChain(other);
    }
    return NO_SLOT;
  }

  /** Walks the linked rows of one log, newest first. */
  forEachOfLog(kind: BlockKind, volumeId: number, epoch: number, visit: (slot: number) => void): void {
    const volume = this.#volumes.get(volumeId);
    const log = (kind === 1 ? volume?.data : volume?.inode)?.get(epoch);
    let slot = log === undefined ? NO_SLOT : log.firstSlot;
    while (slot !== NO_SLOT) {
      visit(slot);
      slot = this.#chunk(slot).logNext[slot & this.#mask] as number;
    }
  }

  /** The highest epoch with a linked block of the volume and kind, or 0. */
  epochMax(kind: BlockKind, volumeId: number): number {
    const volume = this.#volumes.get(volumeId);
    let highest = 0;
    if (volume === undefined) return highest;
    const logs = kind === BlockKind.data ? volume.data : volume.inode;
    for (const log of logs.values()) if (log.epoch > highest && log.linkedCount > 0) highest = log.epoch;
    return highest;
  }

  #chunk(slot: number): Chunk {
    return this.#chunks[slot >>> this.#shift] as Chunk;
  }

  #takeSlot(): number {
    const free = this.#freeSlot;
    if (free !== NO_SLOT) {
      this.#freeSlot = this.#nextInChain(free);
      return free;
    }
    const slot = this.#slotEnd;
    assert(slot < 0xffffffff, "the index is full");
    this.#slotEnd += 1;
    if (slot >>> this.#shift === this.#chunks.length || this.#chunks.length === 0)
      this.#chunks.push(new Chunk(this.#mask + 1));
    return slot;
  }

  #findLog(ref: BlockRef): Log | undefined {
    const last = this.#lastLog;
    if (
      last !== undefined &&
      last.epoch === ref.epoch &&
      last.volumeId === ref.volumeId &&
      last.kind === ref.kind
    )
      return last;
    const volume = this.#volumes.get(ref.volumeId);
    if (volume === undefined) return undefined;
    const log = (ref.kind === 1 ? volume.data : volume.inode).get(ref.epoch);
    if (log !== undefined) this.#lastLog = log;
    return log;
  }

  #addLog(ref: BlockRef): Log {
    let volume = this.#volumes.get(ref.volumeId);
    if (volume === undefined) {
      volume = { data: new Map(), inode: new Map() };
      this.#volumes.set(ref.volumeId, volume);
    }
    const id = this.#freeLogs.pop() ?? this.#logs.length;
    const { kind, volumeId, epoch } = ref;
    const log: Log = { id, kind, volumeId, epoch, firstSlot: NO_SLOT, linkedCount: 0, rowCount: 0 };
    this.#logs[id] = log;
    (kind === 1 ? volume.data : volume.inode).set(epoch, log);
    return log;
  }

  #removeLog(log: Log): void {
    const volume = this.#volumes.get(log.volumeId) as VolumeLogs;
    (log.kind === 1 ? volume.data : volume.inode).delete(log.epoch);
    if (volume.data.size === 0 && volume.inode.size === 0) this.#volumes.delete(log.volumeId);
    this.#logs[log.id] = undefined;
    this.#freeLogs.push(log.id);
    if (this.#lastLog === log) this.#lastLog = undefined;
  }

  #link(slot: number, log: Log): void {
    const chunk = this.#chunk(slot);
    const row = slot & this.#mask;
    chunk.logNext[row] = log.firstSlot;
    chunk.logPrevious[row] = NO_SLOT;
    if (log.firstSlot !== NO_SLOT) this.#chunk(log.firstSlot).logPrevious[log.firstSlot & this.#mask] = slot;
    log.firstSlot = slot;
    log.linkedCount += 1;
    log.rowCount += 1;
    this.#linkedCount += 1;
    if (this.#linkedCount > this.#roundBuckets + this.#splitBucket) this.#split();
    const bucket = this.#bucketOf(log.id, this.indexOf(slot));
    chunk.key[KEY_WORDS * row + KEY_NEXT] = this.#bucketHead(bucket);
    this.#setBucketHead(bucket, slot);
  }

  #unchain(slot: number, bucket: number): void {
    const after = this.#nextInChain(slot);
    let walk = this.#bucketHead(bucket);
    if (walk === slot) return this.#setBucketHead(bucket, after);
    for (;;) {
      if (walk === NO_SLOT) assert(false, `row ${slot} is missing from its hash chain`);
      const next = this.#nextInChain(walk);
      if (next === slot) {
        this.#chunk(walk).key[KEY_WORDS * (walk & this.#mask) + KEY_NEXT] = after;
        return;
      }
      walk = next;
    }
  }

  #bucketOf(logId: number, index: number): number {
    const hash = hashOf(logId, index);
    const bucket = hash & (this.#roundBuckets - 1);
    return bucket < this.#splitBucket ? (hash & (2 * this.#roundBuckets - 1)) >>> 0 : bucket >>> 0;
  }

  #nextInChain(slot: number): number {
    return this.#chunk(slot).key[KEY_WORDS * (slot & this.#mask) + KEY_NEXT] as number;
  }

  #bucketHead(bucket: number): number {
    return (this.#buckets[bucket >>> this.#shift] as Uint32Array)[bucket & this.#mask] as number;
  }

  #setBucketHead(bucket: number, slot: number): void {
    (this.#buckets[bucket >>> this.#shift] as Uint32Array)[bucket & this.#mask] = slot;
  }

  /** Divides the next bucket in turn between itself and a new one at the end. */
  #split(): void {
    const bucket = this.#splitBucket;
    const added = this.#roundBuckets + bucket;
    if (added >>> this.#shift === this.#buckets.length) this.#buckets.push(new Uint32Array(this.#mask + 1));
    let slot = this.#bucketHead(bucket);
    this.#setBucketHead(bucket, NO_SLOT);
    this.#splitBucket += 1;
    if (this.#splitBucket === this.#roundBuckets) {
      this.#roundBuckets *= 2;
      this.#splitBucket = 0;
    }
    while (slot !== NO_SLOT) {
      const { key } = this.#chunk(slot);
      const at = KEY_WORDS * (slot & this.#mask);
      const next = key[at + KEY_NEXT] as number;
      const target = this.#bucketOf(key[at + KEY_LOG] as number, indexAt(key, at));
      key[at + KEY_NEXT] = this.#bucketHead(target);
      this.#setBucketHead(target, slot);
      slot = next;
    }
  }
}

function indexAt(key: Uint32Array, at: number): number {
  return (key[at + 1] as number) * TWO_32 + (key[at] as number);
}

function hashOf(logId: number, index: number): number {
  const high = (index / TWO_32) | 0;
  let hash = Math.imul(
    (index >>> 0) ^ Math.imul(logId + Math.imul(high, 0x85ebca6b), 0x27d4eb2f),
    0x9e3779b1,
  );
  hash ^= hash >>> 15;
  hash = Math.imul(hash, 0xc2b2ae35);
  hash ^= hash >>> 13;
  return hash;
}
