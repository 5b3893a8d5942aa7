/** VolumeAdmin, SnapshotAdmin and sessions without faults: what they do, and what they refuse in which words. */
import { beforeEach, describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId } from "../../../src/base";
import type { Head } from "../../../src/engine/head";
import type { VolumeRequest } from "../../../src/engine/ports";
import { MetaRegistry } from "../../../src/meta";
import { decodeEpoch } from "../../../src/meta/records/codec";
import { FaultyStore, NO_FAULTS } from "../../support/faulty-store";
import { SeededRandom } from "../../support/virtual-time";
import { headOf, LEASE_TIMES, makeWorld, MIB, type World } from "./support";

let world: World;
beforeEach(async () => {
  world = await makeWorld();
});

const open = (name = "db", holder = "node-a") => world.run(world.registry.openVolume(name, holder));
const create = (name = "db", sizeBytes = 10 * MIB) => world.run(world.volumes.create(name, sizeBytes));

const rooted = (epoch: number, dataIndex: number, sizeBytes = 10 * MIB): Head => ({
  ...headOf(epoch, dataIndex, true, sizeBytes),
  root: {
    volumeId: asVolumeId(1),
    epoch: asEpoch(epoch),
    index: dataIndex,
    offsetBytes: 0,
    lengthBytes: 4096,
  },
});

describe("VolumeAdmin.create", () => {
  test("gives out ids from 1 that are never given again", async () => {
    expect((await create("a")).volumeId).toBe(asVolumeId(1));
    expect((await create("b")).volumeId).toBe(asVolumeId(2));
    await world.run(world.volumes.delete("b"));
    expect((await create("b")).volumeId).toBe(asVolumeId(3));
  });

  const names: [string, string][] = [
    ["", 'Cannot name a volume "": the name is empty'],
    ["a/b", 'Cannot name a volume "a/b": control characters, "/" and "@" are not allowed'],
    ["a@b", 'Cannot name a volume "a@b": control characters, "/" and "@" are not allowed'],
    ["a\nb", 'Cannot name a volume "a\\nb": control characters, "/" and "@" are not allowed'],
    ["a\u0000", 'Cannot name a volume "a\\u0000": control characters, "/" and "@" are not allowed'],
    [" a", 'Cannot name a volume " a": it begins or ends with a space'],
    ["\ud800", 'Cannot name a volume "\\ud800": it is not proper Unicode text'],
    ["x".repeat(256), `Cannot name a volume "${"x".repeat(80)}": it is longer than 255 bytes`],
  ];
  for (const [name, message] of names)
    test(`refuses the name ${JSON.stringify(name.slice(0, 10))}`, async () => {
      expect(await world.message(world.volumes.create(name, MIB))).toBe(message);
    });

  test("takes names of any script and punctuation", async () => {
    for (const name of ["Größe", "数据库", "a b", "x'(1)*!%2F", "x".repeat(255)]) {
      await create(name);
      expect((await world.run(world.volumes.info(name))).name).toBe(name);
    }
    expect((await world.run(world.volumes.list())).volumes.length).toBe(5);
  });

  const sizes: [number, string][] = [
    [0, 'Cannot give volume "db" a size of 0 B: it must be more than 0'],
    [-512, 'Cannot give volume "db" a size of -512 B: it must be more than 0'],
    [Number.NaN, 'Cannot give volume "db" a size of NaN B: it must be more than 0'],
    [64 * 2 ** 40 + 512, 'Cannot give volume "db" a size of 70368744178176 B: the largest volume is 64 TiB'],
    [1000, 'Cannot give volume "db" a size of 1000 B: it must be a multiple of 512 B, for example 1024'],
  ];
  for (const [sizeBytes, message] of sizes)
    test(`refuses the size ${sizeBytes}`, async () => {
      expect(await world.message(world.volumes.create("db", sizeBytes))).toBe(message);
    });

  test("takes the smallest and the largest size", async () => {
    expect((await create("small", 512)).sizeBytes).toBe(512);
    expect((await create("large", 64 * 2 ** 40)).sizeBytes).toBe(64 * 2 ** 40);
  });

  test("refuses a name that is taken", async () => {
    await create();
    expect(await world.message(world.volumes.create("db", MIB))).toBe(
      'Cannot create volume "db": there is a volume of that name',
    );
  });

  test("of racing creations of one name exactly one wins, and no id is lost", async () => {
    const results = await world.run(
      Promise.allSettled(Array.from({ length: 8 }, () => world.volumes.create("db", MIB))),
    );
    expect(results.filter((result) => result.status === "fulfilled").length).toBe(1);
    expect((await world.run(world.registry.collectionView())).volumeIdLast).toBe(1);
  });
});

