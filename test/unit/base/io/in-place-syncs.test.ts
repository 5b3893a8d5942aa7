/** When syncs are done in place: those that are quick, or that nobody waits for; never for long where others do. */
import { expect, test } from "bun:test";
import {
  InPlaceSyncs,
  LONE_SYNC_US_MAX,
  QUICK_SYNC_US_MAX,
  SLOW_SYNC_US_MIN,
} from "../../../../src/base/io/in-place-syncs";

function after(count: number, timeUs: number, isLone: boolean, syncs = new InPlaceSyncs()): InPlaceSyncs {
  for (let sync = 0; sync < count; sync++) syncs.note(timeUs, isLone);
  return syncs;
}

test("nothing is done in place before a row of syncs has shown that it pays", () => {
  expect(new InPlaceSyncs().pays).toBe(false);
  expect(after(15, QUICK_SYNC_US_MAX, false).pays).toBe(false);
  expect(after(16, QUICK_SYNC_US_MAX, false).pays).toBe(true);
});

test("a sync of some hundred microseconds is done in place only where nothing else comes", () => {
  expect(after(16, LONE_SYNC_US_MAX, true).pays).toBe(true);
  expect(after(1_000, LONE_SYNC_US_MAX, false).pays).toBe(false);
  expect(after(1_000, LONE_SYNC_US_MAX + 1, true).pays).toBe(false);
});

test("whatever went well before, seven that are slow or keep others waiting end it", () => {
  for (const [timeUs, isLone] of [
    [LONE_SYNC_US_MAX + 1, true],
    [QUICK_SYNC_US_MAX + 1, false],
  ] as const) {
    const syncs = after(100_000, QUICK_SYNC_US_MAX, true);
    expect(after(7, timeUs, isLone, syncs).pays).toBe(false);
  }
});

test("one that takes milliseconds ends it at once", () => {
  const syncs = after(100_000, QUICK_SYNC_US_MAX, true);
  expect(after(1, SLOW_SYNC_US_MIN, true, syncs).pays).toBe(false);
});

test("one disturbance in eight syncs is enough to end it, and one in twenty is not", () => {
  const often = after(64, LONE_SYNC_US_MAX, true);
  const seldom = after(64, LONE_SYNC_US_MAX, true);
  let [oftenInPlace, seldomInPlace] = [0, 0];
  for (let round = 0; round < 200; round++) {
    for (let sync = 0; sync < 7; sync++) often.note(LONE_SYNC_US_MAX, true);
    often.note(LONE_SYNC_US_MAX, false);
    if (often.pays) oftenInPlace++;
    for (let sync = 0; sync < 19; sync++) seldom.note(LONE_SYNC_US_MAX, true);
    seldom.note(LONE_SYNC_US_MAX, false);
    if (seldom.pays) seldomInPlace++;
  }
  expect(oftenInPlace).toBeLessThan(60);
  expect(seldomInPlace).toBe(200);
});
