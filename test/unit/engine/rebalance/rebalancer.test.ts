import { describe, expect, test } from "bun:test";
import { type BlockRef, formatBlockRef } from "../../../../src/base";
import { Rebalancer, type RebalanceOptions } from "../../../../src/engine/rebalance";
import { planChange } from "../../../../src/ring";
import { member, peerId } from "../../ring/support";
import { dataRef, Harness, type HarnessPeer, inodeRef, sealedBlock } from "../upkeep/harness";

const FAST: RebalanceOptions = { bytesPerSecond: 1e9 };
const BLOCK_BYTES = sealedBlock(dataRef(1, 5, 1)).lengthBytes;

class Scene {
  readonly rebalancers = new Map<HarnessPeer, Rebalancer>();
  readonly refs: BlockRef[] = [];
  constructor(
    readonly harness: Harness,
    private readonly options: RebalanceOptions = FAST,
  ) {}

  /** A volume whose blocks 1..count are covered by its head, written where the ring wants them. */
  static async with(harness: Harness, blockCount: number, options: RebalanceOptions = FAST): Promise<Scene> {
    const scene = new Scene(harness, options);
    harness.setVolume(1, { epoch: 5, dataIndex: blockCount, inodeIndex: 4 });
    for (let index = 1; index <= blockCount; index++) scene.refs.push(dataRef(1, 5, index));
    scene.refs.push(inodeRef(1, 5, 1), inodeRef(1, 5, 4));
    for (const ref of scene.refs) await harness.write(ref);
    return scene;
  }

  start(...peers: HarnessPeer[]): this {
    for (const peer of peers.length > 0 ? peers : this.harness.peers) {
      const rebalancer = new Rebalancer(this.harness.ports(peer), this.options);
      this.rebalancers.set(peer, rebalancer);
      rebalancer.start();
    }
    return this;
  }

  of(index: number): Rebalancer {
    return this.rebalancers.get(this.harness.peers[index] as HarnessPeer) as Rebalancer;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.rebalancers.values()].map((each) => this.harness.time.until(each.stop())));
    this.rebalancers.clear();
  }

  get bytesPut(): number {
    return [...this.harness.transports.values()].reduce((sum, transport) => sum + transport.bytesPut, 0);
  }

  total(pick: "blocksMoved" | "blocksDropped"): number {
    return [...this.rebalancers.values()].reduce((sum, each) => sum + each.status()[pick], 0);
  }
}

