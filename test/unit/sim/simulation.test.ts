/** The simulator itself: a seed is a whole run, the same every time. */
import { expect, test } from "bun:test";
import { Simulation } from "../../sim/simulation";

const FAULT_MS = 8_000;

test("Simulation gives the same trace for the same seed, and another for another", () => {
  const run = (seed: number) => new Simulation({ seed, faultMs: FAULT_MS }).run();
  const first = run(20_001);
  const second = run(20_001);
  expect(second).toEqual(first);
  expect(run(20_002).traceHash).not.toBe(first.traceHash);
}, 120_000);

test("Simulation injects faults and checks reads, writes and flushes", () => {
  const totals: Record<string, number> = {};
  for (const seed of [20_003, 20_004, 20_005])
    for (const [name, count] of Object.entries(new Simulation({ seed, faultMs: FAULT_MS }).run().counts))
      totals[name] = (totals[name] ?? 0) + count;
  const faults = Object.keys(totals).filter((name) => name.startsWith("fault."));
  expect(faults.length).toBeGreaterThan(3);
  for (const name of ["model.reads", "model.writes", "model.flushes"])
    expect(totals[name]).toBeGreaterThan(30);
}, 120_000);
