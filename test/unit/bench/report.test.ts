import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CASES, selectCases } from "../../bench/cases";
import { type BenchRun, median, ratioOf, readCommitted, record, renderTable } from "../../bench/report";

const folder = mkdtempSync(join(tmpdir(), "torus-bench-report-"));
afterAll(() => rmSync(folder, { recursive: true }));

function runWith(values: readonly (readonly [target: string, value: number])[]): BenchRun {
  return {
    version: 1,
    date: "2026-01-02",
    commit: "0123456789ab",
    machine: "2 cores",
    storage: "tmpfs",
    socket: "tcp",
    secondsPerCase: 4,
    rounds: 2,
    results: values.map(([target, value]) => ({
      caseId: "read1",
      target,
      value,
      stallMsMax: value / 100,
      latencyUsP99: 1,
    })),
  };
}

const now = runWith([
  ["nbdkit-file", 900],
  ["torus-3", 630],
  ["nbdkit-file", 1100],
  ["torus-3", 660],
  ["nbdkit-file", 2000],
  ["torus-3", 100],
]);

test("ratioOf is the median of the rounds' ratios, and says nothing without a reference", () => {
  expect(ratioOf(now, "read1", "torus-3")).toBe(0.6);
  expect(ratioOf(now, "read1", "torus-1")).toBeUndefined();
  expect(ratioOf(runWith([["torus-3", 5]]), "read1", "torus-3")).toBeUndefined();
});

test("median is the middle, or between the two in the middle", () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([10, 1, 4, 2])).toBe(3);
  expect(median([7])).toBe(7);
  expect(median([])).toBeNaN();
});

test("renderTable shows values, ratio, the change against the committed table and the longest request", () => {
  const before = runWith([
    ["nbdkit-file", 1000],
    ["torus-3", 500],
  ]);
  expect(renderTable(now, CASES, before)).toBe(
    `2026-01-02, commit 0123456789ab, 2 cores; 2 windows of 4 s a case, NBD over tcp, data on tmpfs.

| case | nbdkit-file | torus-3 | torus-3 / file | change | longest request, torus-3 |
| --- | ---: | ---: | ---: | ---: | ---: |
| 4k random read, depth 1, cold cache, IOPS | 1,100 | 630 | 0.60 (0.05-0.70) | +20 % | 7 ms |
`,
  );
  expect(renderTable(now, CASES, undefined)).toContain("| 0.60 (0.05-0.70) | - |");
});

test("record replaces the table of this storage only, and readCommitted finds the numbers again", () => {
  const page = join(folder, "page.md");
  const data = join(folder, "data.json");
  writeFileSync(
    page,
    "a\n<!-- bench:tmpfs -->\nold\n<!-- /bench -->\nb\n<!-- bench:disk -->\nkept\n<!-- /bench -->\n",
  );
  record(page, data, now, "new\n");
  expect(readFileSync(page, "utf8")).toBe(
    "a\n<!-- bench:tmpfs -->\nnew\n<!-- /bench -->\nb\n<!-- bench:disk -->\nkept\n<!-- /bench -->\n",
  );
  expect(readCommitted(data)).toEqual(now);
  expect(readCommitted(join(folder, "absent.json"))).toBeUndefined();
});

test("selectCases leaves out what runs on demand, keeps the table's order and refuses unknown names", () => {
  expect(selectCases([]).map((one) => one.id)).not.toContain("write16-60s");
  expect(selectCases(["read1", "write16-60s"]).map((one) => one.id)).toEqual(["write16-60s", "read1"]);
  expect(() => selectCases(["nope"])).toThrow("Unknown case nope");
});