describe("Rebalancer", () => {
  test("grows, drains, replicates up and down, moving no more than the plan's least", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 300);
    harness.addPeer();
    harness.addPeer();
    scene.start();
    await harness.time.advance(5_000);
    expect(scene.bytesPut).toBe(0);
    const steps = [
      () => harness.change({ kind: "add", members: [member(3), member(4)] }),
      () => harness.change({ kind: "drain", peerId: peerId(1) }),
      () => harness.change({ kind: "set-replication", replication: 3 }),
      () => harness.change({ kind: "set-replication", replication: 2 }),
      () => harness.change({ kind: "set-weight", peerId: peerId(0), weight: 300 }),
    ];
    for (const step of steps) {
      const [ringBefore, bytesBefore] = [harness.ring, scene.bytesPut];
      step();
      await harness.time.advance(120_000);
      expect(harness.misplaced(scene.refs)).toEqual([]);
      const plan = planChange(ringBefore, harness.ring, scene.refs.length * BLOCK_BYTES);
      expect(scene.bytesPut - bytesBefore).toBeLessThanOrEqual(1.1 * plan.bytesMovedLeast + 8 * BLOCK_BYTES);
    }
    expect(scene.of(1).status()).toMatchObject({ state: "idle", isSafeToRemove: true, blocksSurplus: 0 });
    expect(scene.of(0).status().isSafeToRemove).toBe(false);
    await scene.stop();
  }, 60_000);

  test("re-replicates from the others when a dead peer is removed", async () => {
    const harness = new Harness(4, 2);
    const scene = await Scene.with(harness, 120);
    scene.start();
    harness.setDown(harness.peers[2] as HarnessPeer, true);
    await harness.time.advance(30_000);
    expect(scene.bytesPut).toBe(0);
    harness.change({ kind: "remove", peerIds: [peerId(2)] });
    await harness.time.advance(120_000);
    harness.peers[2]?.replaceDisk();
    expect(harness.misplaced(scene.refs)).toEqual([]);
    await scene.stop();
  });

  test("gives a peer that comes back only what it lacks, and an empty disk everything", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 100);
    const away = harness.peers[0] as HarnessPeer;
    scene.start();
    await harness.time.advance(5_000);
    harness.setDown(away, true);
    // A writer goes round the dead peer: the block lands on the next one.
    harness.setVolume(1, { epoch: 5, dataIndex: 130, inodeIndex: 4 });
    let missed = 0;
    for (let index = 101; index <= 130; index++) {
      const ref = dataRef(1, 5, index);
      scene.refs.push(ref);
      const wanted = harness.desiredPeers(ref);
      if (wanted.includes(away)) missed++;
      await harness.write(
        ref,
        wanted.includes(away) ? harness.peers.filter((peer) => peer !== away) : wanted,
      );
    }
    await harness.time.advance(3_600_000);
    harness.setDown(away, false);
    await harness.time.advance(120_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    expect(scene.bytesPut).toBe(missed * BLOCK_BYTES);
    const kept = away.refs().length;
    away.replaceDisk();
    // The rebalancer of that peer belongs to a process that ended with its disk.
    await harness.time.until((scene.rebalancers.get(away) as Rebalancer).stop());
    scene.start(away);
    harness.announce();
    await harness.time.advance(120_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    // The headers of INode blocks are a few bytes shorter.
    expect(Math.round(scene.bytesPut / BLOCK_BYTES)).toBe(missed + kept);
    await scene.stop();
  });

  test("never drops a young block, nor while the ring is short of peers", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 40);
    harness.setVolume(1, { epoch: 5, dataIndex: 20, inodeIndex: 4 });
    scene.start();
    harness.change({ kind: "drain", peerId: peerId(0) });
    await harness.time.advance(120_000);
    const left = harness.peers[0]?.refs() ?? [];
    expect(left.length).toBeGreaterThan(0);
    expect(left.every((ref) => ref.index > 20)).toBe(true);
    for (const ref of left)
      for (const peer of harness.desiredPeers(ref)) expect(peer.names()).toContain(formatBlockRef(ref));
    expect(scene.of(0).status().isSafeToRemove).toBe(false);
    // The next checkpoint covers them: now they go.
    harness.setVolume(1, { epoch: 5, dataIndex: 40, inodeIndex: 4 });
    await harness.time.advance(180_000);
    expect(harness.peers[0]?.refs()).toEqual([]);
    expect(scene.of(0).status().isSafeToRemove).toBe(true);
    harness.change({ kind: "set-replication", replication: 3 });
    const before = scene.total("blocksDropped");
    await harness.write(scene.refs[0] as BlockRef, [harness.peers[0] as HarnessPeer]);
    await harness.time.advance(180_000);
    expect(scene.total("blocksDropped")).toBe(before);
    await scene.stop();
  });

  test("drops only after every desired peer confirmed, at this ring version, a copy that it checked", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 30);
    const [first, second, third] = harness.peers as [HarnessPeer, HarnessPeer, HarnessPeer];
    // Only the drained peer's job runs: the others do not adopt the new ring version.
    scene.start(first);
    harness.change({ kind: "drain", peerId: first.peerId });
    await harness.time.advance(60_000);
    expect(first.refs().length).toBeGreaterThan(0);
    expect(scene.total("blocksDropped")).toBe(0);
    // A rotten copy is no copy: it is sent again before the drop.
    const rotten = first.refs()[0] as BlockRef;
    second.rot(rotten);
    for (const peer of [second, third])
      await harness.time.until(peer.service.adoptRingVersion(harness.ring.version));
    await harness.time.advance(300_000);
    expect(first.refs()).toEqual([]);
    expect(
      await harness.time.until(second.service.confirm({ refs: [rotten], ringVersion: harness.ring.version })),
    ).toMatchObject({
      statuses: [0],
    });
    await scene.stop();
  });

  test("holds its rate, which may be set while it runs, pauses, and reports what is left", async () => {
    const harness = new Harness(2, 1);
    const scene = await Scene.with(harness, 200, { bytesPerSecond: 10 * BLOCK_BYTES });
    scene.start();
    harness.change({ kind: "drain", peerId: peerId(0) });
    const total = harness.peers[0]?.refs().length as number;
    await harness.time.advance(3_000);
    const early = scene.of(0).status();
    expect(early.state).toBe("moving");
    // Ten blocks a second are read here and another ten are checked there once a batch is sent.
    expect(early.blocksMoved).toBeWithin(15, 40);
    expect(early.blocksLeft + early.blocksMoved).toBeGreaterThanOrEqual(total - early.blocksMoved);
    scene.of(0).pause();
    await harness.time.advance(1_000);
    const paused = scene.of(0).status();
    await harness.time.advance(20_000);
    expect(scene.of(0).status()).toMatchObject({ state: "paused", blocksMoved: paused.blocksMoved });
    scene.of(0).resume();
    scene.of(0).setRate(1e9);
    await harness.time.advance(60_000);
    expect(scene.of(0).status()).toMatchObject({
      state: "idle",
      bytesLeft: 0,
      secondsLeft: 0,
      isSafeToRemove: true,
    });
    expect(harness.misplaced(scene.refs)).toEqual([]);
    await scene.stop();
  });

  test("goes on after a restart without sending anything twice", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 200, { bytesPerSecond: 40 * BLOCK_BYTES });
    harness.addPeer();
    scene.start();
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(1_500);
    const partly = scene.bytesPut;
    expect(partly).toBeGreaterThan(0);
    await scene.stop();
    scene.start();
    await harness.time.advance(300_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    const wanted = harness.peers[3]?.refs().length as number;
    // At most what was under way when it stopped is sent again.
    expect(scene.bytesPut).toBeLessThanOrEqual((wanted + 12) * BLOCK_BYTES);
    await scene.stop();
  });

  test("waits for a full peer and goes on when there is room", async () => {
    const harness = new Harness(3, 1);
    const scene = await Scene.with(harness, 60);
    harness.addPeer();
    scene.start();
    const fresh = harness.peers[3] as HarnessPeer;
    fresh.full = true;
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(10_000);
    expect(fresh.refs()).toEqual([]);
    expect([0, 1, 2].some((index) => scene.of(index).status().state === "waiting")).toBe(true);
    fresh.full = false;
    await harness.time.advance(180_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    await scene.stop();
  });

  test("leaves blocks of deleted volumes alone", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 50);
    harness.addPeer();
    harness.deleteVolume(1);
    scene.start();
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(60_000);
    expect(scene.bytesPut).toBe(0);
    await scene.stop();
  });

  test("asks nobody when nothing changed", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 200);
    scene.start();
    await harness.time.advance(10_000);
    const asked = [...harness.transports.values()].reduce((sum, transport) => sum + transport.readCount, 0);
    await harness.time.advance(600_000);
    expect([...harness.transports.values()].reduce((sum, transport) => sum + transport.readCount, 0)).toBe(
      asked,
    );
    await scene.stop();
  });

  test("completes blocks that a writer left short of a copy, though no peer was ever seen away", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 60);
    scene.start();
    await harness.time.advance(60_000);
    harness.setVolume(1, { epoch: 5, dataIndex: 80, inodeIndex: 4 });
    for (let index = 61; index <= 80; index++) {
      const ref = dataRef(1, 5, index);
      scene.refs.push(ref);
      await harness.write(ref, harness.desiredPeers(ref).slice(index % 2, 1 + (index % 2)));
    }
    const before = scene.bytesPut;
    // They are met by one walk and asked about by the next, which are closer together while there are new blocks.
    await harness.time.advance(35_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    expect(scene.bytesPut - before).toBe(20 * BLOCK_BYTES);
    await scene.stop();
  });

  test("asks about new blocks many at once, and about each where a peer knows no such question", async () => {
    const harness = new Harness(2, 2);
    const scene = await Scene.with(harness, 300);
    const [first, second] = harness.peers as [HarnessPeer, HarnessPeer];
    const { transports } = harness;
    const counts = (peer: HarnessPeer) => {
      const { readCount = 0, confirmCount = 0 } = transports.get(peer.peerId) ?? {};
      return { readCount, confirmCount };
    };
    const writeMore = async (from: number) => {
      for (let index = from; index < from + 300; index++) {
        scene.refs.push(dataRef(1, 5, index));
        // One in ten lacks its second copy.
        await harness.write(scene.refs.at(-1) as BlockRef, index % 10 === 0 ? [first] : harness.peers);
      }
    };
    scene.start(first);
    await harness.time.advance(60_000);
    const [before, putBefore] = [counts(first), scene.bytesPut];
    await writeMore(301);
    await harness.time.advance(60_000);
    // To send a block, its header and its pages are read here.
    expect(counts(first).readCount - before.readCount).toBe(2 * 30);
    expect(counts(first).confirmCount - before.confirmCount).toBeWithin(3, 8);
    second.isOld = true;
    await writeMore(601);
    await harness.time.advance(60_000);
    expect(counts(first).readCount - before.readCount).toBeGreaterThanOrEqual(2 * 30 + 300 + 2 * 30);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    expect(scene.bytesPut - putBefore).toBe(60 * BLOCK_BYTES);
    await scene.stop();
  });

  test("makes no copies of what is known to be dead", async () => {
    const harness = new Harness(3, 2);
    const dead = new Set<string>();
    const options = { ...FAST, isDead: (ref: BlockRef) => dead.has(formatBlockRef(ref)) };
    const scene = await Scene.with(harness, 60, options);
    for (const ref of scene.refs.splice(0, 20)) dead.add(formatBlockRef(ref));
    harness.addPeer();
    scene.start();
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(120_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    const fresh = harness.peers[3]?.names() ?? [];
    expect(fresh.length).toBeGreaterThan(0);
    expect(fresh.filter((name) => dead.has(name))).toEqual([]);
    await scene.stop();
  });

  test("sends nothing twice while the peer whose turn it is takes its time", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 200, { bytesPerSecond: 2 * BLOCK_BYTES });
    harness.addPeer();
    scene.start();
    const before = harness.ring;
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(900_000);
    expect(harness.misplaced(scene.refs)).toEqual([]);
    const plan = planChange(before, harness.ring, scene.refs.length * BLOCK_BYTES);
    expect(scene.bytesPut).toBeLessThanOrEqual(1.1 * plan.bytesMovedLeast + 4 * BLOCK_BYTES);
    await scene.stop();
  });

  test("counts a drained peer's copies anew when they were collected instead of dropped", async () => {
    const harness = new Harness(3, 2);
    const drained = harness.peers[0] as HarnessPeer;
    const isCollecting = { now: false };
    const scene = await Scene.with(harness, 20, {
      ...FAST,
      isDead: () => true,
      collectFirst: async () => {
        if (isCollecting.now) await drained.service.deleteBlocks(drained.refs());
      },
    });
    scene.start(drained);
    harness.change({ kind: "drain", peerId: drained.peerId });
    await harness.time.advance(10_000);
    expect(drained.refs().length).toBeGreaterThan(0);
    isCollecting.now = true;
    await harness.time.advance(12_000);
    expect(scene.of(0).status()).toMatchObject({ state: "idle", blocksSurplus: 0, isSafeToRemove: true });
    await scene.stop();
  });

  test("sends what the peer whose turn it is never sends", async () => {
    const harness = new Harness(3, 2);
    const scene = await Scene.with(harness, 60);
    harness.addPeer();
    // Two of the three old holders have no running job: the third does all of it in the end.
    scene.start(harness.peers[1] as HarnessPeer);
    harness.change({ kind: "add", members: [member(3)] });
    await harness.time.advance(600_000);
    const held = new Set(harness.peers[1]?.names());
    for (const ref of scene.refs)
      if (held.has(formatBlockRef(ref)))
        for (const peer of harness.desiredPeers(ref)) expect(peer.names()).toContain(formatBlockRef(ref));
    await scene.stop();
  });
});
