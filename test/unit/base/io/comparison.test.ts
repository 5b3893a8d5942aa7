/** Two ways by turns: in an order that favours neither, judged by pairs, and held to for as long as is said. */
import { expect, test } from "bun:test";
import { Comparison, type RatePair } from "../../../../src/base/io/comparison";

function stage(finding: boolean, holdMs = 100) {
  const judged: (readonly RatePair[])[] = [];
  const comparison = new Comparison({
    spellMs: 10,
    pairCount: 4,
    judge: (pairs) => {
      judged.push(pairs);
      return finding;
    },
    holdMs: () => holdMs,
  });
  return { comparison, judged };
}

test("Comparison takes turns in an order that a growing load favours neither way by", () => {
  const { comparison } = stage(true);
  const ways: boolean[] = [];
  for (let spell = 0; spell < 8; spell++) {
    expect(comparison.isComparing).toBe(true);
    ways.push(comparison.isOther);
    comparison.note(10, 1);
  }
  expect(ways).toEqual([false, true, true, false, false, true, true, false]);
  expect(comparison.isComparing).toBe(false);
});

test("Comparison judges by bytes a ms, however the time came", () => {
  const { comparison, judged } = stage(true);
  for (let spell = 0; spell < 8; spell++) {
    const bytes = comparison.isOther ? 30 : 20;
    comparison.note(4, bytes / 2);
    comparison.note(6, bytes / 2);
  }
  expect(judged).toEqual([Array.from({ length: 4 }, () => ({ one: 2, other: 3 }))]);
});

test.each([true, false])("Comparison holds to what it found, and then looks again: %p", (finding) => {
  const { comparison, judged } = stage(finding);
  for (let spell = 0; spell < 8; spell++) comparison.note(10, 1);
  for (let ms = 0; ms < 100; ms += 10) {
    expect(comparison.isComparing).toBe(false);
    expect(comparison.isOther).toBe(finding);
    comparison.note(10, 1);
  }
  expect(comparison.isComparing).toBe(true);
  expect(comparison.isOther).toBe(false);
  for (let spell = 0; spell < 8; spell++) comparison.note(10, 1);
  expect(judged.length).toBe(2);
});

test("Comparison begins anew when it is told to", () => {
  const { comparison, judged } = stage(true);
  for (let spell = 0; spell < 8; spell++) comparison.note(10, 1);
  comparison.restart();
  expect(comparison.isComparing).toBe(true);
  for (let spell = 0; spell < 5; spell++) comparison.note(10, 1);
  comparison.restart();
  for (let spell = 0; spell < 7; spell++) comparison.note(10, 1);
  expect(judged.length).toBe(1);
  comparison.note(10, 1);
  expect(judged.length).toBe(2);
});
