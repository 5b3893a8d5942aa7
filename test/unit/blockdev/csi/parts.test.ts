import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEndpoint } from "../../../../src/blockdev/csi";
import { parseMounts } from "../../../../src/blockdev/csi/node-system";
import { Operations } from "../../../../src/blockdev/csi/operations";
import { pageOf } from "../../../../src/blockdev/csi/pages";
import { StageRecords } from "../../../../src/blockdev/csi/stage-records";

const folder = mkdtempSync(join(tmpdir(), "torus-csi-parts-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("pageOf", () => {
  const names = ["a", "b", "c", "d"];
  const page = (token: string, max: number, entries = names) => pageOf(entries, (one) => one, token, max);

  test("walks a listing to its end, and is not moved by what comes and goes", () => {
    const first = page("", 2);
    expect(first.entries).toEqual(["a", "b"]);
    expect(page(first.nextToken, 2, ["0", "c", "d", "e"])).toMatchObject({ entries: ["c", "d"] });
    expect(page(first.nextToken, 0)).toEqual({ entries: ["c", "d"], nextToken: "" });
    expect(page("", 4)).toEqual({ entries: names, nextToken: "" });
  });

  test("refuses tokens of others and negative limits", () => {
    expect(() => page("else", 1)).toThrow('Cannot go on from "else": it is no token of this listing');
    expect(() => page("", -1)).toThrow("Cannot list -1 entries: give 0 for all");
  });
});

describe("Operations", () => {
  test("runs one at a time on a name, and is free again after a failure", async () => {
    const operations = new Operations();
    const gate = Promise.withResolvers<void>();
    const first = operations.run("a", () => gate.promise);
    expect(operations.run("a", async () => {})).rejects.toThrow('Cannot work on "a" now');
    expect(await operations.run("b", async () => 1)).toBe(1);
    gate.reject(new Error("no"));
    await first.catch(() => {});
    expect(await operations.run("a", async () => 2)).toBe(2);
  });
});

describe("StageRecords", () => {
  const usage = { kind: "mount", fileSystem: "ext4", mountFlags: [], readOnly: false } as const;

  test("is there again for the next process, for any name", () => {
    const records = new StageRecords(join(folder, "staged"));
    const record = { volumeName: "pvc-1 ünï", stagingPath: "/s", device: "/dev/nbd0", usage };
    records.put(record);
    records.put({ ...record, volumeName: "gone" });
    records.remove("gone");
    expect(new StageRecords(join(folder, "staged")).all()).toEqual([record]);
  });

  test("says which file is damaged", () => {
    const damaged = join(folder, "damaged");
    new StageRecords(damaged).put({ volumeName: "x", stagingPath: "/s", device: "/dev/nbd0", usage });
    writeFileSync(join(damaged, "78.json"), "{");
    expect(() => new StageRecords(damaged)).toThrow(`Cannot read ${damaged}/78.json: it is damaged`);
  });
});

describe("parseMounts", () => {
  test("reads paths with spaces, bind mounts, and options", () => {
    expect(
      parseMounts(
        "36 35 98:0 / /mnt\\040x rw,noatime shared:1 - ext4 /dev/nbd0 rw,errors=continue\n" +
          "37 35 0:5 /nbd1 /pods/dev ro - devtmpfs udev rw\nnonsense\n",
      ),
    ).toEqual([
      { path: "/mnt x", fileSystem: "ext4", source: "/dev/nbd0", readOnly: false },
      { path: "/pods/dev", fileSystem: "devtmpfs", source: "udev", readOnly: true },
    ]);
  });
});

describe("parseEndpoint", () => {
  test("takes unix sockets only", () => {
    expect(parseEndpoint("unix:///run/csi.sock")).toBe("/run/csi.sock");
    expect(parseEndpoint("/run/csi.sock")).toBe("/run/csi.sock");
    for (const endpoint of ["tcp://0.0.0.0:1", "unix://relative", ""])
      expect(() => parseEndpoint(endpoint)).toThrow("write it as unix:///run/torus/csi.sock");
  });
});
