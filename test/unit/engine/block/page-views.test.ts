/** Pages of reused memory: the same array for the same page, the right bytes whatever was asked for before. */
import { expect, test } from "bun:test";
import { PAGE_BYTES } from "../../../../src/engine/block";
import { PageViews } from "../../../../src/engine/block/page-views";

test("the same page is the same array, of the memory itself, for as long as the buffer is used", () => {
  const bytes = new Uint8Array(8 * PAGE_BYTES);
  const page = PageViews.of(bytes).range(64, 64 + PAGE_BYTES);
  bytes[64] = 7;
  expect(PageViews.of(bytes).range(64, 64 + PAGE_BYTES)).toBe(page);
  expect([page[0], page.length, page.byteOffset]).toEqual([7, PAGE_BYTES, 64]);
  expect(PageViews.of(bytes.slice()).range(64, 64 + PAGE_BYTES)).not.toBe(page);
});

test("ranges of every alignment and length are what was asked for, in any order", () => {
  const bytes = new Uint8Array(8 * PAGE_BYTES);
  const views = PageViews.of(bytes);
  for (let round = 0; round < 5_000; round++) {
    const start = Math.floor(Math.random() * 7 * PAGE_BYTES);
    const lengthBytes = round % 3 === 0 ? 1 + Math.floor(Math.random() * (PAGE_BYTES - 1)) : PAGE_BYTES;
    const { byteOffset, length } = views.range(start, start + lengthBytes);
    expect([byteOffset, length]).toEqual([start, lengthBytes]);
  }
});
