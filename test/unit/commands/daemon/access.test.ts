/** Who may do what with volumes that have access lists, and that come from volumes that have. */
import { describe, expect, test } from "bun:test";
import { asVolumeId, type VolumeId } from "../../../../src/base";
import { EVERY_VOLUME } from "../../../../src/engine/peer";
import { openMemoryStore } from "../../../../src/meta";
import { AccessPolicy, decideAccess } from "../../../../src/commands/daemon/access";
import { storeForCaller } from "../../../../src/commands/daemon/roles";
import { metadataOver } from "../../../../src/commands/cli";
import { clusterStatus } from "../../../../src/commands/ctl";
import { systemClock, systemRandom } from "../../../../src/base/io";

const id = asVolumeId;

describe("decideAccess", () => {
  // 1 is cloned to 2, 2 to 3; 4 stands alone.
  const lineages = new Map(
    [
      [1, []],
      [2, [1]],
      [3, [1, 2]],
      [4, []],
    ].map(([volume, ancestors]) => [
      id(volume as number),
      { name: `v${volume}`, ancestorIds: (ancestors as number[]).map(id) },
    ]),
  );
  const lists = (entries: readonly [number, readonly string[]][]) =>
    new Map(entries.map(([volume, list]): [VolumeId, readonly string[]] => [id(volume), list]));

  test.each<[string, readonly [number, readonly string[]][], number, string]>([
    ["no list", [], 1, "use"],
    ["another's list elsewhere", [[4, ["bob"]]], 1, "use"],
    ["a list that names her", [[1, ["alice", "bob"]]], 1, "use"],
    ["a list that does not", [[1, ["bob"]]], 1, "none"],
    ["an empty list", [[1, []]], 1, "none"],
    ["a clone of a closed volume", [[1, ["bob"]]], 2, "none"],
    ["a clone's clone of a closed volume", [[1, ["bob"]]], 3, "none"],
    [
      "the nearest list",
      [
        [1, ["bob"]],
        [2, ["alice"]],
      ],
      3,
      "use",
    ],
    [
      "a closed volume of which she has a clone",
      [
        [1, ["bob"]],
        [2, ["alice"]],
      ],
      1,
      "read",
    ],
    [
      "a closed clone between",
      [
        [1, ["bob"]],
        [2, []],
        [3, ["alice"]],
      ],
      2,
      "read",
    ],
    ["a volume that nobody knows", [[4, ["bob"]]], 9, "none"],
  ])("%s", (_, entries, volume, expected) => {
    expect(decideAccess(lists(entries), lineages, "alice", id(volume))).toBe(expected as never);
  });

  test("a volume whose record cannot be read is closed", () => {
    expect(decideAccess(lists([]), new Map([[id(1), undefined]]), "alice", id(1))).toBe("none");
  });
});

