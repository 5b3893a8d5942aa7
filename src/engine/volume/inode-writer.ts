/**
 * Where a checkpoint puts its INode blocks: seals each, sends it to the peers of the set that the checkpoint will
 * put (or the one in force), and knows when all are durable. Indexes count over the whole epoch and are never used
 * twice, also when a checkpoint is given up.
 */
import {
  BlockKind,
  type BlockRef,
  type Clock,
  type Epoch,
  type NativeBuffer,
  sleep,
  type VolumeId,
} from "../../base";
import { type BlockSealer, sealInodeBlock } from "../block";
import { DistributedBlock, type Distributor } from "../distributor";
import type { InodeSink, InodeTarget } from "../inode";
import type { BufferPool } from "./buffer-pool";
import type { VolumeError } from "./errors";
import type { VolumeStatistics } from "./statistics";

export class InodeWriter implements InodeSink {
  readonly volumeId: VolumeId;
  readonly epoch: Epoch;
  readonly payloadBytesMax: number;
  readonly #clock: Clock;
  readonly #pool: BufferPool;
  readonly #sealer: BlockSealer;
  readonly #distributor: Distributor;
  readonly #statistics: VolumeStatistics;
  #lastIndex = 0;
  readonly #pending = new Set<DistributedBlock>();
  /** Ends a wait for a buffer early. */
  #rejectBegin: ((error: VolumeError) => void) | undefined;
  #failure: VolumeError | undefined;
  #interruption: VolumeError | undefined;
  #waiters: { resolve: () => void; reject: (error: VolumeError) => void }[] = [];

  constructor(
    clock: Clock,
    pool: BufferPool,
    sealer: BlockSealer,
    distributor: Distributor,
    statistics: VolumeStatistics,
    identity: Pick<BlockRef, "volumeId" | "epoch">,
  ) {
    this.#clock = clock;
    this.#pool = pool;
    this.#sealer = sealer;
    this.#distributor = distributor;
    this.#statistics = statistics;
    this.volumeId = identity.volumeId;
    this.epoch = identity.epoch;
    this.payloadBytesMax = pool.blockSizeBytes;
  }

  /** The last index given out: what the head calls inodeIndex. */
  get lastIndex(): number {
    return this.#lastIndex;
  }

  async begin(): Promise<InodeTarget> {
    const buffer = await this.#takeBuffer();
    await sleep(this.#clock, 0);
    const refusal = this.#failure ?? this.#interruption;
    if (refusal) {
      this.#pool.release(buffer);
      throw refusal;
    }
    this.#lastIndex++;
    return { index: this.#lastIndex, buffer };
  }

  #takeBuffer(): Promise<NativeBuffer> {
    return new Promise((resolve, reject) => {
      let over = false;
      this.#rejectBegin = (error) => {
        over = true;
        reject(error);
      };
      void this.#pool.acquire().then((buffer) => {
        if (over) return this.#pool.release(buffer);
        this.#rejectBegin = undefined;
        resolve(buffer);
      });
    });
  }

  finish(target: InodeTarget, payloadBytes: number): void {
    if (this.#failure ?? this.#interruption) return this.#pool.release(target.buffer);
    const ref: BlockRef = {
      kind: BlockKind.inode,
      volumeId: this.volumeId,
      epoch: this.epoch,
      index: target.index,
    };
    const sealed = sealInodeBlock(target.buffer, payloadBytes, this.#sealer, ref);
    const block = new DistributedBlock();
    block.ref = ref;
    block.buffer = sealed.buffer;
    block.offset = sealed.offset;
    block.lengthBytes = sealed.lengthBytes;
    block.writerEpoch = this.epoch;
    block.ordered = false;
    this.#pending.add(block);
    this.#statistics.checkpointBytes += sealed.lengthBytes;
    block.acknowledged = () => this.#durable(block);
    block.released = () => this.#pool.release(target.buffer);
    this.#distributor.submit(block);
  }

  /** Resolves when every finished block is durable; rejects when the volume failed. */
  whenDurable(): Promise<void> {
    const refusal = this.#failure ?? this.#interruption;
    if (refusal) return Promise.reject(refusal);
    if (this.#pending.size === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** A new checkpoint begins. */
  start(): void {
    this.#interruption = undefined;
  }

  /** Ends the checkpoint under way: its blocks are of no use any more. */
  interrupt(error: VolumeError): void {
    this.#interruption = error;
    this.#end(error);
    for (const block of this.#pending) this.#distributor.withdraw(block);
    this.#pending.clear();
  }

  fail(error: VolumeError): void {
    this.#failure ??= error;
    this.#end(this.#failure);
  }

  #end(error: VolumeError): void {
    this.#rejectBegin?.(error);
    this.#rejectBegin = undefined;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
  }

  #durable(block: DistributedBlock): void {
    this.#pending.delete(block);
    if (this.#pending.size === 0) for (const waiter of this.#waiters.splice(0)) waiter.resolve();
  }
}
