/** One daemon that keeps its metadata itself, and its client, killed -9 at one moment: what was flushed is there. */
import { Cluster, openScene, startStampWriter, verifyStamps } from "./harness";

const PAGE_COUNT = 1024;
const WRITES_PER_ROUND = 400;

const scene = openScene("embedded-killed");

scene.test(
  "one daemon with embedded metadata keeps the same promise",
  async () => {
    const cluster = await Cluster.embedded(scene, { size: "1GiB" });
    await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
    const server = await cluster.serve("blk", ["disk"]);
    const writer = await startStampWriter(scene, server.uri("disk"), {
      firstWrite: 1,
      pageCount: PAGE_COUNT,
    });
    await writer.reach(WRITES_PER_ROUND);
    await Promise.all([cluster.daemons[0]!.kill(), server.kill()]);
    await writer.process.kill();
    await cluster.daemons[0]!.start();
    await server.start();
    const acknowledged = writer.acknowledged();
    await verifyStamps(scene, server.uri("disk"), { pageCount: PAGE_COUNT, acknowledged });
  },
  300_000,
);
