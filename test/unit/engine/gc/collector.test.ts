import { describe, expect, test } from "bun:test";
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  formatBlockRef,
  type VolumeId,
} from "../../../../src/base";
import { GarbageCollector } from "../../../../src/engine/gc";
import type { NodePointer } from "../../../../src/engine/head";
import {
  createPageMap,
  makeLocation,
  openPageMap,
  type PageMap,
  walkReferences,
} from "../../../../src/engine/inode";
import { type SnapshotRecord, StorageStatus } from "../../../../src/engine/ports";
import { SeededRandom } from "../../../support/virtual-time";
import { complete, InodeStore } from "../inode/harness";
import { dataRef, Harness, type HarnessPeer, inodeRef } from "../upkeep/harness";

const NEVER = new AbortController().signal;
const MAP_OPTIONS = { residentBytesMax: 1 << 20, rewriteBytesMin: 1 << 16 };

/** One volume with its map, writing blocks to every peer as its writer would. */
class TestVolume {
  epoch = 0;
  dataIndex = 0;
  inodeIndex = 0;
  headData = 0;
  root: NodePointer | null = null;
  readonly snapshots: SnapshotRecord[] = [];
  map!: PageMap;

  constructor(
    readonly scene: Scene,
    readonly volumeId: VolumeId,
    readonly lineageId: VolumeId,
    readonly ancestorIds: readonly VolumeId[],
  ) {}

  /** A new epoch on the map of `root`: an open, a clone's first open, or a restore. */
  async open(root: NodePointer | null): Promise<void> {
    const options = { reader: this.scene.inodes, ...MAP_OPTIONS };
    this.map = root === null ? createPageMap(options) : await openPageMap(options, root);
    this.epoch = ++this.scene.epochs;
    this.map.beginEpoch(this.volumeId, asEpoch(this.epoch));
    this.dataIndex = 0;
    this.inodeIndex = 0;
    this.root = root;
    this.putHead();
  }

  async write(page: number, count: number): Promise<void> {
    const index = ++this.dataIndex;
    const lsn = this.map.claimLsn(index);
    const start = (done: (status: StorageStatus) => void) => this.map.ensureWritable(page, count, lsn, done);
    const act = () => this.map.setRange(page, count, makeLocation(lsn, 0));
    expect(complete(this.scene.inodes, start, act)).toBe(StorageStatus.ok);
    await this.scene.harness.write(dataRef(this.volumeId, this.epoch, index));
  }

  async checkpoint(): Promise<void> {
    const frozen = this.map.freeze(2 ** 30);
    const sink = this.scene.inodes.sink(this.volumeId, this.epoch, this.inodeIndex + 1);
    const root = await frozen.write(sink);
    for (let index = this.inodeIndex + 1; index < sink.nextIndex; index++)
      await this.scene.harness.write(inodeRef(this.volumeId, this.epoch, index));
    this.inodeIndex = sink.nextIndex - 1;
    this.map.commit(frozen);
    this.root = root;
    this.putHead();
  }

  snapshot(): void {
    const name = `s${this.snapshots.length}-${this.epoch}-${this.inodeIndex}`;
    this.snapshots.push({
      volumeId: this.volumeId,
      name,
      root: this.root,
      sizeBytes: 2 ** 30,
      createdMs: this.scene.harness.time.wallMs() + this.scene.order++,
    });
    this.putHead();
  }

  putHead(): void {
    this.headData = this.dataIndex;
    this.scene.harness.setVolume(
      this.volumeId,
      { root: this.root, epoch: this.epoch, dataIndex: this.dataIndex, inodeIndex: this.inodeIndex },
      { lineageId: this.lineageId, ancestorIds: this.ancestorIds, snapshots: [...this.snapshots] },
    );
  }
}

class Scene {
  readonly harness = new Harness(2, 2);
  readonly inodes = new InodeStore();
  readonly volumes: TestVolume[] = [];
  epochs = 10;
  order = 0;
  readonly peer = this.harness.peers[0] as HarnessPeer;

  collector(
    options: { inodeGraceMs?: number; memoryBytesMax?: number } = {},
    peer = this.peer,
  ): GarbageCollector {
    return new GarbageCollector(this.harness.ports(peer), {
      nodes: this.inodes,
      inodeGraceMs: 0,
      ...options,
    });
  }

