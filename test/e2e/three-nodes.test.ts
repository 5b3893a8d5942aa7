/** Three daemons, a real etcd, two copies of every block, over each of the two protocols between peers. */
import { beforeAll, describe, expect } from "bun:test";
import { Cluster, fioCommand, type NbdServer, openScene, type PeerScheme, waitFor } from "./harness";
import { declareClientSuite } from "./harness/client-suite";

const GIBIBYTE = 1024 ** 3;
/** Of the load of the test: it flushes a thousand times. */
const SYNCS_UNDER_WAY = 100;
const SCHEMES: readonly PeerScheme[] = ["adp", "http"];

interface Status {
  readonly health: string;
  readonly problems: readonly string[];
}

for (const scheme of SCHEMES)
  describe(`three daemons over ${scheme}://`, () => {
    const scene = openScene(`three-${scheme}`);
    let cluster: Cluster;
    let server: NbdServer;

    beforeAll(async () => {
      cluster = await Cluster.withEtcd(scene, { peerCount: 3, scheme, replication: 2, size: "3GiB" });
      await cluster.createVolume("disk", "1GiB");
      server = await cluster.serve("blk", ["disk"]);
    }, 180_000);

    declareClientSuite(scene, () => ({ uri: server.uri("disk"), sizeBytes: GIBIBYTE }));

    scene.test(
      "a daemon killed under a verifying load costs no error, is reported, returns and catches up",
      async () => {
        const load = await scene.start(
          "fio",
          fioCommand(server.uri("disk"), "load", {
            rw: "randwrite",
            bs: "4k",
            size: "256m",
            iodepth: 8,
            fsync: 64,
            verify: "crc32c",
            verify_fatal: 1,
          }),
        );
        const victim = cluster.daemons[1]!;
        const before = await syncCount(cluster);
        await waitFor("the load to be under way", async () => {
          if (!load.running) throw new Error(load.output());
          return (await syncCount(cluster)) > before + SYNCS_UNDER_WAY;
        });
        await victim.kill();
        expect(load.running).toBe(true);
        const degraded = await waitForStatus(cluster, (status) => status.health !== "ok");
        expect(degraded.problems.length).toBeGreaterThan(0);
        expect(await load.ended(240_000)).toBe(0);
        expect(load.output()).not.toContain("verify:");
        await victim.start();
        await waitForStatus(cluster, (status) => status.health === "ok");
        await cluster.daemons[0]!.kill();
        await scene.run(["nbdcopy", server.uri("disk"), scene.path("all.img")], { timeMsMax: 120_000 });
        await cluster.daemons[0]!.start();
      },
      420_000,
    );
  });

/** Syncs that the daemons made for blocks since each started: unlike the space they use, this only grows. */
async function syncCount(cluster: Cluster): Promise<number> {
  let count = 0;
  for (const daemon of cluster.daemons) {
    const metrics = await (await daemon.ask("/metrics")).text();
    count += Number(metrics.match(/^torus_store_sync_duration_seconds_count(?:\{[^}]*\})? (\d+)/m)?.[1]);
  }
  return count;
}

async function waitForStatus(cluster: Cluster, condition: (status: Status) => boolean): Promise<Status> {
  let status: Status | undefined;
  await waitFor(
    "ctl status to show it",
    async () => {
      status = await cluster.ctlJson<Status>("status");
      return condition(status);
    },
    120_000,
  );
  return status!;
}
