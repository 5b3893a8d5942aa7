/** Scenarios of an open volume that are told one by one: members, snapshots, sizes, cleaning, leases, bad copies. */
import { describe, expect, test } from "bun:test";
import { heapBuffer } from "../../../../src/base";
import { openSnapshotVolume, type Volume, VolumeError } from "../../../../src/engine/volume";
import { SnapshotAdmin, VolumeAdmin } from "../../../../src/meta";
import {
  flush,
  read,
  SeededRandom,
  type TestClient,
  TestCluster,
  type TestPeer,
  trim,
  write,
} from "./cluster";

const MIB = 1024 ** 2;
const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

async function start(
  options: Parameters<typeof TestCluster.start>[0] & { readonly sizeBytes?: number } = {},
): Promise<{ cluster: TestCluster; client: TestClient; volume: Volume }> {
  const cluster = await TestCluster.start(options);
  await cluster.run(cluster.volumes.create("db", options.sizeBytes ?? 64 * MIB));
  const client = await cluster.client();
  const volume = await cluster.run(client.open("db"));
  return { cluster, client, volume };
}

async function failureOf(promise: Promise<unknown>): Promise<VolumeError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof VolumeError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

describe("requests", () => {
  test("beyond the end, of no length, and after the close are answered by their status", async () => {
    const { cluster, volume } = await start({ sizeBytes: MIB });
    expect(await cluster.run(write(volume, MIB - 10, filled(11, 1)))).toBe(3);
    expect(await cluster.run(write(volume, MIB, filled(0, 1)))).toBe(0);
    expect(await cluster.run(write(volume, MIB - 10, filled(10, 1)))).toBe(0);
    expect(await cluster.run(read(volume, MIB - 10, 10))).toEqual(filled(10, 1));
    expect(await cluster.run(trim(volume, MIB - 5, 6))).toBe(3);
    expect((await cluster.run(volume.close())).clean).toBe(true);
    expect(await cluster.run(write(volume, 0, filled(1, 1)))).toBe(5);
    expect(await cluster.run(flush(volume))).toBe(5);
  });

  test("flush on a volume without news does not touch the peers", async () => {
    const { cluster, client, volume } = await start();
    const before = client.transport.bytesPut;
    expect(await cluster.run(flush(volume))).toBe(0);
    expect(client.transport.bytesPut).toBe(before);
  });

  test("a flush right after a block was sealed waits for it", async () => {
    const { cluster, client, volume } = await start();
    const written = write(volume, 0, filled(cluster.blockSizeBytes, 4));
    const flushed = flush(volume);
    expect(await cluster.run(Promise.all([written, flushed]))).toEqual([0, 0]);
    client.crash();
    const next = await cluster.client();
    const opened = await cluster.run(next.open("db"));
    expect(await cluster.run(read(opened, 0, cluster.blockSizeBytes))).toEqual(
      filled(cluster.blockSizeBytes, 4),
    );
  });

  test("a 4 KiB write with a flush sends about 4 KiB to each replica", async () => {
    const { cluster, client, volume } = await start();
    const before = client.transport.bytesPut;
    await cluster.run(write(volume, 8192, filled(4096, 1)));
    await cluster.run(flush(volume));
    expect(client.transport.bytesPut - before).toBeLessThan(2 * 4200);
  });

  test("a writer that flushes after every write has its writes sealed before the flush, until it stops doing so", async () => {
    const { cluster, client, volume } = await start();
    let page = 0;
    const writeOne = async () => {
      await cluster.run(write(volume, 4096 * page++, filled(4096, page)));
      await cluster.pass(1);
    };
    const sealedBy = async (body: () => Promise<unknown>): Promise<number> => {
      const before = volume.statistics.blocksSealed;
      await body();
      return volume.statistics.blocksSealed - before;
    };
    for (let round = 0; round < 4; round++) {
      expect(await sealedBy(writeOne)).toBe(0);
      expect(await sealedBy(() => cluster.run(flush(volume)))).toBe(1);
    }
    for (let round = 0; round < 4; round++) {
      expect(await sealedBy(writeOne)).toBe(1);
      expect(await sealedBy(() => cluster.run(flush(volume)))).toBe(0);
    }
    // The peers are sent it before the writer is told, which would take the core from this process.
    const { blocksSealed } = volume.statistics;
    const source = heapBuffer(4096);
    source.bytes.set(filled(4096, page + 1));
    const sealedWhenDone = await cluster.run(
      new Promise<number>((resolve) =>
        volume.write(4096 * page++, 4096, source, 0, false, () => resolve(volume.statistics.blocksSealed)),
      ),
    );
    expect(sealedWhenDone).toBe(blocksSealed + 1);
    await cluster.run(flush(volume));
    // The flush was answered only when the block was acknowledged.
    client.crash();
    const again = await cluster.run((await cluster.client()).open("db"));
    for (let written = 0; written < page; written++)
      expect(await cluster.run(read(again, 4096 * written, 4096))).toEqual(filled(4096, written + 1));
    const { statistics } = again;
    for (let round = 0; round < 4; round++) {
      await cluster.run(write(again, 0, filled(4096, 1)));
      await cluster.run(flush(again));
    }
    const before = statistics.blocksSealed;
    for (let round = 0; round < 3; round++) {
      await cluster.run(write(again, 8192 * round, filled(4096, 9)));
      await cluster.pass(1);
    }
    expect(statistics.blocksSealed - before).toBe(1);
    await cluster.run(flush(again));
    await cluster.run(write(again, 0, filled(4096, 1)));
    expect(statistics.blocksSealed - before).toBe(2);
  });

  test("extents tell data from holes, before and after the checkpoint", async () => {
    const { cluster, volume } = await start({ sizeBytes: 64 * 1024 * MIB });
    await cluster.run(write(volume, 3 * MIB, filled(8192, 1)));
    await cluster.run(write(volume, 40_000 * MIB, filled(4096, 1)));
    await cluster.run(trim(volume, 3 * MIB + 4096, 4096));
    const extents = () =>
      cluster.run(
        new Promise<unknown>((resolve) =>
          volume.extents(MIB, 64_000 * MIB, 16, (status, found) => resolve([status, found])),
        ),
      );
    const expected = [
      0,
      [
        { lengthBytes: 2 * MIB, hole: true },
        { lengthBytes: 4096, hole: false },
        { lengthBytes: 39_997 * MIB - 4096, hole: true },
        { lengthBytes: 4096, hole: false },
        { lengthBytes: 24_001 * MIB - 4096, hole: true },
      ],
    ];
    expect(await extents()).toEqual(expected);
    await cluster.run(flush(volume));
    await cluster.run(volume.checkpoint());
    expect(await extents()).toEqual(expected);
  });

  test("sequential reads are fetched ahead into the cache", async () => {
    const cluster = await TestCluster.start();
    await cluster.run(cluster.volumes.create("db", 64 * MIB));
    let client = await cluster.client();
    let volume = await cluster.run(client.open("db"));
    await cluster.run(write(volume, 0, filled(4 * MIB, 7)));
    await cluster.run(volume.close());
    client = await cluster.client({ cacheBytes: 8 * MIB });
    volume = await cluster.run(client.open("db"));
    const before = client.transport.readCount;
    for (let at = 0; at < 4 * MIB; at += 4096) expect((await cluster.run(read(volume, at, 4096)))[0]).toBe(7);
    expect(client.transport.readCount - before).toBeLessThan(200);
    expect(volume.statistics.pagesFromCache).toBeGreaterThan(700);
  });
});