describe("VolumeAdmin", () => {
  test("rename keeps the volume and frees the name", async () => {
    const { volumeId } = await create();
    await create("other");
    expect(await world.code(world.volumes.rename("db", "other"))).toBe("volume-exists");
    expect(await world.run(world.volumes.rename("db", "new"))).toMatchObject({ volumeId, name: "new" });
    expect(await world.message(world.volumes.info("db"))).toBe(
      'Cannot find volume "db": there is none of that name',
    );
    await create("db");
  });

  test("delete is refused while attached, and says by whom", async () => {
    await create();
    const session = await open();
    expect(await world.message(world.volumes.delete("db"))).toBe(
      'Cannot delete volume "db": it is attached by node-a (lease ends in 30 s unless renewed); detach it there first',
    );
    await world.run(session.abandon());
    await world.run(world.volumes.delete("db"));
    expect((await world.run(world.store.range("torus/volumes/0"))).entries).toEqual([]);
  });

  test("delete is refused while there are snapshots, unless they may go too", async () => {
    await create();
    await world.run(world.snapshots.create("db", "s1"));
    expect(await world.message(world.volumes.delete("db"))).toBe(
      'Cannot delete volume "db": it has 1 snapshot; delete them first, or use --with-snapshots',
    );
    const reader = await world.run(world.registry.openSnapshot("db", "s1", "reader"));
    expect(await world.code(world.volumes.delete("db", { withSnapshots: true }))).toBe("snapshot-in-use");
    await world.run(reader.close());
    await world.run(world.volumes.delete("db", { withSnapshots: true }));
    expect(await world.code(world.volumes.info("db"))).toBe("no-such-volume");
  });

  test("resize of a detached volume changes head and record, and refuses to shrink", async () => {
    await create();
    await world.run(world.volumes.resize("db", 20 * MIB));
    expect(await world.run(world.volumes.info("db"))).toMatchObject({
      sizeBytes: 20 * MIB,
      head: { sizeBytes: 20 * MIB },
    });
    expect(await world.code(world.volumes.resize("db", 10 * MIB))).toBe("bad-size");
  });

  test("resize of an attached volume goes through its writer", async () => {
    await create();
    const session = await open();
    const { epoch } = session.grant;
    session.onRequest(async (request) => {
      if (request.kind !== "resize") throw new Error("not asked");
      const head = headOf(epoch, 1, true, request.sizeBytes);
      await session.commitHead(session.grant.headRevision, head, request.requestId);
    });
    const record = await world.run(world.volumes.resize("db", 20 * MIB));
    expect(record.sizeBytes).toBe(20 * MIB);
    expect((await world.run(world.store.range("torus/volumes/0000000000001/requests/"))).entries).toEqual([]);
  });

  test("resize fails with the writer's reason, and when the writer does not answer", async () => {
    await create();
    const session = await open();
    expect(await world.message(world.volumes.resize("db", 20 * MIB, { timeoutMs: 5_000 }))).toBe(
      'Cannot change volume "db": its writer did not answer in time',
    );
    session.onRequest(
      (request) => void session.rejectRequest(request.requestId, "the kernel will not take it"),
    );
    expect(await world.message(world.volumes.resize("db", 30 * MIB))).toBe(
      'Cannot change volume "db": the kernel will not take it',
    );
  });

  test("resize, snapshot and delete of a detached volume with a tail ask for an open", async () => {
    await create();
    const session = await open();
    await world.run(session.commitHead(session.grant.headRevision, headOf(session.grant.epoch, 3)));
    await world.run(session.abandon());
    expect(await world.code(world.volumes.resize("db", 20 * MIB))).toBe("volume-has-tail");
    expect(await world.code(world.snapshots.create("db", "s"))).toBe("volume-has-tail");
  });
});

