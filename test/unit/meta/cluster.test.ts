/** Cluster settings, ring versions, peers and the watch over all of them. */
import { beforeEach, describe, expect, test } from "bun:test";
import { type ClusterState, ClusterWatch, type PeerDescription } from "../../../src/meta";
import { incarnation, makeWorld, peerId, type World } from "./support";

let world: World;
beforeEach(async () => {
  world = await makeWorld();
});

const GIB = 2 ** 30;
const peer = (n: number, change: Partial<PeerDescription> = {}): PeerDescription => ({
  peerId: peerId(n),
  address: `adp://10.0.0.${n}:40000`,
  incarnation: incarnation(n),
  bootCount: 1,
  progress: 0,
  capacityBytes: 20 * GIB,
  usedBytes: 0,
  ...change,
});

describe("ClusterSettings", () => {
  test("init makes a random cluster id once", async () => {
    const { clusterId } = await world.run(world.settings.get());
    expect(
      await world.message(
        world.settings.init({
          blockSizeBytes: 512 * 1024,
          blockSpec: "crc,base",
          ring: { type: "mod", replication: 1, members: [] },
        }),
      ),
    ).toBe(`Cannot initialise memory:: it holds cluster ${clusterId} already`);
    expect((await (await makeWorld(2)).settings.get()).clusterId).not.toBe(clusterId);
  });

  test("init refuses a block size that is no power of two of 64 KiB to 16 MiB", async () => {
    for (const blockSizeBytes of [0, 4096, 100_000, 32 * 1024 * 1024])
      expect(
        await world.code(
          world.settings.init({
            blockSizeBytes,
            blockSpec: "base",
            ring: { type: "mod", replication: 1, members: [] },
          }),
        ),
      ).toBe("bad-settings");
  });

  test("wipe is refused while something is attached or running, and forgets everything", async () => {
    await world.run(world.volumes.create("db", 4096));
    const session = await world.run(world.registry.openVolume("db", "a"));
    const registration = await world.run(world.peers.register(peer(1)));
    expect(await world.message(world.settings.wipe())).toBe(
      "Cannot wipe the cluster: it is in use, with 1 volume attached and 1 peer running; detach the volumes and stop the daemons first",
    );
    await world.run(session.abandon());
    await world.run(registration.close());
    await world.run(world.settings.wipe());
    expect((await world.run(world.store.range("torus/"))).entries).toEqual([]);
    expect(await world.message(world.settings.get())).toBe(
      "Cannot use the cluster in memory:: it was never initialised; run torus ctl init",
    );
    expect(await world.code(world.volumes.create("db", 4096))).toBe("not-initialised");
  });
});

describe("RingAdmin", () => {
  const member = (n: number) => ({ peerId: peerId(n), weight: 20, zone: "" });

  test("change is a compare-and-set and keeps every version", async () => {
    const first = await world.run(world.rings.current());
    expect(first.version).toBe(1);
    const second = { ...first, version: 2, members: [member(1), member(2)] };
    await world.run(world.rings.change(second));
    expect(await world.message(world.rings.change({ ...first, version: 2 }))).toBe(
      "Cannot change the ring to version 2: it is at version 2 by now; look at it and try again",
    );
    expect(await world.run(world.rings.current())).toEqual(second);
    expect(await world.run(world.rings.at(1))).toEqual(first);
    expect(await world.code(world.rings.at(3))).toBe("no-such-ring");
    expect(await world.run(world.registry.ringAt(1))).toEqual(first);
  });

  test("of racing changes exactly one wins", async () => {
    const first = await world.run(world.rings.current());
    const results = await world.run(
      Promise.allSettled(
        Array.from({ length: 6 }, (_, index) =>
          world.rings.change({ ...first, version: 2, members: [member(index)] }),
        ),
      ),
    );
    expect(results.filter((result) => result.status === "fulfilled").length).toBe(1);
  });
});

