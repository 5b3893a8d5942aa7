/** BlockIndex against a Map. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { BlockKind, type BlockRef, formatBlockRef } from "../../../../src/base";
import { BlockIndex, NO_SLOT, RowFlag } from "../../../../src/engine/store/block-index";
import { dataRef, inodeRef } from "./blocks";

const ref = fc
  .tuple(
    fc.boolean(),
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 1, max: 40 }),
  )
  .map(([isData, volumeId, epoch, index]) =>
    isData ? dataRef(volumeId, epoch, index) : inodeRef(volumeId, epoch, index * 2 ** 32),
  );

test("BlockIndex finds, lists and forgets like a Map, over any sequence of inserts and removals", () => {
  const action = fc.tuple(fc.integer({ min: 0, max: 2 }), ref);
  fc.assert(
    fc.property(fc.array(action, { maxLength: 400 }), (actions) => {
      const index = new BlockIndex(8);
      const model = new Map<string, { ref: BlockRef; slot: number; unit: number }>();
      let unit = 0;
      for (const [kind, each] of actions) {
        const key = formatBlockRef(each);
        const known = model.get(key);
        expect(index.find(each)).toBe(known?.slot ?? NO_SLOT);
        if (kind > 0 && known === undefined) {
          unit += 1;
          const slot = index.insert(each, unit % 5, unit, 4096 + unit, unit * 3, 0);
          model.set(key, { ref: each, slot, unit });
        } else if (kind === 0 && known !== undefined) {
          index.unlink(known.slot);
          expect(index.find(each)).toBe(NO_SLOT);
          index.free(known.slot);
          model.delete(key);
        }
      }
      expect(index.linkedCount).toBe(model.size);
      for (const { ref: each, slot, unit: at } of model.values()) {
        expect(index.find(each)).toBe(slot);
        expect(index.refOf(slot)).toEqual(each);
        expect([
          index.unitOf(slot),
          index.segmentOf(slot),
          index.lengthOf(slot),
          index.headerCrcOf(slot),
        ]).toEqual([at, at % 5, 4096 + at, at * 3]);
      }
      for (const volumeId of [1, 2, 3])
        for (const epoch of [1, 2, 3]) {
          const found: number[] = [];
          index.forEachOfLog(BlockKind.data, volumeId, epoch, (slot) => found.push(index.indexOf(slot)));
          const expected = [...model.values()]
            .filter(({ ref: each }) => each.kind === 1 && each.volumeId === volumeId && each.epoch === epoch)
            .map(({ ref: each }) => each.index);
          expect(found.sort((a, b) => a - b)).toEqual(expected.sort((a, b) => a - b));
        }
      for (let segment = 0; segment < 5; segment += 1) {
        let count = 0;
        for (
          let slot = index.nextOfSegment(segment, 1, index.slotEnd);
          slot < index.slotEnd;
          slot = index.nextOfSegment(segment, slot + 1, index.slotEnd)
        )
          count += 1;
        expect(count).toBe([...model.values()].filter(({ unit: at }) => at % 5 === segment).length);
      }
    }),
    { numRuns: 200 },
  );
});

test("BlockIndex keeps an unlinked row until it is freed, and finds two rows of one block", () => {
  const index = new BlockIndex(8);
  const each = dataRef(1, 1, 1);
  const first = index.insert(each, 0, 10, 100, 1, 0);
  const second = index.insert(each, 1, 20, 100, 1, RowFlag.suspect);
  expect(index.findOther(first)).toBe(second);
  expect(index.findAt(each, 0, 10)).toBe(first);
  expect(index.findAt(each, 1, 20)).toBe(second);
  expect(index.findAt(each, 1, 10)).toBe(NO_SLOT);
  index.unlink(second);
  expect(index.isRow(second)).toBe(true);
  expect(index.refOf(second)).toEqual(each);
  expect(index.find(each)).toBe(first);
  expect(index.findOther(first)).toBe(NO_SLOT);
  index.unlink(first);
  index.free(first);
  expect(index.refOf(second)).toEqual(each);
  index.free(second);
  expect(index.epochMax(each.kind, 1)).toBe(0);
});

test("BlockIndex takes less than 64 bytes a block", () => {
  const index = new BlockIndex();
  const count = 300_000;
  for (let number = 1; number <= count; number += 1)
    index.insert(dataRef(1 + (number % 10), 1, number), number % 100, number, 528_000, number, 0);
  expect(index.memoryBytes / count).toBeLessThan(64);
  for (let number = 1; number <= count; number += 997)
    expect(index.unitOf(index.find(dataRef(1 + (number % 10), 1, number)))).toBe(number);
});
