/**
 * A page map on INode blocks kept in memory: blocks are sealed as in production, reads are answered when the test
 * says so, in any order, and can be made to fail.
 */
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type Epoch,
  heapBuffer,
  type NativeBuffer,
  parseClusterId,
  type VolumeId,
} from "../../../../src/base";
import {
  BLOCK_HEADROOM_BYTES,
  BlockFault,
  BlockVerifier,
  blockBufferBytes,
  makeBlockSealer,
  sealInodeBlock,
} from "../../../../src/engine/block";
import type { NodePointer } from "../../../../src/engine/head";
import type { InodeSink, InodeTarget, Loaded, NodeReader } from "../../../../src/engine/inode";
import { StorageStatus } from "../../../../src/engine/ports";

const clusterId = parseClusterId("6f1c8d0e-3a77-4f0b-9a53-2f7c1c0d9e11");

export class InodeStore implements NodeReader {
  /** `volume/epoch/index` -> payload. */
  readonly blocks = new Map<string, NativeBuffer>();
  readCount = 0;
  /** Answer reads inside readNode. */
  immediate = true;
  failure: StorageStatus = StorageStatus.ok;
  private readonly pending: (() => void)[] = [];

  constructor(readonly blockSizeBytes = 64 * 1024) {}

  readNode(
    pointer: NodePointer,
    done: (status: StorageStatus, buffer: NativeBuffer | undefined, offsetBytes: number) => void,
  ): void {
    this.readCount += 1;
    const { failure } = this;
    const answer = () => {
      const buffer = this.blocks.get(`${pointer.volumeId}/${pointer.epoch}/${pointer.index}`);
      if (failure !== StorageStatus.ok) done(failure, undefined, 0);
      else if (buffer === undefined) done(StorageStatus.notFound, undefined, 0);
      else done(StorageStatus.ok, buffer, pointer.offsetBytes);
    };
    if (this.immediate) answer();
    else this.pending.push(answer);
  }

  get pendingCount(): number {
    return this.pending.length;
  }

  /** Answers one waiting read, chosen by `pick`. */
  answerOne(pick: number): boolean {
    const [answer] = this.pending.splice(pick % Math.max(1, this.pending.length), 1);
    answer?.();
    return answer !== undefined;
  }

  sink(volumeId: number, epoch: number, firstIndex: number): CountingSink {
    return new CountingSink(this, asVolumeId(volumeId), asEpoch(epoch), firstIndex);
  }
}

export class CountingSink implements InodeSink {
  readonly payloadBytesMax: number;
  writtenBytes = 0;
  /** Reject `begin` from this index on. */
  failFrom = Number.POSITIVE_INFINITY;
  /** Runs between blocks: writing goes on while a checkpoint is written. */
  between: () => void = () => undefined;

  constructor(
    private readonly store: InodeStore,
    readonly volumeId: VolumeId,
    readonly epoch: Epoch,
    public nextIndex: number,
  ) {
    this.payloadBytesMax = store.blockSizeBytes;
  }

  async begin(): Promise<InodeTarget> {
    if (this.nextIndex >= this.failFrom) throw new Error("the sink is broken");
    this.between();
    const buffer = heapBuffer(blockBufferBytes(this.payloadBytesMax));
    const target = { index: this.nextIndex, buffer };
    this.nextIndex += 1;
    return target;
  }

  finish(target: InodeTarget, payloadBytes: number): void {
    const ref = { kind: BlockKind.inode, volumeId: this.volumeId, epoch: this.epoch, index: target.index };
    const block = sealInodeBlock(target.buffer, payloadBytes, makeBlockSealer(clusterId), ref);
    const fault = new BlockVerifier(clusterId).verify(block.buffer, block.offset, block.lengthBytes);
    if (fault !== BlockFault.none) throw new Error(`sealed a bad block: fault ${fault}`);
    this.writtenBytes += payloadBytes;
    const payload = heapBuffer(payloadBytes);
    payload.bytes.set(
      target.buffer.bytes.subarray(BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + payloadBytes),
    );
    this.store.blocks.set(`${this.volumeId}/${this.epoch}/${target.index}`, payload);
  }
}

/**
 * Runs a callback-style load to its end, answering reads, and calls `act` in the turn in which everything is in
 * memory: a moment later it may have been evicted again.
 */
export function complete(
  store: InodeStore,
  start: (done: Loaded) => boolean,
  act: () => void = () => undefined,
): StorageStatus {
  let result: StorageStatus | undefined;
  const loaded = start((status) => {
    if (result !== undefined) throw new Error("a load was answered twice");
    result = status;
    if (status === StorageStatus.ok) act();
  });
  if (loaded) {
    if (result !== undefined) throw new Error("a load was answered by both callback and return value");
    act();
    return StorageStatus.ok;
  }
  while (result === undefined && store.answerOne(0));
  if (result === undefined) throw new Error("a load ended without an answer");
  return result;
}
