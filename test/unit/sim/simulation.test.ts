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
  const { counts } = new Simulation({ seed: 20_003, faultMs: FAULT_MS }).run();
  const faults = Object.keys(counts).filter((name) => name.startsWith("fault."));
  expect(faults.length).toBeGreaterThan(1);
  expect(counts["model.reads"]).toBeGreaterThan(10);
  expect(counts["model.writes"]).toBeGreaterThan(10);
  expect(counts["model.flushes"]).toBeGreaterThan(1);
}, 120_000);