describe("with records", () => {
  async function bench() {
    const store = openMemoryStore(systemClock, systemRandom);
    const metadata = metadataOver(store);
    await metadata.settings.init({
      blockSizeBytes: 524_288,
      blockSpec: "crc,base",
      ring: { type: "empty", replication: 1, members: [] },
    });
    const policy = new AccessPolicy(metadata.access);
    let changes = 0;
    const damage: string[] = [];
    await policy.follow(
      () => changes++,
      (error) => damage.push(error.message),
    );
    const refused: string[] = [];
    const as = (name: string) =>
      metadataOver(storeForCaller(store, { role: "client", name }, policy, (reason) => refused.push(reason)));
    return { store, metadata, policy, refused, damage, as, changes: () => changes };
  }

  test("VolumeAccess keeps lists sorted and without doubles, and refuses names that no certificate has", async () => {
    const { metadata } = await bench();
    await metadata.volumes.create("db", 2 ** 30);
    expect(await metadata.access.effective("db")).toBeUndefined();
    expect(await metadata.access.change("db", () => ["b", "a", "b"])).toEqual(["a", "b"]);
    expect(await metadata.access.effective("db")).toEqual(["a", "b"]);
    await expect(metadata.access.change("db", () => ["x".repeat(65)])).rejects.toThrow(
      "give the name in its certificate, of 1 to 64 characters",
    );
    await expect(metadata.access.change("no", () => [])).rejects.toThrow('Cannot find volume "no"');
    expect(await metadata.access.change("db", () => undefined)).toBeUndefined();
    expect(await metadata.access.effective("db")).toBeUndefined();
  });

  test("AccessPolicy hears of lists and finds what was made just now", async () => {
    const { metadata, policy, changes } = await bench();
    const first = await metadata.volumes.create("db", 2 ** 30);
    expect(await policy.decide("alice", EVERY_VOLUME)).toEqual({ access: "use", volumeName: "" });
    await metadata.access.change("db", () => ["bob"]);
    await Bun.sleep(0);
    expect(changes()).toBe(2);
    expect(await policy.decide("alice", first.volumeId)).toEqual({ access: "none", volumeName: "db" });
    expect((await policy.decide("alice", EVERY_VOLUME)).access).toBe("none");
    const second = await metadata.volumes.create("logs", 2 ** 30);
    expect(await policy.decide("alice", second.volumeId)).toEqual({ access: "use", volumeName: "logs" });
    policy.stop();
  });

  test("AccessPolicy leaves a volume whose list is damaged to peers and administrators", async () => {
    const { store, metadata, policy, damage } = await bench();
    const { volumeId } = await metadata.volumes.create("db", 2 ** 30);
    const key = `torus/access/${String(volumeId).padStart(13, "0")}`;
    const value = new TextEncoder().encode('{"format":1,"clients":7}');
    await store.transact({ compares: [], operations: [{ kind: "put", key, value }] });
    await Bun.sleep(0);
    expect((await policy.decide("alice", volumeId)).access).toBe("none");
    expect(damage[0]).toContain("Cannot use metadata record torus/access/");
    expect((await metadata.access.damage()).map((each) => each.volumeId)).toEqual([volumeId]);
    const { health, problems } = await clusterStatus(metadata);
    expect(health).not.toBe("ok");
    expect(problems.join("\n")).toContain("The access list of volume db cannot be read");
    // Nobody is let in by adding to what cannot be read; it can be removed, which is how it is mended.
    await expect(metadata.access.change("db", (before) => [...(before() ?? []), "alice"])).rejects.toThrow(
      "Cannot use metadata record torus/access/",
    );
    expect(await metadata.access.change("db", () => undefined)).toBeUndefined();
    expect(await metadata.access.damage()).toEqual([]);
    expect(await metadata.access.change("db", (before) => [...(before() ?? []), "bob"])).toEqual(["bob"]);
    await Bun.sleep(0);
    expect((await policy.decide("bob", volumeId)).access).toBe("use");
  });

  test("storeForCaller keeps a client from another's volume, whatever it tries", async () => {
    const { store, metadata, refused, as } = await bench();
    const db = await metadata.volumes.create("db", 2 ** 30);
    await metadata.access.change("db", () => ["bob"]);
    await Bun.sleep(0);
    const alice = as("alice");
    const bob = as("bob");
    const error =
      'Cannot use volume "db" with the certificate "alice" of role client: its access list does not name it';
    await expect(alice.volumes.delete("db")).rejects.toThrow(error);
    await expect(alice.volumes.rename("db", "mine")).rejects.toThrow(error);
    await expect(alice.volumes.resize("db", 2 ** 31)).rejects.toThrow(error);
    await expect(alice.access.change("db", () => ["alice"])).rejects.toThrow("Cannot change access lists");
    await expect(bob.access.change("db", () => undefined)).rejects.toThrow("Cannot change access lists");
    await alice.volumes.create("mine", 2 ** 30);
    await bob.volumes.resize("db", 2 ** 31);
    // The name of another's volume for her own, and an heir of it by her own hand.
    const value = (object: object) => new TextEncoder().encode(JSON.stringify({ format: 1, ...object }));
    const put = (key: string, object: object) =>
      alice.context.store.transact({
        compares: [],
        operations: [{ kind: "put", key, value: value(object) }],
      });
    await expect(put("torus/names/db", { volumeId: 2 })).rejects.toThrow(error);
    await expect(put("torus/names/other", { volumeId: db.volumeId })).rejects.toThrow(error);
    const heir = { volumeId: 2, name: "mine", sizeBytes: 1, createdMs: 0, lineageId: 1, token: "" };
    await expect(put("torus/volumes/0000000000002/record", { ...heir, ancestorIds: [1] })).rejects.toThrow(
      error,
    );
    await expect(put("torus/volumes/0000000000001/head", {})).rejects.toThrow(error);
    await expect(put("torus/volumes/counter", { last: 1 })).rejects.toThrow("change how volumes are counted");
    await expect(put("torus/cluster/upkeep", {})).rejects.toThrow("change ring or settings");
    // A lock's lease is no secret, and ending it would end the lock.
    const lease = await store.grantLease(60_000);
    const key = "torus/volumes/0000000000001/lock";
    await store.transact({ compares: [], operations: [{ kind: "put", key, value: value({}), lease }] });
    await expect(alice.context.store.revokeLease(lease)).rejects.toThrow(error);
    expect(await store.get(key)).toBeDefined();
    await bob.context.store.revokeLease(lease);
    expect(await store.get(key)).toBeUndefined();
    await bob.volumes.delete("db");
    expect(refused).toContain('A certificate of role client, "alice", tried to use volume "db"');
  });
});
