/** Snapshots taken under load, clones that outlive their parents, what a snapshot costs, and a grown file system. */
import { describe, expect } from "bun:test";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  attachLoop,
  checkStamps,
  checkVerifiedPages,
  Cluster,
  fioCommand,
  mount,
  mountObstacle,
  nbdcopy,
  nbdsh,
  openScene,
  qemuIo,
  startStampWriter,
  waitFor,
} from "./harness";

const MEBIBYTE = 1024 * 1024;
const SNAPSHOT_COUNT = 100;
/** The stamped part, 8 MiB; fio has the rest. */
const STAMP_PAGES = 2048;
const STAMP_BYTES = STAMP_PAGES * 4096;
const VERIFIED_BYTES = 24 * MEBIBYTE;

describe("snapshots under load", () => {
  const scene = openScene("snapshots");

  scene.test(
    `${SNAPSHOT_COUNT} snapshots under a verifying load are each one moment's state, byte by byte`,
    async () => {
      const cluster = await Cluster.withEtcd(scene, { peerCount: 2, replication: 2, size: "4GiB" });
      await cluster.createVolume("disk", `${STAMP_BYTES + VERIFIED_BYTES}`);
      const server = await cluster.serve("blk", []);
      const uri = server.uri("disk");
      const writer = await startStampWriter(scene, uri, { firstWrite: 1, pageCount: STAMP_PAGES });
      await writer.reach(100);
      const load = await scene.start(
        "fio",
        fioCommand(uri, "load", {
          ...{
            rw: "randwrite",
            bs: "4k",
            offset: STAMP_BYTES,
            size: VERIFIED_BYTES,
            iodepth: 4,
            rate_iops: 150,
          },
          ...{ verify: "md5", verify_fatal: 1, time_based: 1, runtime: 3600 },
        }),
      );
      const moments: { readonly before: number; readonly after: number }[] = [];
      for (let index = 0; index < SNAPSHOT_COUNT; index++) {
        const before = writer.acknowledged();
        await cluster.ctl("block", "snapshot", "create", `disk@s${index}`);
        moments.push({ before, after: writer.acknowledged() });
      }
      expect(load.running).toBe(true);
      await load.end("SIGINT");
      expect(load.output()).not.toMatch(/verify:|"error" : [1-9]/);
      await writer.process.kill();
      const newest = writer.acknowledged();
      let last = 0;
      let changedPages = 0;
      let verified: Buffer = Buffer.alloc(VERIFIED_BYTES);
      for (const [index, { before, after }] of moments.entries()) {
        const file = scene.path("snapshot.img");
        await nbdcopy(scene, server.uri(`disk@s${index}`), file);
        const image = readFileSync(file);
        const found = checkStamps(image.subarray(0, STAMP_BYTES), STAMP_PAGES, before);
        changedPages += checkVerifiedPages(image.subarray(STAMP_BYTES), verified, STAMP_BYTES);
        verified = image.subarray(STAMP_BYTES);
        expect(found).toBeGreaterThanOrEqual(last);
        // Writes behind the newest flush may be in it, those after its answer were made may not.
        if (index + 1 < moments.length) expect(found).toBeLessThanOrEqual(moments[index + 1]!.after + 3);
        expect(found).toBeLessThanOrEqual(Math.max(newest, after) + 3);
        last = found;
      }
      const snapshots = await cluster.ctlJson<unknown[]>("block", "snapshot", "list", "disk");
      expect(snapshots.length).toBe(SNAPSHOT_COUNT);
      expect(changedPages).toBeGreaterThan(SNAPSHOT_COUNT);
      console.log(
        `${SNAPSHOT_COUNT} snapshots over ${last} stamped writes and ${changedPages} verified pages, all exact`,
      );
    },
    900_000,
  );
});

