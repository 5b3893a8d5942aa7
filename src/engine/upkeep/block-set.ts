/**
 * Sets of blocks as bitmaps: by kind, volume and epoch, then by chunks of 4,096 indexes, so that a terabyte of 512 KiB
 * blocks costs 256 KiB and empty stretches cost nothing.
 */
import { asEpoch, asVolumeId, type BlockKind, type BlockRef } from "../../base";

const CHUNK_BITS = 4096;
const CHUNK_WORDS = CHUNK_BITS / 32;
/** What a chunk costs with its place in the maps. */
const CHUNK_BYTES = CHUNK_WORDS * 4 + 128;

/** One log: the blocks of one kind, volume and epoch. */
export interface LogKey {
  readonly kind: BlockKind;
  readonly volumeId: number;
  readonly epoch: number;
}

export function isSameLog(a: LogKey, b: LogKey): boolean {
  return a.epoch === b.epoch && a.volumeId === b.volumeId && a.kind === b.kind;
}

type Chunks = Map<number, Uint32Array>;

interface Log {
  readonly key: LogKey;
  readonly chunks: Chunks;
}

export class BlockSet {
  private readonly logs = new Map<string, Log>();
  private chunkCount = 0;
  /** The last one that was found: blocks in a row are mostly of one log. */
  private lastLog: Log | undefined;

  get memoryBytes(): number {
    return this.chunkCount * CHUNK_BYTES + this.logs.size * 256;
  }

  copy(): BlockSet {
    const copy = new BlockSet();
    for (const [name, { key, chunks }] of this.logs)
      copy.logs.set(name, {
        key,
        chunks: new Map([...chunks].map(([index, words]) => [index, words.slice()])),
      });
    copy.chunkCount = this.chunkCount;
    return copy;
  }

  add(ref: BlockRef): void {
    const chunk = this.chunk(ref);
    chunk[(ref.index % CHUNK_BITS) >>> 5]! |= 1 << (ref.index & 31);
  }

  delete(ref: BlockRef): void {
    const chunk = this.find(ref)?.chunks.get(Math.floor(ref.index / CHUNK_BITS));
    if (chunk !== undefined) chunk[(ref.index % CHUNK_BITS) >>> 5]! &= ~(1 << (ref.index & 31));
  }

  has(ref: BlockRef): boolean {
    const chunk = this.find(ref)?.chunks.get(Math.floor(ref.index / CHUNK_BITS));
    return (
      chunk !== undefined &&
      ((chunk[(ref.index % CHUNK_BITS) >>> 5] as number) & (1 << (ref.index & 31))) !== 0
    );
  }

  /** The logs of which there may be blocks. */
  keys(): LogKey[] {
    return [...this.logs.values()].map((log) => log.key);
  }

  /** Every block of a log that is in none of `others`, below `endIndex`, in chunks' order; none of them may change meanwhile. */
  *missing(key: LogKey, others: readonly BlockSet[], endIndex: number): Generator<BlockRef> {
    const own = this.find(key);
    if (own === undefined) return;
    const theirs = others.flatMap((other) => other.find(key)?.chunks ?? []);
    const [volumeId, epoch] = [asVolumeId(key.volumeId), asEpoch(key.epoch)];
    for (const [chunkIndex, words] of own.chunks) {
      const present = theirs.flatMap((chunks) => chunks.get(chunkIndex) ?? []);
      for (let word = 0; word < CHUNK_WORDS; word++) {
        let left = words[word] as number;
        for (const other of present) left &= ~(other[word] as number);
        for (; left !== 0; left &= left - 1) {
          const index = chunkIndex * CHUNK_BITS + word * 32 + (31 - Math.clz32(left & -left));
          if (index < endIndex) yield { kind: key.kind, volumeId, epoch, index };
        }
      }
    }
  }

  private find(key: LogKey): Log | undefined {
    const { lastLog } = this;
    if (lastLog !== undefined && isSameLog(lastLog.key, key)) return lastLog;
    const log = this.logs.get(logName(key));
    if (log !== undefined) this.lastLog = log;
    return log;
  }

  private chunk(ref: BlockRef): Uint32Array {
    let log = this.find(ref);
    if (log === undefined) {
      log = { key: { kind: ref.kind, volumeId: ref.volumeId, epoch: ref.epoch }, chunks: new Map() };
      this.logs.set(logName(ref), log);
      this.lastLog = log;
    }
    const chunkIndex = Math.floor(ref.index / CHUNK_BITS);
    let chunk = log.chunks.get(chunkIndex);
    if (chunk === undefined) {
      chunk = new Uint32Array(CHUNK_WORDS);
      log.chunks.set(chunkIndex, chunk);
      this.chunkCount++;
    }
    return chunk;
  }
}

/** Of a log, for maps by log. */
export function logName({ kind, volumeId, epoch }: LogKey): string {
  return `${kind} ${volumeId} ${epoch}`;
}
