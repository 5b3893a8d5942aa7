import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AttachRecord, exportNameOf, isServed, readRecord } from "../../../../src/commands/attach";
import { processStart, removeRecord, writeRecord } from "../../../../src/commands/attach/record";

function inFolder(use: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "torus-record-"));
  try {
    use(join(folder, "not-yet"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const record: AttachRecord = {
  format: 1,
  identifier: "torus:c:7:data",
  name: "data",
  path: "/dev/nbd3",
  method: "netlink",
  epoch: 12,
  writeCache: false,
  pid: process.pid,
  processStart: processStart(process.pid) ?? "",
  mountPoint: "/srv/data",
};

test("a record is read as it was written, and gone when removed", () =>
  inFolder((folder) => {
    expect(readRecord(folder, "/dev/nbd3")).toBeUndefined();
    writeRecord(folder, record);
    expect(readRecord(folder, "/dev/nbd3")).toEqual(record);
    expect(readRecord(folder, "/dev/nbd30")).toBeUndefined();
    removeRecord(folder, "/dev/nbd3");
    expect(readRecord(folder, "/dev/nbd3")).toBeUndefined();
  }));

test("a record that is cut off, or of another format, counts for nothing", () =>
  inFolder((folder) => {
    writeRecord(folder, record);
    const text = JSON.stringify(record);
    for (const bad of ["", text.slice(0, -5), "null", "7", JSON.stringify({ ...record, format: 2 })]) {
      writeFileSync(join(folder, "nbd3.json"), bad);
      expect(readRecord(folder, "/dev/nbd3")).toBeUndefined();
    }
  }));

test("isServed tells a process from a later one with its number", () => {
  expect(isServed(record)).toBe(true);
  expect(isServed({ ...record, processStart: "1" })).toBe(false);
  const ended = Bun.spawnSync(["true"]);
  expect(isServed({ ...record, pid: ended.pid })).toBe(false);
});

test("exportNameOf reads the name of a volume or snapshot, and knows what is not torus's", () => {
  expect(exportNameOf("torus:0ee9ba39:7:data")).toBe("data");
  expect(exportNameOf("torus:0ee9ba39:7@1700000000000:data@monday")).toBe("data@monday");
  for (const other of ["", "rbd", "torus:", "torus:c:7"]) expect(exportNameOf(other)).toBeUndefined();
});
