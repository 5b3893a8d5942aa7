/** Stores for tests: on a simulated disk, in a directory, in memory. */
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Disk, heapBuffer, type PeerId, type TurnScheduler } from "../../../../src/base";
import {
  InlineSyncer,
  nativeBuffer,
  openDeviceDisk,
  openDirectoryDisk,
  systemClock,
  systemRandom,
} from "../../../../src/base/io";
import { openSegmentStore, type OpenStoreOptions, type SegmentStore } from "../../../../src/engine/store";
import { SimulatedDisk } from "../../../sim/simulated-disk";
import { SeededRandom } from "../../../support/seeded-random";
import { CLUSTER } from "./blocks";
import type { StoreUnderTest } from "./contract";

export const PEER = "99999999-8888-7777-6666-555555555555" as PeerId;
export const SEGMENT_BYTES = 2 * 1024 * 1024;

export const runtimeTurns: TurnScheduler = {
  afterTurn: (callback) => {
    setImmediate(callback);
  },
};

/** Room for the state file and the segments' own parts around `capacityBytes` of blocks. */
export const sizeFor = (capacityBytes: number): number => Math.ceil(capacityBytes * 1.05) + 512 * 1024;

export function openOn(
  disk: Disk,
  sizeBytes: number,
  more: Partial<OpenStoreOptions> = {},
): Promise<SegmentStore> {
  return openSegmentStore({
    disk,
    clusterId: CLUSTER,
    peerId: PEER,
    sizeBytes,
    segmentBytes: SEGMENT_BYTES,
    indexChunkRows: 256,
    allocate: nativeBuffer,
    clock: systemClock,
    random: systemRandom,
    turns: runtimeTurns,
    onPoison: () => undefined,
    ...more,
  });
}

export async function onSimulatedDisk(capacityBytes: number, isMappable: boolean): Promise<StoreUnderTest> {
  const media = new SimulatedDisk({ random: new SeededRandom(1), clock: systemClock, isMappable });
  let store = await openOn(media.attach(), sizeFor(capacityBytes), { allocate: heapBuffer });
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await openOn(media.attach(), sizeFor(capacityBytes), { allocate: heapBuffer });
      return store;
    },
    dispose: () => store.close(),
  };
}

export async function inDirectory(capacityBytes: number, mapFiles: boolean): Promise<StoreUnderTest> {
  const path = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "torus-store-"));
  const attach = () =>
    openDirectoryDisk({ path, syncer: new InlineSyncer((callback) => setImmediate(callback)), mapFiles });
  let store = await openOn(attach(), sizeFor(capacityBytes));
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await openOn(attach(), sizeFor(capacityBytes));
      return store;
    },
    dispose: async () => {
      await store.close();
      rmSync(path, { recursive: true });
    },
  };
}

/** On a file of the file system that stands for a device, with the sector size given. */
export async function onDeviceFile(capacityBytes: number, unitBytes: number): Promise<StoreUnderTest> {
  const directory = mkdtempSync(join(tmpdir(), "torus-device-"));
  const path = join(directory, "device");
  const deviceBytes = sizeFor(capacityBytes) + 3 * 1024 * 1024;
  writeFileSync(path, "");
  truncateSync(path, deviceBytes);
  const attach = () =>
    openDeviceDisk({ path, syncer: new InlineSyncer((callback) => setImmediate(callback)), unitBytes });
  let store = await openOn(attach(), sizeFor(capacityBytes));
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await openOn(attach(), sizeFor(capacityBytes));
      return store;
    },
    dispose: async () => {
      await store.close();
      rmSync(directory, { recursive: true });
    },
  };
}