  async volume(parent?: TestVolume, root: NodePointer | null = null): Promise<TestVolume> {
    const volumeId = asVolumeId(this.harness.volumeIdLast + 1);
    const volume = new TestVolume(
      this,
      volumeId,
      parent?.lineageId ?? volumeId,
      parent === undefined ? [] : [...parent.ancestorIds, parent.volumeId],
    );
    this.volumes.push(volume);
    await volume.open(root);
    return volume;
  }

  remove(volume: TestVolume): void {
    this.harness.deleteVolume(volume.volumeId);
    this.volumes.splice(this.volumes.indexOf(volume), 1);
  }

  /** Blocks that no peer holds any more cannot be read either. */
  forgetDeletedInodes(): void {
    const held = new Set(this.harness.peers.flatMap((peer) => peer.names()));
    for (const name of this.inodes.blocks.keys()) {
      const [volumeId, epoch, index] = name.split("/").map(Number) as [number, number, number];
      if (!held.has(formatBlockRef(inodeRef(volumeId, epoch, index)))) this.inodes.blocks.delete(name);
    }
  }

  /** By walking every root there is from nothing. */
  async referenced(): Promise<Set<string>> {
    const names = new Set<string>();
    const visitor = {
      data: (ref: BlockRef) => void names.add(formatBlockRef(ref)),
      inode: (ref: BlockRef) => void names.add(formatBlockRef(ref)),
    };
    for (const { head, snapshots } of this.harness.volumes)
      for (const root of [head.root, ...snapshots.map((snapshot) => snapshot.root)])
        await walkReferences(root, this.inodes, visitor);
    return names;
  }

  isYoung(ref: BlockRef): boolean {
    const volume = this.harness.volumes.find((each) => each.volumeId === ref.volumeId);
    if (volume === undefined) return ref.volumeId > this.harness.volumeIdLast;
    const { epoch, dataIndex, inodeIndex } = volume.head;
    return (
      ref.epoch > epoch ||
      (ref.epoch === epoch && ref.index > (ref.kind === BlockKind.data ? dataIndex : inodeIndex))
    );
  }

  /** What a peer may hold and must hold: exactly the referenced and the young. */
  async expectedNames(before: readonly BlockRef[]): Promise<string[]> {
    const referenced = await this.referenced();
    return before
      .filter((ref) => referenced.has(formatBlockRef(ref)) || this.isYoung(ref))
      .map(formatBlockRef)
      .sort();
  }

  async collect(collector: GarbageCollector): Promise<void> {
    await this.harness.time.until(collector.collect(NEVER));
  }
}

