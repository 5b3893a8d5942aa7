import { expect, test } from "bun:test";
import fc from "fast-check";
import { TimerHeap } from "../../../../src/base/io/timer-heap";

test("TimerHeap runs what a sorted list would, whatever was added and cancelled", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ dueMs: fc.nat(20), cancel: fc.option(fc.nat(30)), advanceMs: fc.nat(3) })),
      (steps) => {
        const heap = new TimerHeap();
        const ran: number[] = [];
        const expected: number[] = [];
        let model: { id: number; dueMs: number }[] = [];
        const timers = steps.map((step, id) => ({ id, dueMs: 0, timer: heap.add(1e9, () => {}), step }));
        for (const entry of timers) entry.timer.cancel();
        let nowMs = 0;
        for (const entry of timers) {
          const dueMs = nowMs + entry.step.dueMs;
          entry.timer = heap.add(dueMs, () => ran.push(entry.id));
          model.push({ id: entry.id, dueMs });
          const victim = entry.step.cancel === null ? undefined : timers[entry.step.cancel];
          if (victim !== undefined && victim.id <= entry.id) {
            victim.timer.cancel();
            victim.timer.cancel();
            model = model.filter((other) => other.id !== victim.id);
          }
          nowMs += entry.step.advanceMs;
          heap.runDue(nowMs);
          const due = model.filter((other) => other.dueMs <= nowMs);
          expected.push(...due.sort((a, b) => a.dueMs - b.dueMs || a.id - b.id).map((other) => other.id));
          model = model.filter((other) => other.dueMs > nowMs);
          expect(heap.size).toBe(model.length);
          expect(heap.nextDueMs).toBe(Math.min(...model.map((other) => other.dueMs)));
        }
        expect(ran).toEqual(expected);
      },
    ),
  );
});

test("TimerHeap leaves a timer made by a callback for the next call", () => {
  const heap = new TimerHeap();
  const ran: string[] = [];
  heap.add(1, () => {
    ran.push("first");
    heap.add(1, () => ran.push("second"));
  });
  heap.runDue(1);
  expect(ran).toEqual(["first"]);
  heap.runDue(1);
  expect(ran).toEqual(["first", "second"]);
});
