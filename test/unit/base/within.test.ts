/** An answer or, after so long, none; no timer is left by either. */
import { expect, test } from "bun:test";
import { within } from "../../../src/base";
import { VirtualClock } from "../../support/virtual-clock";

test("an answer in time is passed on, a failure too, and the timer goes", async () => {
  const clock = new VirtualClock();
  expect(await within(clock, 100, Promise.resolve("here"))).toBe("here");
  await expect(within(clock, 100, Promise.reject(new Error("no")))).rejects.toThrow("no");
  expect(clock.hasTimers).toBe(false);
});

test("after the time there is none, and what comes later harms nobody", async () => {
  const clock = new VirtualClock();
  const { promise, reject } = Promise.withResolvers<string>();
  const answer = within(clock, 100, promise);
  clock.advance(99);
  expect(await Promise.race([answer, Promise.resolve("waiting")])).toBe("waiting");
  clock.advance(1);
  expect(await answer).toBeUndefined();
  expect(clock.hasTimers).toBe(false);
  reject(new Error("too late"));
  await Bun.sleep(0);
});
