import { expect, test } from "bun:test";
import { fuzzNbd } from "../../../fuzz/nbd";
import { HeapWatch } from "../../../support/heap-watch";

test("NbdServer survives what the fuzzer sends", async () => {
  await fuzzNbd(3000, 20_260_101);
}, 60_000);

test("the fuzzer sees what a server keeps of connections that are gone, and only that", async () => {
  const run = async (kept: unknown[] | undefined) => {
    const heap = new HeapWatch(8 * 1024 * 1024);
    heap.look("the start");
    // What a leaking server would keep of each: a handler, with a buffer.
    for (let connection = 0; connection < 4000; connection++) {
      const handler = { closed: true, buffer: new Uint8Array(8192), onClose: () => connection };
      kept?.push(handler);
    }
    await Bun.sleep(0);
    heap.look("the end");
  };
  await run(undefined);
  const kept: unknown[] = [];
  await expect(run(kept)).rejects.toThrow("the heap grew by ");
  expect(kept.length).toBe(4000);
});
