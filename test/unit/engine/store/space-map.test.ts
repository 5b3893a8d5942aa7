/** SpaceMap against an array of booleans. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { SpaceMap } from "../../../../src/engine/store/space-map";

test("SpaceMap never gives a unit twice, and finds a run whenever there is one", () => {
  const action = fc.tuple(fc.constantFrom("run", "scattered", "release"), fc.integer({ min: 1, max: 90 }));
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300 }),
      fc.array(action, { maxLength: 120 }),
      (unitCount, actions) => {
        const map = new SpaceMap(unitCount);
        const taken = new Array<boolean>(unitCount).fill(false);
        const held: number[][] = [];
        const scratch = new Uint32Array(2 * 40);
        const claim = (pairs: number[]) => {
          for (let word = 0; word < pairs.length; word += 2)
            for (
              let unit = pairs[word] as number;
              unit < (pairs[word] as number) + (pairs[word + 1] as number);
              unit += 1
            ) {
              expect(unit).toBeLessThan(unitCount);
              expect(taken[unit]).toBe(false);
              taken[unit] = true;
            }
          held.push(pairs);
        };
        const longestRun = () => {
          let longest = 0;
          let run = 0;
          for (const isTaken of taken) {
            run = isTaken ? 0 : run + 1;
            longest = Math.max(longest, run);
          }
          return longest;
        };
        for (const [kind, count] of actions) {
          if (kind === "run") {
            const possible = longestRun() >= count;
            const start = map.allocate(count);
            expect(start >= 0).toBe(possible);
            if (start >= 0) claim([start, count]);
          } else if (kind === "scattered") {
            const extents = map.allocateScattered(count, scratch);
            if (extents > 0) {
              const pairs = [...scratch.slice(0, 2 * extents)];
              expect(pairs.filter((_, word) => word % 2 === 1).reduce((sum, length) => sum + length, 0)).toBe(
                count,
              );
              claim(pairs);
            }
          } else {
            const pairs = held.splice(count % Math.max(1, held.length), 1)[0];
            if (pairs === undefined) continue;
            for (let word = 0; word < pairs.length; word += 2) {
              map.release(pairs[word] as number, pairs[word + 1] as number);
              taken.fill(false, pairs[word], (pairs[word] as number) + (pairs[word + 1] as number));
            }
          }
          expect(map.freeUnits).toBe(taken.filter((isTaken) => !isTaken).length);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test("SpaceMap fills from the front and goes on behind what it gave last", () => {
  const map = new SpaceMap(100);
  expect([map.allocate(9), map.allocate(9), map.allocate(1)]).toEqual([0, 9, 18]);
  map.release(0, 9);
  expect(map.allocate(5)).toBe(19);
  expect(map.allocate(76)).toBe(24);
  expect(map.allocate(10)).toBe(-1);
  expect(map.allocate(9)).toBe(0);
});

test("SpaceMap throws when a unit is taken or released twice", () => {
  const map = new SpaceMap(64);
  map.take(3, 40);
  expect(() => map.take(42, 1)).toThrow("unit 42 is taken twice");
  map.release(3, 40);
  expect(() => map.release(3, 1)).toThrow("unit 3 is released twice");
});