describe("openVolume", () => {
  test("mints growing epochs not below the wall clock, and returns the head", async () => {
    await create();
    const first = await open();
    expect(first.grant.epoch).toBeGreaterThan(1_600_000_000_000);
    expect(first.grant.head).toMatchObject({ root: null, epoch: 0, sizeBytes: 10 * MIB });
    await world.run(first.abandon());
    const second = await open();
    expect(second.grant.epoch).toBeGreaterThan(first.grant.epoch);
    expect(second.grant.headRevision).toBe(first.grant.headRevision);
  });

  test("tells of every epoch minted since the head's, and forgets them with the next checkpoint's", async () => {
    await create();
    const failed = async () => {
      const session = await open();
      await world.run(session.abandon());
      return session.grant.epoch;
    };
    const rangeOf = (epoch: number) => ({ from: epoch, to: epoch });
    const [first, second] = [await failed(), await failed()];
    const third = await open();
    expect(third.grant.minted).toMatchObject({
      completeAbove: 0,
      minted: [first, second, third.grant.epoch].map(rangeOf),
    });
    await world.run(third.commitHead(third.grant.headRevision, headOf(third.grant.epoch, 1)));
    await world.run(third.abandon());
    const fourth = await open();
    expect(fourth.grant.minted).toMatchObject({
      completeAbove: third.grant.epoch,
      minted: [rangeOf(fourth.grant.epoch)],
    });
    // Taken by force: nobody opens under the epoch that this mints, and it is kept like the others.
    await world.run(world.volumes.forceUnlock("db"));
    const unlocked = (await world.run(world.volumes.info("db"))).epoch;
    const fifth = await open();
    expect(fifth.grant.minted.minted).toEqual([fourth.grant.epoch, unlocked, fifth.grant.epoch].map(rangeOf));
  });

  test("an epoch whose answer was lost is minted all the same", async () => {
    await create();
    const epochs: number[] = [];
    world.store.watch("torus/volumes/0000000000001/epoch", {
      onSnapshot: () => {},
      onEvents: (events) => {
        for (const event of events) if (event.kind === "put") epochs.push(decodeEpoch(event.entry).epoch);
      },
    });
    const lossy = new FaultyStore(world.store, world.time, new SeededRandom(5), NO_FAULTS);
    const registry = await world.run(
      MetaRegistry.start({ ...world.context, store: lossy }, { leaseTimes: LEASE_TIMES }),
    );
    for (let time = 0; time < 8; time += 1) {
      lossy.rates = { ...NO_FAULTS, unanswered: 40 };
      const session = await world.run(registry.openVolume("db", "node-b", { waitForLockMs: 90_000 }));
      lossy.rates = NO_FAULTS;
      await world.time.advance(1);
      expect([session.grant.epoch]).toEqual([asEpoch(epochs.at(-1) as number)]);
      expect(session.grant.minted.minted.map(({ to }) => to)).toEqual(epochs);
      await world.run(session.abandon());
    }
    expect(lossy.counts.unanswered).toBeGreaterThan(8);
  });

  test("of very many openings that fail the oldest become one range", async () => {
    await create();
    const epochs: number[] = [];
    for (let time = 0; time < 70; time += 1) {
      const session = await open();
      epochs.push(session.grant.epoch);
      await world.run(session.abandon());
    }
    const { completeAbove, minted } = (await open()).grant.minted;
    expect(completeAbove).toBe(0);
    expect(minted).toHaveLength(64);
    expect(minted[0]).toEqual({ from: epochs[0] as number, to: epochs[7] as number });
  });

  test("is refused while another holds the lock, and waits for it when told so", async () => {
    await create();
    await open();
    expect(await world.message(world.registry.openVolume("db", "node-b"))).toBe(
      'Cannot open volume "db": it is attached by node-a (lease ends in 30 s unless renewed); detach it there first',
    );
  });

  test("succeeds once a crashed holder's lease ended", async () => {
    await create();
    // A holder that crashed: its lock is there, nobody renews it.
    const lease = await world.run(world.store.grantLease(LEASE_TIMES.ttlMs));
    const session = await open();
    await world.run(session.abandon());
    const lock = { format: 1, holder: "dead", token: "t", epoch: session.grant.epoch, ttlMs: 1, sinceMs: 0 };
    await world.run(
      world.store.transact({
        compares: [],
        operations: [
          {
            kind: "put",
            key: "torus/volumes/0000000000001/lock",
            value: new TextEncoder().encode(JSON.stringify(lock)),
            lease,
          },
        ],
      }),
    );
    expect(await world.code(world.registry.openVolume("db", "b"))).toBe("volume-attached");
    const waited = await world.run(world.registry.openVolume("db", "b", { waitForLockMs: 60_000 }));
    expect(waited.grant.epoch).toBeGreaterThan(session.grant.epoch);
  });

  test("of racing openers exactly one gets the volume", async () => {
    await create();
    const results = await world.run(
      Promise.allSettled(
        Array.from({ length: 6 }, (_, index) => world.registry.openVolume("db", `n${index}`)),
      ),
    );
    expect(results.filter((result) => result.status === "fulfilled").length).toBe(1);
  });
});

