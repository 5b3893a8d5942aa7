/** DirectoryDisk and the sync channel on a real directory. */
import { afterAll, describe, expect, test } from "bun:test";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskError, DiskStatus, heapBuffer } from "../../../../src/base";
import {
  InlineSyncer,
  nativeBuffer,
  openDirectoryDisk,
  startSyncThread,
  type Syncer,
  WorkerSyncer,
} from "../../../../src/base/io";
import { until, withLoop } from "../../../support/loop";

const root = mkdtempSync(join(tmpdir(), "torus-disk-"));
afterAll(() => rmSync(root, { recursive: true }));
let nextDirectory = 0;
const newPath = () => join(root, `d${nextDirectory++}`, "data");
const inline = new InlineSyncer((callback) => setImmediate(callback));
const openDisk = (path: string, syncer: Syncer = inline) => {
  const disk = openDirectoryDisk({ path, syncer });
  disk.lock();
  return disk;
};
const codeOf = (body: () => unknown): string => {
  try {
    body();
  } catch (error) {
    if (error instanceof DiskError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return "nothing thrown";
};

describe("DirectoryDisk", () => {
  test("a created file has its size reserved, reads as zeros, and shows what is written, also through its mapping", () => {
    const path = newPath();
    const disk = openDisk(path);
    const file = disk.create("blocks-00000", 1 << 20, 4096);
    expect(statSync(join(path, "blocks-00000")).size).toBe(1 << 20);
    const buffer = nativeBuffer(8192);
    expect(file.read("data.read", 0, buffer, 0, 8192)).toBe(DiskStatus.ok);
    expect(buffer.bytes.every((byte) => byte === 0)).toBe(true);
    const mapping = file.map();
    buffer.bytes.fill(7);
    expect(file.write("data.write", 4096, buffer, 100, 5000)).toBe(DiskStatus.ok);
    expect(mapping?.bytes.subarray(4095, 4097)).toEqual(new Uint8Array([0, 7]));
    expect(mapping?.bytes.subarray(9095, 9097)).toEqual(new Uint8Array([7, 0]));
    buffer.bytes.fill(0);
    expect(file.read("data.read", 4090, buffer, 3, 20)).toBe(DiskStatus.ok);
    expect([...buffer.bytes.subarray(0, 24)]).toEqual([
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      ...new Array(14).fill(7),
      0,
    ]);
    disk.close();
  });

  test("list tells names and sizes, and neither the lock nor files that were never finished", () => {
    const path = newPath();
    const disk = openDisk(path);
    disk.create("state", 8192, 8192);
    writeFileSync(join(path, "blocks-00000.tmp"), "half");
    expect(disk.list()).toEqual([{ name: "state", sizeBytes: 8192 }]);
    disk.create("blocks-00000", 8192, 8192);
    expect(
      disk
        .list()
        .map(({ name }) => name)
        .sort(),
    ).toEqual(["blocks-00000", "state"]);
    disk.remove("state");
    expect(disk.list().map(({ name }) => name)).toEqual(["blocks-00000"]);
    disk.close();
  });

  test("a directory in use is refused with the process that has it; free again after close", () => {
    const path = newPath();
    const disk = openDisk(path);
    const second = openDirectoryDisk({ path, syncer: inline });
    expect(codeOf(() => second.lock())).toBe(
      `disk-in-use: Cannot use data directory ${path}: process ${process.pid} has it open; stop that one or use another data directory`,
    );
    disk.close();
    second.lock();
    second.close();
  });

  test("more than the file system has is refused and leaves nothing behind", () => {
    const path = newPath();
    const disk = openDisk(path);
    expect(codeOf(() => disk.create("blocks-00000", 2 ** 50, 4096))).toMatch(
      /^(disk-full: Cannot reserve 1125899906842624 bytes for .*ENOSPC; free space there or give the store a smaller size|disk-failed: .*EFBIG)$/,
    );
    expect(readdirSync(path)).toEqual(["lock"]);
    disk.close();
  });

  test("a path that cannot be made, and a file that is not there, are named", () => {
    const file = join(root, "file");
    writeFileSync(file, "x");
    expect(codeOf(() => openDisk(join(file, "data")))).toContain("disk-failed: Cannot make data directory");
    const disk = openDisk(newPath());
    expect(codeOf(() => disk.open("state"))).toContain("disk-failed: Cannot open");
    disk.close();
  });

  test("reading beyond a file that somebody cut short is an error, not a wrong byte", () => {
    const path = newPath();
    const disk = openDisk(path);
    const file = disk.create("state", 8192, 8192);
    truncateSync(join(path, "state"), 100);
    expect(file.read("state.read", 0, nativeBuffer(4096), 0, 4096)).toBe(DiskStatus.ioError);
    disk.close();
  });

  test("memory without an address is a bug", () => {
    const disk = openDisk(newPath());
    const file = disk.create("state", 8192, 8192);
    expect(() => file.write("state.write", 0, heapBuffer(512), 0, 512)).toThrow("memory without an address");
    disk.close();
  });

  test("sync answers after it returned; a closed disk's syncs stay unanswered", async () => {
    const disk = openDisk(newPath());
    const file = disk.create("state", 8192, 8192);
    let status: DiskStatus | undefined;
    file.sync("state.sync", (result) => {
      status = result;
    });
    expect(status).toBeUndefined();
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    expect(status).toBe(DiskStatus.ok);
    let late = false;
    file.sync("state.sync", () => {
      late = true;
    });
    disk.close();
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    expect(late).toBe(false);
  });
});

describe("WorkerSyncer", () => {
  const workerFile = new URL("../../../../src/commands/workers/sync-worker.ts", import.meta.url).href;

  test("syncs of many files complete in order on the loop, with each result", () =>
    withLoop(async (loop) => {
      const failures: unknown[] = [];
      const thread = startSyncThread(workerFile, (error) => failures.push(error));
      const syncer = new WorkerSyncer(loop, thread.channel);
      const disk = openDisk(newPath(), syncer);
      const file = disk.create("state", 8192, 8192);
      const results: number[] = [];
      for (let round = 0; round < 50; round += 1) file.sync("state.sync", (status) => results.push(status));
      syncer.sync(999_999, (result) => results.push(result));
      expect(results).toEqual([]);
      await until(loop, "all syncs answered", () => results.length === 51);
      expect(results.slice(0, 50).every((status) => status === DiskStatus.ok)).toBe(true);
      expect(results[50]).toBe(-9);
      disk.close();
      syncer.close();
      await thread.stop();
      expect(failures).toEqual([]);
      expect(existsSync(root)).toBe(true);
    }));

  test("syncs of a file system in memory are soon done in place, with the same results, never inside the call", () =>
    withLoop(async (loop) => {
      const thread = startSyncThread(workerFile, () => {});
      const syncer = new WorkerSyncer(loop, thread.channel);
      const memory = mkdtempSync("/dev/shm/torus-sync-");
      writeFileSync(join(memory, "file"), "x");
      const file = openSync(join(memory, "file"), "r+");
      let inPlace = 0;
      for (let round = 0; round < 2_000 && inPlace < 100; round += 1) {
        const head = new Int32Array(thread.channel.shared)[0];
        let result: number | undefined;
        syncer.sync(file, (value) => {
          result = value;
        });
        expect(result).toBeUndefined();
        if (new Int32Array(thread.channel.shared)[0] === head) inPlace += 1;
        await until(loop, "the sync answered", () => result !== undefined);
        expect(result).toBe(0);
      }
      expect(inPlace).toBe(100);
      let result: number | undefined;
      syncer.sync(999_999, (value) => {
        result = value;
      });
      await until(loop, "the failed sync answered", () => result !== undefined);
      expect(result).toBe(-9);
      closeSync(file);
      rmSync(memory, { recursive: true });
      syncer.close();
      await thread.stop();
    }));
});
