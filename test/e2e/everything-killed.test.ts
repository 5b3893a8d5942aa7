/** Client, all daemons and etcd killed -9 at one moment and started again: the same promise as for the client. */
import { expect } from "bun:test";
import { Cluster, openScene, qemuIo, startStampWriter, verifyStamps } from "./harness";

const PAGE_COUNT = 1024;
const ROUNDS = 3;
const WRITES_PER_ROUND = 400;

const scene = openScene("everything-killed");

scene.test(
  "what a flush acknowledged before everything was killed is there after everything restarted",
  async () => {
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
    await cluster.createVolume("calm", "64MiB");
    const server = await cluster.serve("blk", ["disk", "calm"]);
    await qemuIo(scene, server.uri("calm"), ["write -P 0x61 0 16M", "flush"]);
    let lastWrite = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const writer = await startStampWriter(scene, server.uri("disk"), {
        firstWrite: lastWrite + 1,
        pageCount: PAGE_COUNT,
      });
      await writer.reach(lastWrite + WRITES_PER_ROUND);
      await Promise.all([
        ...cluster.daemons.map((daemon) => daemon.kill()),
        cluster.etcd!.kill(),
        server.kill(),
      ]);
      await writer.process.kill();
      const acknowledged = writer.acknowledged();
      expect(acknowledged).toBeGreaterThanOrEqual(lastWrite + WRITES_PER_ROUND);
      await cluster.etcd!.restart();
      await Promise.all(cluster.daemons.map((daemon) => daemon.start()));
      await server.start();
      lastWrite = await verifyStamps(scene, server.uri("disk"), { pageCount: PAGE_COUNT, acknowledged });
      await qemuIo(scene, server.uri("calm"), ["read -P 0x61 0 16M", "read -P 0 16M 48M"]);
    }
  },
  600_000,
);

const single = openScene("single-killed");

single.test(
  "one daemon with embedded metadata keeps the same promise",
  async () => {
    const cluster = await Cluster.embedded(single, { size: "1GiB" });
    await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
    const server = await cluster.serve("blk", ["disk"]);
    const writer = await startStampWriter(single, server.uri("disk"), {
      firstWrite: 1,
      pageCount: PAGE_COUNT,
    });
    await writer.reach(WRITES_PER_ROUND);
    await Promise.all([cluster.daemons[0]!.kill(), server.kill()]);
    await writer.process.kill();
    await cluster.daemons[0]!.start();
    await server.start();
    const acknowledged = writer.acknowledged();
    await verifyStamps(single, server.uri("disk"), { pageCount: PAGE_COUNT, acknowledged });
  },
  300_000,
);
