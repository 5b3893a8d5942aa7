/** The client of a volume killed -9 while it writes: nothing acknowledged is lost, nothing is torn. */
import { expect } from "bun:test";
import { Cluster, openScene, startStampWriter, verifyStamps } from "./harness";

const PAGE_COUNT = 1024;
const ROUNDS = 4;
const WRITES_PER_ROUND = 400;

const scene = openScene("client-crash");

scene.test(
  "what a flush acknowledged before kill -9 is there after reopening, as a prefix of all writes",
  async () => {
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
    const server = await cluster.serve("blk", ["disk"]);
    let lastWrite = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const writer = await startStampWriter(scene, server.uri("disk"), {
        firstWrite: lastWrite + 1,
        pageCount: PAGE_COUNT,
      });
      await writer.reach(lastWrite + WRITES_PER_ROUND);
      await server.kill();
      await writer.process.kill();
      const acknowledged = writer.acknowledged();
      expect(acknowledged).toBeGreaterThanOrEqual(lastWrite + WRITES_PER_ROUND);
      await server.start();
      lastWrite = await verifyStamps(scene, server.uri("disk"), { pageCount: PAGE_COUNT, acknowledged });
    }
  },
  600_000,
);
