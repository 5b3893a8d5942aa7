/**
 * A process that writes to a store until it is killed: `bun writer.ts DIRECTORY_OR_DEVICE SIZE_BYTES FIRST_INDEX`. Prints one
 * line for each put, fence and delete that was acknowledged, only after it was.
 */
import { statSync } from "node:fs";
import { asEpoch, asVolumeId } from "../../../src/base";
import {
  EventLoop,
  nativeBuffer,
  openDeviceDisk,
  openDirectoryDisk,
  startSyncThread,
  systemRandom,
  WorkerSyncer,
} from "../../../src/base/io";
import { isStored, StorageStatus } from "../../../src/engine/ports";
import { openSegmentStore } from "../../../src/engine/store";
import { CLUSTER, dataBlock, dataRef } from "../../unit/engine/store/blocks";

const [path = "", sizeText = "", firstText = ""] = process.argv.slice(2);
const loop = new EventLoop({ blockMsMax: 20 });
void loop.run();
const workerFile = new URL("../../../src/commands/workers/sync-worker.ts", import.meta.url).href;
const thread = startSyncThread(workerFile, (error) => {
  throw error;
});
const syncer = new WorkerSyncer(loop, thread.channel);
const isDirectory = statSync(path).isDirectory();
const store = await openSegmentStore({
  disk: isDirectory ? openDirectoryDisk({ path, syncer }) : openDeviceDisk({ path, syncer }),
  clusterId: CLUSTER,
  sizeBytes: Number(sizeText),
  segmentBytes: 4 * 1024 * 1024,
  allocate: nativeBuffer,
  clock: loop,
  random: systemRandom,
  turns: loop,
  onPoison: (reason) => {
    throw new Error(reason);
  },
});
process.stdout.write("ready\n");
let index = Number(firstText);
const LANES = 8;

function putNext(): void {
  const mine = index++;
  const block = dataBlock(dataRef(1, 1, mine), 1 + (mine % 20));
  store.put({
    buffer: block.buffer,
    offset: block.offset,
    lengthBytes: block.lengthBytes,
    writerEpoch: 1,
    done: (status) => {
      if (isStored(status)) process.stdout.write(`put ${mine}\n`);
      else if (status !== StorageStatus.outOfSpace) throw new Error(`put ${mine} was answered ${status}`);
      if (mine % 50 === 0)
        store.fence(asVolumeId(2), asEpoch(mine), (fenced) => {
          if (fenced === StorageStatus.ok) process.stdout.write(`fence ${mine}\n`);
        });
      // Half of what is there goes when space is short, and now and then.
      if (status === StorageStatus.outOfSpace || mine % 97 === 0) {
        const refs = [];
        for (let old = Math.max(1, mine - 120); old < mine - 20; old += 2) refs.push(dataRef(1, 1, old));
        process.stdout.write(`deleting ${mine}\n`);
        store.delete(refs, (deleted) => {
          if (deleted === StorageStatus.ok) process.stdout.write(`deleted ${mine}\n`);
          loop.schedule(0, putNext);
        });
      } else loop.schedule(0, putNext);
    },
  });
}
for (let lane = 0; lane < LANES; lane += 1) putNext();
