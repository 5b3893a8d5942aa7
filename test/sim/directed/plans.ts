/**
 * The situations that single rules guard against, set up on purpose: chance comes to them too seldom to prove that the
 * simulator would see a bug there. On the engine as it is each of them ends well; each breaks with its mutant.
 */
import { BlockKind } from "../../../src/base";
import { HEARTBEAT_MS, type SimPeer } from "../actors/peer";
import type { DiskImage } from "../simulated-disk";
import { METADATA } from "../world/metadata";
import type { Plan } from "./plan";
import type { Scene } from "./scene";

const PAGES = 4;
const CLOCK_BEFORE_1970_MS = -2_000_000_000_000;

/** The writer has the volume open, and some pages are durable. */
async function writing(scene: Scene) {
  const open = await scene.open(scene.writer);
  await open.work.write(0, PAGES);
  await open.work.flush();
  return open;
}

/** More of them, and whether a flush is answered soon. */
async function writeMore(scene: Scene, work: Awaited<ReturnType<typeof writing>>["work"], waitMs: number) {
  await work.write(0, PAGES, false, false);
  scene.begin(work.flush());
  await scene.sleep(waitMs);
}

/** Of three peers one has the map, and only the two others have the newest block: one of these is struck, one away. */
async function tailApartFromMap(scene: Scene): Promise<{ struck: SimPeer; away: SimPeer }> {
  const { work } = await writing(scene);
  for (let index = 2; index < 64; index += 1) {
    await work.write(0, PAGES, false, true);
    const [struck, away] = scene.holders(BlockKind.data, index);
    if (struck === undefined || away === undefined) throw new Error("a block is not on two peers");
    const kept = scene.peers.find((peer) => peer !== struck && peer !== away) as SimPeer;
    if (scene.holders(BlockKind.inode, 1).includes(kept)) return { struck, away };
  }
  throw new Error("all blocks are where the map is");
}

/** The writer and one holder of its tail are gone, and the other holder comes back with its disk as it was. */
async function putBack(
  scene: Scene,
  { struck, away }: { struck: SimPeer; away: SimPeer },
  images: ReadonlyMap<SimPeer, DiskImage>,
): Promise<void> {
  scene.writer.crash();
  away.crash(true);
  struck.process.log("comes back with an older disk");
  struck.crash(true);
  struck.disk.restore(images.get(struck) as DiskImage);
  await scene.bootAndServe(struck);
  await scene.openIfItMay(scene.heir);
}

/** The metadata are put back to a backup of before the last session; at the end to their newest copy. */
async function backUpAndPutBack(scene: Scene): Promise<void> {
  const { writer, heir } = scene;
  await writer.close(await writing(scene));
  const backup = await scene.volumeRecords();
  await writer.close(await writing(scene));
  const newest = await scene.volumeRecords();
  await scene.putVolumeRecords(backup);
  await scene.beRefused(heir, "metadata-rolled-back");
  heir.crash();
  await scene.whenUnlocked();
  await scene.putVolumeRecords(newest);
}

