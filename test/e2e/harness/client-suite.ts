/**
 * What every served volume must pass, whatever stands behind it: the real clients, each with data it can check.
 * Declared once, run by the tests of one machine and of three.
 */
import { expect } from "bun:test";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { attachLoop, fio, mount, mountObstacle, nbdcopy, nbdinfo, qemuImg, qemuIo } from "./clients";
import type { Scene } from "./scene";

const MEBIBYTE = 1024 * 1024;
const RANDOM_MEBIBYTES = 256;
const EXT4_FILES = 40;

export interface ServedVolume {
  readonly uri: string;
  readonly sizeBytes: number;
}

/** A file of random bytes, which no compression or zero detection helps with. */
export function writeRandomFile(path: string, mebibytes: number): void {
  const file = openSync(path, "w");
  for (let index = 0; index < mebibytes; index++) writeSync(file, randomBytes(MEBIBYTE));
  closeSync(file);
}

function declareCopies(scene: Scene, volume: () => ServedVolume): void {
  scene.test("nbdinfo sees the size and what the server can do", async () => {
    const info = await nbdinfo(scene, volume().uri);
    expect(info["export-size"]).toBe(volume().sizeBytes);
    expect(info).toMatchObject({
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_multi_conn: true,
    });
  });

  scene.test("nbdcopy brings 256 MiB of random bytes in and out over 4 connections", async () => {
    const source = scene.path("random");
    const back = scene.path("back");
    writeRandomFile(source, RANDOM_MEBIBYTES);
    await nbdcopy(scene, source, volume().uri, ["--flush"]);
    await nbdcopy(scene, volume().uri, back);
    truncateSync(back, RANDOM_MEBIBYTES * MEBIBYTE);
    await scene.run(["cmp", source, back]);
  });

  scene.test("qemu-img converts in, and compares equal", async () => {
    const image = scene.path("image.qcow2");
    const raw = scene.path("image.raw");
    await scene.run(["cp", "--sparse=always", scene.path("random"), raw]);
    truncateSync(raw, volume().sizeBytes);
    await qemuImg(scene, "convert", "-f", "raw", "-O", "qcow2", raw, image);
    await qemuImg(scene, "convert", "-n", "-f", "qcow2", "-O", "raw", image, volume().uri);
    await qemuImg(scene, "compare", "-f", "qcow2", "-F", "raw", image, volume().uri);
  });
}

function declarePatterns(scene: Scene, volume: () => ServedVolume): void {
  scene.test("qemu-io's patterns hold across page and block edges", async () => {
    const edge = 512 * 1024;
    await qemuIo(scene, volume().uri, [
      "write -P 0x11 0 2M",
      `write -P 0x22 ${edge - 4096} 8192`,
      `write -P 0x33 ${edge - 512} 1024`,
      "write -P 0x44 4095 2",
      "write -P 0x55 12288 512",
      "write -f -P 0x66 12800 512",
      "flush",
      "read -P 0x11 0 4095",
      "read -P 0x44 4095 2",
      "read -P 0x11 4097 8191",
      "read -P 0x55 12288 512",
      "read -P 0x66 12800 512",
      "read -P 0x11 13312 1024",
      `read -P 0x22 ${edge - 4096} 3584`,
      `read -P 0x33 ${edge - 512} 1024`,
      `read -P 0x22 ${edge + 512} 3584`,
      `read -P 0x11 ${edge + 4096} 4096`,
    ]);
  });

  scene.test("write-zeroes and discard leave zeroes, and nothing beside them", async () => {
    await qemuIo(scene, volume().uri, [
      "write -P 0x77 4M 1M",
      "write -z 4198400 8192",
      "write -z -u 4210788 1000",
      "discard 4718592 65536",
      "flush",
      "read -P 0x77 4M 4096",
      "read -P 0 4198400 8192",
      "read -P 0x77 4206592 4196",
      "read -P 0 4210788 1000",
      "read -P 0x77 4211788 506804",
      "read -P 0 4718592 65536",
      "read -P 0x77 4784128 458752",
    ]);
    await qemuIo(scene, volume().uri, [
      "write -P 0x78 4718592 512",
      "read -P 0x78 4718592 512",
      "read -P 0 4719104 65024",
    ]);
  });

  scene.test("fio verifies what it wrote, in random and in sequential order", async () => {
    const job = { size: "96m", iodepth: 16, verify: "crc32c", verify_fatal: 1 };
    await fio(scene, volume().uri, "random", { ...job, rw: "randwrite", bsrange: "512-64k" });
    await fio(scene, volume().uri, "sequential", { ...job, rw: "write", bs: "256k" });
    await fio(scene, volume().uri, "mixed", { ...job, rw: "randrw", bs: "4k", fsync: 32 });
  });
}

function declareFileSystem(scene: Scene, volume: () => ServedVolume): void {
  const obstacle = mountObstacle();
  if (obstacle !== undefined) {
    console.log(`skipped: ext4 on the volume (${obstacle})`);
    return;
  }
  scene.test("ext4 is made, filled, unmounted, checked and read back", async () => {
    const contents = Array.from({ length: EXT4_FILES }, (_, index) => randomBytes(1 + index * 50_021));
    const first = await attachLoop(scene, volume().uri, "first");
    await scene.run(["mkfs.ext4", "-q", "-F", first.device]);
    const filled = await mount(scene, first.device, "filled");
    contents.forEach((bytes, index) => {
      mkdirSync(join(filled.folder, `folder-${index % 7}`), { recursive: true });
      writeFileSync(join(filled.folder, `folder-${index % 7}`, `file-${index}`), bytes);
    });
    await filled.unmount();
    await first.detach();
    const second = await attachLoop(scene, volume().uri, "second");
    await scene.run(["fsck.ext4", "-f", "-n", second.device]);
    const read = await mount(scene, second.device, "read");
    contents.forEach((bytes, index) => {
      const file = join(read.folder, `folder-${index % 7}`, `file-${index}`);
      expect(readFileSync(file).equals(bytes)).toBe(true);
    });
    await read.unmount();
    await second.detach();
  });
}

/** Declares the tests of all clients on one volume, which must be of at least 512 MiB and may hold anything. */
export function declareClientSuite(scene: Scene, volume: () => ServedVolume): void {
  declareCopies(scene, volume);
  declarePatterns(scene, volume);
  declareFileSystem(scene, volume);
}