describe("GarbageCollector", () => {
  test("deletes exactly what is neither referenced nor young: overwritten blocks, old maps", async () => {
    const scene = new Scene();
    const volume = await scene.volume();
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 5; i++) await volume.write(i * 8, 8);
      await volume.checkpoint();
    }
    await volume.write(1000, 4);
    const collector = scene.collector();
    const before = scene.peer.refs();
    const expected = await scene.expectedNames(before);
    await scene.collect(collector);
    await scene.collect(collector);
    expect(scene.peer.names()).toEqual(expected);
    expect(scene.peer.names()).toContain(formatBlockRef(dataRef(volume.volumeId, volume.epoch, 31)));
    const status = collector.status();
    expect(status.blocksDeletedTotal).toBe(before.length - expected.length);
    expect(status.bytesDeletedTotal).toBeGreaterThan(status.blocksDeletedTotal * 4096);
    expect(status.kept).toEqual([]);
    await collector.stop();
  });

  test("any history of writes, snapshots, restores, clones and deletions leaves exactly what is needed", async () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const scene = new Scene();
      const random = new SeededRandom(seed);
      const incremental = scene.collector();
      const other = scene.collector({ memoryBytesMax: 0 }, scene.harness.peers[1]);
      await scene.volume();
      for (let step = 0; step < 60; step++) {
        await randomStep(scene, random);
        if (random.below(4) !== 0) continue;
        // The peers collect at different times, and what both deleted cannot be read any more.
        const first = random.below(2) === 0;
        await scene.collect(first ? incremental : other);
        scene.forgetDeletedInodes();
        await scene.referenced();
      }
      for (const collector of [incremental, other]) {
        await scene.collect(collector);
        await scene.collect(collector);
        expect(collector.status().kept).toEqual([]);
      }
      for (const peer of scene.harness.peers)
        expect(peer.names()).toEqual(await scene.expectedNames(peer.refs()));
      await incremental.stop();
      await other.stop();
    }
  }, 60_000);

  test("reads only what changed since the last collection", async () => {
    const scene = new Scene();
    const volume = await scene.volume();
    for (let i = 0; i < 3000; i++) await volume.write(i * 2048, 1);
    await volume.checkpoint();
    const collector = scene.collector({ inodeGraceMs: 60_000 });
    const readBy = async (act: () => Promise<void> | void): Promise<number> => {
      const before = collector.status().nodesRead;
      await act();
      await scene.collect(collector);
      return collector.status().nodesRead - before;
    };
    const whole = await readBy(() => undefined);
    expect(whole).toBeGreaterThan(15);
    expect(await readBy(() => undefined)).toBe(0);
    const changed = await readBy(async () => {
      await volume.write(5 * 2048, 1);
      await volume.checkpoint();
    });
    // Both roots with one path down each tree; no leaf of the map is read at all.
    expect(changed).toBeWithin(4, whole);
    expect(await readBy(() => volume.snapshot())).toBe(0);
    expect(await readBy(async () => void (await scene.volume(volume, volume.root)))).toBe(0);
    const twoRoots = await readBy(async () => {
      await volume.write(9 * 2048, 1);
      await volume.checkpoint();
      volume.snapshot();
    });
    expect(twoRoots).toBeLessThan(2 * whole);
    await collector.stop();
  }, 60_000);

  test("gives the space of a deleted volume back at once, its map's blocks included", async () => {
    const scene = new Scene();
    const volume = await scene.volume();
    for (let i = 0; i < 10; i++) await volume.write(i * 8, 8);
    await volume.checkpoint();
    await volume.write(800, 8);
    const collector = scene.collector({ inodeGraceMs: 60_000 });
    scene.remove(volume);
    await scene.collect(collector);
    expect(scene.peer.refs()).toEqual([]);
    await collector.stop();
  });

  test("does so within a minute by itself, and does nothing while nothing changes", async () => {
    const scene = new Scene();
    const volume = await scene.volume();
    await volume.write(0, 8);
    await volume.checkpoint();
    const collector = scene.collector({ inodeGraceMs: 60_000 });
    collector.start();
    await scene.harness.time.advance(5_000);
    const { runs } = collector.status();
    await scene.harness.time.advance(300_000);
    expect(collector.status().runs).toBe(runs);
    scene.remove(volume);
    await scene.harness.time.advance(60_000);
    expect(scene.peer.refs()).toEqual([]);
    const after = collector.status().runs;
    collector.request();
    await scene.harness.time.advance(1_000);
    expect(collector.status().runs).toBe(after + 1);
    await scene.harness.time.until(collector.stop());
    expect(collector.status().state).toBe("stopped");
  });

  test("keeps dead INode blocks for a grace, so that peers that collect later walk differences", async () => {
    const scene = new Scene();
    const volume = await scene.volume();
    await volume.write(0, 8);
    await volume.checkpoint();
    const collector = scene.collector({ inodeGraceMs: 60_000 });
    await scene.collect(collector);
    await volume.write(0, 8);
    await volume.checkpoint();
    await scene.collect(collector);
    const old = formatBlockRef(inodeRef(volume.volumeId, volume.epoch, 1));
    expect(scene.peer.names()).toContain(old);
    await scene.harness.time.advance(61_000);
    await scene.collect(collector);
    await scene.harness.time.advance(61_000);
    await scene.collect(collector);
    expect(scene.peer.names()).not.toContain(old);
    await collector.stop();
  });

  test("keeps a lineage whole when its map cannot be read, says so, and collects the others", async () => {
    const scene = new Scene();
    const [broken, fine] = [await scene.volume(), await scene.volume()];
    for (const volume of [broken, fine])
      for (let round = 0; round < 3; round++) {
        await volume.write(0, 8);
        await volume.checkpoint();
      }
    const clone = await scene.volume(broken, broken.root);
    await clone.write(8, 8);
    await clone.checkpoint();
    const { root } = broken;
    scene.inodes.blocks.delete(`${root?.volumeId}/${root?.epoch}/${root?.index}`);
    const heldOf = (volume: TestVolume) =>
      scene.peer.refs().filter((ref) => ref.volumeId === volume.volumeId).length;
    const before = [heldOf(broken), heldOf(clone), heldOf(fine)];
    const told: (number | undefined)[] = [];
    const collector = new GarbageCollector(scene.harness.ports(scene.peer), {
      nodes: scene.inodes,
      inodeGraceMs: 0,
      onKept: (lineageId) => told.push(lineageId),
    });
    await scene.collect(collector);
    expect([heldOf(broken), heldOf(clone)]).toEqual([before[0], before[1]] as number[]);
    expect(heldOf(fine)).toBeLessThan(before[2] as number);
    const [kept] = collector.status().kept;
    expect(kept?.lineageId).toBe(broken.volumeId);
    expect(kept?.reason).toContain(
      `Cannot read the volume's map: no peer has INode block ${root?.volumeId}/${root?.epoch}/${root?.index}`,
    );
    expect(told).toEqual([broken.volumeId]);
    await collector.stop();
  });

  test("deletes nothing of a damaged record's lineage, and nothing at all when the lineage is unknown", async () => {
    const scene = new Scene();
    const [first, second, gone] = [await scene.volume(), await scene.volume(), await scene.volume()];
    for (const volume of [first, second, gone])
      for (let round = 0; round < 2; round++) {
        await volume.write(0, 8);
        await volume.checkpoint();
      }
    scene.remove(gone);
    const before = scene.peer.refs().length;
    const collector = scene.collector();
    scene.harness.damage = [{ key: "volumes/x", reason: "not JSON", lineageId: undefined }];
    await scene.collect(collector);
    expect(scene.peer.refs()).toHaveLength(before);
    scene.harness.damage = [{ key: "volumes/x", reason: "not JSON", lineageId: first.volumeId }];
    await scene.collect(collector);
    await scene.collect(collector);
    const left = (volume: TestVolume) =>
      scene.peer.refs().filter((ref) => ref.volumeId === volume.volumeId).length;
    // A deleted volume may have been an ancestor of what the damaged record stood for.
    expect([left(first), left(gone)]).toEqual([4, 4]);
    expect(left(second)).toBe(2);
    scene.harness.damage = [];
    await scene.collect(collector);
    await scene.collect(collector);
    expect([left(first), left(gone)]).toEqual([2, 0]);
    await collector.stop();
  });

  test("never touches volumes whose id was given out after its view", async () => {
    const scene = new Scene();
    await scene.harness.write(dataRef(77, 5, 1));
    const collector = scene.collector();
    await scene.collect(collector);
    expect(scene.peer.refs()).toHaveLength(1);
    await collector.stop();
  });
});

async function randomStep(scene: Scene, random: SeededRandom): Promise<void> {
  const volume = scene.volumes[random.below(scene.volumes.length)] as TestVolume;
  switch (random.below(10)) {
    case 0:
      await volume.checkpoint();
      volume.snapshot();
      return;
    case 1:
      if (volume.snapshots.length > 0) {
        volume.snapshots.splice(random.below(volume.snapshots.length), 1);
        volume.putHead();
      }
      return;
    case 2: {
      // An open without a tail, or a restore.
      const snapshot = volume.snapshots[random.below(Math.max(1, volume.snapshots.length))];
      await volume.checkpoint();
      await volume.open(snapshot !== undefined && random.below(2) === 0 ? snapshot.root : volume.root);
      return;
    }
    case 3: {
      const snapshot = volume.snapshots.at(-1);
      if (snapshot !== undefined && scene.volumes.length < 4) await scene.volume(volume, snapshot.root);
      return;
    }
    case 4:
      if (scene.volumes.length > 1 && random.below(3) === 0) scene.remove(volume);
      return;
    case 5:
    case 6:
      await volume.checkpoint();
      return;
    default:
      for (let i = 0; i < 4; i++) await volume.write(random.below(60) * 4, 1 + random.below(8));
  }
}