describe("a snapshot", () => {
  const scene = openScene("snapshot-readers");
  const READERS = 4;

  scene.test(
    "is read by many processes at once, unchanged, read-only, and kept while they read",
    async () => {
      const cluster = await Cluster.embedded(scene, { size: "512MiB" });
      await cluster.createVolume("disk", "64MiB");
      const writer = await cluster.serve("writer", ["disk"]);
      await qemuIo(scene, writer.uri("disk"), ["write -P 7 0 8M", "flush"]);
      await cluster.ctl("block", "snapshot", "create", "disk@s");
      const readers = await Promise.all(
        Array.from({ length: READERS }, (_, index) => cluster.serve(`reader-${index}`, ["disk@s"])),
      );
      await qemuIo(scene, writer.uri("disk"), ["write -P 9 0 8M", "flush"]);
      const check = "for i in range(8): assert set(h.pread(1048576, i * 1048576)) == {7}";
      await Promise.all(readers.map((reader) => nbdsh(scene, reader.uri("disk@s"), check)));
      expect(await nbdsh(scene, readers[0]!.uri("disk@s"), "print(h.is_read_only())")).toBe("True\n");
      const list = async () =>
        (await cluster.ctlJson<{ pinCount: number }[]>("block", "snapshot", "list", "disk"))[0];
      expect((await list())?.pinCount).toBe(READERS);
      const remove = ["ctl", "block", "snapshot", "delete", "disk@s", ...cluster.metaFlags];
      const refused = await cluster.attempt(remove);
      expect(refused).toMatchObject({ exitCode: 1, stdout: "" });
      expect(refused.stderr).toContain(`it is read by ${READERS} clients`);
      for (const reader of readers) expect(await reader.stop()).toBe(0);
      expect((await list())?.pinCount).toBe(0);
      expect((await cluster.attempt(remove)).exitCode).toBe(0);
      const gone = [
        "blk",
        "nbdserve",
        "--listen",
        `unix:${scene.path("gone.sock")}`,
        "disk@s",
        ...cluster.metaFlags,
      ];
      const nothing = await cluster.attempt(gone);
      expect(nothing).toMatchObject({ exitCode: 1, stdout: "" });
      expect(nothing.stderr).toContain('"disk@s"');
    },
  );
});

describe("clones", () => {
  const scene = openScene("clones");

  scene.test(
    "clones of clones diverge while parents are deleted and their blocks collected",
    async () => {
      const cluster = await Cluster.withEtcd(scene, { peerCount: 1, size: "2GiB" });
      await cluster.createVolume("v0", "64MiB");
      const server = await cluster.serve("blk", []);
      await qemuIo(scene, server.uri("v0"), ["write -P 1 0 32M", "flush"]);
      for (let depth = 0; depth < 4; depth++) {
        await cluster.ctl("block", "snapshot", "create", `v${depth}@s`);
        await cluster.ctl("block", "clone", `v${depth}@s`, `v${depth + 1}`);
        const own = (depth + 1) * 4;
        await qemuIo(scene, server.uri(`v${depth + 1}`), [`write -P ${depth + 2} ${own}M 4M`, "flush"]);
        // The parent goes its own way, which the clone must not see.
        await qemuIo(scene, server.uri(`v${depth}`), [`write -P ${100 + depth} 0 32M`, "flush"]);
      }
      const full = await settledBytes(cluster);
      expect(full).toBeGreaterThan(160 * MEBIBYTE);
      for (let depth = 0; depth < 4; depth++) {
        await waitFor(`v${depth} to be detached`, async () => {
          const info = await cluster.ctlJson<{ attachedTo: string | null }>("volume", "info", `v${depth}`);
          return info.attachedTo === null;
        });
        await cluster.ctl("volume", "delete", `v${depth}`, "--with-snapshots");
      }
      // What is left is what the last clone sees. The parents go one by one, as the collector comes by.
      await waitFor(
        "all parents' blocks to be collected",
        async () => (await cluster.usedBytes()) < 60 * MEBIBYTE,
        180_000,
      );
      const patterns = [1, 2, 3, 4, 5].map((value, index) => `read -P ${value} ${index * 4}M 4M`);
      await qemuIo(scene, server.uri("v4"), [...patterns, "read -P 1 20M 12M", "read -P 0 32M 32M"]);
      const left = await settledBytes(cluster);
      expect(left).toBeLessThan(60 * MEBIBYTE);
      console.log(
        `clones: ${full / MEBIBYTE} MiB with all parents, ${left / MEBIBYTE} MiB after their deletion`,
      );
    },
    400_000,
  );
});

/**
 * The used space once it stays the same for longer than some reports of the daemons take, which come every two seconds,
 * and later where the machine is busy: two equal looks may both be older than what was written before.
 */
async function settledBytes(cluster: Cluster): Promise<number> {
  let usedBytes = -1;
  let equalLooks = 0;
  await waitFor(
    "the used space to settle",
    async () => {
      await Bun.sleep(2_500);
      const nowBytes = await cluster.usedBytes();
      equalLooks = nowBytes === usedBytes ? equalLooks + 1 : 0;
      usedBytes = nowBytes;
      return equalLooks === 2;
    },
    90_000,
  );
  return usedBytes;
}

