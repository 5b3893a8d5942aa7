import { describe, expect, test } from "bun:test";
import { forEachLimited, Pacer, WorkerLoop } from "../../../../src/engine/upkeep";
import { VirtualTime } from "../../../support/virtual-time";

const NEVER = new AbortController().signal;

/** Takes `bytes` again and again until the time is over; returns how much. */
async function takenIn(time: VirtualTime, pacer: Pacer, bytes: number, ms: number): Promise<number> {
  const stop = new AbortController();
  let taken = 0;
  const taking = (async () => {
    for (;;) {
      await pacer.take(bytes, stop.signal);
      taken += bytes;
    }
  })().catch(() => undefined);
  await time.advance(ms);
  stop.abort();
  await taking;
  return taken;
}

describe("Pacer", () => {
  test("lets through its rate, for small and for large pieces", async () => {
    for (const bytes of [100, 5_000, 400_000]) {
      const time = new VirtualTime();
      const pacer = new Pacer({ clock: time, bytesPerSecond: 100_000 });
      expect(await takenIn(time, pacer, bytes, 20_000)).toBeWithin(2_000_000 - 1, 2_000_000 + 20_001 + bytes);
    }
  });

  test("gives a quarter of it while clients are busy", async () => {
    const time = new VirtualTime();
    let busy = true;
    const pacer = new Pacer({ clock: time, bytesPerSecond: 100_000, isClientBusy: () => busy });
    expect(await takenIn(time, pacer, 1_000, 20_000)).toBeWithin(490_000, 530_000);
    busy = false;
    expect(await takenIn(time, pacer, 1_000, 20_000)).toBeWithin(1_970_000, 2_030_000);
  });

  test("takes a new rate at once, also after a large piece at a small one", async () => {
    const time = new VirtualTime();
    const pacer = new Pacer({ clock: time, bytesPerSecond: 10 });
    await time.until(pacer.take(1_000_000, NEVER));
    pacer.setRate(1_000);
    expect(await takenIn(time, pacer, 100, 10_000)).toBeWithin(8_500, 10_500);
    expect(pacer.bytesPerSecond).toBe(1_000);
  });

  test("lets nothing through while paused, and no burst after", async () => {
    const time = new VirtualTime();
    const pacer = new Pacer({ clock: time, bytesPerSecond: 1_000 });
    pacer.pause();
    expect(await takenIn(time, pacer, 10, 60_000)).toBe(0);
    pacer.resume();
    expect(await takenIn(time, pacer, 10, 1_000)).toBeWithin(900, 1_300);
  });

  test("ends waiting with the signal's reason", async () => {
    const time = new VirtualTime();
    const pacer = new Pacer({ clock: time, bytesPerSecond: 1 });
    const stop = new AbortController();
    const waiting = pacer.take(1, stop.signal).then(() => pacer.take(1, stop.signal));
    pacer.pause();
    stop.abort(new Error("enough"));
    await expect(time.until(waiting)).rejects.toThrow("enough");
  });
});

describe("WorkerLoop", () => {
  test("runs rounds, wakes early, and waits longer after each failure in a row", async () => {
    const time = new VirtualTime();
    const rounds: number[] = [];
    let failures = 0;
    const errors: unknown[] = [];
    const loop = new WorkerLoop({
      clock: time,
      round: async () => {
        rounds.push(time.nowMs());
        if (failures-- > 0) throw new Error("the disk is away");
        return 10_000;
      },
      onError: (error) => errors.push(error),
    });
    const startMs = time.nowMs();
    loop.start();
    await time.advance(15_000);
    expect(rounds.map((at) => at - startMs)).toEqual([0, 10_000]);
    loop.wake();
    await time.advance(0);
    expect(rounds).toHaveLength(3);
    rounds.length = 0;
    failures = 3;
    loop.wake();
    await time.advance(500);
    expect(loop.lastError).toBe("the disk is away");
    await time.advance(8_000);
    expect(rounds.map((at) => at - (rounds[0] as number))).toEqual([0, 1_000, 3_000, 7_000]);
    expect([errors.length, loop.lastError]).toEqual([3, undefined]);
    await time.until(loop.stop());
    await time.advance(60_000);
    expect(rounds).toHaveLength(4);
    expect(loop.isStopped).toBe(true);
  });
});

test("forEachLimited keeps to its limit and ends with the first failure", async () => {
  const time = new VirtualTime();
  let [running, most] = [0, 0];
  const work = async (item: number) => {
    most = Math.max(most, ++running);
    await new Promise<void>((resolve) => time.schedule(10, resolve));
    running--;
    if (item === 5) throw new Error("five");
  };
  await time.until(forEachLimited([1, 2, 3, 4], 3, work));
  expect(most).toBe(3);
  await expect(time.until(forEachLimited([4, 5, 6, 7, 8, 9, 10, 11], 2, work))).rejects.toThrow("five");
  expect(running).toBe(0);
});