describe("VolumeSession", () => {
  test("commitHead moves the head once per revision", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    const first = await world.run(session.commitHead(headRevision, headOf(epoch, 1)));
    if (first.kind !== "committed") throw new Error(first.reason);
    expect(await world.run(session.commitHead(headRevision, headOf(epoch, 2)))).toEqual({
      kind: "refused",
      reason: "the head was changed by another",
    });
    expect(await world.run(session.commitHead(first.headRevision, headOf(epoch, 2)))).toMatchObject({
      kind: "committed",
    });
    // The same call again, as after an answer that was lost: known by its token.
    expect(await world.run(session.commitHead(first.headRevision, headOf(epoch, 2)))).toMatchObject({
      kind: "committed",
    });
  });

  test("keeps its lease for hours and moves the deadline along", async () => {
    await create();
    const session = await open();
    let lost = "";
    session.onLost((reason) => {
      lost = reason;
    });
    for (let hour = 0; hour < 3; hour++) {
      await world.time.advance(3_600_000);
      expect(session.lease.deadlineMs()).toBeGreaterThan(world.time.nowMs() + 10_000);
    }
    expect(lost).toBe("");
  });

  test("commitDetach frees the volume at once and ends the session", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    expect(await world.run(session.commitDetach(headRevision, headOf(epoch, 4, false)))).toMatchObject({
      kind: "committed",
    });
    expect(session.lease.deadlineMs()).toBe(Number.NEGATIVE_INFINITY);
    expect(await world.code(session.commitHead(headRevision, headOf(epoch, 5)))).toBe("session-ended");
    await world.time.advance(60_000);
    expect((await world.run(world.volumes.info("db"))).attached).toBeUndefined();
    const next = await open();
    expect(next.grant.head).toMatchObject({ epoch, dataIndex: 4, log: { members: [] } });
  });

  test("commitDetach does not take the lock that it deletes for a lost one, however late its answer", async () => {
    await create();
    const store = new FaultyStore(world.store, world.time, new SeededRandom(3), NO_FAULTS);
    const registry = await world.run(MetaRegistry.start({ ...world.context, store }));
    const session = await world.run(registry.openVolume("db", "far"));
    const puts: number[] = [];
    world.store.watch("torus/volumes/0000000000001/lock", {
      onSnapshot: () => {},
      onEvents: (events, revision) => {
        for (const event of events) puts.push(event.kind === "put" ? revision : -1);
      },
    });
    store.rates = { ...NO_FAULTS, delayMsMax: 3_000 };
    const { epoch, headRevision } = session.grant;
    await world.run(session.commitDetach(headRevision, headOf(epoch, 4, false)));
    await world.time.advance(60_000);
    expect(puts).toEqual([-1]);
  });

  test("forceUnlock makes the holder lose the volume before another may open it", async () => {
    await create();
    const session = await open();
    let lostMs = 0;
    session.onLost(() => {
      lostMs = world.time.nowMs();
    });
    expect(await world.run(world.volumes.forceUnlock("db"))).toBe(true);
    expect(lostMs).toBeGreaterThan(0);
    expect(session.lease.deadlineMs()).toBe(Number.NEGATIVE_INFINITY);
    const next = await open("db", "node-b");
    expect(next.grant.epoch).toBeGreaterThan(session.grant.epoch + 1);
    expect(
      await world.run(session.commitHead(session.grant.headRevision, headOf(session.grant.epoch, 1))),
    ).toMatchObject({ kind: "refused" });
    expect(await world.run(world.volumes.forceUnlock("db"))).toBe(true);
    expect(await world.run(world.volumes.forceUnlock("db"))).toBe(false);
  });

  test("a lock lost with its lease is retaken under the same epoch while nobody else opened", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    await world.run(world.store.revokeLease(session.lease.lease));
    await world.time.advance(2_000);
    expect(session.lease.lostReason).toBeUndefined();
    expect((await world.run(world.volumes.info("db"))).attached).toMatchObject({ epoch });
    expect(await world.run(session.commitHead(headRevision, headOf(epoch, 1)))).toMatchObject({
      kind: "committed",
    });
  });
});

