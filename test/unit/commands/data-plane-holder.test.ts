/** Whether a lock's holder is dead: only ever said of a process of this machine that is provably gone. */
import { describe, expect, test } from "bun:test";
import { holderName, isDeadHolder } from "../../../src/commands/data-plane/holder";

describe("isDeadHolder", () => {
  const own = holderName();

  test("says no of a process that runs", () => {
    expect(isDeadHolder(own)).toBe(false);
  });

  test("says yes of a process of this machine that is gone, and of one whose number is another's now", () => {
    expect(isDeadHolder(own.replace(/pid \d+/, "pid 4194305"))).toBe(true);
    expect(isDeadHolder(own.replace(/-\d+\)$/, "-1)"))).toBe(true);
  });

  test("says no of another machine, another boot or container, and of names it does not know", () => {
    expect(isDeadHolder(own.replace(/; [0-9a-f]{8}/, "; 00000000").replace(/pid \d+/, "pid 4194305"))).toBe(
      false,
    );
    for (const name of ["", "node-a", "node-a (pid 12)", "node-a (daemon 1f6c0a9e)", `${own} `])
      expect(isDeadHolder(name)).toBe(false);
  });
});
