/** The read cache against a Map that forgets nothing. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { heapBuffer } from "../../../../src/base";
import { PAGE_BYTES } from "../../../../src/engine/block";
import { ReadCache } from "../../../../src/engine/cache";

const PAGE_COST = PAGE_BYTES + 160;
const source = heapBuffer(PAGE_BYTES * 2);
const destination = heapBuffer(PAGE_BYTES * 2);

function fill(value: number): void {
  source.view.setFloat64(PAGE_BYTES, value);
  source.view.setFloat64(PAGE_BYTES * 2 - 8, value);
}

function filled(): number {
  const first = destination.view.getFloat64(PAGE_BYTES);
  expect(destination.view.getFloat64(PAGE_BYTES * 2 - 8)).toBe(first);
  return first;
}

describe("ReadCache", () => {
  test("returns what was inserted under that space and location, or nothing", () => {
    const operation = fc.record({
      insert: fc.boolean(),
      space: fc.integer({ min: 0, max: 2 }),
      // Locations that differ only above bit 32, and neighbours.
      location: fc.oneof(
        fc.integer({ min: 2048, max: 2078 }),
        fc.constantFrom(2 ** 32 + 2048, 2 ** 52, 2 ** 40),
      ),
    });
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 20 }),
        fc.array(operation, { maxLength: 300 }),
        (pages, operations) => {
          const cache = new ReadCache(heapBuffer, pages * PAGE_COST);
          const spaces = [cache.openSpace(), cache.openSpace(), cache.openSpace()];
          const model = new Map<string, number>();
          for (const { insert, space, location } of operations) {
            const view = spaces[space] as (typeof spaces)[0];
            const key = `${space} ${location}`;
            const value = space * 2 ** 53 + location;
            if (insert) {
              fill(value);
              view.insert(location, source, PAGE_BYTES);
              model.set(key, value);
              expect(view.has(location)).toBe(pages > 0);
            }
            const known = view.has(location);
            const hit = view.read(location, destination, PAGE_BYTES);
            expect(hit).toBe(known);
            if (hit) expect(filled()).toBe(model.get(key) as number);
          }
          expect(cache.statistics().pageCount).toBeLessThanOrEqual(pages);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("keeps every page while there is room, and the limit after that", () => {
    const cache = new ReadCache(heapBuffer, 5000 * PAGE_COST);
    const space = cache.openSpace();
    for (let location = 1; location <= 5000; location += 1) space.insert(location, source, 0);
    for (let location = 1; location <= 5000; location += 1) expect(space.has(location)).toBe(true);
    for (let location = 5001; location <= 6000; location += 1) space.insert(location, source, 0);
    expect(cache.statistics()).toMatchObject({ pageCount: 5000, pageCountMax: 5000, evictions: 1000 });
  });

  test("lets a scan pass without losing the pages that are read again and again", () => {
    const cache = new ReadCache(heapBuffer, 100 * PAGE_COST);
    const space = cache.openSpace();
    for (let location = 1; location <= 50; location += 1) space.insert(location, source, 0);
    for (let location = 1000; location < 3000; location += 1) {
      for (let hot = 1; hot <= 50; hot += 1) space.read(hot, destination, 0);
      space.insert(location, source, 0);
    }
    for (let hot = 1; hot <= 50; hot += 1) expect(space.has(hot)).toBe(true);
  });

  test("counts hits and misses", () => {
    const cache = new ReadCache(heapBuffer, 10 * PAGE_COST);
    const space = cache.openSpace();
    space.insert(1, source, 0);
    space.read(1, destination, 0);
    space.read(2, destination, 0);
    expect(cache.statistics()).toMatchObject({ hits: 1, misses: 1 });
  });
});
