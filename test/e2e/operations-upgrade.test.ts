/** An upgrade's restart: peers stop and start one after the other under a verifying load, and no request fails. */
import { beforeAll, expect } from "bun:test";
import { Cluster, fioCommand, freePort, type NbdServer, openScene, waitFor } from "./harness";

const scene = openScene("upgrade");
const LOAD_BYTES = 32 * 1024 * 1024;
let cluster: Cluster;
let server: NbdServer;
let httpPort: number;

beforeAll(async () => {
  cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "2GiB" });
  await cluster.createVolume("disk", "512MiB");
  httpPort = await freePort();
  server = await cluster.serve("blk", ["disk"], { flags: ["--http", `127.0.0.1:${httpPort}`] });
}, 180_000);

/** Bytes that the load has read or written so far, as the client counts them. */
async function moved(direction: "read" | "written"): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
  return Number(new RegExp(`^torus_nbd_${direction}_bytes_total (\\d+)`, "m").exec(text)?.[1]);
}

scene.test(
  "peers restarted one by one under a verifying load cost no I/O error",
  async () => {
    // Writes all of it, reads it back and compares, and again, until it is ended.
    const load = await scene.start(
      "fio",
      fioCommand(server.uri("disk"), "load", {
        ...{ rw: "randwrite", bs: "4k", size: "32m", iodepth: 8, fsync: 32, loops: 100_000, runtime: 900 },
        ...{ verify: "crc32c", verify_fatal: 1 },
      }),
    );
    for (const daemon of cluster.daemons) {
      await waitFor(
        "the cluster to be whole",
        async () => (await cluster.ctlJson<{ health: string }>("status")).health === "ok",
        90_000,
      );
      const before = await moved("written");
      await waitFor("the load to go on", async () => (await moved("written")) > before);
      expect(load.running).toBe(true);
      expect(await daemon.stop()).toBe(0);
      await daemon.start();
    }
    // What was written since the first restart has been read back once, whole.
    const before = await moved("read");
    await waitFor(
      "a whole pass of verification",
      async () => (await moved("read")) >= before + 2 * LOAD_BYTES,
      180_000,
    );
    expect(load.running).toBe(true);
    await load.end("SIGINT");
    expect(load.output()).not.toMatch(/verify:|error=|io_u error/);
    expect(server.running).toBe(true);
    // fio in JSON says so for every job.
    expect(load.output()).toMatch(/"error"\s*:\s*0/);
  },
  480_000,
);
