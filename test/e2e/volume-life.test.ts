/** What an administrator does with one volume: load, dump, restore, resize, unlock, and two of them at once. */
import { describe, expect } from "bun:test";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { Cluster, fioCommand, nbdsh, openScene, qemuIo, waitFor, writeRandomFile } from "./harness";
import { stopProcess } from "../support/stopped";

const MEBIBYTE = 1024 * 1024;
const GIBIBYTE = 1024 * MEBIBYTE;
const SPARSE_MEBIBYTES = 64;

/** A file of `sizeBytes` with `SPARSE_MEBIBYTES` random MiB in places far apart. */
function writeSparseFile(path: string, sizeBytes: number): void {
  const file = openSync(path, "w");
  for (let index = 0; index < SPARSE_MEBIBYTES; index++)
    writeSync(file, randomBytes(MEBIBYTE), 0, MEBIBYTE, index * 15 * MEBIBYTE + 4096);
  closeSync(file);
  truncateSync(path, sizeBytes);
}

const storedBytes = (path: string) => statSync(path).blocks * 512;

/** The used bytes of all stores, as heartbeats tell them, once two in a row agree. */
async function settledBytes(cluster: Cluster): Promise<number> {
  let before = -1;
  let now = -2;
  await waitFor("the used space to settle", async () => {
    await Bun.sleep(2_500);
    before = now;
    now = await cluster.usedBytes();
    return before === now;
  });
  return now;
}

describe("dump and load", () => {
  const scene = openScene("dump-load");
  let cluster: Cluster;

  scene.test(
    "a sparse image of 1 GiB with 64 MiB stores 64 MiB and dumps back identical and sparse",
    async () => {
      cluster = await Cluster.embedded(scene, { size: "4GiB" });
      const [image, back, piped] = [scene.path("image"), scene.path("back"), scene.path("piped")];
      writeSparseFile(image, GIBIBYTE);
      const before = await settledBytes(cluster);
      await cluster.ctl("block", "load", image, "disk");
      const used = (await settledBytes(cluster)) - before;
      expect(used).toBeGreaterThanOrEqual(SPARSE_MEBIBYTES * MEBIBYTE);
      expect(used).toBeLessThan(SPARSE_MEBIBYTES * 1.05 * MEBIBYTE);
      await cluster.ctl("block", "dump", "disk", back);
      await scene.run(["cmp", image, back]);
      expect(storedBytes(back)).toBeLessThan(SPARSE_MEBIBYTES * 1.05 * MEBIBYTE);
      await cluster.shell(`"$TORUS" ctl block dump disk - | "$TORUS" ctl block load - piped 1GiB`);
      await cluster.ctl("block", "dump", "piped", piped);
      await scene.run(["cmp", image, piped]);
      expect(storedBytes(piped)).toBeLessThan(SPARSE_MEBIBYTES * 1.05 * MEBIBYTE);
      console.log(`1 GiB image with 64 MiB of data: ${(used / MEBIBYTE).toFixed(2)} MiB stored`);
    },
  );

  scene.test(
    "an interrupted load goes on where it was, and starts anew when somebody else wrote",
    async () => {
      const [image, back] = [scene.path("large"), scene.path("large-back")];
      writeRandomFile(image, 512);
      const interrupt = async (name: string) => {
        const notes = scene.path("config", "loads");
        const earlier = new Set(noteNames(notes));
        const loading = await scene.start(
          `load-${name}`,
          [await cluster.binary(), "ctl", "block", "load", image, name, ...cluster.metaFlags],
          { env: cluster.environment },
        );
        await waitFor("a part of the load to be noted", () =>
          noteNames(notes).some((note) => !earlier.has(note) && doneBytes(`${notes}/${note}`) > 0),
        );
        await loading.kill();
      };
      await interrupt("large");
      const { stderr } = await cluster.torus(["ctl", "block", "load", image, "large", ...cluster.metaFlags]);
      expect(stderr).toMatch(/Going on at \d+ MiB of 512 MiB, where an earlier load ended/);
      await cluster.ctl("block", "dump", "large", back);
      await scene.run(["cmp", image, back]);
      await cluster.ctl("volume", "delete", "large");

      await interrupt("other");
      const server = await cluster.serve("blk", ["other"]);
      await qemuIo(scene, server.uri("other"), ["write -P 1 0 1M", "flush"]);
      expect(await server.stop()).toBe(0);
      const again = await cluster.torus(["ctl", "block", "load", image, "other", ...cluster.metaFlags]);
      expect(again.stderr).not.toContain("Going on");
      await cluster.ctl("block", "dump", "other", back);
      await scene.run(["cmp", image, back]);
    },
  );

  scene.test("what cannot be loaded or dumped is refused in one line", async () => {
    const attempt = async (...args: string[]) => {
      const { exitCode, stderr } = await cluster.attempt(["ctl", "block", ...args, ...cluster.metaFlags]);
      return [exitCode, stderr.trim()];
    };
    expect(await attempt("load", "/no/file", "disk")).toEqual([
      1,
      "Cannot open /no/file to read: ENOENT: no such file or directory",
    ]);
    expect(await attempt("dump", "disk", "/no/folder/file")).toEqual([
      1,
      "Cannot open /no/folder/file to write: ENOENT: no such file or directory",
    ]);
    expect((await attempt("load", "-", "unknown"))[0]).toBe(2);
    expect((await attempt("dump", "unknown", "-"))[0]).toBe(1);
    expect(await attempt("load", scene.path("image"), "small", "1MiB")).toEqual([
      1,
      'Cannot load 1 GiB into volume "small" of 1 MiB: give it more room first',
    ]);
  });

  scene.test("a pipe that is too long or broken leaves nothing behind", async () => {
    const shell = async (line: string) => {
      const { stdout } = await cluster.shell(`{ ${line}; } 2>&1; true`);
      return stdout;
    };
    expect(await shell('head -c 3M /dev/urandom | "$TORUS" ctl block load - small 1MiB')).toBe(
      "Volume small, made for this, was deleted again\nCannot load more than the volume's 1 MiB: the input goes on\n",
    );
    const names = (await cluster.ctlJson<{ name: string }[]>("volume", "list")).map(({ name }) => name);
    expect(names).not.toContain("small");
    const cut = await shell('"$TORUS" ctl block dump disk - | head -c 1000 | wc -c');
    expect(cut).toBe("1000\nCannot write the output: whoever read it has closed it\n");
    expect(await cluster.ctlJson<unknown[]>("block", "snapshot", "list", "disk")).toEqual([]);
  });
});

