/** Checkpoints share their scratch, so that there is one at a time, however many segments ask for one at once. */
import { expect, test } from "bun:test";
import { type BlockRef, heapBuffer } from "../../../../src/base";
import { blockBufferBytes, BLOCK_HEADROOM_BYTES, sealInodeBlock } from "../../../../src/engine/block";
import { isStored, StorageStatus } from "../../../../src/engine/ports";
import { openSegmentStore, type SegmentStore } from "../../../../src/engine/store";
import { SimulatedDisk } from "../../../sim/simulated-disk";
import { SeededRandom } from "../../../support/seeded-random";
import { VirtualLoop } from "../../../support/virtual-loop";
import { CLUSTER, fillPage, inodeRef, sealer } from "./blocks";
import { PEER } from "./stores";

const SEGMENT_BYTES = 16 * 1024 * 1024;
/** Entries of one segment's checkpoint; more than one step of it writes. */
const BLOCKS_PER_SEGMENT = 3264;

test("a segment that asks again when its checkpoint ends waits for the one that asked before", async () => {
  const loop = new VirtualLoop();
  const random = new SeededRandom(5);
  const disk = new SimulatedDisk({ random, clock: loop });
  const open = (): Promise<SegmentStore> => {
    loop.clear();
    return loop.settle(
      openSegmentStore({
        disk: disk.attach(),
        clusterId: CLUSTER,
        peerId: PEER,
        sizeBytes: 3 * SEGMENT_BYTES,
        segmentBytes: SEGMENT_BYTES,
        indexChunkRows: 1024,
        reserveSpace: false,
        allocate: heapBuffer,
        clock: loop,
        random,
        turns: loop,
        onPoison: (reason) => {
          throw new Error(reason);
        },
      }),
    );
  };
  let store = await open();
  loop.run();
  const put = (index: number) => {
    const { buffer, offset, lengthBytes, ref } = tinyBlock(index);
    const done = (status: StorageStatus) => expect(isStored(status)).toBe(true);
    store.put({ buffer, offset, lengthBytes, writerEpoch: 1, done });
    return ref;
  };
  const refs: BlockRef[] = [];
  for (let index = 1; index <= 2 * BLOCKS_PER_SEGMENT; index++) {
    refs.push(put(index));
    if (index % 500 === 0) loop.run();
  }
  loop.run();
  const askForCheckpoint = (part: number) => {
    const flip = () => {
      for (const at of [100, 4096 + 100]) disk.flipBit(`blocks-0000${part}`, at);
    };
    flip();
    store.checkRecords(part, () => undefined);
    flip();
  };
  askForCheckpoint(0);
  askForCheckpoint(1);
  loop.run();
  // The first segment's takes long, the second's waits for it, and meanwhile the first's journal fills up.
  disk.slowSyncs("checkpoint.sync", 60_000);
  let isBegun = false;
  disk.onOperation = (operation) => {
    if (operation === "checkpoint.sync") isBegun = true;
  };
  askForCheckpoint(0);
  while (!isBegun) {
    loop.endTurn();
    loop.step();
  }
  disk.onOperation = undefined;
  for (let round = 0; round < 6; round++) {
    let isDeleted = false;
    if (round === 2) askForCheckpoint(1);
    store.delete(refs.splice(0, 480), () => {
      isDeleted = true;
    });
    while (!isDeleted) {
      loop.endTurn();
      loop.step();
    }
  }
  disk.clearFaults();
  loop.run();
  disk.kill();
  store = await open();
  expect(store.statistics().blockCount).toBe(refs.length);
  for (const ref of refs) expect(store.verify(ref)).toBe(StorageStatus.ok);
}, 60_000);

const sealing = heapBuffer(blockBufferBytes(4096));

function tinyBlock(index: number) {
  const ref = inodeRef(1, 1, index);
  fillPage(sealing.bytes.subarray(BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + 64), ref, 0, 0);
  const sealed = sealInodeBlock(sealing, 64, sealer, ref);
  const buffer = heapBuffer(sealed.lengthBytes);
  buffer.bytes.set(sealing.bytes.subarray(sealed.offset, sealed.offset + sealed.lengthBytes));
  return { ...sealed, buffer, offset: 0 };
}