describe("PeerDirectory", () => {
  test("register puts record and lease-bound key; a peer that stops is listed as not live", async () => {
    const registration = await world.run(world.peers.register(peer(1, { zone: "rack1" })));
    expect((await world.run(world.peers.list())).peers).toMatchObject([
      { peerId: peerId(1), live: true, zone: "rack1", weight: 20, bootCount: 1 },
    ]);
    await world.time.advance(600_000);
    expect((await world.run(world.peers.get(peerId(1)))).live).toBe(true);
    await world.run(registration.close());
    expect((await world.run(world.peers.get(peerId(1)))).live).toBe(false);
  });

  test("a second process with the same id is refused", async () => {
    await world.run(world.peers.register(peer(1)));
    expect(await world.message(world.peers.register(peer(1, { bootCount: 2 })))).toBe(
      `Cannot register peer ${peerId(1)}: a daemon with this id is running at adp://10.0.0.1:40000; its registration ends 10 s after it stops`,
    );
  });

  test("a boot count that is not above the record's is a rolled-back disk", async () => {
    const first = await world.run(world.peers.register(peer(1, { bootCount: 5 })));
    await world.run(first.close());
    for (const bootCount of [5, 4, 1])
      expect(await world.code(world.peers.register(peer(1, { bootCount })))).toBe("peer-rolled-back");
    // Under a new incarnation it may come back; the old one stays known.
    const fresh = await world.run(
      world.peers.register(peer(1, { bootCount: 1, incarnation: incarnation(77) })),
    );
    await world.run(fresh.close());
    expect(await world.code(world.peers.register(peer(1, { bootCount: 5 })))).toBe("peer-rolled-back");
    await world.run(world.peers.register(peer(1, { bootCount: 6 })));
  });

  test("a disk that was put back to an earlier moment of its last start is known by its progress", async () => {
    const first = await world.run(world.peers.register(peer(1, { bootCount: 5, progress: 3 })));
    await world.run(first.report({ usedBytes: 1, progress: 4 }));
    await world.run(first.close());
    expect(await world.code(world.peers.register(peer(1, { bootCount: 6, progress: 3 })))).toBe(
      "peer-rolled-back",
    );
    const renewed = await world.run(
      world.peers.register(peer(1, { bootCount: 6, progress: 3, incarnation: incarnation(77) })),
    );
    await world.run(renewed.close());
    // The lives before are remembered as well.
    expect(await world.code(world.peers.register(peer(1, { bootCount: 7, progress: 3 })))).toBe(
      "peer-rolled-back",
    );
    await world.run(world.peers.register(peer(1, { bootCount: 7, progress: 4 })));
  });

  test("a registration taken again goes on from what was reported", async () => {
    const registration = await world.run(world.peers.register(peer(1)));
    await world.run(registration.report({ usedBytes: 1, progress: 8 }));
    const live = await world.run(world.store.get(`torus/cluster/live/${peerId(1)}`));
    await world.run(world.store.revokeLease(live?.lease ?? ""));
    await world.time.advance(15_000);
    expect((await world.run(world.peers.get(peerId(1)))).live).toBe(true);
    await world.run(registration.close());
    expect(await world.code(world.peers.register(peer(1, { bootCount: 2, progress: 7 })))).toBe(
      "peer-rolled-back",
    );
  });

  test("a registration lost with its lease is taken again by the same process", async () => {
    const registration = await world.run(world.peers.register(peer(1)));
    const live = await world.run(world.store.get(`torus/cluster/live/${peerId(1)}`));
    await world.run(world.store.revokeLease(live?.lease ?? ""));
    expect((await world.run(world.peers.get(peerId(1)))).live).toBe(false);
    await world.time.advance(15_000);
    expect((await world.run(world.peers.get(peerId(1)))).live).toBe(true);
    await world.run(registration.report({ usedBytes: 5, progress: 0, statistics: { moved: 1 } }));
    expect(await world.run(world.peers.get(peerId(1)))).toMatchObject({
      usedBytes: 5,
      statistics: { moved: 1 },
    });
  });

  test("a registration taken over by another process is lost, and reports nothing more", async () => {
    const registration = await world.run(world.peers.register(peer(1)));
    const live = await world.run(world.store.get(`torus/cluster/live/${peerId(1)}`));
    let lost = "";
    registration.onLost((reason) => {
      lost = reason;
    });
    // The other registers in the moment between the end of the lease and the retake.
    await world.run(
      Promise.all([
        world.store.revokeLease(live?.lease ?? ""),
        world.peers.register(peer(1, { bootCount: 2 })),
      ]),
    );
    await world.time.advance(15_000);
    expect(lost).toBe(`another daemon registered as peer ${peerId(1)}`);
    expect(await world.code(registration.report({ usedBytes: 1, progress: 0 }))).toBe("peer-registered");
  });

  test("statistics of more than 16 KiB are refused", async () => {
    const registration = await world.run(world.peers.register(peer(1)));
    expect(
      await world.code(
        registration.report({ usedBytes: 0, progress: 0, statistics: { text: "x".repeat(20_000) } }),
      ),
    ).toBe("too-large");
  });

  test("zone and weight set by an administrator outlive a restart that does not name them", async () => {
    await world.run((await world.run(world.peers.register(peer(1)))).close());
    const { version } = await world.run(world.rings.current());
    await world.run(world.peers.update({ peerId: peerId(1), zone: "b", weight: 3 }, version));
    await world.run(world.peers.register(peer(1, { bootCount: 2 })));
    expect(await world.run(world.peers.get(peerId(1)))).toMatchObject({ zone: "b", weight: 3 });
  });

  test("a peer's settings are checked, and refused when the ring has changed", async () => {
    await world.run(world.peers.register(peer(1)));
    const { version } = await world.run(world.rings.current());
    const before = await world.run(world.peers.get(peerId(1)));
    for (const settings of [{ weight: 1e300 }, { weight: 0 }, { weight: Number.NaN }, { zone: "a\n" }])
      expect(await world.code(world.peers.update({ peerId: peerId(1), ...settings }, version))).toBe(
        "bad-change",
      );
    expect(await world.code(world.peers.update({ peerId: peerId(1), weight: 3 }, version + 1))).toBe(
      "ring-changed",
    );
    expect(await world.run(world.peers.get(peerId(1)))).toEqual(before);
  });

  test("a change of the ring and of a peer's record is one: both or neither", async () => {
    await world.run(world.peers.register(peer(1)));
    const ring = await world.run(world.rings.current());
    const changes = [11, 12].map((weight) =>
      world.rings.change(
        { ...ring, version: ring.version + 1, members: [{ peerId: peerId(1), weight, zone: "" }] },
        { peerId: peerId(1), weight },
      ),
    );
    const outcomes = await world.run(Promise.allSettled(changes));
    expect(outcomes.filter((one) => one.status === "fulfilled").length).toBe(1);
    const after = await world.run(world.rings.current());
    const record = await world.run(world.peers.get(peerId(1)));
    expect(record.weight).toBe(after.members[0]!.weight);
  });

  test("forget is refused while running or in the ring", async () => {
    const registration = await world.run(world.peers.register(peer(1)));
    expect(await world.code(world.peers.forget(peerId(1)))).toBe("peer-registered");
    await world.run(registration.close());
    const ring = await world.run(world.rings.current());
    const members = [{ peerId: peerId(1), weight: 1, zone: "" }];
    await world.run(world.rings.change({ ...ring, version: 2, members }));
    expect(await world.code(world.peers.forget(peerId(1)))).toBe("peer-in-ring");
    await world.run(world.rings.change({ ...ring, version: 3, members: [] }));
    await world.run(world.peers.forget(peerId(1)));
    expect((await world.run(world.peers.list())).peers).toEqual([]);
    expect(await world.code(world.peers.get(peerId(1)))).toBe("no-such-peer");
  });
});

