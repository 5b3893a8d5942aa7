/** Sealed blocks for tests of stores and peers, and requests that answer with promises. */
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  type ClusterId,
  heapBuffer,
  type NativeBuffer,
} from "../../../../src/base";
import { nativeBuffer } from "../../../../src/base/io";
import {
  BLOCK_HEADROOM_BYTES,
  BlockBuilder,
  blockBufferBytes,
  blockSeed,
  makeBlockSealer,
  PAGE_BYTES,
  readCheck,
  type SealedBlock,
  sealInodeBlock,
} from "../../../../src/engine/block";
import { type ServicePut, type ServiceRead, StorageStatus } from "../../../../src/engine/ports";

export const CLUSTER = "11111111-2222-3333-4444-555555555555" as ClusterId;
export const sealer = makeBlockSealer(CLUSTER);

export function dataRef(volumeId: number, epoch: number, index: number): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(volumeId), epoch: asEpoch(epoch), index };
}

export function inodeRef(volumeId: number, epoch: number, index: number): BlockRef {
  return { kind: BlockKind.inode, volumeId: asVolumeId(volumeId), epoch: asEpoch(epoch), index };
}

/** Fills with bytes that differ by ref, page and content number. */
export function fillPage(bytes: Uint8Array, ref: BlockRef, page: number, content: number): void {
  let state =
    (ref.volumeId * 2654435761 + ref.epoch * 40503 + ref.index * 97 + page * 31 + content * 7) >>> 0;
  for (let index = 0; index < bytes.length; index += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[index] = state >>> 24;
    bytes[index + 1] = state >>> 16;
    bytes[index + 2] = state >>> 8;
    bytes[index + 3] = index;
  }
}

/** A data block of `pageCount` pages; memory with an address, so that every store takes it. */
export function dataBlock(
  ref: BlockRef,
  pageCount: number,
  content = 0,
  by = sealer,
  coveredIndex = 0,
): SealedBlock {
  const buffer = nativeBuffer(blockBufferBytes(pageCount * PAGE_BYTES));
  const builder = new BlockBuilder(buffer, pageCount * PAGE_BYTES);
  for (let page = 0; page < pageCount; page += 1) {
    const bytes = heapBuffer(PAGE_BYTES).bytes;
    fillPage(bytes, ref, page, content);
    buffer.bytes.set(bytes, builder.slotOffset(builder.addPages(page, 1)));
  }
  return builder.seal(by, ref, coveredIndex);
}

/** An INode block with a payload of any length. */
export function inodeBlock(ref: BlockRef, payloadBytes: number, content = 0): SealedBlock {
  const buffer = nativeBuffer(blockBufferBytes(Math.ceil(payloadBytes / PAGE_BYTES) * PAGE_BYTES));
  fillPage(buffer.bytes.subarray(BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + payloadBytes), ref, 0, content);
  return sealInodeBlock(buffer, payloadBytes, sealer, ref);
}

interface TakesPuts {
  put(request: ServicePut): void;
}
interface TakesReads {
  read(request: ServiceRead): void;
}

export function put(
  to: TakesPuts,
  block: SealedBlock,
  writerEpoch: number = block.ref.epoch,
): Promise<StorageStatus> {
  const { buffer, offset, lengthBytes } = block;
  return new Promise((resolve) => to.put({ buffer, offset, lengthBytes, writerEpoch, done: resolve }));
}

export interface ReadAnswer {
  readonly status: StorageStatus;
  readonly bytes: Uint8Array;
  readonly check: number;
}

function checkOf(ref: BlockRef, firstSlot: number, bytes: Uint8Array): number {
  return readCheck(blockSeed(sealer.seed, ref), firstSlot, bytes, 0, bytes.length);
}

/** Reads, copies and checks as a reader does: bytes that fail are corrupt. Gives what was lent back at once. */
export function read(from: TakesReads, ref: BlockRef, firstSlot: number, slotCount: number): ReadAnswer {
  let answer: ReadAnswer | undefined;
  from.read({
    ref,
    firstSlot,
    slotCount,
    done: (status, source, offset, lengthBytes, check, release) => {
      const bytes =
        source === undefined ? new Uint8Array(0) : source.bytes.slice(offset, offset + lengthBytes);
      const isBad = status === StorageStatus.ok && slotCount > 0 && check !== checkOf(ref, firstSlot, bytes);
      answer = { status: isBad ? StorageStatus.corrupt : status, bytes, check };
      release?.();
    },
  });
  if (answer === undefined) throw new Error("a store's read did not answer before it returned");
  return answer;
}

export function payloadOf(block: SealedBlock): Uint8Array {
  return block.buffer.bytes.slice(block.offset + block.headerBytes, block.offset + block.lengthBytes);
}

export function sealedBytes(block: SealedBlock): Uint8Array {
  return block.buffer.bytes.slice(block.offset, block.offset + block.lengthBytes);
}

export type { NativeBuffer };
