/**
 * etcd put back to a backup, as `etcdctl snapshot` makes and restores it, under daemons that go on: a volume that was
 * opened since is refused, however often it is tried, and opens again when the newest copy is there; or, when what was
 * written since is given up, as it was at the backup.
 */
import { expect } from "bun:test";
import { Cluster, openScene, qemuIo } from "./harness";

const scene = openScene("metadata-backup");
const [BACKUP, NEWEST] = ["backup.db", "newest.db"];

let cluster: Cluster;

/** Opens it, does this to it, and detaches it. */
async function use(
  commands: readonly string[],
  flags: readonly string[] = [],
  volume = "db",
): Promise<string> {
  const server = await cluster.serve("blk", [volume], { flags });
  await qemuIo(scene, server.uri(volume), commands);
  expect(await server.stop()).toBe(0);
  return server.output();
}

async function refusal(volume = "db"): Promise<string> {
  const { exitCode, stderr } = await cluster.attempt([
    ...["blk", "nbdserve", volume, "--listen", `unix:${scene.path("refused.sock")}`, "--wait", "20s"],
    ...cluster.metaFlags,
  ]);
  expect(exitCode).toBe(1);
  return stderr;
}

scene.test(
  "metadata from a backup do not open a volume that has been written since, unless that is given up",
  async () => {
    cluster = await Cluster.withEtcd(scene, { peerCount: 2, replication: 2, size: "1GiB" });
    const etcd = cluster.etcd!;
    await cluster.createVolume("db", "64MiB");
    await use(["write -P 1 0 1M", "flush"]);
    await etcd.save(scene.path(BACKUP));
    await use(["write -P 2 0 1M", "flush"]);
    await cluster.createVolume("late", "64MiB");
    await use(["write -P 4 0 1M", "flush"], [], "late");
    await etcd.save(scene.path(NEWEST));

    await etcd.restore(scene.path(BACKUP));
    for (let times = 0; times < 3; times++) {
      const said = await refusal();
      expect(said).toMatch(
        /Cannot open volume "db": peer \S+ \(adp:\S+\) has seen a writer of epoch \d+, which the metadata/,
      );
      expect(said).toContain("give up what was written since with --accept-loss");
    }
    // It gets the id of the volume that is forgotten, and must not cost that one's blocks.
    await cluster.createVolume("other", "64MiB");
    expect(await refusal("other")).toContain("put back to a backup");
    await etcd.restore(scene.path(NEWEST));
    await use(["read -P 2 0 1M"]);
    await use(["read -P 4 0 1M"], [], "late");

    // A young backup, and other pages: what a checkpoint leaves of the map is deleted some fifteen seconds later, data
    // that were overwritten at once.
    await etcd.save(scene.path(BACKUP));
    await use(["write -P 5 32M 1M", "flush"]);
    await etcd.restore(scene.path(BACKUP));
    expect(await refusal()).toContain("put back to a backup");
    expect(await use(["read -P 2 0 1M", "write -P 3 4M 1M", "flush"], ["--accept-loss"])).toContain(
      "which the metadata does not know of: what was written since is lost",
    );
    await use(["read -P 2 0 1M", "read -P 3 4M 1M"]);
  },
  300_000,
);

scene.test(
  "nor one that was attached all the time",
  async () => {
    const etcd = cluster.etcd!;
    const server = await cluster.serve("attached", ["db"]);
    const write = (byte: number) => qemuIo(scene, server.uri("db"), [`write -P ${byte} 0 1M`, "flush"]);
    await write(5);
    await etcd.save(scene.path(BACKUP));
    for (const byte of [6, 7]) {
      await write(byte);
      // Whoever takes a snapshot makes the writer write a checkpoint.
      await cluster.ctl("block", "snapshot", "create", `db@at-${byte}`);
    }
    await write(8);
    await server.kill();
    await etcd.save(scene.path(NEWEST));
    await etcd.restore(scene.path(BACKUP));
    for (let times = 0; times < 2; times++)
      expect(await refusal()).toMatch(
        /has seen a newer head of epoch \d+, which the metadata does not know of/,
      );
    await etcd.restore(scene.path(NEWEST));
    await use(["read -P 8 0 1M"]);
  },
  300_000,
);