function noteNames(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => name.endsWith(".json"));
  } catch {
    return [];
  }
}

function doneBytes(path: string): number {
  return (JSON.parse(readFileSync(path, "utf8")) as { doneBytes: number }).doneBytes;
}

describe("restore, resize and unlock", () => {
  const scene = openScene("restore");
  let cluster: Cluster;

  scene.test("restore brings the exact bytes and the size, and is refused while attached", async () => {
    cluster = await Cluster.embedded(scene, { size: "4GiB" });
    const [image, back] = [scene.path("image"), scene.path("back")];
    writeSparseFile(image, GIBIBYTE);
    await cluster.ctl("block", "load", image, "disk");
    await cluster.ctl("block", "snapshot", "create", "disk@good");
    await cluster.ctl("volume", "resize", "disk", "2GiB");
    const server = await cluster.serve("blk", ["disk"]);
    await qemuIo(scene, server.uri("disk"), [
      "write -P 9 0 30M",
      "discard 60M 100M",
      "write -P 8 1500M 3M",
      "flush",
    ]);
    const refused = await cluster.attempt([
      "ctl",
      "block",
      "snapshot",
      "restore",
      "disk@good",
      ...cluster.metaFlags,
    ]);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toMatch(
      /^Cannot restore volume "disk": it is attached by .*; detach it there first\n$/,
    );
    expect(await server.stop()).toBe(0);
    await cluster.ctl("block", "snapshot", "restore", "disk@good");
    await cluster.ctl("block", "dump", "disk", back);
    await scene.run(["cmp", image, back]);
    expect(await cluster.ctl("block", "snapshot", "diff", "disk@good", "--json")).toBe("[]\n");
  });

  scene.test("shrink cuts what lies beyond, and growing again finds zeroes there", async () => {
    await cluster.ctl("volume", "resize", "disk", "100MiB", "--shrink");
    await cluster.ctl("volume", "resize", "disk", "1GiB");
    const [expected, back] = [scene.path("image"), scene.path("back")];
    truncateSync(expected, 100 * MEBIBYTE);
    truncateSync(expected, GIBIBYTE);
    await cluster.ctl("block", "dump", "disk", back);
    await scene.run(["cmp", expected, back]);
    const refused = await cluster.attempt(["ctl", "volume", "resize", "disk", "1MiB", ...cluster.metaFlags]);
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stderr).toContain("--shrink");
  });

  scene.test("rename keeps clients going; unlock --force fences a writer that hangs", async () => {
    const server = await cluster.serve("blk", ["disk"]);
    const uri = server.uri("disk");
    await qemuIo(scene, uri, ["write -P 3 0 64k", "flush"]);
    const go = scene.path("go");
    const script = `
import os, time
h.pread(512, 0)
print("ready", flush=True)
while not os.path.exists("${go}"): time.sleep(0.02)
h.pwrite(b"x" * 4096, 0)
h.flush()
print("written", flush=True)
`;
    const client = await scene.start("hung-client", [
      "/usr/bin/python3",
      "-m",
      "nbd",
      "-u",
      uri,
      "-c",
      script,
    ]);
    await waitFor("the client to have the volume open", () => client.output().includes("ready"));
    stopProcess(server.pid);
    const unforced = await cluster.attempt(["ctl", "volume", "unlock", "disk", ...cluster.metaFlags]);
    expect(unforced.exitCode).toBe(2);
    expect(unforced.stderr).toMatch(/^Volume "disk" is attached by .*, or use --force\n$/);
    await cluster.ctl("volume", "unlock", "disk", "--force");
    const taker = await cluster.serve("taker", ["disk"]);
    await qemuIo(scene, taker.uri("disk"), ["read -P 3 0 64k", "write -P 5 0 4k", "flush"]);
    process.kill(server.pid, "SIGCONT");
    writeFileSync(go, "");
    expect(await client.ended(30_000)).not.toBe(0);
    expect(client.output()).not.toContain("written");
    await qemuIo(scene, taker.uri("disk"), ["read -P 5 0 4k", "read -P 3 4096 60k"]);
    expect(await taker.stop()).toBe(0);
    await server.stop();
    await cluster.ctl("volume", "rename", "disk", "renamed");
    const again = await cluster.serve("blk", ["renamed"]);
    await qemuIo(scene, again.uri("renamed"), ["read -P 3 4096 60k", "write -P 4 0 4k", "flush"]);
    await cluster.ctl("volume", "rename", "renamed", "third");
    expect(await nbdsh(scene, again.uri("renamed"), "h.flush(); print(h.pread(1, 0)[0])")).toBe("4\n");
    expect(await again.stop()).toBe(0);
  });
});

