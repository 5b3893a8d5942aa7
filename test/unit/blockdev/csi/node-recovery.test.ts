/** What a restarted node service does about devices that it cannot take over yet. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { NodeService } from "../../../../src/blockdev/csi";
import { CsiError } from "../../../../src/blockdev/csi/errors";
import type { VolumeService } from "../../../../src/blockdev/csi/ports";
import { StageRecords } from "../../../../src/blockdev/csi/stage-records";
import { ManualClock } from "../../../support/manual-clock";
import { settle } from "../../../support/memory-stream";

const root = mkdtempSync(join(tmpdir(), "torus-csi-node-"));
afterAll(() => rmSync(root, { recursive: true }));

const usage = { kind: "mount", fileSystem: "ext4", mountFlags: [], readOnly: false } as const;
/** Recovery asks the attacher alone. */
const noVolumes = {} as VolumeService;

/** A node service that finds `staged`; `answers` says, for each time a volume is asked for, what comes of it. */
function restart(
  staged: readonly string[],
  answers: (volumeName: string, time: number) => string | undefined,
) {
  const stateFolder = mkdtempSync(join(root, "state-"));
  const before = new StageRecords(stateFolder);
  for (const volumeName of staged)
    before.put({ volumeName, stagingPath: `/srv/${volumeName}`, device: "/dev/nbd0", usage });
  const asked: string[] = [];
  const events: string[] = [];
  const clock = new ManualClock();
  const never = () => Promise.reject(new Error("not asked for"));
  const node = new NodeService({
    nodeId: "node-1",
    volumes: noVolumes,
    attacher: {
      attach: never,
      detach: never,
      refreshSize: never,
      recover: async (volumeName) => {
        asked.push(volumeName);
        return answers(volumeName, asked.filter((one) => one === volumeName).length);
      },
    },
    stateFolder,
    clock,
    onEvent: (level, message) => events.push(`${level} ${message}`),
  });
  /** As the next process finds them. */
  const records = () => new StageRecords(stateFolder);
  return { node, records, asked, events, clock };
}

function later(): never {
  throw new CsiError("unavailable", "The peers answer late", { retryable: true });
}

describe("NodeService.recover", () => {
  test("serves the others at once, and tries again what could not be taken over", async () => {
    const { node, records, asked, events, clock } = restart(["a", "b"], (name, time) =>
      name === "a" && time < 4 ? later() : `/dev/nbd-${name}`,
    );
    await node.recover();
    expect([...asked].sort()).toEqual(["a", "b"]);
    expect(events).toContain('info Took volume "b" over at /dev/nbd-b');
    expect(events).toContain("warn The peers answer late");
    for (let round = 0; round < 10; round++) {
      clock.advance(5000);
      await settle();
    }
    expect([...asked].sort()).toEqual(["a", "a", "a", "a", "b"]);
    expect(events.at(-1)).toBe('info Took volume "a" over at /dev/nbd-a');
    expect(records().get("a")?.device).toBe("/dev/nbd-a");
    expect(clock.timerCount).toBe(0);
    node.close();
  });

  test("stops when the kernel gave the device up, and keeps the record: its mount is still to be unstaged", async () => {
    const { node, records, asked, clock } = restart(["a"], (_name, time) => (time < 2 ? later() : undefined));
    await node.recover();
    for (let round = 0; round < 5; round++) {
      clock.advance(5000);
      await settle();
    }
    expect(asked.length).toBe(2);
    expect(records().get("a")).toBeDefined();
    expect(clock.timerCount).toBe(0);
  });

  test("forgets what a restart of the machine has ended, and stops when it is closed", async () => {
    const { node, records, asked, clock } = restart(["gone", "busy"], (name) =>
      name === "gone" ? undefined : later(),
    );
    await node.recover();
    expect(
      records()
        .all()
        .map((record) => record.volumeName),
    ).toEqual(["busy"]);
    node.close();
    clock.advance(60_000);
    await settle();
    expect([...asked].sort()).toEqual(["busy", "gone"]);
  });
});
