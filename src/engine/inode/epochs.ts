/**
 * Which block an lsn is: a table of (volume id, epoch, first lsn), ascending by lsn, searched by halves. Entries
 * also count their blocks with live pages, so that epochs nothing maps to any more can be left out when the table
 * is written. Kept in chunks of 1024 entries that are frozen and written like leaves of the tree.
 */
import { assert, BlockKind, type BlockRef, type Epoch, type VolumeId } from "../../base";
import { expectLength, LSN_MAX, NODE_HEADER_BYTES, NodeType, badNode } from "./codec";
import { readNodeCount, readNodeHeader, readU64, writeNodeHeader, writeU64 } from "./codec";
import { InodeError } from "./errors";
import { Place } from "./nodes";
import type { Stamps } from "./tree";

export const CHUNK_ENTRIES = 1024;
export const EPOCH_COUNT_MAX = 512 * 1024;
const ENTRY_NUMBERS = 5;
const ENTRY_BYTES = ENTRY_NUMBERS * 8;
const VOLUME = 0;
const EPOCH = 1;
const FIRST_LSN = 2;
/** 0: the newest epoch, whose log still grows. */
const BLOCK_COUNT = 3;
const LIVE_BLOCKS = 4;

export class EpochChunk {
  count = 0;

  constructor(
    public stamp: number,
    readonly place = new Place(),
    readonly numbers = new Float64Array(CHUNK_ENTRIES * ENTRY_NUMBERS),
  ) {}

  copy(stamp: number): EpochChunk {
    const chunk = new EpochChunk(stamp, this.place, this.numbers.slice());
    chunk.count = this.count;
    return chunk;
  }

  get(entry: number, field: number): number {
    return this.numbers[entry * ENTRY_NUMBERS + field] as number;
  }
}

export function encodedChunkBytes(chunk: EpochChunk): number {
  return NODE_HEADER_BYTES + chunk.count * ENTRY_BYTES;
}

export function encodeChunk(chunk: EpochChunk, key: number, view: DataView, at: number): number {
  writeNodeHeader(view, at, NodeType.epochChunk, 0, chunk.count, key);
  for (let index = 0; index < chunk.count * ENTRY_NUMBERS; index += 1)
    writeU64(view, at + NODE_HEADER_BYTES + index * 8, chunk.numbers[index] as number);
  return encodedChunkBytes(chunk);
}

export function decodeChunk(place: Place, key: number, view: DataView, at: number): EpochChunk {
  const type = readNodeHeader(view, at, place.lengthBytes, 0, key);
  if (type !== NodeType.epochChunk) throw badNode(`its type ${type} is not a chunk of the epoch table`);
  const count = readNodeCount(view, at);
  if (count === 0 || count > CHUNK_ENTRIES) throw badNode(`it has ${count} epochs`);
  expectLength(place.lengthBytes, NODE_HEADER_BYTES + count * ENTRY_BYTES);
  const chunk = new EpochChunk(0, place);
  chunk.count = count;
  for (let index = 0; index < count * ENTRY_NUMBERS; index += 1)
    chunk.numbers[index] = readU64(view, at + NODE_HEADER_BYTES + index * 8);
  return chunk;
}

export class EpochTable {
  /** The next lsn that no block has. */
  nextLsn = 1;
  nodeBytes = 0;
  private chunks: EpochChunk[] = [];
  private count = 0;
  /** Entries without live blocks, the newest not counted. */
  private deadCount = 0;
  private recentPosition = 0;

  constructor(private readonly stamps: Stamps) {}

  get size(): number {
    return this.count;
  }

  get currentVolumeId(): VolumeId {
    return this.field(this.count - 1, VOLUME) as VolumeId;
  }

  get currentEpoch(): Epoch {
    return this.field(this.count - 1, EPOCH) as Epoch;
  }

  /** Takes the chunks of a root; they must hold together. */
  load(chunks: readonly EpochChunk[], nextLsn: number): void {
    this.chunks = [...chunks];
    this.nextLsn = nextLsn;
    this.count = 0;
    let lsn = 0;
    for (const [index, chunk] of chunks.entries()) {
      if (index < chunks.length - 1 && chunk.count !== CHUNK_ENTRIES)
        throw badNode("its epoch table has a gap");
      this.count += chunk.count;
      this.nodeBytes += chunk.place.lengthBytes;
    }
    for (let position = 0; position < this.count; position += 1) {
      const first = this.field(position, FIRST_LSN);
      const isNewest = position === this.count - 1;
      const blocks = isNewest ? nextLsn - first : this.field(position, BLOCK_COUNT);
      const volumeId = this.field(position, VOLUME);
      const epoch = this.field(position, EPOCH);
      if (!(first > lsn && blocks >= 0 && first + blocks <= nextLsn && volumeId >= 1 && volumeId < 2 ** 40))
        throw badNode(`epoch ${position} of its table is out of order`);
      if (!Number.isSafeInteger(epoch) || epoch < 1)
        throw badNode(`epoch ${position} of its table has no number`);
      if (!isNewest && this.field(position, LIVE_BLOCKS) === 0) this.deadCount += 1;
      lsn = first + Math.max(0, blocks - 1);
    }
  }

  /** The chunks as they are, for a frozen map. */
  freeze(): readonly EpochChunk[] {
    this.dropDead();
    return this.chunks.slice();
  }

