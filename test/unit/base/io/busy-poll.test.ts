/** When a loop asks before it sleeps: soon after events that came soon, never when idle or busy. */
import { expect, test } from "bun:test";
import { BusyPoll, POLL_WINDOW_MS } from "../../../../src/base/io/busy-poll";

const SHORT_MS = POLL_WINDOW_MS / 4;
const LONG_MS = POLL_WINDOW_MS * 10;
const WORK_MS = SHORT_MS / 10;

function turns(poll: BusyPoll, count: number, workedMs: number, waitedMs: number): void {
  for (let turn = 0; turn < count; turn++) poll.note(workedMs, waitedMs);
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

test("where every second wait is long it never asks", () => {
  const poll = new BusyPoll();
  for (let turn = 0; turn < 100; turn++) {
    turns(poll, 1, WORK_MS, turn % 2 === 0 ? SHORT_MS : LONG_MS);
    expect(poll.windowMs).toBe(0);
  }
});

test("a busy loop lets its events gather, and asks again when it has time to spare", () => {
  const poll = new BusyPoll();
  turns(poll, 100, SHORT_MS, SHORT_MS / 2);
  expect(poll.busyShare).toBeGreaterThan(0.6);
  expect(poll.windowMs).toBe(0);
  turns(poll, 100, WORK_MS, SHORT_MS);
  expect(poll.busyShare).toBeLessThan(0.2);
  expect(poll.windowMs).toBe(POLL_WINDOW_MS);
});

test("one endless wait does not make a busy loop look idle for long", () => {
  const poll = new BusyPoll();
  turns(poll, 100, SHORT_MS, SHORT_MS / 10);
  turns(poll, 1, 0, 60_000);
  turns(poll, 20, SHORT_MS, SHORT_MS / 10);
  expect(poll.windowMs).toBe(0);
});
