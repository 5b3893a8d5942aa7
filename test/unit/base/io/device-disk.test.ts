/** DeviceDisk on files that stand for devices, and on a loop device where one can be made. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { DiskError, DiskStatus } from "../../../../src/base";
import {
  deviceBytes,
  InlineSyncer,
  nativeBuffer,
  openDeviceDisk,
  type Syncer,
} from "../../../../src/base/io";
import { WriteBehind } from "../../../../src/base/io/write-behind";

const MIB = 1024 * 1024;
const root = mkdtempSync(join(tmpdir(), "torus-device-"));
afterAll(() => rmSync(root, { recursive: true }));
let nextFile = 0;
const newDevice = (sizeBytes = 16 * MIB) => {
  const path = join(root, `device-${nextFile++}`);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  return path;
};
const inline = new InlineSyncer((callback) => setImmediate(callback));
const openDevice = (path: string, more: { overwriteForeign?: boolean } = {}) => {
  const disk = openDeviceDisk({ path, syncer: inline, ...more });
  disk.lock();
  return disk;
};
const problemOf = (body: () => unknown): string => {
  try {
    body();
  } catch (error) {
    if (error instanceof DiskError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return "nothing thrown";
};
const synced = (file: ReturnType<ReturnType<typeof openDevice>["open"]>) =>
  new Promise<DiskStatus>((resolve) => file.sync("state.sync", resolve));

describe("DeviceDisk", () => {
  test("files are kept over a close, with what was synced; heads of new files are zero", async () => {
    const path = newDevice();
    const disk = openDevice(path);
    const buffer = nativeBuffer(2 * MIB);
    const first = disk.create("state", MIB, MIB);
    const second = disk.create("blocks-00000", 4 * MIB, 8192);
    buffer.bytes.fill(7);
    expect(first.write("state.write", 4096, buffer, 0, 512)).toBe(DiskStatus.ok);
    expect(second.write("data.write", 8192, buffer, 3, 700_001)).toBe(DiskStatus.ok);
    expect(await synced(second)).toBe(DiskStatus.ok);
    disk.close();
    const again = openDevice(path);
    expect(again.list()).toEqual([
      { name: "state", sizeBytes: MIB },
      { name: "blocks-00000", sizeBytes: 4 * MIB },
    ]);
    expect(again.open("blocks-00000").read("data.read", 8191, buffer, 5, 700_003)).toBe(DiskStatus.ok);
    expect([buffer.bytes[5], buffer.bytes[6], buffer.bytes[700_006], buffer.bytes[700_007]]).toEqual([
      0, 7, 7, 0,
    ]);
    again.remove("blocks-00000");
    const reused = again.create("blocks-00001", 2 * MIB, MIB);
    expect(reused.read("data.read", 0, buffer, 0, MIB)).toBe(DiskStatus.ok);
    expect(buffer.bytes.subarray(0, MIB).every((byte) => byte === 0)).toBe(true);
    again.close();
  });

  test("what was written is read at once, before and while it is synced", async () => {
    const disk = openDevice(newDevice());
    const file = disk.create("blocks-00000", 4 * MIB, 4096);
    const buffer = nativeBuffer(8192);
    buffer.bytes.fill(1);
    file.write("data.write", 0, buffer, 0, 4096);
    buffer.bytes.fill(2);
    file.write("journal.write", 1024, buffer, 0, 512);
    const look = () => {
      expect(file.read("data.read", 1000, buffer, 0, 1000)).toBe(DiskStatus.ok);
      return [buffer.bytes[0], buffer.bytes[24], buffer.bytes[535], buffer.bytes[536]];
    };
    expect(look()).toEqual([1, 2, 2, 1]);
    const done = synced(file);
    expect(look()).toEqual([1, 2, 2, 1]);
    expect(await done).toBe(DiskStatus.ok);
    expect(look()).toEqual([1, 2, 2, 1]);
    disk.close();
  });

  test("a disk that holds something else is refused by what it is, and taken only when told", () => {
    const signatures: [number, Uint8Array, string][] = [
      [1080, new Uint8Array([0x53, 0xef]), "an ext file system"],
      [0, Buffer.from("XFSB"), "an XFS file system"],
      [512, Buffer.from("EFI PART"), "a GPT partition table"],
      [510, new Uint8Array([0x55, 0xaa]), "a partition table"],
      [5000, new Uint8Array([1]), "data of something else"],
      [4 * MIB - 4096, new Uint8Array([1]), "data of something else"],
    ];
    for (const [offset, bytes, name] of signatures) {
      const path = newDevice(4 * MIB);
      const image = Buffer.alloc(4 * MIB);
      image.set(bytes, offset);
      writeFileSync(path, image);
      expect(problemOf(() => openDevice(path))).toBe(
        `disk-foreign: Cannot use ${path}: it holds ${name}; give another device, or lose what it holds with --force-format`,
      );
      const taken = openDevice(path, { overwriteForeign: true });
      expect(taken.list()).toEqual([]);
      taken.close();
      openDevice(path).close();
    }
  }, 20_000);

  test("a device in use, a missing one and one too small are named", () => {
    const path = newDevice();
    const disk = openDevice(path);
    expect(problemOf(() => openDevice(path))).toContain(`disk-in-use: Cannot use ${path}`);
    expect(problemOf(() => disk.create("blocks-00000", 17 * MIB, 4096))).toContain(
      "disk-full: Cannot reserve 17825792 bytes for blocks-00000",
    );
    expect(problemOf(() => disk.open("nothing"))).toContain("disk-failed: Cannot open nothing");
    disk.close();
    expect(problemOf(() => openDevice(join(root, "missing")))).toContain("disk-failed: Cannot open");
  });

  test("deviceBytes is what files can take together, to the last byte", () => {
    const path = newDevice();
    expect(deviceBytes(path)).toBe(14 * MIB);
    const disk = openDevice(path);
    disk.create("state", 4 * MIB, 4096);
    expect(problemOf(() => disk.create("blocks-00000", 10 * MIB + 4096, 4096))).toContain("disk-full");
    disk.create("blocks-00000", 10 * MIB, 4096);
    disk.close();
  });

  test("one torn copy of the directory leaves the other in force", () => {
    const path = newDevice();
    const disk = openDevice(path);
    disk.create("state", MIB, 4096);
    disk.create("blocks-00000", MIB, 4096);
    disk.close();
    const image = readFileSync(path);
    // The newest generation is 4: two of the empty directory, one for each file.
    image[20] = 1 ^ (image[20] as number);
    writeFileSync(path, image);
    const again = openDevice(path);
    expect(again.list().map(({ name }) => name)).toEqual(["state"]);
    again.close();
  });

  test("a loop device works like a disk", async () => {
    const path = newDevice();
    const made = Bun.spawnSync(["losetup", "--find", "--show", path]);
    const loop = made.stdout.toString().trim();
    // Without the right to make one there is nothing to try.
    if (made.exitCode !== 0 || loop === "") return;
    try {
      const disk = openDevice(loop);
      expect(deviceBytes(loop)).toBe(14 * MIB);
      expect([512, 4096]).toContain(disk.unitBytes);
      const file = disk.create("blocks-00000", 4 * MIB, 4096);
      const buffer = nativeBuffer(8192);
      buffer.bytes.fill(9);
      expect(file.write("data.write", 4096, buffer, 1, 5000)).toBe(DiskStatus.ok);
      expect(await synced(file)).toBe(DiskStatus.ok);
      buffer.bytes.fill(0);
      expect(file.read("data.read", 4096, buffer, 0, 5000)).toBe(DiskStatus.ok);
      expect(buffer.bytes.subarray(0, 5000).every((byte) => byte === 9)).toBe(true);
      disk.close();
      await new Promise((resolve) => setImmediate(resolve));
    } finally {
      Bun.spawnSync(["losetup", "--detach", loop]);
    }
  });
});

test("WriteBehind reads back what was added, whatever was submitted or done, and the device ends the same", async () => {
  const UNIT = 512;
  const DEVICE_BYTES = 64 * UNIT;
  const action = fc.oneof(
    fc.record({
      kind: fc.constant("write" as const),
      isData: fc.boolean(),
      unit: fc.integer({ min: 0, max: 60 }),
      lengthBytes: fc.integer({ min: 1, max: 4 * UNIT }),
      fill: fc.integer({ min: 1, max: 255 }),
    }),
    fc.record({ kind: fc.constant("sync" as const) }),
    fc.record({ kind: fc.constant("job" as const), count: fc.integer({ min: 1, max: 5 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 80 }), async (actions) => {
      const device = new Uint8Array(DEVICE_BYTES);
      const model = new Uint8Array(DEVICE_BYTES);
      const jobs: (() => void)[] = [];
      const memories: ReturnType<typeof nativeBuffer>[] = [];
      const syncer: Syncer = {
        sync: (_file, done) => jobs.push(() => done(0)),
        writeOut: () => {
          throw new Error("nothing is written out");
        },
        write: (_file, address, lengthBytes, offsetBytes, done) =>
          jobs.push(() => {
            const memory = memories.find(
              (each) => each.address <= address && address + lengthBytes <= each.address + each.bytes.length,
            );
            if (memory === undefined) throw new Error("memory that was never given");
            const from = address - memory.address;
            device.set(memory.bytes.subarray(from, from + lengthBytes), offsetBytes);
            done(0);
          }),
      };
      const writes = new WriteBehind(-1, syncer, UNIT, (lengthBytes) => {
        const memory = nativeBuffer(lengthBytes);
        memories.push(memory);
        return memory;
      });
      const source = nativeBuffer(4 * UNIT);
      const seen = nativeBuffer(DEVICE_BYTES);
      for (const each of actions) {
        if (each.kind === "write") {
          source.bytes.fill(each.fill);
          const lengthBytes = Math.min(each.lengthBytes, DEVICE_BYTES - each.unit * UNIT);
          expect(writes.add(each.isData, each.unit * UNIT, source, 0, lengthBytes)).toBe(true);
          const padded = Math.ceil(lengthBytes / UNIT) * UNIT;
          model.fill(0, each.unit * UNIT, each.unit * UNIT + padded);
          model.fill(each.fill, each.unit * UNIT, each.unit * UNIT + lengthBytes);
        } else if (each.kind === "sync") writes.sync(() => undefined);
        else for (const job of jobs.splice(0, each.count)) job();
        seen.bytes.set(device);
        writes.overlay(0, DEVICE_BYTES, seen);
        expect(Buffer.compare(seen.bytes, model)).toBe(0);
      }
      let isSynced = false;
      writes.sync(() => {
        isSynced = true;
      });
      for (const job of jobs.splice(0)) job();
      expect(isSynced).toBe(true);
      expect(Buffer.compare(device, model)).toBe(0);
    }),
    { numRuns: 300 },
  );
});
