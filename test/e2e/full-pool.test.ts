/** A pool that fills up says so to the client as ENOSPC, loses nothing, and goes on when space was freed. */
import { expect } from "bun:test";
import { Cluster, nbdsh, openScene } from "./harness";

const scene = openScene("full-pool");
const CHUNK_BYTES = 1024 * 1024;
const VOLUME_MEBIBYTES = 1024;

/** Writes chunk after chunk, each with a flush, until ENOSPC; prints how many are acknowledged. */
const FILL = `
import errno, nbd
done = 0
try:
    for i in range(${VOLUME_MEBIBYTES}):
        h.pwrite(bytes([i % 250 + 1]) * ${CHUNK_BYTES}, i * ${CHUNK_BYTES})
        h.flush()
        done = i + 1
except nbd.Error as error:
    print("errno", errno.errorcode[error.errnum])
print("done", done)
`;

function verify(firstChunk: number, endChunk: number): string {
  return `
for i in range(${firstChunk}, ${endChunk}):
    assert h.pread(${CHUNK_BYTES}, i * ${CHUNK_BYTES}) == bytes([i % 250 + 1]) * ${CHUNK_BYTES}, i
print("verified")
`;
}

scene.test(
  "writes get ENOSPC when the pool is full, nothing is lost, and after TRIM writing goes on",
  async () => {
    const cluster = await Cluster.embedded(scene, { size: "256MiB" });
    await cluster.createVolume("disk", `${VOLUME_MEBIBYTES}MiB`);
    const server = await cluster.serve("blk", ["disk"]);
    const said = await nbdsh(scene, server.uri("disk"), FILL);
    expect(said).toContain("errno ENOSPC");
    const done = Number(said.match(/done (\d+)/)?.[1]);
    expect(done).toBeGreaterThan(128);
    expect(done).toBeLessThan(256);
    expect(await nbdsh(scene, server.uri("disk"), verify(0, done))).toContain("verified");

    const half = Math.floor(done / 2);
    const trimAndGoOn = `
import time, nbd
for i in range(${half}):
    h.trim(${CHUNK_BYTES}, i * ${CHUNK_BYTES})
end = time.monotonic() + 120
while True:
    try:
        for i in range(${VOLUME_MEBIBYTES - 32}, ${VOLUME_MEBIBYTES}):
            h.pwrite(bytes([i % 250 + 1]) * ${CHUNK_BYTES}, i * ${CHUNK_BYTES})
        h.flush()
        break
    except nbd.Error:
        if time.monotonic() > end: raise
        time.sleep(0.2)
print("went on")
`;
    expect(await nbdsh(scene, server.uri("disk"), trimAndGoOn)).toContain("went on");
    expect(await nbdsh(scene, server.uri("disk"), verify(half, done))).toContain("verified");
    const last = verify(VOLUME_MEBIBYTES - 32, VOLUME_MEBIBYTES);
    expect(await nbdsh(scene, server.uri("disk"), last)).toContain("verified");

    await server.kill();
    await cluster.daemons[0]!.restart();
    await server.start();
    expect(await nbdsh(scene, server.uri("disk"), verify(half, done))).toContain("verified");
    expect(await nbdsh(scene, server.uri("disk"), last)).toContain("verified");
  },
  420_000,
);
