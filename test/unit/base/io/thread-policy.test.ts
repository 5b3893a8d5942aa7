/** The policy of a real thread: set and put back, and left alone where it is not ours. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { C, EventLoop, libc, SocketNetwork, type StreamConnection } from "../../../../src/base/io";
import { ThreadPolicy } from "../../../../src/base/io/thread-policy";
import { RUNS_PER_S_TO_START } from "../../../../src/base/io/wakeup-preemption";
import { FILTER_KILLS, FILTER_REFUSES, runUnderFilter } from "../../../support/system-call-filter";

const THIS_THREAD = 0;
const policy = () => libc.schedGetscheduler(THIS_THREAD);
const set = (next: number) => expect(libc.schedSetscheduler(THIS_THREAD, next)).toBe(0);
const said = process.env.TORUS_SET_SCHEDULER;

beforeEach(() => {
  process.env.TORUS_SET_SCHEDULER = "1";
});

afterEach(() => {
  if (said === undefined) delete process.env.TORUS_SET_SCHEDULER;
  else process.env.TORUS_SET_SCHEDULER = said;
  set(C.SCHED_OTHER);
});

/** As often as is worth it within 200 ms. */
function wake(): void {
  for (let run = 0; run < (RUNS_PER_S_TO_START * 200) / 1000; run++) Bun.sleepSync(1);
}

/** Looks as a loop would that was woken often between two looks 200 ms apart. */
function lookTwice(threadPolicy: ThreadPolicy, receivedLocalBytes: number): void {
  threadPolicy.look(1_000, 0, 0);
  wake();
  threadPolicy.look(1_200, 10_000, receivedLocalBytes);
}

test("a thread woken often by senders of this machine becomes SCHED_BATCH, and SCHED_OTHER again in the end", () => {
  const threadPolicy = new ThreadPolicy();
  lookTwice(threadPolicy, 10_000);
  expect(policy()).toBe(C.SCHED_BATCH);
  threadPolicy.look(1_250, 10_000, 10_000);
  expect(policy()).toBe(C.SCHED_BATCH);
  threadPolicy.look(1_400, 10_000, 10_000);
  expect(policy()).toBe(C.SCHED_OTHER);
  threadPolicy.close();
});

test("closing puts the usual policy back, and nothing is set afterwards", () => {
  const threadPolicy = new ThreadPolicy();
  lookTwice(threadPolicy, 10_000);
  expect(policy()).toBe(C.SCHED_BATCH);
  threadPolicy.close();
  expect(policy()).toBe(C.SCHED_OTHER);
  lookTwice(threadPolicy, 10_000);
  threadPolicy.close();
  expect(policy()).toBe(C.SCHED_OTHER);
});

test("senders elsewhere leave it SCHED_OTHER", () => {
  const threadPolicy = new ThreadPolicy();
  lookTwice(threadPolicy, 0);
  expect(policy()).toBe(C.SCHED_OTHER);
  threadPolicy.close();
});

test("a policy that somebody else set stays, before and while it looks", () => {
  set(C.SCHED_BATCH);
  const late = new ThreadPolicy();
  lookTwice(late, 10_000);
  late.look(1_400, 10_000, 10_000);
  late.close();
  expect(policy()).toBe(C.SCHED_BATCH);

  set(C.SCHED_OTHER);
  const overruled = new ThreadPolicy();
  lookTwice(overruled, 10_000);
  expect(policy()).toBe(C.SCHED_BATCH);
  set(C.SCHED_OTHER);
  // No longer worth it, and worth it again a while later.
  overruled.look(1_400, 10_000, 10_000);
  overruled.look(9_000, 10_000, 10_000);
  wake();
  overruled.look(9_200, 20_000, 20_000);
  expect(policy()).toBe(C.SCHED_OTHER);
  overruled.close();
});

test("TORUS_SET_SCHEDULER=0 keeps it off", () => {
  process.env.TORUS_SET_SCHEDULER = "0";
  const threadPolicy = new ThreadPolicy();
  lookTwice(threadPolicy, 10_000);
  expect(policy()).toBe(C.SCHED_OTHER);
  threadPolicy.close();
});

/** Looks twice under a filter which does this to a call for getting or setting the policy. */
function underFilter(action: number, environment: Record<string, string>): Promise<string> {
  return runUnderFilter({
    calls: process.arch === "arm64" ? [119, 120] : [144, 145],
    action,
    environment,
    imports: { "thread-policy.ts": "ThreadPolicy" },
    body: `const policy = new ThreadPolicy();
     policy.look(1_000, 0, 0);
     for (let run = 0; run < 90; run++) Bun.sleepSync(1);
     policy.look(1_200, 10_000, 10_000);
     policy.close();`,
  });
}

test("a filter that kills who asks is never asked, one that was vouched for may refuse", async () => {
  expect(await underFilter(FILTER_KILLS, { TORUS_SET_SCHEDULER: "" })).toBe("alive 0");
  expect(await underFilter(FILTER_REFUSES, { TORUS_SET_SCHEDULER: "1" })).toBe("alive 0");
  // The filter is in force: whoever vouches for it wrongly is ended by it.
  expect(await underFilter(FILTER_KILLS, { TORUS_SET_SCHEDULER: "1" })).toBe(" SIGSYS");
});

test("a loop knows how much was sent from this machine", async () => {
  const loop = new EventLoop({ blockMsMax: 5 });
  const network = new SocketNetwork(loop);
  const running = loop.run();
  const { promise, resolve } = Promise.withResolvers<void>();
  const handler = {
    onData: (_: unknown, start: number, end: number) => {
      if (loop.receivedBytes >= 2_000) resolve();
      return end - start;
    },
    onReceived: () => {},
    onClose: () => {},
  };
  const folder = mkdtempSync(join(tmpdir(), "torus-local-"));
  for (const address of ["127.0.0.1:0", `unix:${folder}/socket`]) {
    const listener = network.listen(address, () => handler);
    const sender = (connection: StreamConnection) => {
      connection.write(new Uint8Array(1_000), 0, 1_000);
      return handler;
    };
    network.connect(listener.address, 1_000, sender, (reason) => {
      throw new Error(reason);
    });
  }
  await promise;
  expect(loop.receivedLocalBytes).toBe(2_000);
  network.closeAll("over");
  loop.stop();
  await running;
  rmSync(folder, { recursive: true });
});
