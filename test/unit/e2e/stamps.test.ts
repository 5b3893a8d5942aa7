/** The crash check of the end-to-end tests must itself catch a lost, torn or reordered write. */
import { expect, test } from "bun:test";
import { checkStamps } from "../../e2e/harness/stamps";

const PAGE_BYTES = 4096;
const PAGE_COUNT = 16;

function imageAfter(writes: number, skip: readonly number[] = []): Buffer {
  const image = Buffer.alloc(PAGE_COUNT * PAGE_BYTES);
  for (let write = 1; write <= writes; write++) {
    if (skip.includes(write)) continue;
    const start = ((write * 7919) % PAGE_COUNT) * PAGE_BYTES;
    for (let offset = start; offset < start + PAGE_BYTES; offset += 8)
      image.writeBigUInt64LE(BigInt(write), offset);
  }
  return image;
}

test("checkStamps accepts the state after any write at or past the acknowledged one", () => {
  for (const writes of [0, 1, 5, 16, 17, 100])
    expect(checkStamps(imageAfter(writes), PAGE_COUNT, 0)).toBe(writes);
  expect(checkStamps(imageAfter(100), PAGE_COUNT, 100)).toBe(100);
});

test("checkStamps names a lost acknowledged write", () => {
  expect(() => checkStamps(imageAfter(99), PAGE_COUNT, 100)).toThrow(
    "Write 100 was acknowledged by a flush, but the newest there is 99",
  );
});

test("checkStamps names a write that is missing before a later one", () => {
  expect(() => checkStamps(imageAfter(100, [98]), PAGE_COUNT, 10)).toThrow(
    "but after write 100 it must hold 98",
  );
});

test("checkStamps names a torn page", () => {
  const image = imageAfter(40);
  image.writeBigUInt64LE(3n, 5 * PAGE_BYTES + 8);
  expect(() => checkStamps(image, PAGE_COUNT, 0)).toThrow("Page 5 is torn");
});