export const PLANS: readonly Plan[] = [
  {
    // R1: one copy is not two.
    name: "one copy of two",
    async run(scene) {
      const { work } = await writing(scene);
      scene.cut(scene.writer, scene.second);
      await writeMore(scene, work, 300);
      scene.writer.crash();
      scene.first.crash(true);
      scene.join(scene.writer, scene.second);
      await scene.openIfItMay(scene.heir);
    },
  },
  {
    // R1: a peer that is in the ring but not in the log set takes a block when one of the set is gone.
    name: "a peer outside of the set",
    config: { peerCount: 3 },
    async run(scene) {
      const { writer, heir, first, second, third } = scene;
      third.crash(true);
      await scene.leaseEnds();
      const { work } = await writing(scene);
      await scene.bootAndServe(third);
      await scene.sleep(2_000);
      // Blocks of the map may have moved by now, and one of the set must be able to open alone.
      const [kept, other] = scene.holders(BlockKind.inode, 1).includes(second)
        ? [second, first]
        : [first, second];
      scene.cut(writer, kept);
      scene.cut(kept, writer);
      await writeMore(scene, work, 1_500);
      writer.crash();
      other.crash(true);
      third.crash(true);
      scene.join(kept, writer);
      await scene.openIfItMay(heir);
    },
  },
  {
    // R1: a writer that the metadata has forgotten goes on, and a newer one has opened.
    name: "a writer left behind",
    async run(scene) {
      const { work } = await writing(scene);
      scene.cutFromMetadata(scene.writer);
      await scene.leaseEnds();
      await scene.open(scene.heir);
      await writeMore(scene, work, 3_000);
    },
  },
  {
    // R5: the peers that fenced it have started anew.
    name: "a writer left behind, and fences on disk only",
    async run(scene) {
      const { work } = await writing(scene);
      scene.cutFromMetadata(scene.writer);
      await scene.leaseEnds();
      await scene.open(scene.heir);
      for (const peer of scene.peers) peer.crash(true);
      await scene.bootAndServe(...scene.peers);
      await writeMore(scene, work, 3_000);
    },
  },
  {
    // R2: the new set is in force, its writer does not know yet, and a member of it misses a block.
    name: "a set changes while a block is on its way",
    config: { peerCount: 3 },
    async run(scene) {
      const { writer, heir, first, second, third, simulation } = scene;
      const { work } = await writing(scene);
      simulation.metadata.weather.latencyMs = 20;
      const before = (await scene.head()).log.ringVersion;
      await scene.changeRing({ kind: "remove", peerIds: [first.peerId] });
      await scene.until("the set changes", async () => (await scene.head()).log.ringVersion !== before);
      simulation.network.block(METADATA, writer.name);
      scene.cut(writer, third);
      await writeMore(scene, work, 1_500);
      writer.crash();
      first.crash(true);
      second.crash(true);
      simulation.network.unblock(METADATA, writer.name);
      await scene.openIfItMay(heir);
    },
  },
  {
    // R2: a set of two copies can spare the disk that is lost, and the one after it, of one copy, cannot.
    name: "fewer copies, and a disk that was lost",
    config: { peerCount: 3 },
    volumeOptions: { followAfterMs: 5_000 },
    async run(scene) {
      const { writer, heir, third } = scene;
      const { work } = await writing(scene);
      third.process.log("loses its disk");
      third.crash(true);
      third.disk.restore(new Map());
      await writeMore(scene, work, 100);
      await scene.changeRing({ kind: "set-replication", replication: 1 });
      await scene.until("the width is lowered", async () => (await scene.head()).log.width === 1);
      await writeMore(scene, work, 100);
      writer.crash();
      await scene.bootAndServe(third);
      await (await scene.open(heir)).work.scan();
    },
  },
  {
    // R2: a checkpoint of the last writer's arrives when the next one has written.
    name: "a checkpoint that arrives late",
    volumeOptions: { checkpointIntervalMs: 500 },
    async run(scene) {
      const { writer, heir, simulation } = scene;
      const { work } = await writing(scene);
      await scene.sleep(2_000);
      simulation.metadata.hold(writer.name);
      await work.write(0, PAGES, false, true);
      await scene.until("a checkpoint is on its way", () => simulation.metadata.isHolding(writer.name));
      scene.cutFromMetadata(writer);
      await scene.leaseEnds();
      const next = await scene.open(heir);
      await next.work.write(0, PAGES, false, true);
      heir.crash();
      writer.crash();
      await scene.sleep(50);
      simulation.metadata.letGo(writer.name);
      await scene.leaseEnds();
      await scene.openIfItMay(heir);
    },
  },
  {
    // R3a: between the look of an opener and its mint the head moves on, and what it pointed to is collected.
    name: "a mint that arrives late",
    config: { leaseTtlMs: 12_000 },
    async run(scene) {
      const { writer, heir, simulation } = scene;
      const { metadata } = simulation;
      const open = await writing(scene);
      metadata.hold(writer.name);
      metadata.hold(heir.name);
      await scene.endLock();
      const opening = heir.open();
      await scene.until("the heir mints", () => metadata.isHolding(heir.name));
      metadata.letGo(writer.name);
      await open.work.write(0, PAGES, false, true);
      await scene.writer.close(open);
      // Long enough for a collection, and short enough for the heir to wait for its answer.
      await scene.sleep(3_500);
      metadata.letGo(heir.name);
      await (await opening)?.work.scan();
    },
  },
  {
    // R3d: of blocks one after the other those for one peer are lost.
    name: "a gap in the log",
    config: { replication: 1 },
    async run(scene) {
      const { writer, heir, first } = scene;
      const { work } = await writing(scene);
      scene.cut(writer, first);
      for (let block = 0; block < 8; block += 1) {
        await work.write(block, 1, false, false);
        scene.begin(work.flush());
        await scene.sleep(5);
      }
      writer.crash();
      await scene.openIfItMay(heir);
    },
  },
  {
    // R3d: the only peer that answers has a copy that rotted.
    name: "a rotten copy",
    async run(scene) {
      const { writer, heir, first, second } = scene;
      const { work } = await writing(scene);
      first.lostData = true;
      first.disk.failNextWrite("data.write", "dropped");
      await work.write(0, PAGES, false, true);
      writer.crash();
      first.crash(true);
      second.crash(true);
      await scene.bootAndServe(first);
      await scene.openIfItMay(heir);
    },
  },
  {
    // R3e: what was adopted from one peer, and read, outlives that peer's disk.
    name: "a tail on one peer",
    async run(scene) {
      const { writer, heir, first, second } = scene;
      const { work } = await writing(scene);
      scene.cut(writer, second);
      await writeMore(scene, work, 100);
      writer.crash();
      await scene.leaseEnds();
      const next = await scene.open(heir);
      await next.work.scan();
      await scene.wipe(first);
    },
  },
  {
    // R5: a peer that lost its disk knows nothing, and must not be asked what there was not.
    name: "an empty peer",
    config: { peerCount: 3 },
    async run(scene) {
      const { struck, away } = await tailApartFromMap(scene);
      scene.writer.crash();
      away.crash(true);
      await scene.wipe(struck);
      await scene.openIfItMay(scene.heir);
    },
  },
  {
    // R5: nor one whose disk is as it was before.
    name: "an older disk",
    config: { peerCount: 3 },
    async run(scene) {
      const images = new Map<SimPeer, DiskImage>(scene.peers.map((peer) => [peer, peer.disk.image()]));
      for (const peer of scene.peers) peer.crash(true);
      await scene.bootAndServe(...scene.peers);
      await putBack(scene, await tailApartFromMap(scene), images);
    },
  },
  {
    // R5: nor one whose disk is as it was earlier in the very same start, as far as the metadata can know.
    name: "an older disk of the same start",
    config: { peerCount: 3 },
    async run(scene) {
      const images = new Map<SimPeer, DiskImage>(scene.peers.map((peer) => [peer, peer.disk.image()]));
      const split = await tailApartFromMap(scene);
      await scene.sleep(2 * HEARTBEAT_MS);
      await putBack(scene, split, images);
    },
  },
  {
    // R7: what an opener has written, and no head names yet.
    name: "an open that takes its time",
    async run(scene) {
      const { writer, simulation } = scene;
      const opening = writer.open();
      await scene.until("the lock is taken", async () => (await scene.lock()) !== undefined);
      simulation.metadata.hold(writer.name);
      await scene.until("the first checkpoint is on its way", () =>
        simulation.metadata.isHolding(writer.name),
      );
      await scene.sleep(9_000);
      simulation.metadata.letGo(writer.name);
      await opening;
    },
  },
  {
    // R8: the ring has moved on, and the writer's log set has not.
    name: "a tail that the ring wants elsewhere",
    config: { peerCount: 3, replication: 1 },
    volumeOptions: { followRingAfterMs: 600_000, followAfterMs: 600_000 },
    async run(scene) {
      const { writer, heir, first, second, third } = scene;
      await scene.placeOn(first);
      const { work } = await writing(scene);
      for (let block = 0; block < 8; block += 1) await work.write(block, 1, false, true);
      await scene.placeOn(second, third);
      const isOut = (kind: BlockKind, index: number): boolean =>
        scene.holders(kind, index).some((peer) => peer !== first);
      const indexes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
      await scene.until(
        "all is copied",
        () => isOut(BlockKind.inode, 1) && indexes.every((index) => isOut(BlockKind.data, index)),
      );
      await scene.sleep(6_000);
      writer.crash();
      const away = scene.holders(BlockKind.inode, 1).includes(second) ? third : second;
      away.crash(true);
      await scene.openIfItMay(heir);
    },
  },
  {
    // R8: the peer that should have a block has no room for it.
    name: "a new place without room",
    config: { replication: 1 },
    async run(scene) {
      const { writer, first, second } = scene;
      await scene.placeOn(first);
      await writer.close(await writing(scene));
      for (let time = 0; time < 500; time += 1) second.disk.failNextWrite("data.write", "no-space");
      await scene.placeOn(second);
      await scene.sleep(15_000);
    },
  },
  {
    // R8: it says that it has the block, and the bytes went nowhere.
    name: "a copy that went astray",
    config: { replication: 1 },
    async run(scene) {
      const { writer, first, second } = scene;
      await scene.placeOn(first);
      await writer.close(await writing(scene));
      second.lostData = true;
      for (let time = 0; time < 6; time += 1) second.disk.failNextWrite("data.write", "dropped");
      await scene.placeOn(second);
      await scene.sleep(15_000);
    },
  },
  {
    // Section 7: what a failed sync covered is gone, whatever a later one says.
    name: "a disk that fails to sync",
    async run(scene) {
      const { writer, heir } = scene;
      const { work } = await writing(scene);
      for (const peer of scene.peers) peer.disk.failNextSync("segment.sync");
      await writeMore(scene, work, 300);
      writer.crash();
      for (const peer of scene.peers) peer.crash(true);
      await scene.bootAndServe(...scene.peers);
      await scene.openIfItMay(heir);
    },
  },
  {
    // R13: somebody else was there meanwhile.
    name: "a writer that comes back",
    async run(scene) {
      const { writer, heir, simulation } = scene;
      const { work } = await writing(scene);
      scene.cutFromMetadata(writer);
      await scene.leaseEnds();
      const next = await scene.open(heir);
      await next.work.write(0, PAGES, false, true);
      await heir.close(next);
      simulation.network.unblock(writer.name, METADATA);
      simulation.network.unblock(METADATA, writer.name);
      scene.begin(work.read(0, PAGES));
      await scene.sleep(15_000);
    },
  },
  {
    // R1: when the fence comes, puts of the old writer wait for the disk.
    name: "a fence behind a slow put",
    async run(scene) {
      const { writer, heir } = scene;
      const { work } = await writing(scene);
      scene.cutFromMetadata(writer);
      await scene.leaseEnds();
      for (const peer of scene.peers) peer.syncMs = 500;
      await work.write(0, PAGES, false, false);
      scene.begin(work.flush());
      const next = await scene.open(heir);
      await scene.sleep(3_000);
      await next.work.scan();
    },
  },
  {
    // R1: a put of the old writer's waits for a segment to be formatted, and the fence comes and is durable meanwhile.
    name: "a put that waits for room, and a fence",
    config: { replication: 1 },
    async run(scene) {
      const { writer, heir, first } = scene;
      await scene.placeOn(first);
      const { work } = await writing(scene);
      scene.cutFromMetadata(writer);
      await scene.leaseEnds();
      first.disk.slowSyncs("superblock.sync", 2_500);
      for (let block = 0; block < 12; block += 1) await work.write((block % 2) * 16, 16, false, false);
      scene.begin(work.flush());
      await scene.sleep(300);
      await scene.openIfItMay(heir);
      await scene.sleep(3_000);
    },
  },
  {
    // R3e: a copy of a block of the tail is on its way to a peer's disk when the opener asks what that peer has.
    name: "a copy that is not durable yet",
    config: { peerCount: 3 },
    async run(scene) {
      const { writer, heir, first, second, third } = scene;
      const { work } = await writing(scene);
      // Copies of what is written from now on are made when the rebalance goes on, and not before.
      for (const { upkeep } of scene.peers) upkeep?.rebalancer?.pause();
      for (const peer of [second, third]) scene.cut(writer, peer);
      for (let block = 0; block < 8; block += 1) {
        await work.write(block, 1, false, false);
        scene.begin(work.flush());
        await scene.sleep(5);
      }
      await scene.sleep(100);
      writer.crash();
      await scene.whenUnlocked();
      first.upkeep?.rebalancer?.recheck();
      await scene.sleep(1_000);
      const fenced = second.store?.fenceEpoch(scene.volumeId) ?? 0;
      second.disk.slowSyncs("state.sync", 1_000);
      second.disk.slowSyncs("segment.sync", 20_000);
      const opening = heir.open();
      await scene.until("it is fenced", () => (second.store?.fenceEpoch(scene.volumeId) ?? 0) > fenced);
      for (const { upkeep } of scene.peers) upkeep?.rebalancer?.resume();
      await (await opening)?.work.scan();
      second.crash(true);
      second.disk.clearFaults();
      await scene.wipe(first);
      await scene.bootAndServe(second);
    },
  },
  {
    // R8: two peers that see different rings have a block each that the other should have.
    name: "two rings, two copies",
    async run(scene) {
      const { writer, simulation, first, second } = scene;
      await writer.close(await writing(scene));
      await scene.sleep(2_000);
      for (const { upkeep } of scene.peers) upkeep?.rebalancer?.pause();
      await scene.changeRing({ kind: "set-replication", replication: 1 });
      await scene.placeOn(second);
      await scene.sleep(500);
      simulation.metadata.deafen(first.name);
      await scene.placeOn(first);
      await scene.sleep(500);
      simulation.network.slowDown(first.name, second.name, 400);
      simulation.network.slowDown(second.name, first.name, 400);
      for (const { upkeep } of scene.peers) upkeep?.rebalancer?.resume();
      await scene.sleep(10_000);
    },
  },
  {
    // Reads: a peer keeps silent until another was asked and has answered; then its own answer comes, to freed memory.
    name: "a peer that answers after another has",
    async run(scene) {
      const { writer, heir, first, second, simulation } = scene;
      const { network } = simulation;
      await writer.close(await writing(scene));
      for (const late of [first, second, first, second]) {
        const open = await scene.open(heir);
        network.slowDown(late.name, heir.name, 1_000);
        // Wrong bits on the way, now and then: a second answer is checked as a first is.
        network.weather.corruptChance = 0.2;
        for (let count = 0; count < PAGES; count += 1) await open.work.read(count, 1);
        network.weather.corruptChance = 0;
        network.slowDown(late.name, heir.name, 0);
        await scene.sleep(12_000);
        await heir.close(open);
      }
    },
  },
  {
    // R3c: the metadata were put back to a backup, and clocks are wrong: an epoch is minted a second time.
    name: "metadata from a backup, and an epoch minted twice",
    async run(scene) {
      for (const { process } of scene.clients) process.wallSkewMs = CLOCK_BEFORE_1970_MS;
      await backUpAndPutBack(scene);
    },
  },
  {
    // R3c: with clocks that go on, the next epoch is newer than all that were forgotten.
    name: "metadata from a backup, with clocks that go on",
    run: backUpAndPutBack,
  },
  {
    // R3c: the same writer as at the backup had the volume until the end, and no epoch tells the metadata's age.
    name: "metadata from a backup of the middle of a session",
    volumeOptions: { checkpointIntervalMs: 500 },
    async run(scene) {
      const { writer, heir } = scene;
      const { work } = await writing(scene);
      await scene.sleep(1_000);
      const backup = await scene.volumeRecords();
      for (let block = 0; block < 6; block += 1) {
        await work.write(0, PAGES, false, true);
        await scene.sleep(1_500);
      }
      writer.crash();
      await scene.whenUnlocked();
      const newest = await scene.volumeRecords();
      await scene.putVolumeRecords(backup.filter(({ lease }) => lease === ""));
      await scene.beRefused(heir, "metadata-rolled-back");
      heir.crash();
      await scene.whenUnlocked();
      await scene.putVolumeRecords(newest);
    },
  },
];