  begin(volumeId: VolumeId, epoch: Epoch): void {
    const newest = this.count - 1;
    if (newest >= 0 && this.field(newest, VOLUME) === volumeId && this.field(newest, EPOCH) === epoch) return;
    if (newest >= 0 && this.field(newest, FIRST_LSN) === this.nextLsn) {
      // It never had a block: its place in the table is free.
      this.set(newest, VOLUME, volumeId);
      this.set(newest, EPOCH, epoch);
      return;
    }
    if (this.count >= EPOCH_COUNT_MAX)
      throw new InodeError(
        "too-many-epochs",
        `Cannot open volume ${volumeId}: blocks of ${this.count} earlier opens still hold data; dump it to a new volume`,
      );
    if (newest >= 0) {
      const blocks = this.nextLsn - this.field(newest, FIRST_LSN);
      this.set(newest, BLOCK_COUNT, blocks);
      if (this.field(newest, LIVE_BLOCKS) === 0) this.deadCount += 1;
    }
    if (this.count % CHUNK_ENTRIES === 0) this.chunks.push(new EpochChunk(this.stamps.current));
    this.count += 1;
    this.writableChunk(this.chunks.length - 1).count += 1;
    this.set(this.count - 1, VOLUME, volumeId);
    this.set(this.count - 1, EPOCH, epoch);
    this.set(this.count - 1, FIRST_LSN, this.nextLsn);
  }

  claim(index: number): number {
    assert(this.count > 0, "a block's lsn is asked for before an epoch began");
    const lsn = this.field(this.count - 1, FIRST_LSN) + index - 1;
    if (index < 1 || lsn > LSN_MAX) assert(false, `block index ${index} is out of range`);
    if (lsn >= this.nextLsn) this.nextLsn = lsn + 1;
    return lsn;
  }

  refOf(lsn: number): BlockRef | undefined {
    const position = this.positionOf(lsn);
    if (position < 0) return undefined;
    return {
      kind: BlockKind.data,
      volumeId: this.field(position, VOLUME) as VolumeId,
      epoch: this.field(position, EPOCH) as Epoch,
      index: lsn - this.field(position, FIRST_LSN) + 1,
    };
  }

  /** A block of the lsn got its first live page (+1), or lost its last (-1). */
  addLiveBlock(lsn: number, delta: 1 | -1): void {
    const position = this.positionOf(lsn);
    if (position < 0) assert(false, `lsn ${lsn} belongs to no epoch`);
    const before = this.field(position, LIVE_BLOCKS);
    if (before + delta < 0)
      assert(false, `epoch ${this.field(position, EPOCH)} loses a live block it does not have`);
    this.set(position, LIVE_BLOCKS, before + delta);
    if (position === this.count - 1) return;
    if (before === 0) this.deadCount -= 1;
    if (before + delta === 0) this.deadCount += 1;
  }

  /** Leaves out epochs without live blocks once they are many enough to pay for rewriting the chunks. */
  private dropDead(): void {
    if (this.deadCount <= Math.max(16, this.count / 4)) return;
    const kept: EpochChunk[] = [];
    let count = 0;
    for (let position = 0; position < this.count; position += 1) {
      if (position < this.count - 1 && this.field(position, LIVE_BLOCKS) === 0) continue;
      if (count % CHUNK_ENTRIES === 0) kept.push(new EpochChunk(this.stamps.current));
      const chunk = kept[kept.length - 1] as EpochChunk;
      const at = (position % CHUNK_ENTRIES) * ENTRY_NUMBERS;
      const source = this.chunkAt(position).numbers.subarray(at, at + ENTRY_NUMBERS);
      chunk.numbers.set(source, chunk.count * ENTRY_NUMBERS);
      chunk.count += 1;
      count += 1;
    }
    for (const chunk of this.chunks) chunk.place.removed = true;
    this.nodeBytes = 0;
    this.chunks = kept;
    this.count = count;
    this.deadCount = 0;
    this.recentPosition = 0;
  }

  private positionOf(lsn: number): number {
    if (this.covers(this.recentPosition, lsn)) return this.recentPosition;
    let low = 0;
    let high = this.count - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if (this.field(middle, FIRST_LSN) <= lsn) low = middle;
      else high = middle - 1;
    }
    if (!this.covers(low, lsn)) return -1;
    this.recentPosition = low;
    return low;
  }

  private covers(position: number, lsn: number): boolean {
    if (position >= this.count) return false;
    const first = this.field(position, FIRST_LSN);
    const end = position === this.count - 1 ? this.nextLsn : first + this.field(position, BLOCK_COUNT);
    return lsn >= first && lsn < end;
  }

  private chunkAt(position: number): EpochChunk {
    return this.chunks[Math.floor(position / CHUNK_ENTRIES)] as EpochChunk;
  }

  private field(position: number, field: number): number {
    assert(position >= 0 && position < this.count, "the map has no epoch yet");
    return this.chunkAt(position).get(position % CHUNK_ENTRIES, field);
  }

  private writableChunk(index: number): EpochChunk {
    let chunk = this.chunks[index] as EpochChunk;
    if (chunk.stamp !== this.stamps.current) {
      chunk = chunk.copy(this.stamps.current);
      this.chunks[index] = chunk;
    }
    return chunk;
  }

  private set(position: number, field: number, value: number): void {
    const chunk = this.writableChunk(Math.floor(position / CHUNK_ENTRIES));
    chunk.numbers[(position % CHUNK_ENTRIES) * ENTRY_NUMBERS + field] = value;
  }
}
