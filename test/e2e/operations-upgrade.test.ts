/** An upgrade's restart: peers stop and start one after the other under a verifying load, and no request fails. */
import { beforeAll, expect } from "bun:test";
import { Cluster, fioCommand, type NbdServer, openScene, waitFor } from "./harness";

const scene = openScene("upgrade");
let cluster: Cluster;
let server: NbdServer;

beforeAll(async () => {
  cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "2GiB" });
  await cluster.createVolume("disk", "512MiB");
  server = await cluster.serve("blk", ["disk"]);
}, 180_000);

scene.test(
  "peers restarted one by one under a verifying load cost no I/O error",
  async () => {
    const load = await scene.start(
      "fio",
      fioCommand(server.uri("disk"), "load", {
        rw: "randwrite",
        bs: "4k",
        size: "128m",
        loops: 100,
        runtime: 120,
        iodepth: 8,
        fsync: 32,
        verify: "crc32c",
        verify_fatal: 1,
      }),
    );
    for (const daemon of cluster.daemons) {
      await waitFor("the cluster to be whole", async () => {
        const { health } = await cluster.ctlJson<{ health: string }>("status");
        return health === "ok";
      });
      const before = await cluster.usedBytes();
      await waitFor("the load to go on", async () => (await cluster.usedBytes()) > before);
      expect(load.running).toBe(true);
      expect(await daemon.stop()).toBe(0);
      await daemon.start();
    }
    expect(load.running).toBe(true);
    expect(await load.ended(240_000)).toBe(0);
    expect(load.output()).not.toMatch(/verify:|error=|io_u error/);
    expect(server.running).toBe(true);
    // fio in JSON says so for every job.
    expect(load.output()).toMatch(/"error"\s*:\s*0/);
  },
  480_000,
);
