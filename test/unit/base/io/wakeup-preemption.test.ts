/** When a thread lets others keep the core: woken often, by this machine, for little; never while that makes it wait. */
import { expect, test } from "bun:test";
import {
  PAUSE_MS_MAX,
  PAUSE_MS_MIN,
  RETRY_MS,
  RUN_BYTES_MAX,
  RUNS_PER_S_TO_START,
  RUNS_PER_S_TO_STAY,
  type ThreadSpan,
  TRUST_MS,
  WAIT_MS_MAX,
  WakeupPreemption,
} from "../../../../src/base/io/wakeup-preemption";

const SPAN_MS = 100;
const BUSY_RUNS = (RUNS_PER_S_TO_START * SPAN_MS) / 1000;

/** A span in which it pays, but for what is given. */
function span(changes: Partial<ThreadSpan> & { readonly waitMs?: number } = {}): ThreadSpan {
  const { waitMs = WAIT_MS_MAX / 5, ...rest } = changes;
  const runCount = rest.runCount ?? BUSY_RUNS;
  const receivedBytes = rest.receivedBytes ?? runCount * 200;
  return {
    elapsedMs: SPAN_MS,
    runCount,
    waitedMs: runCount * waitMs,
    receivedBytes,
    receivedLocalBytes: receivedBytes,
    ...rest,
  };
}

function standingBack(): WakeupPreemption {
  const preemption = new WakeupPreemption();
  preemption.note(span());
  expect(preemption.standsBack).toBe(true);
  return preemption;
}

/** How long it takes cores at once until it stands back again, in ms. */
function pauseMs(preemption: WakeupPreemption): number {
  let elapsedMs = 0;
  while (!preemption.standsBack && elapsedMs < 10 * PAUSE_MS_MAX) {
    preemption.note(span());
    elapsedMs += SPAN_MS;
  }
  return elapsedMs;
}

test("a thread that is woken often by its own machine stands back, one that nothing is known of does not", () => {
  expect(new WakeupPreemption().standsBack).toBe(false);
  standingBack();
});

test.each([
  ["is woken seldom", span({ runCount: BUSY_RUNS - 1 })],
  ["is fed from elsewhere", span({ receivedLocalBytes: 0 })],
  ["is fed by halves from elsewhere", span({ receivedBytes: 200, receivedLocalBytes: 100 })],
  ["is sent large messages", span({ receivedBytes: BUSY_RUNS * RUN_BYTES_MAX + 1 })],
  ["is sent nothing", span({ receivedBytes: 0 })],
])("one that %s takes cores at once", (_, unfit) => {
  const preemption = new WakeupPreemption();
  preemption.note(unfit);
  expect(preemption.standsBack).toBe(false);
});

test("it goes on with half as many wakings, and no fewer", () => {
  const preemption = standingBack();
  const fewest = (RUNS_PER_S_TO_STAY * SPAN_MS) / 1000;
  for (let turn = 0; turn < 10; turn++) preemption.note(span({ runCount: fewest }));
  expect(preemption.standsBack).toBe(true);
  preemption.note(span({ runCount: fewest - 1 }));
  expect(preemption.standsBack).toBe(false);
  // That was no fault of it: it is tried again soon, if not at the next look.
  expect(pauseMs(preemption)).toBe(RETRY_MS);
});

test("behind a thread that computes it stops after one look, however few wakings are left", () => {
  for (const runCount of [1, 10, BUSY_RUNS]) {
    const preemption = standingBack();
    preemption.note(span({ runCount, waitMs: WAIT_MS_MAX * 3 }));
    expect(preemption.standsBack).toBe(false);
    expect(pauseMs(preemption)).toBe(PAUSE_MS_MIN);
  }
});

test("a single long wait among many short ones changes nothing", () => {
  const preemption = standingBack();
  for (let turn = 0; turn < 10; turn++) preemption.note(span());
  preemption.note(span({ waitMs: WAIT_MS_MAX * 1.4 }));
  expect(preemption.standsBack).toBe(true);
});

test("with every wait the pauses double up to their longest; after a quiet time the next is short again", () => {
  const preemption = standingBack();
  const pauses: number[] = [];
  for (let round = 0; round < 5; round++) {
    preemption.note(span({ waitMs: WAIT_MS_MAX * 3 }));
    pauses.push(pauseMs(preemption));
  }
  expect(pauses).toEqual([10_000, 20_000, 40_000, PAUSE_MS_MAX, PAUSE_MS_MAX]);
  for (let elapsedMs = 0; elapsedMs < TRUST_MS; elapsedMs += SPAN_MS) preemption.note(span());
  preemption.note(span({ waitMs: WAIT_MS_MAX * 3 }));
  expect(pauseMs(preemption)).toBe(PAUSE_MS_MIN);
});

test("while it takes cores at once, waits are not its doing", () => {
  const preemption = new WakeupPreemption();
  preemption.note(span({ waitMs: WAIT_MS_MAX * 10 }));
  expect(preemption.standsBack).toBe(true);
});
