import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { attachToKernel, listNbdDevices, makeFileSystem, parseNbdIndex } from "../../../../src/blockdev";

let root: string;

function put(path: string, text: string): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "torus-devices-"));
  put("sys/block/nbd0/size", "2048\n");
  put("sys/block/nbd0/ro", "0\n");
  put("sys/block/nbd0/pid", "4711\n");
  put("sys/block/nbd0/backend", "torus:cluster/data\n");
  put("sys/block/nbd10/size", "0\n");
  put("sys/block/nbd2/size", "8\n");
  put("sys/block/nbd2/ro", "1\n");
  put("sys/block/nbd2/pid", "5\n");
  put("sys/block/sda/size", "99\n");
  put(
    "proc/self/mounts",
    "/dev/nbd0 /srv/with\\040space ext4 rw 0 0\n/dev/nbd0p2 /srv/part xfs rw 0 0\n/dev/nbd01 /srv/other xfs rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n",
  );
});

afterAll(() => rmSync(root, { recursive: true }));

describe("listNbdDevices", () => {
  test("reads what /sys and /proc tell, in order", () => {
    expect(listNbdDevices(root)).toEqual([
      {
        index: 0,
        path: "/dev/nbd0",
        connected: true,
        pid: 4711,
        identifier: "torus:cluster/data",
        sizeBytes: 1024 * 1024,
        readOnly: false,
        mountPoints: ["/srv/with space", "/srv/part"],
      },
      {
        index: 2,
        path: "/dev/nbd2",
        connected: true,
        pid: 5,
        identifier: "",
        sizeBytes: 4096,
        readOnly: true,
        mountPoints: [],
      },
      {
        index: 10,
        path: "/dev/nbd10",
        connected: false,
        pid: undefined,
        identifier: "",
        sizeBytes: 0,
        readOnly: false,
        mountPoints: [],
      },
    ]);
  });

  test("is empty where there is no driver", () => {
    expect(listNbdDevices(join(root, "nowhere"))).toEqual([]);
  });
});

describe("parseNbdIndex", () => {
  test("takes the forms people write", () => {
    expect(["/dev/nbd3", "nbd12", "0"].map(parseNbdIndex)).toEqual([3, 12, 0]);
  });

  for (const bad of ["", "/dev/sda", "nbd", "/dev/nbd1p2", "-1", "/dev/nbd99999"])
    test(`refuses "${bad}"`, () => {
      expect(() => parseNbdIndex(bad)).toThrow(`Cannot use device "${bad}": write it as /dev/nbd0`);
    });
});

describe("attachToKernel", () => {
  const options = {
    device: undefined,
    sizeBytes: 1024 * 1024,
    serverFlags: 1,
    identifier: "torus:test",
    serve: async () => {
      throw new Error("nothing may be served");
    },
  };

  test("refuses block sizes and connection counts that no kernel takes", async () => {
    const reasonOf = (change: object) =>
      attachToKernel({ ...options, ...change }).then(
        () => "attached",
        (error: Error) => error.message,
      );
    expect(await reasonOf({ blockSizeBytes: 8192 })).toBe(
      "Cannot attach with blocks of 8192 bytes: 512 to 4096 are possible",
    );
    expect(await reasonOf({ connectionCount: 0 })).toBe(
      "Cannot attach with 0 connections: 1 to 16 are possible",
    );
    expect(await reasonOf({ connectionCount: 17 })).toBe(
      "Cannot attach with 17 connections: 1 to 16 are possible",
    );
  });
});

describe("makeFileSystem", () => {
  test("takes no file system type that could be a path or an option", async () => {
    for (const type of ["", "../x", "ext4 -F", "-h"]) {
      const reason = await makeFileSystem("/dev/null", type).catch((error: Error) => error.message);
      expect(reason).toBe(`Cannot make a file system of type "${type}"`);
    }
  });
});
