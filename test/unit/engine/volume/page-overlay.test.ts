/** The overlay against a map of pages and a list of trims. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { NOT_IN_OVERLAY, PageOverlay } from "../../../../src/engine/volume/page-overlay";

const BLOCK = 2048;
const FAR = 2 ** 33;

describe("PageOverlay", () => {
  test("answers as the log's replay does, whatever is set, trimmed and settled", () => {
    const page = fc.oneof(
      fc.nat(60),
      fc.nat(60).map((small) => FAR + small),
    );
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.record({ kind: fc.constant("set" as const), page }) },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant("hole" as const),
          page,
          count: fc.integer({ min: 1, max: 2 ** 34 }),
        }),
      },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant("hole" as const),
          page,
          count: fc.integer({ min: 1, max: 9 }),
        }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("seal" as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("settle" as const) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
        const overlay = new PageOverlay();
        // Newest truth by page, as (lsn, location); and what the map has taken over.
        const events: { lsn: number; first: number; end: number; location: number }[] = [];
        let lsn = 1;
        let slot = 0;
        let settled = 0;
        const expected = (one: number): number => {
          const newest = events.findLast((event) => one >= event.first && one < event.end);
          return newest && newest.lsn > settled ? newest.location : NOT_IN_OVERLAY;
        };
        for (const one of steps) {
          if (one.kind === "set") {
            const location = lsn * BLOCK + slot++;
            overlay.set(one.page, location);
            events.push({ lsn, first: one.page, end: one.page + 1, location });
          } else if (one.kind === "hole") {
            overlay.addHole(one.page, one.count, lsn);
            events.push({ lsn, first: one.page, end: one.page + one.count, location: 0 });
          } else if (one.kind === "seal") {
            lsn++;
            slot = 0;
          } else if (settled < lsn - 1) {
            settled++;
            for (const event of events)
              if (event.lsn === settled && event.location !== 0) overlay.settle(event.first, event.location);
            overlay.settleHoles(settled);
          }
        }
        for (const base of [0, FAR])
          for (let offset = 0; offset < 70; offset++)
            expect(overlay.locate(base + offset)).toBe(expected(base + offset));
        const held = overlay.pagesIn(0, FAR * 2);
        expect(held.length).toBe(overlay.pageCount);
        for (const one of held) expect(overlay.locate(one)).toBeGreaterThan(0);
      }),
      { numRuns: 300 },
    );
  });

  test("grows and shrinks by tens of thousands of pages", () => {
    const overlay = new PageOverlay();
    for (let page = 0; page < 50_000; page++) overlay.set(page * 7, BLOCK + page);
    expect(overlay.pageCount).toBe(50_000);
    for (let page = 0; page < 50_000; page += 2) overlay.settle(page * 7, BLOCK + page);
    for (let page = 0; page < 50_000; page++)
      expect(overlay.locate(page * 7)).toBe(page % 2 === 0 ? NOT_IN_OVERLAY : BLOCK + page);
    overlay.addHole(0, 2 ** 34, 9);
    expect(overlay.pageCount).toBe(0);
    expect(overlay.locate(12_345)).toBe(0);
  });
});
