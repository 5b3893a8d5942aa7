/** Sealed blocks and the calls about them, for tests of PeerTransports: what was asked, and every answer that came. */
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  type ClusterId,
  type Incarnation,
  type NativeBuffer,
  type PeerId,
} from "../../src/base";
import { nativeBuffer } from "../../src/base/io";
import type { OutgoingPut, OutgoingRead, PeerIdentity, StorageStatus } from "../../src/engine";
import {
  BlockBuilder,
  blockBufferBytes,
  HEADER_BYTES_MAX,
  makeBlockSealer,
  PAGE_BYTES,
  type SealedBlock,
} from "../../src/engine/block";

export const TEST_CLUSTER = "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId;
export const OTHER_CLUSTER = "0f0e0d0c-0b0a-4900-8807-0605040302ff" as ClusterId;
export const TEST_EPOCH = 7;
export const TEST_BLOCK_SIZE = 512 * 1024;
export const TEST_BLOCK_BYTES_MAX = HEADER_BYTES_MAX + TEST_BLOCK_SIZE;

const sealer = makeBlockSealer(TEST_CLUSTER);

export function testPeer(number: number): PeerId {
  return `11111111-2222-4333-8444-${String(number).padStart(12, "0")}` as PeerId;
}

export function testIdentity(number: number, clusterId = TEST_CLUSTER): PeerIdentity {
  return {
    clusterId,
    peerId: testPeer(number),
    incarnation: String(number).padStart(16, "0") as Incarnation,
  };
}

export function testRef(index: number, epoch = TEST_EPOCH): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(5), epoch: asEpoch(epoch), index };
}

/** A block whose every page begins with its index and page number. */
export function testBlock(index: number, pageCount: number): SealedBlock {
  const builder = new BlockBuilder(nativeBuffer(blockBufferBytes(TEST_BLOCK_SIZE)), TEST_BLOCK_SIZE);
  builder.addPages(index, pageCount);
  for (let slot = 0; slot < pageCount; slot++) {
    const offset = builder.slotOffset(slot);
    builder.buffer.bytes.fill(index + slot, offset, offset + PAGE_BYTES);
    builder.buffer.view.setUint32(offset, index);
    builder.buffer.view.setUint32(offset + 4, slot);
  }
  return builder.seal(sealer, testRef(index));
}

export class RecordedPut implements OutgoingPut {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly answers: {
    readonly peer: PeerId;
    readonly incarnation: string;
    readonly status: StorageStatus;
  }[] = [];

  constructor(
    block: SealedBlock,
    readonly writerEpoch = TEST_EPOCH,
    private readonly onDone: () => void = () => {},
  ) {
    this.buffer = block.buffer;
    this.offset = block.offset;
    this.lengthBytes = block.lengthBytes;
  }

  done(peer: PeerId, incarnation: string, status: StorageStatus): void {
    this.answers.push({ peer, incarnation, status });
    this.onDone();
  }

  get statuses(): StorageStatus[] {
    return this.answers.map((answer) => answer.status);
  }
}

const GUARD_BYTES = 16;

export class RecordedRead implements OutgoingRead {
  readonly destination: NativeBuffer;
  readonly destinationOffset = GUARD_BYTES;
  readonly answers: {
    readonly peer: PeerId;
    readonly status: StorageStatus;
    readonly lengthBytes: number;
    readonly check: number;
  }[] = [];

  constructor(
    readonly ref: BlockRef,
    readonly firstSlot: number,
    readonly slotCount: number,
    private readonly onDone: () => void = () => {},
  ) {
    this.destination = nativeBuffer(
      2 * GUARD_BYTES + (slotCount === 0 ? HEADER_BYTES_MAX : slotCount * PAGE_BYTES),
    );
    this.destination.bytes.fill(0xcc);
  }

  done(peer: PeerId, status: StorageStatus, lengthBytes: number, check: number): void {
    this.answers.push({ peer, status, lengthBytes, check });
    this.onDone();
  }

  get statuses(): StorageStatus[] {
    return this.answers.map((answer) => answer.status);
  }

  /** What was received, having made sure that nothing was written around it. */
  received(): Uint8Array {
    const lengthBytes = this.answers[0]?.lengthBytes ?? 0;
    const { bytes } = this.destination;
    const around = [...bytes.subarray(0, GUARD_BYTES), ...bytes.subarray(GUARD_BYTES + lengthBytes)];
    if (around.some((byte) => byte !== 0xcc)) throw new Error("a read wrote outside its destination");
    return bytes.subarray(GUARD_BYTES, GUARD_BYTES + lengthBytes);
  }
}