describe("--wait", () => {
  const scene = openScene("waiting");

  scene.test("says how long a command waits for a volume that somebody has attached", async () => {
    const cluster = await Cluster.embedded(scene, { size: "512MiB" });
    await cluster.createVolume("disk", "64MiB");
    const server = await cluster.serve("blk", ["disk"]);
    const image = scene.path("image");
    writeFileSync(image, randomBytes(MEBIBYTE));
    const load = (wait: string) =>
      cluster.attempt(["ctl", "block", "load", image, "disk", "--wait", wait, ...cluster.metaFlags]);
    const patient = load("5m");
    const hasty = await load("100ms");
    expect(hasty.exitCode).toBe(1);
    expect(hasty.stderr).toContain('volume "disk"');
    expect(await server.stop()).toBe(0);
    expect((await patient).exitCode).toBe(0);
  });
});

describe("two ctl at once", () => {
  const scene = openScene("racing");

  scene.test("one wins, the other gets one clear error, and nothing else is left behind", async () => {
    const cluster = await Cluster.withEtcd(scene, { peerCount: 1, size: "1GiB" });
    const both = async (first: string[], second: string[]) => {
      const results = await Promise.all(
        [first, second].map((args) => cluster.attempt(["ctl", ...args, ...cluster.metaFlags])),
      );
      for (const { exitCode, stderr } of results)
        if (exitCode !== 0) expect(stderr).toMatch(/^Cannot [^\n]+\n$/);
      return results.filter(({ exitCode }) => exitCode === 0).length;
    };
    for (let round = 0; round < 4; round++) {
      const name = `v${round}`;
      const create = ["volume", "create-block", name, "64MiB"];
      expect(await both(create, create)).toBe(1);
      const snapshot = ["block", "snapshot", "create", `${name}@s`];
      expect(await both(snapshot, snapshot)).toBe(1);
      expect(await both(["block", "clone", `${name}@s`, `c${round}`], create)).toBe(1);
      expect(
        await both(
          ["volume", "rename", name, `renamed${round}`],
          ["volume", "rename", `c${round}`, `renamed${round}`],
        ),
      ).toBe(1);
    }
    const volumes = await cluster.ctlJson<{ name: string }[]>("volume", "list");
    expect(volumes.length).toBe(8);
    expect(volumes.filter(({ name }) => name.startsWith("renamed")).length).toBe(4);
    // Deleting a volume against cloning its snapshot: either order is right, half of either is not.
    for (const { name } of volumes.filter(({ name: one }) => one.startsWith("renamed"))) {
      const snapshots = await cluster.ctlJson<unknown[]>("block", "snapshot", "list", name);
      if (snapshots.length === 0) await cluster.ctl("block", "snapshot", "create", `${name}@s`);
      await both(
        ["volume", "delete", name, "--with-snapshots"],
        ["block", "clone", `${name}@s`, `x-${name}`],
      );
      const left = await cluster.ctlJson<{ name: string }[]>("volume", "list");
      expect(left.some((one) => one.name === name)).toBe(false);
      for (const one of left) await cluster.ctl("volume", "info", one.name);
    }
  });
});