describe("the cost of a snapshot", () => {
  const scene = openScene("snapshot-cost");
  const DIRTY_RUNS = 64;

  scene.test(
    "follows what changed, not the size of the volume",
    async () => {
      const cluster = await Cluster.embedded(scene, { size: "4GiB" });
      const server = await cluster.serve("blk", []);
      const costs: { size: string; bytes: number; ms: number }[] = [];
      for (const [size, gibibytes] of [
        ["1GiB", 1],
        ["100GiB", 100],
        ["1TiB", 1024],
      ] as const) {
        const name = `disk-${size}`;
        await cluster.createVolume(name, size);
        const step = (gibibytes * 2 ** 30) / DIRTY_RUNS;
        const write = (value: number) => `
for i in range(${DIRTY_RUNS}):
    h.pwrite(bytes([${value}]) * 32768, i * ${step})
h.flush()
`;
        // One connection all along: the volume stays attached.
        const go = scene.path(`go-${size}`);
        const writer = await scene.start(`writer-${size}`, [
          ...["/usr/bin/python3", "-m", "nbd", "-u", server.uri(name), "-c"],
          `import os, time${write(1)}
print("first", flush=True)
while not os.path.exists("${go}"): time.sleep(0.02)
${write(2)}
print("second", flush=True)
time.sleep(600)
`,
        ]);
        await waitFor("the first writes", () => writer.output().includes("first"));
        await cluster.ctl("block", "snapshot", "create", `${name}@base`);
        writeFileSync(go, "");
        await waitFor("the second writes", () => writer.output().includes("second"));
        const before = await settledBytes(cluster);
        const startMs = performance.now();
        await cluster.ctl("block", "snapshot", "create", `${name}@next`);
        const ms = performance.now() - startMs;
        const bytes = (await settledBytes(cluster)) - before;
        costs.push({ size, bytes, ms });
        await writer.kill();
        await nbdsh(scene, server.uri(`${name}@base`), `assert h.pread(1, ${step})[0] == 1`);
        await nbdsh(scene, server.uri(`${name}@next`), `assert h.pread(1, ${step})[0] == 2`);
      }
      for (const { size, bytes, ms } of costs)
        console.log(
          `snapshot of ${size} with 2 MiB changed in ${DIRTY_RUNS} places: ${bytes} B, ${ms.toFixed(0)} ms`,
        );
      // A leaf for each place, and at most an interior above each: some hundred bytes, whatever the size.
      for (const { bytes } of costs) expect(bytes).toBeLessThan(128 * 1024);
    },
    300_000,
  );
});

describe("a file system that grows", () => {
  const scene = openScene("resize-ext4");
  const obstacle = mountObstacle();
  if (obstacle !== undefined) console.log(`skipped: resize under ext4 (${obstacle})`);
  else
    scene.test("a volume under ext4 is resized, and resize2fs uses the new room", async () => {
      const cluster = await Cluster.embedded(scene, { size: "2GiB" });
      await cluster.createVolume("disk", "64MiB");
      const server = await cluster.serve("blk", ["disk"]);
      const contents = randomBytes(20 * MEBIBYTE);
      const first = await attachLoop(scene, server.uri("disk"), "first");
      await scene.run(["mkfs.ext4", "-q", "-F", first.device]);
      const before = await mount(scene, first.device, "before");
      writeFileSync(join(before.folder, "small"), contents);
      // While it is mounted; whoever cannot take it sees it at the next attach.
      await cluster.ctl("volume", "resize", "disk", "512MiB");
      await before.unmount();
      await first.detach();
      const second = await attachLoop(scene, server.uri("disk"), "second");
      await scene.run(["e2fsck", "-f", "-y", second.device]);
      await scene.run(["resize2fs", second.device]);
      const after = await mount(scene, second.device, "after");
      const large = randomBytes(200 * MEBIBYTE);
      writeFileSync(join(after.folder, "large"), large);
      await after.unmount();
      await second.detach();
      const third = await attachLoop(scene, server.uri("disk"), "third");
      await scene.run(["fsck.ext4", "-f", "-n", third.device]);
      const read = await mount(scene, third.device, "read");
      expect(readFileSync(join(read.folder, "small")).equals(contents)).toBe(true);
      expect(readFileSync(join(read.folder, "large")).equals(large)).toBe(true);
      await read.unmount();
      await third.detach();
    });
});
