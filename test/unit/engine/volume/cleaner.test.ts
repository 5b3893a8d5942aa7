/** When cleaning begins, pauses and goes on. What it copies is held by the scenarios of a whole volume. */
import { expect, test } from "bun:test";
import { type StorageStatus, StorageStatus as Status } from "../../../../src/engine/ports";
import { Cleaner } from "../../../../src/engine/volume/cleaner";
import type { LogWriter } from "../../../../src/engine/volume/log-writer";
import { VOLUME_DEFAULTS } from "../../../../src/engine/volume/options";
import { newVolumeStatistics } from "../../../../src/engine/volume/statistics";
import type { VolumeCore } from "../../../../src/engine/volume/volume-core";
import { VirtualClock } from "../../../support/virtual-clock";

type ScanEnd = (status: StorageStatus, next: number) => void;

/** A map that is half dead and names no block worth its copy; its scans end when the test says so. */
function stage() {
  const clock = new VirtualClock();
  const scans: ScanEnd[] = [];
  const core = {
    ports: { clock, registry: { collectionView: async () => ({ volumes: [], damage: [] }) } },
    options: VOLUME_DEFAULTS,
    session: { grant: {} },
    distributor: { full: false },
    map: {
      statistics: () => ({ livePageCount: 10_000, deadSlotCount: 10_000 }),
      scanBlocks: (_from: number, _visit: unknown, done: ScanEnd) => scans.push(done),
    },
    statistics: newVolumeStatistics(),
    onCleanError: (error: unknown) => {
      throw error;
    },
  } as unknown as VolumeCore;
  const pass = async (milliseconds: number): Promise<void> => {
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    clock.advance(milliseconds);
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  };
  return { cleaner: new Cleaner(core, {} as LogWriter), scans, pass };
}

test("Cleaner goes on by itself when a shortage ended while its step waited for the pass before", async () => {
  const { cleaner, scans, pass } = stage();
  cleaner.tick();
  await pass(0);
  expect(scans.length).toBe(1);
  cleaner.suspend();
  const step = cleaner.cleanSome(1024 * 1024);
  await pass(0);
  cleaner.resume();
  scans[0]?.(Status.ok, 0);
  await pass(1);
  await pass(1);
  while (scans.length > 1) {
    scans.pop()?.(Status.ok, 0);
    await pass(1);
  }
  expect(await step).toBe(0);
  // Longer than it rests after a scan that found nothing.
  await pass(40_000);
  cleaner.tick();
  await pass(0);
  expect(scans.length).toBe(2);
});

test("Cleaner rests while it is suspended, but for the steps it is told", async () => {
  const { cleaner, scans, pass } = stage();
  cleaner.suspend();
  cleaner.tick();
  await pass(0);
  expect(scans.length).toBe(0);
  const step = cleaner.cleanSome(1024 * 1024);
  await pass(0);
  expect(scans.length).toBe(1);
  scans[0]?.(Status.ok, 0);
  await pass(1);
  expect(await step).toBe(0);
  await pass(40_000);
  cleaner.tick();
  await pass(0);
  expect(scans.length).toBe(1);
});
