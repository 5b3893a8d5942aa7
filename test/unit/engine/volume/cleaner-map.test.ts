/** Cleaning while the map's nodes have to be loaded, and are let go of again at once. */
import { expect, test } from "bun:test";
import { flush, read, TestCluster, write } from "./cluster";

const MIB = 1024 * 1024;
const PAGE = 4096;
const VOLUME_BYTES = 32 * MIB;
const filled = (lengthBytes: number, value: number) => new Uint8Array(lengthBytes).fill(value);

/** Cleans a volume of which three quarters were overwritten, with a map of which nothing is in memory; how many pages. */
async function clean(mapBytesMax: number): Promise<number> {
  const cluster = await TestCluster.start({ peerCount: 2 });
  await cluster.run(cluster.volumes.create("db", VOLUME_BYTES));
  const client = await cluster.client({ writeBufferBytes: 16 * (cluster.blockSizeBytes + 32_768) });
  const writer = await cluster.run(client.open("db", { cleanBytesPerSecond: 0 }));
  for (let at = 0; at < VOLUME_BYTES; at += MIB)
    expect(await cluster.run(write(writer, at, filled(MIB, 1)))).toBe(0);
  for (let at = 0; at < VOLUME_BYTES; at += 4 * PAGE)
    expect(await cluster.run(write(writer, at, filled(3 * PAGE, 2)))).toBe(0);
  expect(await cluster.run(flush(writer))).toBe(0);
  await cluster.run(writer.close());
  const cleaning = {
    mapBytesMax,
    checkpointIntervalMs: 500,
    cleanDeadBytesMin: 32 * 1024,
    cleanAboveRatio: 1.1,
  };
  const volume = await cluster.run(client.open("db", cleaning));
  for (let second = 0; second < 6; second++) await cluster.pass(1_000);
  for (let at = 0; at < VOLUME_BYTES; at += MIB) {
    const pages = await cluster.run(read(volume, at, 4 * PAGE));
    expect([pages[0], pages[3 * PAGE - 1], pages[3 * PAGE], pages[4 * PAGE - 1]]).toEqual([2, 2, 1, 1]);
  }
  const { pagesCleaned } = volume.statistics;
  expect((await cluster.run(volume.close())).clean).toBe(true);
  return pagesCleaned;
}

test("Cleaner copies as much whether the map's nodes stay in memory or go at once", async () => {
  const roomy = await clean(64 * MIB);
  expect(roomy).toBeGreaterThan(1_000);
  const cramped = await clean(0);
  expect(cramped).toBe(roomy);
}, 60_000);
