/**
 * The harness against a server that is known to be right, and against one that is made to fail: a client wrapper
 * that did not notice an I/O error or wrong data would make every other test of this folder worthless.
 */
import { expect } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import {
  attachLoop,
  fio,
  mount,
  mountObstacle,
  nbdcopy,
  nbdinfo,
  nbdsh,
  openScene,
  qemuImg,
  qemuIo,
  type Scene,
  unixUri,
  waitFor,
} from "./harness";

const scene = openScene("clients");
const MEBIBYTE = 1024 * 1024;

async function serve(stage: Scene, name: string, ...args: string[]): Promise<string> {
  const socket = stage.path(`${name}.sock`);
  await stage.start(name, ["nbdkit", "--foreground", "--exit-with-parent", "--unix", socket, ...args]);
  const uri = unixUri(socket, "");
  await waitFor("nbdkit to answer", async () => (await nbdinfo(stage, uri))["export-size"] > 0);
  return uri;
}

scene.test("every client passes on a server that is right", async () => {
  const uri = await serve(scene, "memory", "memory", "128M");
  const source = scene.path("source");
  writeFileSync(source, crypto.getRandomValues(new Uint8Array(65536)).toBase64().repeat(100));
  await nbdcopy(scene, source, uri, ["--destination-is-zero"]);
  await nbdcopy(scene, uri, scene.path("back"));
  const length = readFileSync(source).byteLength;
  expect(readFileSync(scene.path("back")).subarray(0, length).equals(readFileSync(source))).toBe(true);
  await qemuImg(scene, "convert", "-n", "-f", "raw", "-O", "raw", scene.path("back"), uri);
  await qemuImg(scene, "compare", "-f", "raw", "-F", "raw", scene.path("back"), uri);
  await qemuIo(scene, uri, [
    "write -P 0x5a 4000 200",
    "read -P 0x5a 4000 200",
    "write -z 4096 4096",
    "flush",
  ]);
  expect(await nbdsh(scene, uri, "print(h.pread(4, 4000))")).toContain("ZZZZ");
  await fio(scene, uri, "verify", { rw: "randwrite", bs: "4k", size: "16m", iodepth: 8, verify: "crc32c" });
});

scene.test("every client notices an I/O error or wrong data", async () => {
  const broken = await serve(scene, "broken", "--filter=error", "pattern", "64M", "error-pread-rate=1");
  await expect(nbdcopy(scene, broken, scene.path("never"))).rejects.toThrow("ended with");
  await expect(qemuIo(scene, broken, ["read 0 4096"])).rejects.toThrow();
  await expect(nbdsh(scene, broken, "h.pread(4096, 0)")).rejects.toThrow("ended with");
  const job = { rw: "randwrite", bs: "4k", size: "1m", iodepth: 4, verify: "crc32c" };
  const failing = await serve(scene, "failing", "--filter=error", "memory", "64M", "error-pwrite-rate=50%");
  await expect(fio(scene, failing, "verify", job)).rejects.toThrow("nput/output error");
  const other = await serve(scene, "other", "memory", "64M");
  await expect(qemuIo(scene, other, ["write -P 1 0 4096", "read -P 2 0 4096"])).rejects.toThrow(
    "verification failed",
  );
  writeFileSync(scene.path("ones"), Buffer.alloc(64 * MEBIBYTE, 1));
  const compare = qemuImg(scene, "compare", "-f", "raw", "-F", "raw", scene.path("ones"), other);
  await expect(compare).rejects.toThrow("mismatch");
  await expect(scene.run(["sleep", "30"], { timeMsMax: 50 })).rejects.toThrow("did not end within 50 ms");
});

const obstacle = mountObstacle();
if (obstacle !== undefined) console.log(`skipped: a file system on a loop device (${obstacle})`);
else
  scene.test("a loop device on nbdfuse carries a file system", async () => {
    const uri = await serve(scene, "disk", "memory", "64M");
    const { device, detach } = await attachLoop(scene, uri, "disk");
    await scene.run(["mkfs.ext4", "-q", device]);
    const { folder, unmount } = await mount(scene, device, "mounted");
    writeFileSync(`${folder}/hello`, "world");
    await unmount();
    await scene.run(["fsck.ext4", "-fn", device]);
    const again = await mount(scene, device, "again");
    expect(readFileSync(`${again.folder}/hello`, "utf8")).toBe("world");
    await again.unmount();
    await detach();
  });
