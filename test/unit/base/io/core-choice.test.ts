/** When a thread keeps to its programs' core: as long as that brings no less, and only while they run on one. */
import { expect, test } from "bun:test";
import { CoreChoice, SAMPLE_COUNT } from "../../../../src/base/io/core-choice";

const LOOK_MS = 5;
const SENDER = 3;

interface Load {
  /** Bytes a ms while it keeps to the core, and while it roams. */
  readonly keeping: number;
  readonly roaming: number;
  /** Where the next request comes from. */
  readonly sender?: () => number;
  readonly turnsAMs?: number;
  /** Every rate is up to so much more or less by chance. */
  readonly noise?: number;
}

let chance = 1;
function nextChance(): number {
  chance = (chance * 48_271) % 2_147_483_647;
  return chance / 2_147_483_647;
}

/** So many seconds under a load; returns the share of the time that it kept to a core. */
function seconds(choice: CoreChoice, count: number, load: Load): number {
  let keptMs = 0;
  for (let ms = 0; ms < count * 1_000; ms += LOOK_MS) {
    const isKeeping = choice.core !== undefined;
    if (isKeeping) {
      expect(choice.core).toBe((load.sender ?? (() => SENDER))());
      keptMs += LOOK_MS;
    }
    const noise = 1 + (load.noise ?? 0) * (2 * nextChance() - 1);
    choice.noteSender((load.sender ?? (() => SENDER))());
    choice.note({
      elapsedMs: LOOK_MS,
      turnCount: LOOK_MS * (load.turnsAMs ?? 10),
      receivedBytes: LOOK_MS * noise * (isKeeping ? load.keeping : load.roaming),
    });
  }
  return keptMs / (count * 1_000);
}

test("a thread that knows of no program keeps to no core", () => {
  expect(new CoreChoice().core).toBeUndefined();
});

test("a thread keeps to the core where it brings more, or no less, and roams where it brings less", () => {
  expect(seconds(new CoreChoice(), 60, { keeping: 120, roaming: 100 })).toBeGreaterThan(0.9);
  expect(seconds(new CoreChoice(), 60, { keeping: 100, roaming: 100 })).toBeGreaterThan(0.9);
  expect(seconds(new CoreChoice(), 60, { keeping: 101, roaming: 100, noise: 0.5 })).toBeGreaterThan(0.8);
  expect(seconds(new CoreChoice(), 60, { keeping: 50, roaming: 100 })).toBeLessThan(0.1);
});

test("chance alone does not keep it from what pays", () => {
  for (const [gain, least, most] of [
    [1.06, 0.85, 1],
    [0.88, 0, 0.2],
  ] as const) {
    const choice = new CoreChoice();
    seconds(choice, 30, { keeping: 100 * gain, roaming: 100, noise: 0.9 });
    expect(seconds(choice, 300, { keeping: 100 * gain, roaming: 100, noise: 0.9 })).toBeWithin(least, most);
  }
});

test("where it does not pay it is tried for ever less of the time", () => {
  const choice = new CoreChoice();
  seconds(choice, 60, { keeping: 70, roaming: 100 });
  expect(seconds(choice, 60, { keeping: 70, roaming: 100 })).toBeLessThan(0.025);
});

test("when much less comes all at once it looks again at once, and finds what pays now", () => {
  const choice = new CoreChoice();
  expect(seconds(choice, 2, { keeping: 120, roaming: 100 })).toBeGreaterThan(0.5);
  // A program that computes has come to the core.
  expect(seconds(choice, 3, { keeping: 30, roaming: 100 })).toBeLessThan(0.3);
  seconds(choice, 10, { keeping: 30, roaming: 100 });
  // And has gone again.
  seconds(choice, 25, { keeping: 120, roaming: 100 });
  expect(seconds(choice, 10, { keeping: 120, roaming: 100 })).toBeGreaterThan(0.9);
});

test("a load that became smaller is looked at again once", () => {
  const choice = new CoreChoice();
  seconds(choice, 2, { keeping: 1_200, roaming: 1_000 });
  seconds(choice, 2, { keeping: 12, roaming: 10 });
  expect(seconds(choice, 6, { keeping: 12, roaming: 10 })).toBe(1);
});

test("a thread follows a program to another core", () => {
  const choice = new CoreChoice();
  seconds(choice, 2, { keeping: 100, roaming: 100 });
  expect(choice.core).toBe(SENDER);
  for (let sample = 0; sample < SAMPLE_COUNT; sample++) choice.noteSender(SENDER + 1);
  expect(choice.core).toBe(SENDER + 1);
});

test("programs on several cores, and such as the kernel knows no core of, are not followed", () => {
  let request = 0;
  expect(seconds(new CoreChoice(), 10, { keeping: 120, roaming: 100, sender: () => request++ % 2 })).toBe(0);
  expect(seconds(new CoreChoice(), 10, { keeping: 120, roaming: 100, sender: () => -1 })).toBe(0);
});

test("an idle thread keeps to no core, whatever was found", () => {
  const choice = new CoreChoice();
  seconds(choice, 2, { keeping: 120, roaming: 100 });
  expect(choice.core).toBe(SENDER);
  choice.note({ elapsedMs: 1_000, turnCount: 20, receivedBytes: 2_000 });
  expect(choice.core).toBeUndefined();
  expect(seconds(choice, 1, { keeping: 120, roaming: 100 })).toBeGreaterThan(0.9);
  expect(seconds(choice, 10, { keeping: 120, roaming: 100, turnsAMs: 0.5 })).toBeLessThan(0.001);
});

test("where nothing is received it keeps to no core once it has looked", () => {
  const choice = new CoreChoice();
  seconds(choice, 2, { keeping: 0, roaming: 0 });
  expect(choice.core).toBeUndefined();
});
