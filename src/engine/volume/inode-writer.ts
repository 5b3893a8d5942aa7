/**
 * Where a checkpoint puts its INode blocks: seals each, sends it to the peers of the set that the checkpoint will
 * put (or the one in force), and knows when all are durable. Indexes count over the whole epoch and are never used
 * twice, also when a checkpoint is given up.
 */
import { assert, type BlockRef, BlockKind, type Clock, type Epoch, sleep, type VolumeId } from "../../base";
import { type BlockSealer, sealInodeBlock } from "../block";
import { DistributedBlock, type Distributor } from "../distributor";
import type { InodeSink, InodeTarget } from "../inode";
import type { BufferPool } from "./buffer-pool";
import { VolumeError } from "./errors";
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
  #pending = 0;
  #failure: VolumeError | undefined;
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
    const buffer = await this.#pool.acquire();
    await sleep(this.#clock, 0);
    if (this.#failure) {
      this.#pool.release(buffer);
      throw this.#failure;
    }
    this.#lastIndex++;
    return { index: this.#lastIndex, buffer };
  }

  finish(target: InodeTarget, payloadBytes: number): void {
    if (this.#failure) return this.#pool.release(target.buffer);
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
    this.#pending++;
    this.#statistics.checkpointBytes += sealed.lengthBytes;
    block.acknowledged = () => this.#durable();
    block.released = () => this.#pool.release(target.buffer);
    this.#distributor.submit(block);
  }

  /** Resolves when every finished block is durable; rejects when the volume failed. */
  whenDurable(): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#pending === 0) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  fail(error: VolumeError): void {
    this.#failure ??= error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#failure);
  }

  #durable(): void {
    assert(this.#pending > 0, "an INode block became durable twice");
    this.#pending--;
    if (this.#pending === 0) for (const waiter of this.#waiters.splice(0)) waiter.resolve();
  }
}
