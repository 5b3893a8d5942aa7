/**
 * etcd gone for a while: stopped dead with its connections open, and killed. Who has a volume attached goes on: writes
 * and flushes are acknowledged all the time, reads until the lease's deadline, and from then on they wait. When etcd
 * is back everything goes on by itself; nobody loses a volume, and no request fails.
 */
import { expect } from "bun:test";
import { Cluster, History, Intruders, openScene, waitFor } from "./harness";

const PAGE_COUNT = 1024;
const WRITES = 200;
/** Past the lease of a volume (15 s); a minute when asked for. */
const OUTAGE_MS = Number(process.env.TORUS_CRASH_OUTAGE_MS ?? 20_000);
/** How long a read is watched that must not be answered yet. */
const READ_WAITS_MS = 1_000;

const scene = openScene("crash-etcd");

interface Status {
  readonly health: string;
}

const OUTAGES = {
  stopped: async (cluster: Cluster) => {
    cluster.etcd!.pause();
    return async () => cluster.etcd!.resume();
  },
  killed: async (cluster: Cluster) => {
    await cluster.etcd!.kill();
    return () => cluster.etcd!.restart();
  },
};

let cluster: Cluster | undefined;

for (const [name, begin] of Object.entries(OUTAGES))
  scene.test(
    `etcd ${name}: attached volumes go on and recover by themselves`,
    async () => {
      cluster ??= await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
      const stage = cluster;
      const [writes, reads] = [`writes-${name}`, `reads-${name}`];
      for (const volume of [writes, reads]) await stage.createVolume(volume, `${PAGE_COUNT * 4}KiB`);
      const server = await stage.serve(`blk-${name}`, [writes, reads], {
        flags: ["--read-cache-size", "0"],
      });
      const writing = new History(scene, writes, PAGE_COUNT);
      const reading = new History(scene, reads, PAGE_COUNT);
      await writing.write(server.uri(writes), { reads: false });
      await reading.write(server.uri(reads));
      await writing.advance(WRITES);
      await reading.advance(WRITES);
      const late = await Intruders.connect(scene, server.uri(reads), ["read"]);

      const end = await begin(stage);
      // Reads and writes both, while the lease lasts.
      await reading.advance(WRITES);
      await writing.advance(WRITES);
      await Bun.sleep(OUTAGE_MS);
      await writing.advance(WRITES);
      await late.ask();
      await Bun.sleep(READ_WAITS_MS);
      late.checkSilence();
      expect(reading.writing).toBe(true);
      const endedMs = performance.now();
      await end();
      await late.answered();
      console.log(
        `etcd ${name}: reads go on ${Math.round(performance.now() - endedMs)} ms after it is back; longest stall of a flush meanwhile ${writing.stallMsMax} ms`,
      );
      await writing.advance(WRITES);
      await reading.advance(WRITES);
      await writing.halt();
      await reading.halt();
      await writing.verify(server.uri(writes));
      await reading.verify(server.uri(reads));
      await waitFor(
        "all to be well again",
        async () => (await stage.ctlJson<Status>("status")).health === "ok",
        120_000,
      );
      expect(stage.daemons.every((daemon) => daemon.running)).toBe(true);
      expect(await server.stop()).toBe(0);
    },
    600_000,
  );
