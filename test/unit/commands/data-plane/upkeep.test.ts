import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StateFile } from "../../../../src/commands/data-plane/state-file";
import { ClientActivity } from "../../../../src/commands/data-plane/upkeep-part";
import { VirtualTime } from "../../../support/virtual-time";

const folder = mkdtempSync(join(tmpdir(), "torus-state-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("StateFile is undefined before the first save, then what was saved last, and leaves nothing else behind", async () => {
  const file = new StateFile(join(folder, "state"));
  expect(await file.load()).toBeUndefined();
  await file.save("one");
  await file.save("two");
  expect(await file.load()).toBe("two");
  expect(readdirSync(folder)).toEqual(["state"]);
});

test("ClientActivity is busy while requests come faster than a trickle, and idle soon after", async () => {
  const time = new VirtualTime();
  let count = 0;
  const activity = new ClientActivity(time, () => count);
  expect(activity.isBusy()).toBe(false);
  await time.advance(1_000);
  count += 5;
  expect(activity.isBusy()).toBe(false);
  await time.advance(1_000);
  count += 50;
  expect(activity.isBusy()).toBe(true);
  // Asked again at once, it answers from the same look.
  await time.advance(10);
  expect(activity.isBusy()).toBe(true);
  await time.advance(1_000);
  expect(activity.isBusy()).toBe(false);
});