describe("SnapshotAdmin", () => {
  test("create asks the writer of an attached volume, which commits head and snapshot together", async () => {
    await create();
    const session = await open();
    const { epoch } = session.grant;
    const requests: VolumeRequest[] = [];
    session.onRequest(async (request) => {
      requests.push(request);
      await session.commitSnapshot(session.grant.headRevision, rooted(epoch, 7), request.requestId);
    });
    const snapshot = await world.run(world.snapshots.create("db", "s1"));
    expect(snapshot).toMatchObject({ name: "s1", root: { epoch, index: 7 }, sizeBytes: 10 * MIB });
    expect(requests.length).toBe(1);
    expect((await world.run(world.volumes.info("db"))).head).toMatchObject({ dataIndex: 7 });
    expect(await world.message(world.snapshots.create("db", "s1"))).toBe(
      'Cannot make snapshot "db@s1": there is one of that name',
    );
  });

  test("a copy's snapshot is taken by the writer that made the copy and by nobody else", async () => {
    await create();
    const session = await open();
    const { epoch } = session.grant;
    session.onRequest(async (request) => {
      await session.commitSnapshot(session.grant.headRevision, rooted(epoch, 7), request.requestId);
    });
    const copy = (ofEpoch: number) => ({ copy: { origin: "there/3/4/5", epoch: ofEpoch } });
    expect(await world.message(world.snapshots.create("db", "early", copy(epoch - 1)))).toBe(
      'Cannot change volume "db": it was asked of an earlier writer',
    );
    const snapshot = await world.run(world.snapshots.create("db", "s1", copy(epoch)));
    expect(snapshot.origin).toBe("there/3/4/5");
    const { snapshots } = await world.run(world.snapshots.list("db"));
    expect(snapshots.map(({ name, origin }) => [name, origin])).toEqual([["s1", "there/3/4/5"]]);
    await world.run(session.abandon());
    expect(await world.code(world.snapshots.create("db", "late", copy(epoch)))).toBe("request-failed");
    expect((await world.run(world.snapshots.list("db"))).snapshots.length).toBe(1);
  });

  test("a cancelled request is withdrawn and the writer goes on", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    let requestId = "";
    session.onRequest((request) => {
      requestId = request.requestId;
    });
    expect(await world.code(world.snapshots.create("db", "s", { timeoutMs: 3_000 }))).toBe("request-failed");
    expect(await world.run(session.commitSnapshot(headRevision, rooted(epoch, 1), requestId))).toMatchObject({
      kind: "withdrawn",
    });
    expect(await world.run(session.commitHead(headRevision, rooted(epoch, 1)))).toMatchObject({
      kind: "committed",
    });
    expect((await world.run(world.snapshots.list("db"))).snapshots).toEqual([]);
  });

  test("when the writer detaches instead of answering, the snapshot is made without it", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    session.onRequest(() => void session.commitDetach(headRevision, headOf(epoch, 5, false)));
    const snapshot = await world.run(world.snapshots.create("db", "s"));
    expect(snapshot).toMatchObject({ name: "s", root: null });
  });

  test("a temporary snapshot vanishes with its maker's lease", async () => {
    await create();
    const lease = await world.run(world.store.grantLease(10_000));
    await world.run(world.snapshots.create("db", "tmp", { lease }));
    const reader = await world.run(world.registry.openSnapshot("db", "tmp", "dump"));
    expect((await world.run(world.snapshots.list("db"))).snapshots).toMatchObject([
      { name: "tmp", isTemporary: true, pinCount: 1 },
    ]);
    let lost = "";
    reader.onLost((reason) => {
      lost = reason;
    });
    await world.time.advance(60_000);
    expect((await world.run(world.snapshots.list("db"))).snapshots).toEqual([]);
    expect(lost).toBe("the snapshot was deleted");
  });

  test("delete is refused while a reader has it pinned, and a crashed reader's pin ends", async () => {
    await create();
    await world.run(world.snapshots.create("db", "s"));
    const reader = await world.run(world.registry.openSnapshot("db", "s", "reader"));
    await world.time.advance(600_000);
    expect(reader.lease.deadlineMs()).toBeGreaterThan(world.time.nowMs());
    expect(await world.message(world.snapshots.delete("db", "s"))).toBe(
      'Cannot delete snapshot "db@s": it is read by 1 client; close them first, or wait for their leases to end',
    );
    // A reader that crashed: no renewals, no revocation.
    await reader.lease.pauseForGood();
    await world.time.advance(LEASE_TIMES.ttlMs + 1_000);
    await world.run(world.snapshots.delete("db", "s"));
    expect(await world.code(world.snapshots.delete("db", "s"))).toBe("no-such-snapshot");
  });

  test("a clone starts as its snapshot, in a lineage that outlives parents", async () => {
    await create();
    const session = await open();
    const { epoch, headRevision } = session.grant;
    await world.run(
      session.commitDetach(headRevision, { ...rooted(epoch, 9), log: headOf(0, 0, false).log }),
    );
    await world.run(world.snapshots.create("db", "s"));
    const child = await world.run(world.snapshots.clone("db", "s", "child"));
    await world.run(world.snapshots.create("child", "s"));
    const grandchild = await world.run(world.snapshots.clone("child", "s", "grandchild"));
    expect((await world.run(world.volumes.info("grandchild"))).head).toMatchObject({
      root: { volumeId: 1, epoch, index: 9 },
      epoch: 0,
      dataIndex: 0,
      log: { members: [] },
    });
    await world.run(world.volumes.delete("db", { withSnapshots: true }));
    await world.run(world.volumes.delete("child", { withSnapshots: true }));
    const view = await world.run(world.registry.collectionView());
    expect(view.volumeIdLast).toBe(3);
    expect(view.volumes).toMatchObject([
      { volumeId: grandchild.volumeId, lineageId: 1, ancestorIds: [1, child.volumeId] },
    ]);
    expect(await world.code(world.snapshots.clone("grandchild", "none", "x"))).toBe("no-such-snapshot");
  });

  test("restore is an open whose first head is refused when the snapshot is gone", async () => {
    await create();
    await world.run(world.snapshots.create("db", "s"));
    await world.run(world.volumes.resize("db", 20 * MIB));
    const session = await world.run(world.registry.openVolume("db", "a", { restoreSnapshot: "s" }));
    expect(session.grant.restoreFrom).toMatchObject({ name: "s", sizeBytes: 10 * MIB });
    expect(session.grant.head.sizeBytes).toBe(20 * MIB);
    // Pinning the snapshot meanwhile changes nothing about it.
    await world.run((await world.run(world.registry.openSnapshot("db", "s", "r"))).close());
    const { epoch, headRevision } = session.grant;
    expect(await world.run(session.commitHead(headRevision, headOf(epoch, 0, true, 10 * MIB)))).toMatchObject(
      {
        kind: "committed",
      },
    );
    expect((await world.run(world.volumes.info("db"))).sizeBytes).toBe(10 * MIB);
    await world.run(session.abandon());
    const again = await world.run(world.registry.openVolume("db", "a", { restoreSnapshot: "s" }));
    await world.run(world.snapshots.delete("db", "s"));
    expect(await world.run(again.commitHead(again.grant.headRevision, headOf(again.grant.epoch, 0)))).toEqual(
      {
        kind: "refused",
        reason: "the snapshot to restore was deleted",
      },
    );
  });
});
