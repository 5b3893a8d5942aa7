/** Thousands of crashes: `STORE_SEEDS=20000 bun test crash` for a long run, `STORE_SEED=17` for one. */
import { expect, test } from "bun:test";
import { runSchedule, type ScheduleReport } from "./crash-model";

const seedCount = Number(process.env.STORE_SEEDS ?? 150);
const onlySeed = process.env.STORE_SEED;

test("SegmentStore keeps every acknowledged put, delete and fence over any crash, and serves nothing torn", async () => {
  const total = {
    crashes: 0,
    crashesInRecovery: 0,
    acknowledged: 0,
    refusedForSpace: 0,
    suspects: 0,
    checkpoints: 0,
    checks: 0,
    torn: 0,
  };
  const add = (report: ScheduleReport) => {
    for (const key of [
      "crashes",
      "crashesInRecovery",
      "acknowledged",
      "refusedForSpace",
      "suspects",
      "checkpoints",
      "checks",
    ] as const)
      total[key] += report[key];
    total.torn += report.disk.torn;
  };
  if (onlySeed !== undefined) add(await runSchedule(Number(onlySeed)));
  else for (let seed = 1; seed <= seedCount; seed += 1) add(await runSchedule(seed));
  if (onlySeed !== undefined) return;
  // The schedules must hurt, or the test shows nothing.
  expect(total.crashes).toBeGreaterThan(seedCount);
  expect(total.crashesInRecovery).toBeGreaterThan(seedCount / 10);
  expect(total.acknowledged).toBeGreaterThan(seedCount * 20);
  expect(total.refusedForSpace).toBeGreaterThan(0);
  expect(total.suspects).toBeGreaterThan(0);
  expect(total.checkpoints).toBeGreaterThan(0);
  expect(total.checks).toBeGreaterThan(seedCount / 10);
  expect(total.torn).toBeGreaterThan(seedCount);
  if (process.env.STORE_REPORT !== undefined) console.log(total);
}, 600_000);
