/** What control groups leave a process, by files as the kernel writes them, of both kinds. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { cpuQuota, mayBusyPoll } from "../../../../src/base/io/cpu-quota";

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "torus-cgroup-"));
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function quota(own: string, files: Readonly<Record<string, string>>): number {
  writeFileSync(join(root, "own"), own);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return cpuQuota({ root, own: join(root, "own") });
}

const NONE = Number.POSITIVE_INFINITY;

test.each([
  ["no limit", "0::/a/b\n", { "a/b/cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n" }, NONE],
  ["its own", "0::/a/b\n", { "a/b/cpu.max": "150000 100000\n" }, 1.5],
  ["one above it", "0::/a/b\n", { "a/b/cpu.max": "300000 100000\n", "a/cpu.max": "50000 100000\n" }, 0.5],
  ["a container's own root", "0::/\n", { "cpu.max": "20000 10000\n" }, 2],
  ["a path of the machine's", "0::/../pod/c\n", { "cpu.max": "40000 10000\n" }, 4],
  ["a path outside", "0::/../../pod\n", { "pod/cpu.max": "10000 10000\n", "cpu.max": "40000 10000\n" }, 1],
  ["a name with a colon and an umlaut", "0::/a:grün\n", { "a:grün/cpu.max": "10000 20000\n" }, 0.5],
  ["beside the older kind", "1:cpuset:/\n0::/a\n", { "unified/a/cpu.max": "10000 20000\n" }, 0.5],
  ["no controller", "0::/a\n", { "a/cpu.weight": "100\n" }, NONE],
  ["nonsense", "0::/a\n", { "a/cpu.max": "what\n" }, NONE],
  ["an empty file", "0::/a\n", { "a/cpu.max": "" }, NONE],
  ["no groups", "", {}, NONE],
])("unified groups: %s", (_name, own, files: Record<string, string>, expected) => {
  expect(quota(own, files)).toBe(expected);
});

const period = "100000\n";
test.each([
  ["no limit", "1:cpu:/a\n", { "cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": period }, NONE],
  [
    "its own",
    "3:memory:/x\n1:cpu,cpuacct:/a\n0::/\n",
    { "cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": period },
    0.5,
  ],
  [
    "a container's own root",
    "1:cpu:/pod/c\n",
    { "cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": period },
    2.5,
  ],
  [
    "another controller's",
    "1:cpuset:/a\n",
    { "cpu/a/cpu.cfs_quota_us": "1\n", "cpu/a/cpu.cfs_period_us": period },
    NONE,
  ],
])("older groups: %s", (_name, own, files: Record<string, string>, expected) => {
  expect(quota(own, files)).toBe(expected);
});

test("a file that is not there limits nothing", () => {
  expect(cpuQuota({ root, own: join(root, "none") })).toBe(NONE);
});

test("a loop asks from a quota of two cores on; what the environment says counts under any", () => {
  const files = { root, own: join(root, "own") };
  quota("0::/a\n", { "a/cpu.max": "199000 100000\n" });
  const mayUnder = (said?: string) => mayBusyPoll(said === undefined ? {} : { TORUS_BUSY_POLL: said }, files);
  expect([mayUnder(), mayUnder(""), mayUnder("0"), mayUnder("1")]).toEqual([false, false, false, true]);
  quota("0::/a\n", { "a/cpu.max": "200000 100000\n" });
  expect([mayUnder(), mayUnder(""), mayUnder("0"), mayUnder("1")]).toEqual([true, true, false, true]);
});
