import { expect, test } from "bun:test";
import {
  BufferPool,
  bootTimeMs,
  bufferAt,
  nativeBuffer,
  systemClock,
  systemRandom,
} from "../../../../src/base/io";

test("nativeBuffer gives zeroed memory at a real address, seen alike by all views", () => {
  const buffer = nativeBuffer(5001);
  expect(buffer.bytes.length).toBe(5004);
  expect(buffer.address % 4096).toBe(0);
  expect(buffer.bytes.every((byte) => byte === 0)).toBe(true);
  buffer.view.setUint32(8, 0x01020304, true);
  expect(buffer.words[2]).toBe(0x01020304);
  expect(bufferAt(buffer.address + 8, 4).words[0]).toBe(0x01020304);
});

test("BufferPool maps at most its maximum, reuses the last returned and wakes one waiter a release", () => {
  const pool = new BufferPool(4096, 2);
  const first = pool.acquire();
  const second = pool.acquire();
  expect(pool.acquire()).toBeUndefined();
  expect(pool.availableCount).toBe(0);
  const woken: number[] = [];
  pool.whenAvailable(() => woken.push(1));
  pool.whenAvailable(() => woken.push(2));
  if (first === undefined || second === undefined) throw new Error("the pool was empty from the start");
  pool.release(second);
  expect(woken).toEqual([1]);
  expect(pool.acquire()).toBe(second);
  pool.release(first);
  expect(woken).toEqual([1, 2]);
  pool.release(second);
  expect(() => pool.release(second)).toThrow("a buffer came back twice");
});

test("systemClock runs callbacks in order of their time, never early, and not once cancelled", async () => {
  const start = bootTimeMs();
  const order: string[] = [];
  await new Promise<void>((resolve) => {
    systemClock.schedule(12, () => {
      order.push("late");
      resolve();
    });
    systemClock.schedule(2, () => order.push("early"));
    systemClock.schedule(4, () => order.push("cancelled")).cancel();
  });
  expect(order).toEqual(["early", "late"]);
  expect(systemClock.nowMs() - start).toBeGreaterThanOrEqual(12);
});

test("systemRandom gives words, digits and UUIDs of the right shape", () => {
  const words = new Set(Array.from({ length: 600 }, () => systemRandom.nextU32()));
  expect(words.size).toBeGreaterThan(590);
  expect(systemRandom.hex(8)).toMatch(/^[0-9a-f]{16}$/);
  expect(systemRandom.uuid()).toMatch(/^[0-9a-f-]{36}$/);
});
