/** Which write counts for the last before a flush. That it is sealed at once is held by the tests of a whole volume. */
import { expect, test } from "bun:test";
import { FlushForecast } from "../../../../src/engine/volume/flush-forecast";

/** For each round of so many writes and a flush: which of its writes were taken for the last. */
function guesses(counts: readonly number[], forecast = new FlushForecast()): number[][] {
  return counts.map((count) => {
    const found: number[] = [];
    for (let write = 1; write <= count; write++) if (forecast.noteWrite()) found.push(write);
    forecast.noteFlush();
    return found;
  });
}

for (const count of [1, 2, 16])
  test(`FlushForecast expects a flush after ${count} writes when four in a row came there`, () => {
    const found = guesses([count, count, count, count, count, count]);
    expect(found).toEqual([[], [], [], [], [count], [count]]);
  });

test("FlushForecast gives a number up as soon as a write too many comes, and learns the next", () => {
  expect(guesses([3, 3, 3, 3, 5, 3, 3, 3, 3, 3])).toEqual([[], [], [], [], [3], [], [], [], [], [3]]);
  // Fewer writes than usual make no guess, and begin anew too.
  expect(guesses([3, 3, 3, 3, 2, 3, 3, 3, 3, 3])).toEqual([[], [], [], [], [], [], [], [], [], [3]]);
});

test("FlushForecast makes one guess a flush, however many writes follow", () => {
  expect(guesses([2, 2, 2, 2, 1_000])).toEqual([[], [], [], [], [2]]);
});

test("FlushForecast takes no notice of flushes without writes", () => {
  const forecast = new FlushForecast();
  for (let round = 0; round < 4; round++) {
    expect(guesses([4], forecast)).toEqual([[]]);
    for (let flush = 0; flush < 16; flush++) forecast.noteFlush();
  }
  expect(guesses([4], forecast)).toEqual([[4]]);
});

test("FlushForecast guesses nothing for a writer that flushes after numbers by chance, or never", () => {
  expect(guesses([1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6]).flat()).toEqual([]);
  expect(guesses([10_000])).toEqual([[]]);
});
