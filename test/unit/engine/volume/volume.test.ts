/** An open volume over a small cluster: what is written is read, survives, and goes on when peers do not. */
import { describe, expect, test } from "bun:test";
import { TorusError } from "../../../../src/base";
import { flush, read, type TestClient, TestCluster, trim, write } from "./cluster";

const GIB = 1024 ** 3;
const pattern = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 17 + (index >>> 8)) & 0xff);

async function refusal(cluster: TestCluster, client: TestClient): Promise<TorusError> {
  const outcome = await cluster.run(client.open("db").catch((error: unknown) => error));
  expect(outcome).toBeInstanceOf(TorusError);
  return outcome as TorusError;
}

describe("Volume", () => {
  test("reads zeroes where nothing was written, and what was written elsewhere", async () => {
    const cluster = await TestCluster.start();
    await cluster.run(cluster.volumes.create("db", GIB));
    const client = await cluster.client();
    const volume = await cluster.run(client.open("db"));
    expect(await cluster.run(read(volume, 0, 8192))).toEqual(new Uint8Array(8192));
    expect(await cluster.run(write(volume, 4096, pattern(4096, 1)))).toBe(0);
    expect(await cluster.run(write(volume, 10_000, pattern(3000, 2)))).toBe(0);
    expect(await cluster.run(flush(volume))).toBe(0);
    const expected = new Uint8Array(16384);
    expected.set(pattern(4096, 1), 4096);
    expected.set(pattern(3000, 2), 10_000);
    expect(await cluster.run(read(volume, 0, 16384))).toEqual(expected);
    expect(await cluster.run(volume.close())).toEqual({ clean: true, reason: undefined });
  });

  test("reopens after a clean detach and after a crash with all that a flush acknowledged", async () => {
    const cluster = await TestCluster.start();
    await cluster.run(cluster.volumes.create("db", GIB));
    let client = await cluster.client();
    let volume = await cluster.run(client.open("db"));
    const big = pattern(300_000, 3);
    expect(await cluster.run(write(volume, 123, big))).toBe(0);
    expect((await cluster.run(volume.close())).clean).toBe(true);
    volume = await cluster.run(client.open("db"));
    expect(await cluster.run(read(volume, 123, big.length))).toEqual(big);
    expect(await cluster.run(write(volume, 50_000, pattern(100_000, 4), true))).toBe(0);
    expect(await cluster.run(trim(volume, 200_000, 50_000))).toBe(0);
    expect(await cluster.run(flush(volume))).toBe(0);
    client.crash();
    client = await cluster.client();
    volume = await cluster.run(client.open("db"));
    const expected = new Uint8Array(400_000);
    expected.set(big, 123);
    expected.set(pattern(100_000, 4), 50_000);
    expected.fill(0, 200_000, 250_000);
    expect(await cluster.run(read(volume, 0, 400_000))).toEqual(expected);
    expect((await cluster.run(volume.close())).clean).toBe(true);
  });

  test("does not open over a map that no peer has, and says which metadata would", async () => {
    const cluster = await TestCluster.start();
    await cluster.run(cluster.volumes.create("db", GIB));
    const client = await cluster.client();
    let volume = await cluster.run(client.open("db"));
    expect(await cluster.run(write(volume, 0, pattern(4096, 5)))).toBe(0);
    await cluster.run(volume.close());
    const removed = cluster.peers.flatMap(({ service }) =>
      [...service.blocks].filter(([name]) => name.startsWith("inode")).map((entry) => ({ service, entry })),
    );
    expect(removed.length).toBeGreaterThan(1);
    for (const { service, entry } of removed) service.blocks.delete(entry[0]);
    expect((await refusal(cluster, client)).message).toMatch(
      /no peer has INode block 1\/\d+\/\d+; if the metadata were put back to a backup, .* only a newer copy of the metadata opens the volume/,
    );
    for (const { service, entry } of removed) service.blocks.set(...entry);
    volume = await cluster.run(client.open("db"));
    expect(await cluster.run(read(volume, 0, 4096))).toEqual(pattern(4096, 5));
  });

  test("does not wait long for a part of the map that no peer has, when the tail is to change it", async () => {
    const cluster = await TestCluster.start();
    await cluster.run(cluster.volumes.create("db", GIB));
    let client = await cluster.client();
    const session = async (offsetBytes: number) => {
      const volume = await cluster.run(client.open("db"));
      expect(await cluster.run(write(volume, offsetBytes, pattern(4096, 6)))).toBe(0);
      expect(await cluster.run(flush(volume))).toBe(0);
      return volume;
    };
    const inodes = () =>
      cluster.peers.flatMap(({ service }) =>
        [...service.blocks.keys()]
          .filter((name) => name.startsWith("inode"))
          .map((name) => ({ service, name })),
      );
    await cluster.run((await session(0)).close());
    const first = inodes();
    // Writes the root anew, while the leaf of the first page stays where it was.
    await cluster.run((await session(GIB / 2)).close());
    await session(0);
    client.crash();
    for (const { service, name } of first) service.blocks.delete(name);
    client = await cluster.client();
    const startMs = cluster.clock.nowMs();
    const { code, message } = await refusal(cluster, client);
    expect(code).toBe("map-missing");
    expect(message).toMatch(/no peer has the node of the map .* only a newer copy of the metadata/);
    expect(cluster.clock.nowMs() - startMs).toBeLessThan(60_000);
  });
});
