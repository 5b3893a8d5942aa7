import { expect, test } from "bun:test";
import {
  C,
  createWakeHandle,
  EventLoop,
  type FdWatch,
  kickLoop,
  libc,
  nativeBuffer,
} from "../../../../src/base/io";

function socketPair(): [number, number] {
  const pair = new Int32Array(2);
  expect(libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC, pair)).toBe(0);
  return [pair[0] as number, pair[1] as number];
}

const byte = nativeBuffer(8);

test("EventLoop runs handlers, then timers, then promises, then the end of the turn", async () => {
  const loop = new EventLoop();
  const [near, far] = socketPair();
  const order: string[] = [];
  libc.send(far, byte.address, 1, 0);
  const watch = loop.watch(near, () => {
    libc.recv(near, byte.address, 1, 0);
    order.push("handler");
    loop.afterTurn(() => {
      order.push("end of turn");
      loop.afterTurn(() => order.push("queued meanwhile"));
    });
    void Promise.resolve().then(() => {
      order.push("promise");
      loop.afterTurn(() => {
        order.push("queued by the promise");
        loop.stop();
      });
    });
  });
  loop.schedule(0, () => order.push("timer"));
  loop.onTurnEnd(() => {
    if (order.at(-1) === "queued meanwhile") order.push("hook");
    return false;
  });
  await loop.run();
  watch.close();
  libc.close(near);
  libc.close(far);
  expect(order).toEqual([
    "handler",
    "timer",
    "promise",
    "end of turn",
    "queued by the promise",
    "queued meanwhile",
    "hook",
  ]);
});

test("EventLoop sends what a promise wrote before it waits again", async () => {
  const loop = new EventLoop();
  let wrote = false;
  let flushed = false;
  loop.onTurnEnd(() => {
    if (!wrote || flushed) return false;
    flushed = true;
    loop.stop();
    return true;
  });
  const guard = loop.schedule(5000, () => loop.stop());
  loop.schedule(1, () => {
    // Neither end-of-turn work nor a callback: only promises, several deep.
    void (async () => {
      for (let depth = 0; depth < 5; depth++) await null;
      wrote = true;
    })();
  });
  await loop.run();
  guard.cancel();
  expect(flushed).toBe(true);
});

test("EventLoop drops an event of a descriptor that was closed and opened again in the same turn", async () => {
  const loop = new EventLoop();
  const pairs = [socketPair(), socketPair()] as const;
  const stale: number[] = [];
  const watches: FdWatch[] = [];
  let handled = 0;
  for (const [index, [near, far]] of pairs.entries()) {
    libc.send(far, byte.address, 1, 0);
    const other = pairs[1 - index] as [number, number];
    watches[index] = loop.watch(near, () => {
      if (handled++ > 0) return;
      // Both have an event in this turn: end the other one, and give its number to something new.
      watches[1 - index]?.close();
      libc.close(other[0]);
      const reused = libc.eventfd(0, C.EFD_NONBLOCK);
      expect(reused).toBe(other[0]);
      loop.watch(reused, () => stale.push(reused));
      watches[index]?.close();
      loop.afterTurn(() => loop.stop());
    });
  }
  await loop.run();
  expect(handled).toBe(1);
  expect(stale).toEqual([]);
  for (const [near, far] of pairs) {
    libc.close(near);
    libc.close(far);
  }
});

test("kickLoop from another thread ends a wait, and the message posted before it is there", async () => {
  const wakeHandle = createWakeHandle();
  const loop = new EventLoop({ wakeHandle });
  const source = `
    import { kickLoop } from ${JSON.stringify(new URL("../../../../src/base/io/index.ts", import.meta.url).href)};
    postMessage("hello");
    kickLoop(${wakeHandle});
  `;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "application/typescript" })));
  let message: unknown;
  worker.onmessage = (event) => {
    message = event.data;
    loop.stop();
  };
  const guard = loop.schedule(8000, () => loop.stop());
  await loop.run();
  guard.cancel();
  expect(message).toBe("hello");
  worker.terminate();
  kickLoop(wakeHandle);
  libc.close(wakeHandle);
});

test("EventLoop.run rejects with what a handler threw", async () => {
  const loop = new EventLoop();
  loop.schedule(1, () => {
    throw new Error("a bug");
  });
  await expect(loop.run()).rejects.toThrow("a bug");
});

test("EventLoop tells a handler what waits for it, and counts what it has handled", async () => {
  const loop = new EventLoop();
  const [near, far] = socketPair();
  const seen: [boolean, number][] = [];
  const watch = loop.watch(near, () => {
    libc.recv(near, byte.address, 1, 0);
    // The second byte came with the first, and waits until it is taken.
    seen.push([loop.hasEvents, loop.eventCount]);
    if (seen.length === 2) loop.stop();
  });
  libc.send(far, byte.address, 2, 0);
  expect(loop.hasEvents).toBe(true);
  await loop.run();
  watch.close();
  libc.close(near);
  libc.close(far);
  expect(seen).toEqual([
    [true, 1],
    [false, 2],
  ]);
});
