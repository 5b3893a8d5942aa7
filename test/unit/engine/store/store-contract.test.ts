/** The contract over every store. */
import { expect, test } from "bun:test";
import { asVolumeId, BlockKind, type Incarnation } from "../../../../src/base";
import { StorageStatus } from "../../../../src/engine/ports";
import { MemoryStore } from "../../../../src/engine/store";
import { CLUSTER, dataBlock, dataRef, put } from "./blocks";
import { storeContract } from "./contract";
import { inDirectory, onDeviceFile, onSimulatedDisk, PEER, runtimeTurns } from "./stores";

storeContract("MemoryStore", async (capacityBytes) => {
  const store = new MemoryStore({
    clusterId: CLUSTER,
    peerId: PEER,
    incarnation: "0123456789abcdef" as Incarnation,
    capacityBytes,
    turns: runtimeTurns,
  });
  return { store, dispose: () => store.close() };
});
storeContract("SegmentStore on a simulated disk", (capacityBytes) => onSimulatedDisk(capacityBytes, false));
storeContract("SegmentStore on a mapped simulated disk", (capacityBytes) =>
  onSimulatedDisk(capacityBytes, true),
);
storeContract("SegmentStore in a directory", (capacityBytes) => inDirectory(capacityBytes, true));
storeContract("SegmentStore in a directory without mappings", (capacityBytes) =>
  inDirectory(capacityBytes, false),
);
storeContract("SegmentStore on a device", (capacityBytes) => onDeviceFile(capacityBytes, 512));
storeContract("SegmentStore on a device with 4 KiB sectors", (capacityBytes) =>
  onDeviceFile(capacityBytes, 4096),
);

test("SegmentStore.tail calls a copy good only when it is durable", async () => {
  const { store, dispose } = await onSimulatedDisk(4 * 1024 * 1024, false);
  const good = () => store.tail(BlockKind.data, asVolumeId(7), 3, 0).map(({ suspect }) => !suspect);
  const putting = put(store, dataBlock(dataRef(7, 3, 1), 1), 0);
  expect(good()).toEqual([false]);
  expect(await putting).toBe(StorageStatus.ok);
  expect(good()).toEqual([true]);
  await dispose();
});