describe("members of the log set", () => {
  test("the death of one of three peers stalls writes by less than half a second, then not at all", async () => {
    const { cluster, volume } = await start();
    await cluster.run(write(volume, 0, filled(MIB, 1), true));
    (cluster.peers[0] as (typeof cluster.peers)[0]).silent = true;
    let longestMs = 0;
    for (let index = 0; index < 50; index++) {
      const startMs = cluster.clock.nowMs();
      expect(await cluster.run(write(volume, index * 4096, filled(4096, 2), true))).toBe(0);
      longestMs = Math.max(longestMs, cluster.clock.nowMs() - startMs);
    }
    expect(longestMs).toBeLessThan(600);
    expect(longestMs).toBeGreaterThan(100);
    await cluster.pass(30_000);
    expect(volume.health.memberCount).toBe(2);
    expect(volume.health.degraded).toBe(false);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("with two peers, one death lowers the width and shows it; the return raises it", async () => {
    const { cluster, volume } = await start({ peerCount: 2 });
    const [first] = cluster.peers as [(typeof cluster.peers)[0]];
    cluster.kill(first);
    const startMs = cluster.clock.nowMs();
    expect(await cluster.run(write(volume, 0, filled(4096, 2), true))).toBe(0);
    expect(cluster.clock.nowMs() - startMs).toBeLessThan(2_000);
    expect(volume.health).toMatchObject({ degraded: true, width: 1, memberCount: 1 });
    await cluster.restart(first);
    await cluster.until(() => !volume.health.degraded, "two copies again");
    expect(volume.health).toMatchObject({ degraded: false, width: 2, memberCount: 2 });
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("a peer that comes back with an empty disk is another member", async () => {
    const { cluster, volume } = await start({ peerCount: 2 });
    const [first] = cluster.peers as [(typeof cluster.peers)[0]];
    await cluster.run(write(volume, 0, filled(8192, 1), true));
    await cluster.replaceDisk(first);
    expect(await cluster.run(write(volume, 0, filled(4096, 2), true))).toBe(0);
    await cluster.pass(15_000);
    expect(volume.health).toMatchObject({ degraded: false, width: 2, memberCount: 2 });
    expect(await cluster.run(read(volume, 4096, 4096))).toEqual(filled(4096, 1));
  });

  test("a new ring is followed by a checkpoint, and a peer of weight 0 leaves the set", async () => {
    const { cluster, volume } = await start();
    const added = await cluster.addPeer();
    await cluster.changeRing({ kind: "add", members: [{ peerId: added.peerId, weight: 1, zone: "" }] });
    await cluster.until(() => volume.health.memberCount === 4, "the new peer is a member");
    await cluster.changeRing({ kind: "drain", peerId: (cluster.peers[0] as typeof added).peerId });
    await cluster.until(() => volume.health.memberCount === 3, "the draining peer is none");
    expect(await cluster.run(write(volume, 0, filled(MIB, 1), true))).toBe(0);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("a new member that is away for a moment is waited for rather than have fewer copies", async () => {
    for (const away of ["down", "silent"] as const) {
      const { cluster, volume } = await start({ peerCount: 2 });
      const leaving = [...cluster.peers];
      const [here, late] = [await cluster.addPeer(), await cluster.addPeer()];
      late[away] = true;
      const members = [here, late].map(({ peerId }) => ({ peerId, weight: 1, zone: "" }));
      await cluster.changeRing({ kind: "add", members });
      for (const { peerId } of leaving) await cluster.changeRing({ kind: "drain", peerId });
      for (let step = 0; step < 10; step += 1) {
        await cluster.pass(250);
        expect(volume.health.width).toBe(2);
      }
      late[away] = false;
      for (let step = 0; step < 60; step += 1) {
        await cluster.pass(250);
        expect(volume.health.width).toBe(2);
      }
      for (const peer of leaving) cluster.kill(peer);
      expect(await cluster.run(write(volume, 0, filled(4096, 1), true))).toBe(0);
      expect(volume.health).toMatchObject({ degraded: false, width: 2, memberCount: 2 });
    }
  });

  test("a set of fewer copies does not name a disk that is gone, which the wider one could spare", async () => {
    for (const away of ["down", "silent"] as const) {
      const { cluster, client, volume } = await start({ peerCount: 3 });
      await cluster.run(write(volume, 0, filled(4096, 1), true));
      const [first] = cluster.peers as [TestPeer];
      // Nothing is written meanwhile: only who asks hears of it.
      first[away] = true;
      await cluster.changeRing({ kind: "set-replication", replication: 1 });
      await cluster.until(() => volume.health.width === 1, "one copy is enough");
      expect(volume.health.memberCount).toBe(2);
      expect(await cluster.run(write(volume, 4096, filled(4096, 2), true))).toBe(0);
      client.crash();
      first[away] = false;
      await cluster.replaceDisk(first);
      const opened = await cluster.run((await cluster.client()).open("db"));
      expect(await cluster.run(read(opened, 0, 8192))).toEqual(
        Uint8Array.from([...filled(4096, 1), ...filled(4096, 2)]),
      );
    }
  });

  test("an idle volume follows a ring of fewer copies with all of its members", async () => {
    const { cluster, volume } = await start({ peerCount: 3 });
    await cluster.pass(20_000);
    await cluster.changeRing({ kind: "set-replication", replication: 1 });
    await cluster.until(() => volume.health.width === 1, "one copy is enough");
    expect(volume.health.memberCount).toBe(3);
  });

  test("a new member that stays away is not waited for for ever", async () => {
    const { cluster, volume } = await start({ peerCount: 2 });
    const leaving = [...cluster.peers];
    const [here, away] = [await cluster.addPeer(), await cluster.addPeer()];
    away.silent = true;
    const members = [here, away].map(({ peerId }) => ({ peerId, weight: 1, zone: "" }));
    await cluster.changeRing({ kind: "add", members });
    for (const { peerId } of leaving) await cluster.changeRing({ kind: "drain", peerId });
    await cluster.until(() => volume.health.memberCount === 1, "the one that answers is the set");
    away.silent = false;
    await cluster.until(() => !volume.health.degraded, "two copies again");
  });

  test("the head soon passes what was written while the log set changed, so that needless copies may go", async () => {
    const { cluster, volume } = await start();
    await cluster.run(write(volume, 0, filled(MIB, 1), true));
    const added = await cluster.addPeer();
    await cluster.changeRing({ kind: "add", members: [{ peerId: added.peerId, weight: 1, zone: "" }] });
    let index = 0;
    while (volume.health.memberCount === 3) {
      expect(await cluster.run(write(volume, (index % 64) * 4096, filled(4096, 2), true))).toBe(0);
      expect(++index).toBeLessThan(100_000);
    }
    expect(volume.health.tailBytes).toBeGreaterThan(0);
    await cluster.pass(3_000);
    expect(volume.health.tailBytes).toBe(0);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("a full pool goes on when a peer with space joins", async () => {
    const { cluster, volume } = await start({ peerCount: 2 });
    await cluster.run(write(volume, 0, filled(4096, 1), true));
    for (const peer of cluster.peers) peer.full = true;
    expect(await cluster.run(write(volume, 4096, filled(4096, 2), true))).toBe(2);
    expect(volume.health.full).toBe(true);
    for (let count = 0; count < 2; count++) {
      const added = await cluster.addPeer();
      await cluster.changeRing({ kind: "add", members: [{ peerId: added.peerId, weight: 1, zone: "" }] });
    }
    await cluster.until(() => !volume.health.full, "there is space again");
    expect(await cluster.run(flush(volume))).toBe(0);
    expect(await cluster.run(read(volume, 0, 8192))).toEqual(
      Uint8Array.from([...filled(4096, 1), ...filled(4096, 2)]),
    );
  });
});

describe("opening", () => {
  test("names the peers that may hold the newest blocks, and goes on without them only when told", async () => {
    const cluster = await TestCluster.start({ peerCount: 3, replication: 3 });
    await cluster.run(cluster.volumes.create("db", 64 * MIB));
    const client = await cluster.client();
    const volume = await cluster.run(client.open("db", { writeLevel: "quorum" }));
    await cluster.run(write(volume, 0, filled(MIB, 1), true));
    await cluster.pass(1_000);
    client.crash();
    cluster.kill(cluster.peers[0] as (typeof cluster.peers)[0]);
    cluster.kill(cluster.peers[1] as (typeof cluster.peers)[0]);
    const next = await cluster.client();
    const failure = await cluster.run(failureOf(next.open("db")));
    expect(failure.code).toBe("tail-unreachable");
    expect(failure.retryable).toBe(true);
    for (const peer of cluster.peers.slice(0, 2)) expect(failure.message).toContain(peer.peerId);
    const opened = await cluster.run(next.open("db", { acceptLoss: true }));
    expect(next.events.some((event) => event.text.includes("lost"))).toBe(true);
    expect(opened.health.degraded).toBe(true);
    expect(await cluster.run(read(opened, 0, MIB))).toEqual(filled(MIB, 1));
  });

  test("one dead peer of three is no hindrance, and its copies are made anew", async () => {
    const { cluster, client, volume } = await start({ peerCount: 3 });
    await cluster.run(write(volume, 0, filled(2 * MIB, 1), true));
    client.crash();
    const [first] = cluster.peers as [(typeof cluster.peers)[0]];
    cluster.kill(first);
    const next = await cluster.client();
    const opened = await cluster.run(next.open("db"));
    // Both others have every block now, so that one more may die.
    cluster.kill(cluster.peers[1] as typeof first);
    expect(await cluster.run(read(opened, 0, 2 * MIB))).toEqual(filled(2 * MIB, 1));
  });

  test("an older writer acknowledges nothing after a newer one has opened", async () => {
    const { cluster, client, volume } = await start();
    await cluster.run(write(volume, 0, filled(4096, 1), true));
    // The first writer loses its metadata and so its lease, but not its peers.
    client.store.cut = true;
    await cluster.pass(40_000);
    const next = await cluster.client();
    const opened = await cluster.run(next.open("db"));
    expect(await cluster.run(read(opened, 0, 4096))).toEqual(filled(4096, 1));
    expect(await cluster.run(write(volume, 0, filled(4096, 2), true))).toBe(5);
    expect(volume.state).toBe("failed");
    expect(await cluster.run(read(opened, 0, 4096))).toEqual(filled(4096, 1));
  });

  test("no peers at all is a clear refusal and gives the lock back", async () => {
    const cluster = await TestCluster.start({ peerCount: 2 });
    await cluster.run(cluster.volumes.create("db", MIB));
    for (const peer of cluster.peers) cluster.kill(peer);
    const client = await cluster.client();
    const failure = await cluster.run(failureOf(client.open("db")));
    expect(failure.code).toBe("no-peers");
    expect(failure.message).toBe(
      'Cannot open volume "db": none of the 2 members of ring version 1 answers; start a daemon, or add peers to the ring',
    );
    for (const peer of cluster.peers) await cluster.restart(peer);
    const startMs = cluster.clock.nowMs();
    await cluster.run(client.open("db"));
    expect(cluster.clock.nowMs() - startMs).toBeLessThan(5_000);
  });
});

describe("peers that all are away", () => {
  test("what must be read waits for them, of data and of the map, for reads and for writes of part of a page", async () => {
    const { cluster, volume } = await start();
    await cluster.run(write(volume, 0, filled(MIB, 5), true));
    expect((await cluster.run(volume.close())).clean).toBe(true);
    const client = await cluster.client();
    const opened = await cluster.run(client.open("db"));
    for (const silent of [true, false]) {
      for (const peer of cluster.peers) {
        peer.silent = silent;
        peer.down = !silent;
      }
      const value = silent ? 6 : 7;
      const requests = Promise.all([
        read(opened, 8192, 8192),
        write(opened, 65_536 + 100, filled(100, value)),
        trim(opened, 131_072 + 4_000, 200),
      ]);
      expect(await cluster.run(Promise.race([requests, cluster.pass(60_000)]))).toBeUndefined();
      for (const peer of cluster.peers) {
        peer.silent = false;
        peer.down = false;
      }
      const [bytes, ...statuses] = await cluster.run(requests);
      expect(bytes).toEqual(filled(8192, 5));
      expect(statuses).toEqual([0, 0]);
      const page = filled(4096, 5);
      page.fill(value, 100, 200);
      expect(await cluster.run(read(opened, 65_536, 4096))).toEqual(page);
      // The next turn begins without anything in memory.
      expect((await cluster.run(opened.checkpoint())).kind).toBe("committed");
    }
    expect((await cluster.run(opened.close())).clean).toBe(true);
  });

  test("in the end what must be read is an error", async () => {
    const { cluster, volume } = await start();
    await cluster.run(write(volume, 0, filled(MIB, 5), true));
    expect((await cluster.run(volume.close())).clean).toBe(true);
    const client = await cluster.client();
    const opened = await cluster.run(client.open("db"));
    const startMs = cluster.clock.nowMs();
    for (const peer of cluster.peers) peer.down = true;
    const failed = read(opened, 0, 4096).catch((error: Error) => error.message);
    expect(await cluster.run(failed)).toContain("ended with 1");
    expect(await cluster.run(write(opened, 8192, filled(100, 1)))).toBe(1);
    expect(cluster.clock.nowMs() - startMs).toBeGreaterThanOrEqual(240_000);
    client.crash();
  });
});

describe("leases and metadata", () => {
  test("no read is answered past the deadline; writes go on through an outage; reads return with it", async () => {
    const { cluster, client, volume } = await start();
    await cluster.run(write(volume, 0, filled(4096, 1), true));
    client.store.cut = true;
    await cluster.pass(28_000);
    const reading = read(volume, 0, 4096).then(
      () => "answered",
      () => "failed",
    );
    expect(await cluster.run(Promise.race([reading, cluster.pass(5_000).then(() => "waits")]))).toBe("waits");
    expect(await cluster.run(write(volume, 0, filled(4096, 2), true))).toBe(0);
    client.store.cut = false;
    expect(await cluster.run(reading)).toBe("answered");
    expect(await cluster.run(read(volume, 0, 4096))).toEqual(filled(4096, 2));
  });

  test("a checkpoint whose answer was lost is found to have been applied", async () => {
    const { cluster, client, volume } = await start();
    await cluster.run(write(volume, 0, filled(4096, 1), true));
    client.store.loseNextAnswer = true;
    expect(await cluster.run(volume.checkpoint())).toEqual({ kind: "committed" });
    await cluster.run(write(volume, 4096, filled(4096, 2), true));
    expect(await cluster.run(volume.checkpoint())).toEqual({ kind: "committed" });
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("a lost session ends all requests and calls onFailed once", async () => {
    const { cluster, client, volume } = await start();
    const reasons: string[] = [];
    volume.onFailed = (error) => reasons.push(error.message);
    client.store.cut = true;
    await cluster.pass(60_000);
    const other = await cluster.client();
    const opened = await cluster.run(other.open("db"));
    client.store.cut = false;
    await cluster.until(() => volume.state === "failed", "the first volume has failed");
    expect(reasons).toHaveLength(1);
    expect(await cluster.run(flush(volume))).toBe(5);
    expect((await cluster.run(volume.close())).clean).toBe(false);
    expect((await cluster.run(opened.close())).clean).toBe(true);
  });
});

describe("bad copies", () => {
  test("one that is found damaged when the tail is copied does not count, and is written anew", async () => {
    let foundCount = 0;
    for (const position of [0, 1]) {
      const { cluster, client, volume } = await start({ peerCount: 3, replication: 3 });
      const absent = cluster.peers[2] as TestPeer;
      cluster.kill(absent);
      await cluster.run(write(volume, 0, filled(40_960, 5), true));
      client.crash();
      await cluster.run(cluster.restart(absent));
      const damaged = cluster.peers[position] as TestPeer;
      expect(damaged.rot((name) => name.startsWith("data"))).toBeGreaterThan(0);
      const next = await cluster.client();
      const opened = await cluster.run(next.open("db"));
      // The opener reads one good copy only: whether it comes to the damaged one first is by chance.
      if (!next.transport.confirmedBy.includes(damaged.peerId)) continue;
      foundCount += 1;
      for (const peer of cluster.peers) if (peer !== damaged) cluster.kill(peer);
      expect(await cluster.run(read(opened, 0, 40_960))).toEqual(filled(40_960, 5));
    }
    expect(foundCount).toBeGreaterThan(0);
  });

  test("a copy that rotted is never read; with no good one left there is an error, never zeroes", async () => {
    const { cluster, volume } = await start({ peerCount: 2 });
    await cluster.run(write(volume, 0, filled(40_960, 5)));
    await cluster.run(volume.close());
    const client = await cluster.client();
    const opened = await cluster.run(client.open("db"));
    const [first, second] = cluster.peers as [(typeof cluster.peers)[0], (typeof cluster.peers)[0]];
    expect(first.rot((name) => name.startsWith("data"))).toBeGreaterThan(0);
    expect(await cluster.run(read(opened, 0, 40_960))).toEqual(filled(40_960, 5));
    // The peer is told, once for all the pages of the block.
    expect(client.transport.confirmedBy).toEqual([first.peerId]);
    second.rot((name) => name.startsWith("data"));
    const outcome = await cluster.run(read(opened, 36_864, 4096).catch((error: unknown) => error));
    expect((outcome as Error).message).toContain("ended with 1");
    expect(opened.statistics.badCopies).toBeGreaterThan(0);
  });
});

describe("snapshots and sizes", () => {
  test("a snapshot of an attached volume holds what was written before it, and nothing after", async () => {
    const { cluster, client, volume } = await start();
    const snapshots = new SnapshotAdmin(cluster.context);
    for (let round = 1; round <= 5; round++) {
      await cluster.run(write(volume, 0, filled(200_000, round)));
      await cluster.run(snapshots.create("db", `s${round}`));
      await cluster.run(write(volume, 0, filled(100_000, 100 + round)));
    }
    for (let round = 1; round <= 5; round++) {
      const session = await cluster.run(client.registry.openSnapshot("db", `s${round}`, "test"));
      const snapshot = await cluster.run(openSnapshotVolume(client.ports, session));
      expect(snapshot.name).toBe(`db@s${round}`);
      expect(await cluster.run(read(snapshot as unknown as Volume, 0, 200_000))).toEqual(
        filled(200_000, round),
      );
      expect(await cluster.run(write(snapshot as unknown as Volume, 0, filled(1, 1)))).toBe(4);
      await cluster.run(snapshot.close());
    }
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("restore brings the snapshot's bytes back; a clone goes its own way", async () => {
    const { cluster, client, volume } = await start();
    const snapshots = new SnapshotAdmin(cluster.context);
    await cluster.run(write(volume, 0, filled(50_000, 1)));
    await cluster.run(snapshots.create("db", "s"));
    await cluster.run(write(volume, 10_000, filled(90_000, 2)));
    await cluster.run(volume.close());
    await cluster.run(snapshots.clone("db", "s", "copy"));
    const restored = await cluster.run(client.open("db", { restoreSnapshot: "s" }));
    expect(await cluster.run(read(restored, 0, 50_000))).toEqual(filled(50_000, 1));
    expect(await cluster.run(read(restored, 50_000, 50_000))).toEqual(filled(50_000, 0));
    const clone = await cluster.run(client.open("copy"));
    await cluster.run(write(clone, 0, filled(4096, 9), true));
    expect((await cluster.run(read(clone, 4096, 1)))[0]).toBe(1);
    expect((await cluster.run(read(restored, 0, 1)))[0]).toBe(1);
    expect((await cluster.run(restored.close())).clean).toBe(true);
    expect((await cluster.run(clone.close())).clean).toBe(true);
    const again = await cluster.run(client.open("copy"));
    expect((await cluster.run(read(again, 0, 1)))[0]).toBe(9);
  });

  test("grows while attached when asked by others, and shrinks only when told", async () => {
    const { cluster, volume } = await start({ sizeBytes: MIB });
    const sizes: number[] = [];
    volume.onResize((sizeBytes) => sizes.push(sizeBytes));
    await cluster.run(new VolumeAdmin(cluster.context).resize("db", 4 * MIB));
    expect(sizes).toEqual([4 * MIB]);
    expect(await cluster.run(write(volume, 3 * MIB, filled(MIB, 3)))).toBe(0);
    const failure = await cluster.run(failureOf(volume.resize(2 * MIB)));
    expect(failure.code).toBe("bad-size");
    await cluster.run(volume.resize(3 * MIB + 100, { shrink: true }));
    expect(await cluster.run(write(volume, 3 * MIB + 100, filled(1, 1)))).toBe(3);
    await cluster.run(volume.resize(4 * MIB));
    expect(await cluster.run(read(volume, 3 * MIB, 200))).toEqual(
      Uint8Array.from([...filled(100, 3), ...filled(100, 0)]),
    );
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });
});

describe("a pool that fills", () => {
  const OPEN = { paceBytesPerSecondMin: 64 * 1024 };
  const REQUEST_BYTES = 16 * 1024;

  /** MiB a second that a writer gets through in so many seconds, after so many that do not count. */
  async function rate(
    cluster: TestCluster,
    volume: Volume,
    before: number,
    seconds: number,
  ): Promise<number> {
    let written = 0;
    const beganMs = cluster.clock.nowMs();
    const elapsed = (): number => (cluster.clock.nowMs() - beganMs) / 1_000;
    for (let index = 0; elapsed() < before + seconds; index++) {
      const at = (index % 128) * REQUEST_BYTES;
      expect(await cluster.run(write(volume, at, filled(REQUEST_BYTES, index & 255)))).toBe(0);
      if (elapsed() >= before) written += REQUEST_BYTES;
      await cluster.pass(1);
    }
    return written / MIB / seconds;
  }

  test("slows its writer down to what is left in three seconds, and lets it close", async () => {
    const { cluster, client } = await start({ peerCount: 3, sizeBytes: 4 * MIB });
    await cluster.run(cluster.volumes.create("fast", 4 * MIB));
    const volume = await cluster.run(client.open("fast", OPEN));
    expect(await rate(cluster, volume, 2, 3)).toBeGreaterThan(10);
    for (const peer of cluster.peers) peer.roomBytes = 2 * MIB;
    // Three peers, two copies: room for 3 MiB.
    expect(await rate(cluster, volume, 3, 5)).toBeWithin(0.6, 1.1);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  }, 30_000);

  test("slows nobody down for one full peer of many, nor for one that says nothing", async () => {
    const { cluster, client } = await start({ peerCount: 5, sizeBytes: 4 * MIB });
    await cluster.run(cluster.volumes.create("fast", 4 * MIB));
    const volume = await cluster.run(client.open("fast", OPEN));
    const [full, silent] = cluster.peers as [TestPeer, TestPeer];
    full.roomBytes = 0;
    expect(await rate(cluster, volume, 3, 3)).toBeGreaterThan(10);
    for (const peer of cluster.peers) peer.roomBytes = 40 * MIB;
    silent.silent = true;
    expect(await rate(cluster, volume, 8, 3)).toBeGreaterThan(10);
  }, 30_000);
});

describe("cleaning", () => {
  test("ten times random overwriting stays below twice the live size, and reads right", async () => {
    const sizeBytes = 8 * MIB;
    const cluster = await TestCluster.start({ peerCount: 2 });
    await cluster.run(cluster.volumes.create("db", sizeBytes));
    const client = await cluster.client();
    const volume = await cluster.run(client.open("db", { checkpointIntervalMs: 2_000 }));
    const random = new SeededRandom(5);
    const pages = sizeBytes / 4096;
    const stamps = new Uint8Array(pages);
    let next = 0;
    for (let round = 0; round < 10 * pages; round += 64) {
      const work: Promise<number>[] = [];
      const seen = new Set<number>();
      for (let index = 0; index < 64; index++) {
        const page = round < pages ? next++ % pages : random.below(pages);
        if (seen.has(page)) continue;
        seen.add(page);
        stamps[page] = 1 + random.below(250);
        work.push(write(volume, page * 4096, filled(4096, stamps[page] as number)));
      }
      for (const status of await cluster.run(Promise.all(work))) expect(status).toBe(0);
      await cluster.pass(20);
      for (const page of [...seen].slice(-24))
        expect((await cluster.run(read(volume, page * 4096, 1)))[0]).toBe(stamps[page] as number);
    }
    await cluster.run(flush(volume));
    await cluster.pass(20_000);
    expect(volume.statistics.pagesCleaned).toBeGreaterThan(0);
    expect(volume.health.spaceRatio).toBeLessThan(2);
    for (let page = 0; page < pages; page += 16) {
      const found = await cluster.run(read(volume, page * 4096, 16 * 4096));
      for (let index = 0; index < 16; index++)
        expect(found[index * 4096 + 5]).toBe(stamps[page + index] as number);
    }
    expect((await cluster.run(volume.close())).clean).toBe(true);
  }, 30_000);

  test("gives the thread back while the log holds back and buffers are free", async () => {
    const sizeBytes = 16 * MIB;
    const cluster = await TestCluster.start({ peerCount: 2 });
    await cluster.run(cluster.volumes.create("db", sizeBytes));
    // Buffers enough that the log's own limit of blocks under way comes first.
    const bufferCount = 64;
    const client = await cluster.client({
      writeBufferBytes: bufferCount * (cluster.blockSizeBytes + 32_768),
    });
    const options = { checkpointIntervalMs: 2_000, cleanBytesPerSecond: MIB };
    const volume = await cluster.run(client.open("db", options));
    const bytes = filled(MIB, 1);
    for (let offset = 0; offset < sizeBytes; offset += MIB)
      expect(await cluster.run(write(volume, offset, bytes))).toBe(0);
    // Three of four pages, so that little of each block is live.
    for (let offset = 0; offset < sizeBytes; offset += 16_384)
      expect(await cluster.run(write(volume, offset, filled(12_288, 2)))).toBe(0);
    expect(await cluster.run(flush(volume))).toBe(0);
    for (let waited = 0; volume.statistics.pagesCleaned === 0 && waited < 200; waited++)
      await cluster.pass(100);
    expect(volume.statistics.pagesCleaned).toBeGreaterThan(0);
    // With one of the two peers silent nothing is acknowledged, until the log set has changed.
    (cluster.peers[1] as TestPeer).silent = true;
    const writes: Promise<number>[] = [];
    for (let offset = 0; offset < sizeBytes; offset += MIB)
      writes.push(write(volume, offset, filled(MIB, 3)));
    await cluster.pass(2_000);
    for (const status of await cluster.run(Promise.all(writes))) expect(status).toBe(0);
    expect(await cluster.run(flush(volume))).toBe(0);
    for (let offset = 0; offset < sizeBytes; offset += MIB)
      expect((await cluster.run(read(volume, offset, 4_096)))[9]).toBe(3);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  }, 30_000);
});