describe("ClusterWatch", () => {
  test("start says that there is no cluster", async () => {
    await world.run(world.settings.wipe({ force: true }));
    expect(await world.code(ClusterWatch.start(world.context))).toBe("not-initialised");
  });

  test("follows ring, peers and liveness, and calls back for changes but not for figures", async () => {
    const seen: ClusterState[] = [];
    world.registry.clusterWatch.onChange((state) => seen.push(state));
    const registration = await world.run(world.peers.register(peer(1)));
    await world.time.advance(100);
    expect(seen.at(-1)?.peers).toMatchObject([{ peerId: peerId(1), live: true }]);
    const count = seen.length;
    await world.run(registration.report({ usedBytes: 7, progress: 0 }));
    await world.time.advance(100);
    expect(seen.length).toBe(count);
    expect(world.registry.cluster().peers[0]?.usedBytes).toBe(7);
    const ring = await world.run(world.rings.current());
    await world.run(world.rings.change({ ...ring, version: 2 }));
    await world.time.advance(100);
    expect(seen.at(-1)?.ring.version).toBe(2);
    await world.run(registration.close());
    await world.time.advance(100);
    expect(seen.at(-1)?.peers).toMatchObject([{ live: false }]);
  });

  test("a damaged record leaves the last good one in force and is named", async () => {
    const put = (key: string, text: string) =>
      world.run(
        world.store.transact({
          compares: [],
          operations: [{ kind: "put", key, value: new TextEncoder().encode(text) }],
        }),
      );
    await put("torus/cluster/ring", '{"format":1,"version":"two"}');
    await put(`torus/cluster/peers/${peerId(9)}`, "\u0000");
    await world.time.advance(100);
    expect(world.registry.cluster().ring.version).toBe(1);
    expect(world.registry.clusterWatch.damage.map((error) => error.code)).toEqual([
      "bad-record",
      "bad-record",
    ]);
    expect((await world.run(world.peers.list())).damage.length).toBe(1);
  });
});
