/** When a loop asks before it sleeps: soon after events that came soon, never when idle; when busy, where it pays. */
import { expect, test } from "bun:test";
import { BusyPoll, LONG_POLL_WINDOW_MS, POLL_WINDOW_MS } from "../../../../src/base/io/busy-poll";

const SHORT_MS = POLL_WINDOW_MS / 4;
/** As that of a peer for the next write while a disk makes the last one durable. */
const DISK_MS = LONG_POLL_WINDOW_MS * 0.75;
const LONG_MS = LONG_POLL_WINDOW_MS * 10;
const WORK_MS = SHORT_MS / 10;

function turns(poll: BusyPoll, count: number, workedMs: number, waitedMs: number): void {
  for (let turn = 0; turn < count; turn++) poll.note(workedMs, waitedMs, 0);
}

/** Some seconds of a busy loop that receives so many bytes with a turn; returns the share of its turns that asked. */
function busySecond(poll: BusyPoll, asking: number, sleeping: number, seconds = 1): number {
  let asked = 0;
  const count = Math.ceil((1_000 * seconds) / (SHORT_MS * 1.5));
  for (let turn = 0; turn < count; turn++) {
    const asks = poll.windowMs > 0;
    if (asks) asked++;
    poll.note(SHORT_MS, SHORT_MS / 2, asks ? asking : sleeping);
  }
  expect(poll.busyShare).toBeGreaterThan(0.6);
  return asked / count;
}

test("a loop that knows nothing yet sleeps at once", () => {
  expect(new BusyPoll().windowMs).toBe(0);
});

test("after some short waits it asks, after some long ones no longer", () => {
  const poll = new BusyPoll();
  turns(poll, 8, WORK_MS, SHORT_MS);
  expect(poll.windowMs).toBe(POLL_WINDOW_MS);
  turns(poll, 5, WORK_MS, LONG_MS);
  expect(poll.windowMs).toBe(0);
});

test("it asks for as long as a disk takes, but a loop with as much work as a third of that is busy", () => {
  const poll = new BusyPoll();
  turns(poll, 100, WORK_MS, DISK_MS);
  expect(poll.windowMs).toBeGreaterThan(DISK_MS);
  expect(poll.busyShare).toBeLessThan(0.1);
  turns(poll, 100, DISK_MS / 3, DISK_MS);
  expect(poll.busyShare).toBeGreaterThan(0.4);
});

test("long waits between short ones are not asked through, unless they too end within the long window", () => {
  for (const [rest, window] of [
    [LONG_MS, POLL_WINDOW_MS],
    [DISK_MS, LONG_POLL_WINDOW_MS],
  ] as const) {
    const poll = new BusyPoll();
    for (let request = 0; request < 100; request++) {
      turns(poll, 3, WORK_MS, SHORT_MS);
      poll.note(WORK_MS, rest, 0);
    }
    expect(poll.windowMs).toBe(window);
    // What ends soon after all is found out, and what no longer does too.
    for (let request = 0; request < 30; request++) {
      turns(poll, 3, WORK_MS, SHORT_MS);
      poll.note(WORK_MS, rest === DISK_MS ? LONG_MS : DISK_MS, 0);
    }
    expect(poll.windowMs).toBe(rest === DISK_MS ? POLL_WINDOW_MS : LONG_POLL_WINDOW_MS);
  }
});

test("where every second wait is long it never asks", () => {
  const poll = new BusyPoll();
  for (let turn = 0; turn < 100; turn++) {
    turns(poll, 1, WORK_MS, turn % 2 === 0 ? SHORT_MS : LONG_MS);
    expect(poll.windowMs).toBe(0);
  }
});

test("a loop that was busy asks again when it has time to spare", () => {
  const poll = new BusyPoll();
  turns(poll, 100, SHORT_MS, SHORT_MS / 2);
  expect(poll.busyShare).toBeGreaterThan(0.6);
  turns(poll, 100, WORK_MS, SHORT_MS);
  expect(poll.busyShare).toBeLessThan(0.2);
  expect(poll.windowMs).toBe(POLL_WINDOW_MS);
});

test("a busy loop asks where it receives more that way, and lets its events gather where it does not", () => {
  for (const [asking, sleeping, share] of [
    [110, 100, 1],
    [100, 100, 0],
    [90, 100, 0],
  ] as const) {
    const poll = new BusyPoll();
    expect(busySecond(poll, asking, sleeping)).toBeWithin(0.1, 0.9);
    expect(busySecond(poll, asking, sleeping)).toBe(share);
  }
});

test("a loop that others wait for asks, unless it receives less that way", () => {
  for (const [asking, sleeping, share] of [
    [110, 100, 1],
    [100, 100, 1],
    [90, 100, 0],
    [0, 0, 0],
  ] as const) {
    const poll = new BusyPoll();
    poll.preferAsking();
    expect(busySecond(poll, asking, sleeping)).toBeWithin(0.1, 0.9);
    expect(busySecond(poll, asking, sleeping)).toBe(share);
  }
});

test("one long turn now and then decides nothing", () => {
  for (const [asking, isBetter] of [
    [100, false],
    [115, true],
  ] as const) {
    const poll = new BusyPoll();
    let shareSum = 0;
    for (let second = 0; second < 120; second++) {
      shareSum += busySecond(poll, asking, 100);
      // As long as two spells, and at another place of the comparison every time.
      poll.note(32, 0, 0);
      busySecond(poll, asking, 100, 0.1 + (second % 7) / 10);
    }
    if (isBetter) expect(shareSum / 120).toBeGreaterThan(0.8);
    else expect(shareSum / 120).toBeLessThan(0.2);
  }
});

test("what it found out is looked at again after some seconds of work, with rests between or without", () => {
  for (const rests of [0, 30]) {
    const poll = new BusyPoll();
    for (let second = 0; second < 3; second++) busySecond(poll, 110, 100);
    for (let second = 0; second < 6; second++) {
      busySecond(poll, 90, 100);
      turns(poll, rests, WORK_MS, LONG_MS);
      turns(poll, rests, SHORT_MS, SHORT_MS / 2);
    }
    expect(busySecond(poll, 90, 100)).toBeLessThan(0.3);
  }
});

test("nothing is found out while there is time to spare, where it asks whatever a comparison says", () => {
  const poll = new BusyPoll();
  for (let turn = 0; turn < 100_000; turn++) poll.note(WORK_MS, SHORT_MS, turn % 1_000);
  expect(poll.windowMs).toBe(POLL_WINDOW_MS);
  // The comparison begins with its first spell, which sleeps.
  turns(poll, 100, SHORT_MS, SHORT_MS / 2);
  expect(poll.windowMs).toBe(0);
});

test("one endless wait does not make a busy loop look idle for long", () => {
  const poll = new BusyPoll();
  turns(poll, 100, SHORT_MS, SHORT_MS / 10);
  turns(poll, 1, 0, 60_000);
  turns(poll, 20, SHORT_MS, SHORT_MS / 10);
  expect(poll.busyShare).toBeGreaterThan(0.6);
});
