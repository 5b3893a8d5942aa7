/** Syncs in place: after what the turn sends, in the order of all jobs, and only while nobody waits for them. */
import { afterEach, beforeEach, expect, spyOn, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  C,
  type EventLoop,
  libc,
  nativeBuffer,
  startSyncThread,
  type SyncChannel,
  WorkerSyncer,
} from "../../../../src/base/io";
import { until, withLoop } from "../../../support/loop";

const workerFile = new URL("../../../../src/commands/workers/sync-worker.ts", import.meta.url).href;
const memory = nativeBuffer(4096);
let folder = "";
let file = -1;

beforeEach(() => {
  folder = mkdtempSync("/dev/shm/torus-sync-");
  writeFileSync(join(folder, "file"), "x");
  file = openSync(join(folder, "file"), "r+");
});
afterEach(() => {
  closeSync(file);
  rmSync(folder, { recursive: true });
});

/** Jobs handed to the thread so far. */
const handedOver = (channel: SyncChannel): number => new Int32Array(channel.shared)[0] as number;

async function withSyncer(
  body: (loop: EventLoop, syncer: WorkerSyncer, channel: SyncChannel) => Promise<void>,
): Promise<void> {
  await withLoop(async (loop) => {
    const thread = startSyncThread(workerFile, () => {});
    const syncer = new WorkerSyncer(loop, thread.channel);
    for (let round = 0; round < 64; round++) {
      await syncOnce(loop, syncer);
    }
    const before = handedOver(thread.channel);
    await syncOnce(loop, syncer);
    expect(handedOver(thread.channel)).toBe(before);
    await body(loop, syncer, thread.channel);
    syncer.close();
    await thread.stop();
  });
}

async function syncOnce(loop: EventLoop, syncer: WorkerSyncer): Promise<void> {
  let result: number | undefined;
  syncer.sync(file, (value) => {
    result = value;
  });
  await until(loop, "the sync answered", () => result !== undefined);
  expect(result).toBe(0);
}

test("a sync in place begins when the turn's output has left", () =>
  withSyncer(async (loop, syncer) => {
    const order: string[] = [];
    let isQueued = false;
    loop.onTurnEnd(() => {
      if (!isQueued) return false;
      isQueued = false;
      order.push("sent");
      return true;
    });
    const real = libc.fdatasync;
    const spy = spyOn(libc, "fdatasync").mockImplementation((one) => {
      order.push("sync");
      return real(one);
    });
    let isDone = false;
    // As a store does, which gathers what a turn brought.
    loop.afterTurn(() => {
      isQueued = true;
      syncer.sync(file, () => {
        isDone = true;
      });
    });
    loop.wake();
    await until(loop, "the sync answered", () => isDone);
    spy.mockRestore();
    expect(order).toEqual(["sent", "sync"]);
  }));

test("jobs are begun in the order asked for, wherever they are done", () =>
  withSyncer(async (loop, syncer, channel) => {
    const answers: string[] = [];
    const before = handedOver(channel);
    syncer.sync(file, () => answers.push("first sync"));
    syncer.write(file, memory.address, 4096, 0, () => answers.push("write"));
    syncer.sync(file, () => answers.push("second sync"));
    expect(handedOver(channel)).toBe(before + 3);
    await until(loop, "all answered", () => answers.length === 3);
    expect(answers).toEqual(["first sync", "write", "second sync"]);
  }));

test("a sync of some hundred microseconds stays in place only while nothing else comes for the loop", () =>
  withSyncer(async (loop, syncer, channel) => {
    const real = libc.fdatasync;
    const pair = new Int32Array(2);
    libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC, pair);
    const [near, far] = pair as unknown as [number, number];
    let isDisturbed = false;
    const spy = spyOn(libc, "fdatasync").mockImplementation((one) => {
      const untilNs = Bun.nanoseconds() + 100_000;
      while (Bun.nanoseconds() < untilNs);
      if (isDisturbed) libc.send(far, memory.address, 1, 0);
      return real(one);
    });
    const watch = loop.watch(near, () => void libc.recv(near, memory.address, 64, 0));
    const before = handedOver(channel);
    for (let round = 0; round < 20; round++) await syncOnce(loop, syncer);
    // One that another process kept waiting for longer than half a millisecond counts as well.
    expect(handedOver(channel) - before).toBeLessThan(10);
    isDisturbed = true;
    for (let round = 0; round < 20; round++) await syncOnce(loop, syncer);
    expect(handedOver(channel) - before).toBeGreaterThan(8);
    spy.mockRestore();
    watch.close();
    libc.close(near);
    libc.close(far);
  }));
