/** Fills a store with blocks as small as they come, for when only their number matters. */
import {
  BlockKind,
  type BlockRef,
  type Clock,
  type Epoch,
  type NativeBuffer,
  sleep,
  type VolumeId,
} from "../../../src/base";
import { nativeBuffer } from "../../../src/base/io";
import { blockBufferBytes, type makeBlockSealer, sealInodeBlock } from "../../../src/engine/block";
import { StorageStatus } from "../../../src/engine/ports";
import type { SegmentStore } from "../../../src/engine/store";

const PAYLOAD_BYTES = 64;
const AT_ONCE = 1_000;
const VOLUMES = 100;

/** Puts `count` blocks of 160 bytes, all durable when this returns. They belong to volumes that were never made. */
export async function putSmallBlocks(
  store: SegmentStore,
  sealer: ReturnType<typeof makeBlockSealer>,
  clock: Clock,
  count: number,
): Promise<void> {
  const buffers = Array.from({ length: AT_ONCE }, () => nativeBuffer(blockBufferBytes(4096)));
  let pending = 0;
  const done = (status: StorageStatus) => {
    if (status !== StorageStatus.ok) throw new Error(`a put was answered ${status}`);
    pending -= 1;
  };
  for (let number = 0; number < count; ) {
    for (let batch = 0; batch < AT_ONCE && number < count; batch += 1, number += 1) {
      // One after the other in each volume, as a writer does it: sets of blocks are bitmaps by index.
      const ref: BlockRef = {
        kind: BlockKind.inode,
        volumeId: (1 + (number % VOLUMES)) as VolumeId,
        epoch: 1 as Epoch,
        index: 1 + Math.floor(number / VOLUMES),
      };
      const buffer = buffers[batch] as NativeBuffer;
      const { offset, lengthBytes } = sealInodeBlock(buffer, PAYLOAD_BYTES, sealer, ref);
      pending += 1;
      store.put({ buffer, offset, lengthBytes, writerEpoch: 1, done });
    }
    while (pending > 0) await sleep(clock, 0);
  }
}