describe("overwriting", () => {
  const scene = openScene("overwriting");

  scene.test(
    "random overwrite ten times over stays below twice the live size and reads right; trim gives space back",
    async () => {
      const cluster = await Cluster.embedded(scene, { size: "2GiB" });
      const live = 128 * MEBIBYTE;
      await cluster.createVolume("disk", "128MiB");
      const server = await cluster.serve("blk", ["disk"]);
      const uri = server.uri("disk");
      const job = { rw: "randwrite", bs: "4k", size: "128m", iodepth: 32, norandommap: 1, randrepeat: 0 };
      await scene.run(fioCommand(uri, "fill", { rw: "write", bs: "256k", size: "128m" }), {
        timeMsMax: 120_000,
      });
      await scene.run(fioCommand(uri, "over", { ...job, loops: 10 }), { timeMsMax: 170_000 });
      await scene.run(
        fioCommand(uri, "verified", {
          ...job,
          norandommap: 0,
          verify: "crc32c",
          do_verify: 1,
          verify_fatal: 1,
        }),
        { timeMsMax: 120_000 },
      );
      let used = 0;
      await waitFor(
        "the space to come below twice the live size",
        async () => {
          used = await cluster.usedBytes();
          return used <= 2 * live;
        },
        150_000,
      );
      console.log(`overwritten ten times: ${(used / live).toFixed(2)} x the live size`);
      await scene.run(
        fioCommand(uri, "verified", {
          ...job,
          norandommap: 0,
          verify: "crc32c",
          verify_only: 1,
          verify_fatal: 1,
        }),
        { timeMsMax: 120_000 },
      );
      await qemuIo(scene, uri, ["discard 0 128M", "flush"]);
      expect(await server.stop()).toBe(0);
      await waitFor(
        "trim to give the space back",
        async () => (await cluster.usedBytes()) < 0.1 * live,
        150_000,
      );
    },
    600_000,
  );
});
