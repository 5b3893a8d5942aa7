/** What a write sends and what a volume costs, counted by the kernel and by the stores. */
import { describe, expect } from "bun:test";
import { bytesReceivedAt, Cluster, nbdsh, openScene, qemuIo, waitFor } from "./harness";

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const WRITE_COUNT = 500;
const REPLICATION = 2;
/** Headers of block and frame beside a page of 4 KiB, with room for the rest of the protocol. */
const OVERHEAD_BYTES_MAX = 1024;

describe("bytes on the network", () => {
  const scene = openScene("bytes");

  scene.test("a 4 KiB write with a flush sends about 4 KiB to each replica", async () => {
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: REPLICATION, size: "1GiB" });
    await cluster.createVolume("disk", "1GiB");
    const server = await cluster.serve("blk", ["disk"]);
    const ports = cluster.daemons.map((daemon) => daemon.peerPort);
    const script = `
for i in range(${WRITE_COUNT}):
    h.pwrite(bytes([i % 251 + 1]) * 4096, (i * 37 % 4096) * 4096)
    h.flush()
`;
    await qemuIo(scene, server.uri("disk"), ["write -P 1 0 4096", "flush"]);
    const before = await bytesReceivedAt(scene, ports);
    await nbdsh(scene, server.uri("disk"), script);
    const perReplica = ((await bytesReceivedAt(scene, ports)) - before) / WRITE_COUNT / REPLICATION;
    expect(perReplica).toBeGreaterThanOrEqual(4 * KIBIBYTE);
    expect(perReplica).toBeLessThanOrEqual(4 * KIBIBYTE + OVERHEAD_BYTES_MAX);
  });
});

describe("space", () => {
  const scene = openScene("thin");

  scene.test(
    "a volume of 1 TiB that holds 1 MiB costs about 1 MiB, and one that holds nothing costs nothing",
    async () => {
      const cluster = await Cluster.embedded(scene, { size: "1GiB" });
      const empty = await cluster.usedBytes();
      await cluster.createVolume("huge", "1TiB");
      expect(await cluster.usedBytes()).toBe(empty);
      const server = await cluster.serve("blk", ["huge"]);
      await qemuIo(scene, server.uri("huge"), [
        "write -P 1 0 256k",
        "write -P 2 300G 256k",
        "write -P 3 1048064M 512k",
        "flush",
        "read -P 3 1048064M 512k",
        "read -P 0 700G 1M",
      ]);
      expect(await server.stop()).toBe(0);
      // Peers tell their figures every few seconds.
      await waitFor("the space to be told", async () => (await cluster.usedBytes()) - empty >= MEBIBYTE);
      const used = (await cluster.usedBytes()) - empty;
      expect(used).toBeLessThanOrEqual(1.25 * MEBIBYTE);
      await server.start();
      await qemuIo(scene, server.uri("huge"), [
        "read -P 1 0 256k",
        "read -P 2 300G 256k",
        "read -P 0 256k 1M",
      ]);
    },
  );
});
