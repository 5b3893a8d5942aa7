/** Who waits and who passes when room or space is short. What is written is held by the tests of a whole volume. */
import { expect, test } from "bun:test";
import { heapBuffer } from "../../../../src/base";
import { PAGE_BYTES } from "../../../../src/engine/block";
import type { LogWriter } from "../../../../src/engine/volume/log-writer";
import { WritePath, type WritePathPorts, WriteStatus } from "../../../../src/engine/volume/write-path";
import { VirtualClock } from "../../../support/virtual-clock";

/** A log that has room when the test says so. */
function stage() {
  const log = { hasRoom: true, sealCount: 0 };
  const told: string[] = [];
  const writes = new WritePath({
    unansweredReadMs: 1_000,
    clock: new VirtualClock(),
    log: {
      addHole: () => log.hasRoom,
      writePages: (_page: number, count: number) => (log.hasRoom ? count : 0),
      sealNow: () => log.sealCount++,
      newestIndex: 0,
      acknowledgedIndex: 0,
    } as unknown as LogWriter,
  } as unknown as WritePathPorts);
  const source = heapBuffer(PAGE_BYTES);
  const start = (name: string, data: boolean): void =>
    writes.write(0, PAGE_BYTES, data ? source : undefined, 0, false, (status) =>
      told.push(`${name} ${status === WriteStatus.ok ? "done" : "refused"}`),
    );
  return { writes, log, told, start };
}

test("WritePath sends what was written when the last write before a flush comes, where that can be foreseen", () => {
  const { writes, log, told, start } = stage();
  const seals: number[] = [];
  for (let flush = 0; flush < 6; flush++) {
    for (let write = 0; write < 3; write++) start("write", true);
    seals.push(log.sealCount);
    writes.flush(() => told.push("flushed"));
  }
  expect(seals).toEqual([0, 0, 0, 0, 1, 2]);
  expect(told.filter((what) => what === "flushed").length).toBe(6);
});

test("WritePath lets a trim pass data that is held up, whenever either came", () => {
  const { writes, log, told, start } = stage();
  log.hasRoom = false;
  start("write 1", true);
  start("trim 1", false);
  start("write 2", true);
  start("trim 2", false);
  log.hasRoom = true;
  writes.setHeld(true);
  expect(told).toEqual(["trim 1 done", "trim 2 done"]);
  start("trim 3", false);
  log.hasRoom = false;
  start("trim 4", false);
  log.hasRoom = true;
  writes.onRoom();
  expect(told.slice(2)).toEqual(["trim 3 done", "trim 4 done"]);
  writes.setHeld(false);
  expect(told.slice(4)).toEqual(["write 1 done", "write 2 done"]);
  expect(writes.activeCount).toBe(0);
});

test("WritePath refuses data that was held up when nothing can be freed, and nothing else", () => {
  const { writes, log, told, start } = stage();
  writes.setHeld(true);
  start("write 1", true);
  log.hasRoom = false;
  start("trim 1", false);
  writes.setLow(true);
  writes.setHeld(false);
  expect(told).toEqual(["write 1 refused"]);
  log.hasRoom = true;
  writes.onRoom();
  expect(told.slice(1)).toEqual(["trim 1 done"]);
  expect(writes.activeCount).toBe(0);
});

test("WritePath answers everybody once when who is let go has the others refused", () => {
  const { writes, told, start } = stage();
  writes.setHeld(true);
  writes.write(0, PAGE_BYTES, heapBuffer(PAGE_BYTES), 0, false, (status) => {
    told.push(status === WriteStatus.ok ? "first done" : "first refused");
    writes.stop();
  });
  start("second", true);
  start("trim", false);
  writes.setHeld(false);
  expect(told).toEqual(["trim done", "first done", "second refused"]);
  expect(writes.activeCount).toBe(0);
});

test("WritePath does not hold again what the pace let go, when it had to wait for room", () => {
  const { writes, log, told, start } = stage();
  writes.setPaced(true);
  start("write 1", true);
  start("write 2", true);
  log.hasRoom = false;
  writes.setPaced(false);
  writes.setPaced(true);
  start("write 3", true);
  log.hasRoom = true;
  writes.onRoom();
  expect(told).toEqual(["write 1 done", "write 2 done"]);
  // A shortage stops everybody, the pace lets none of them go.
  writes.setHeld(true);
  writes.setPaced(false);
  expect(told.length).toBe(2);
  writes.setHeld(false);
  expect(told[2]).toBe("write 3 done");
});

test("WritePath goes on when a trim that passed ended the hold", () => {
  const { writes, log, told, start } = stage();
  log.hasRoom = false;
  start("write", true);
  writes.write(0, PAGE_BYTES, undefined, 0, false, () => {
    told.push("trim done");
    writes.setHeld(false);
  });
  log.hasRoom = true;
  writes.setHeld(true);
  expect(told).toEqual(["trim done", "write done"]);
  expect(writes.activeCount).toBe(0);
});
