/** How much fits on peers of different rooms, with so many copies apart: against what a greedy placement finds. */
import { expect, test } from "bun:test";
import { roomForCopies } from "../../../src/engine/space";

/** Puts one unit after the other on the peers with the most room, until fewer than `width` have any. */
function placed(rooms: readonly number[], copies: number, width: number): number {
  const left = [...rooms];
  for (let count = 0; ; count++) {
    left.sort((one, other) => other - one);
    if (left.filter((room) => room > 0).length < width) return count;
    for (let copy = 0; copy < copies && (left[copy] ?? 0) > 0; copy++) left[copy]!--;
  }
}

test("equal peers, one that is full, one that is large", () => {
  expect(roomForCopies([10, 10, 10], 2, 2)).toBe(15);
  expect(roomForCopies([10, 10, 10, 10, 0], 2, 2)).toBe(20);
  expect(roomForCopies([45, 45, 4], 2, 2)).toBe(47);
  expect(roomForCopies([100, 5, 5], 2, 2)).toBe(10);
  expect(roomForCopies([10, 10, 0], 3, 3)).toBe(0);
  expect(roomForCopies([10], 2, 2)).toBe(10);
  expect(roomForCopies([10, 10, 0], 3, 2)).toBe(10);
  expect(roomForCopies([100, 0, 0], 3, 1)).toBe(100);
  expect(roomForCopies([], 2, 2)).toBe(0);
});

test("what fits is what a placement finds, when all copies are wanted", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const rooms = Array.from({ length: 1 + (seed % 6) }, (_, index) => (seed * (index * 7 + 3) * 31) % 60);
    const copies = 1 + (seed % Math.min(3, rooms.length));
    const expected = placed(rooms, copies, copies);
    const found = roomForCopies(rooms, copies, copies);
    expect(found - expected, `${rooms} in ${copies} copies`).toBeWithin(0, 1);
  }
});
