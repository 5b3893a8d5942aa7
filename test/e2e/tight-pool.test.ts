/**
 * A volume that fills half of its pool, overwritten at random as fast as it goes: dead space comes faster than it is
 * collected, and the writer must be held up for it, never be told that there is no space.
 */
import { expect } from "bun:test";
import { Cluster, fio, openScene } from "./harness";

const scene = openScene("tight-pool");
const VOLUME_MEBIBYTES = 256;
const OVERWRITTEN_TIMES = 3;

scene.test(
  "random overwriting of a half full pool gets no error, and what is written afterwards reads right",
  async () => {
    const cluster = await Cluster.embedded(scene, { size: "512MiB" });
    await cluster.createVolume("disk", `${VOLUME_MEBIBYTES}MiB`);
    const server = await cluster.serve("blk", ["disk"]);
    const uri = server.uri("disk");
    const whole = { size: `${VOLUME_MEBIBYTES}m`, iodepth: 16 };
    await fio(scene, uri, "fill", { ...whole, rw: "write", bs: "256k", end_fsync: 1 });
    const overwritten = await fio(scene, uri, "overwrite", {
      ...whole,
      ...{ rw: "randwrite", bs: "4k", norandommap: 1, fsync: 256, end_fsync: 1 },
      io_size: `${VOLUME_MEBIBYTES * OVERWRITTEN_TIMES}m`,
    });
    expect(overwritten.jobs[0]?.write.io_bytes).toBe(VOLUME_MEBIBYTES * OVERWRITTEN_TIMES * 1024 * 1024);
    await fio(scene, uri, "verify", {
      ...whole,
      rw: "randwrite",
      bs: "4k",
      verify: "crc32c",
      verify_fatal: 1,
    });
    expect(server.running).toBe(true);
  },
  420_000,
);
