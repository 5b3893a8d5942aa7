/** The contract over every store. */
import type { Incarnation } from "../../../../src/base";
import { MemoryStore } from "../../../../src/engine/store";
import { CLUSTER } from "./blocks";
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
