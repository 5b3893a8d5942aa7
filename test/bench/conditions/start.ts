/**
 * A daemon's start with many blocks. A real daemon makes its store and is stopped; the store is filled by the engine
 * itself, which is faster than any client; then the daemon starts on it. A store of more blocks than the file system in
 * memory can reserve space for lies in a file with holes that the daemon takes for a raw disk.
 */
import { readFileSync, statfsSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ClusterId, parsePeerId } from "../../../src/base";
import { nativeBuffer, openDeviceDisk, openDirectoryDisk, systemRandom } from "../../../src/base/io";
import { makeBlockSealer } from "../../../src/engine/block";
import { openSegmentStore } from "../../../src/engine/store";
import { Cluster, type Daemon } from "../../e2e/harness";
import { anonymousMebibytes, cpuSeconds, Metrics, type Stage } from "./figures";
import { startSyncedLoop } from "../synced-loop";
import { putSmallBlocks } from "./small-blocks";

const GIB = 2 ** 30;
const MIB = 2 ** 20;
/** Entries of one checkpoint area: the most blocks that a file of 1 GiB holds (engine/store/layout.ts). */
const BLOCKS_PER_GIB = 200_000;
const KEEP_FREE_GIB = 8;
const LATER_MS = 60_000;

interface StorePlace {
  readonly directory: string;
  readonly device: string | undefined;
  readonly sizeBytes: number;
}

async function fillStore(
  place: StorePlace,
  clusterId: ClusterId,
  peerId: string,
  count: number,
): Promise<void> {
  const { loop, syncer, stop } = startSyncedLoop();
  const store = await openSegmentStore({
    disk:
      place.device === undefined
        ? openDirectoryDisk({ path: place.directory, syncer })
        : openDeviceDisk({ path: place.device, syncer }),
    clusterId,
    peerId: parsePeerId(peerId),
    sizeBytes: place.sizeBytes,
    allocate: nativeBuffer,
    clock: loop,
    random: systemRandom,
    turns: loop,
    onPoison: (reason) => {
      throw new Error(reason);
    },
  });
  await putSmallBlocks(store, makeBlockSealer(clusterId), loop, count);
  await store.close();
  await stop();
}

async function startFilled({ say }: Stage, daemon: Daemon, count: number): Promise<void> {
  const startMs = performance.now();
  await daemon.start();
  const tookS = (performance.now() - startMs) / 1000;
  const cpuS = cpuSeconds(daemon.pid);
  const memoryMib = anonymousMebibytes(daemon.pid);
  const metrics = await Metrics.read(daemon.adminPort);
  await Bun.sleep(LATER_MS);
  say(
    `a daemon's start with ${metrics.value("torus_store_blocks")} blocks`,
    `${tookS.toFixed(1)} s from exec to ready, ${cpuS.toFixed(1)} s of CPU; ${memoryMib} MiB of its own then, ` +
      `${anonymousMebibytes(daemon.pid)} MiB a minute later, of which the index has ${(metrics.value("torus_store_index_bytes") / MIB).toFixed(0)}; ` +
      `${(cpuSeconds(daemon.pid) - cpuS).toFixed(1)} s of CPU in that minute`,
  );
  if (metrics.value("torus_store_blocks") < count) throw new Error("The daemon does not have all blocks");
}

export async function startWithBlocks(stage: Stage): Promise<void> {
  const { scene, say } = stage;
  for (const count of stage.blockCounts) {
    const gib = Math.ceil(count / BLOCKS_PER_GIB) + 1;
    const { bsize, bavail } = statfsSync(scene.folder);
    let device: string | undefined;
    if ((bavail * bsize) / GIB < gib + KEEP_FREE_GIB) {
      device = scene.path(`disk-${count}.img`);
      writeFileSync(device, "");
      truncateSync(device, (gib + 1) * GIB);
    }
    const cluster = await Cluster.embedded(scene, {
      name: `start-${count}`,
      size: `${gib}GiB`,
      daemonFlags: device === undefined ? [] : ["--block-device", device],
    });
    const daemon = cluster.daemons[0]!;
    const { clusterId } = await cluster.ctlJson<{ clusterId: ClusterId }>("status");
    await daemon.stop();
    const peerId = readFileSync(join(daemon.dataFolder, "peer-id"), "utf8").trim();
    const directory = join(daemon.dataFolder, "blocks");
    const fillMs = performance.now();
    await fillStore({ directory, device, sizeBytes: gib * GIB }, clusterId, peerId, count);
    say(
      `${count} blocks of 160 bytes put into ${device === undefined ? "a folder" : "a raw disk"}`,
      `${((performance.now() - fillMs) / 1000).toFixed(0)} s`,
    );
    await startFilled(stage, daemon, count);
    await cluster.destroy();
    if (device !== undefined) await scene.run(["rm", device]);
  }
}
