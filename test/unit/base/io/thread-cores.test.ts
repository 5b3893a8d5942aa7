/** The cores of a real thread: chosen and given back, and left alone where they are not ours. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EventLoop, libc, SocketNetwork, type StreamConnection } from "../../../../src/base/io";
import { SAMPLE_COUNT } from "../../../../src/base/io/core-choice";
import { ThreadCores } from "../../../../src/base/io/thread-cores";
import { FILTER_KILLS, FILTER_REFUSES, runUnderFilter } from "../../../support/system-call-filter";

const THIS_THREAD = 0;
const MASK_BYTES = 128;
const said = process.env.TORUS_SET_AFFINITY;

/** Numbers of the cores that a thread may use; none when it has ended. */
function cores(thread = THIS_THREAD): readonly number[] {
  const mask = new Uint8Array(MASK_BYTES);
  if (libc.schedGetaffinity(thread, mask) < 0) return [];
  return [...mask].flatMap((byte, index) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => ((byte >> bit) & 1) === 1).map((bit) => index * 8 + bit),
  );
}

function useCores(wanted: readonly number[], thread = THIS_THREAD): void {
  const mask = new Uint8Array(MASK_BYTES);
  for (const core of wanted) mask[core >> 3] = (mask[core >> 3] as number) | (1 << (core & 7));
  expect(libc.schedSetaffinity(thread, mask)).toBe(0);
}

const given = cores();
const [first, second] = given as [number, number | undefined];

beforeEach(() => {
  process.env.TORUS_SET_AFFINITY = "1";
});

afterEach(() => {
  if (said === undefined) delete process.env.TORUS_SET_AFFINITY;
  else process.env.TORUS_SET_AFFINITY = said;
  useCores(given);
});

/** What a loop tells of a program that is busy on this core, until the thread has found out about it. */
class Program {
  #ms = 1_000;
  #turns = 0;
  /** It is others who keep the loop busy. */
  isSilent = false;

  constructor(
    private readonly threadCores: ThreadCores,
    public core: number,
  ) {}

  run(milliseconds: number): void {
    for (const untilMs = this.#ms + milliseconds; this.#ms < untilMs; this.#ms += 5) {
      if (this.threadCores.wantsSender && !this.isSilent) this.threadCores.noteSender(this.core);
      this.threadCores.look(this.#ms, this.#turns, this.#turns * 100);
      this.#turns += 50;
    }
  }

  rest(milliseconds: number): void {
    this.#ms += milliseconds;
    this.threadCores.look(this.#ms, this.#turns, this.#turns * 100);
  }
}

test.skipIf(second === undefined)(
  "a thread keeps to the core of its program, follows it, and has all cores back when that rests and in the end",
  () => {
    const threadCores = new ThreadCores();
    const program = new Program(threadCores, first);
    program.run(2_000);
    expect(cores()).toEqual([first]);
    program.core = second as number;
    program.run(10 * SAMPLE_COUNT);
    expect(cores()).toEqual([second as number]);
    program.rest(500);
    expect(cores()).toEqual(given);
    program.run(200);
    expect(cores()).toEqual([second as number]);
    threadCores.close();
    expect(cores()).toEqual(given);
    program.run(1_000);
    expect(cores()).toEqual(given);
  },
);

test.skipIf(second === undefined)(
  "a thread that was started meanwhile does not inherit the one core for good",
  async () => {
    const threadCores = new ThreadCores();
    const program = new Program(threadCores, first);
    program.run(2_000);
    const worker = await startThread();
    const kept = () => tasks().filter((thread) => cores(thread).length === 1).length;
    expect(kept()).toBeGreaterThan(1);
    // The runtime may start threads of its own at any time.
    for (let second = 0; second < 5 && kept() > 1; second++) program.run(1_100);
    expect(kept()).toBe(1);
    expect(cores()).toEqual([first]);
    threadCores.close();
    expect(kept()).toBe(0);
    worker.terminate();
  },
);

test("the only core is kept, and one that the thread was not given is not gone to", () => {
  useCores([first]);
  const lonely = new ThreadCores();
  new Program(lonely, first).run(2_000);
  expect(lonely.wantsSender).toBe(false);
  expect(cores()).toEqual([first]);
  lonely.close();
  expect(cores()).toEqual([first]);

  useCores(given);
  const threadCores = new ThreadCores();
  new Program(threadCores, (given.at(-1) as number) + 1).run(2_000);
  expect(cores()).toEqual(given);
  threadCores.close();
});

test.skipIf(second === undefined)("cores that somebody else set meanwhile stay", () => {
  const threadCores = new ThreadCores();
  const program = new Program(threadCores, first);
  program.run(2_000);
  expect(cores()).toEqual([first]);
  useCores([second as number]);
  program.rest(500);
  program.run(2_000);
  threadCores.close();
  expect(cores()).toEqual([second as number]);
});

test.skipIf(second === undefined)(
  "threads that inherited a core have all back when somebody else sets cores",
  async () => {
    const threadCores = new ThreadCores();
    const program = new Program(threadCores, first);
    program.run(2_000);
    const worker = await startThread();
    useCores([second as number]);
    program.rest(500);
    expect(tasks().filter((thread) => cores(thread).includes(first) && cores(thread).length === 1)).toEqual(
      [],
    );
    worker.terminate();
  },
);

test.skipIf(second === undefined)(
  "cores that somebody gave the whole process stay, also where they are the very core that is kept to",
  async () => {
    const before = new Set(tasks());
    const worker = await startThread();
    const other = tasks().find((thread) => !before.has(thread)) as number;
    const threadCores = new ThreadCores(other);
    const program = new Program(threadCores, first);
    program.run(2_000);
    expect(cores()).toEqual([first]);
    useCores([first], other);
    program.run(1_500);
    threadCores.close();
    expect(cores(other)).toEqual([first]);
    expect(cores()).toEqual([first]);
    worker.terminate();
  },
);

test.skipIf(second === undefined)("a program that has gone, or asks seldom, is not followed", () => {
  const threadCores = new ThreadCores();
  const program = new Program(threadCores, first);
  program.run(2_000);
  expect(cores()).toEqual([first]);
  program.isSilent = true;
  program.run(200);
  expect(cores()).toEqual(given);
  threadCores.close();
});

test("TORUS_SET_AFFINITY=0 keeps it off", () => {
  process.env.TORUS_SET_AFFINITY = "0";
  const threadCores = new ThreadCores();
  new Program(threadCores, first).run(2_000);
  expect(cores()).toEqual(given);
  threadCores.close();
});

test.skipIf(second === undefined)(
  "a filter that kills who asks for cores is never asked, one that was vouched for may refuse",
  async () => {
    const underFilter = (action: number, said: string) =>
      runUnderFilter({
        calls: process.arch === "arm64" ? [122] : [203],
        action,
        environment: { TORUS_SET_AFFINITY: said },
        imports: { "thread-cores.ts": "ThreadCores" },
        body: `const cores = new ThreadCores();
       for (let ms = 1_000; ms < 3_000; ms += 5) {
         cores.noteSender(${first});
         cores.look(ms, ms * 10, ms * 1_000);
       }
       cores.close();`,
      });
    expect(await underFilter(FILTER_KILLS, "")).toBe("alive 0");
    expect(await underFilter(FILTER_REFUSES, "1")).toBe("alive 0");
    // The filter is in force: whoever vouches for it wrongly is ended by it.
    expect(await underFilter(FILTER_KILLS, "1")).toBe(" SIGSYS");
  },
);

test("a loop learns the core of programs that connect to it over TCP, and of nobody else", async () => {
  useCores([first]);
  const loop = new EventLoop({ blockMsMax: 5 });
  const noted: number[] = [];
  Object.defineProperty(loop, "wantsSenderCore", { get: () => true });
  loop.noteSenderCore = (core) => noted.push(core);
  const network = new SocketNetwork(loop);
  const running = loop.run();
  const folder = mkdtempSync(join(tmpdir(), "torus-cores-"));
  for (const [address, expected] of [
    ["127.0.0.1:0", first],
    [`unix:${folder}/socket`, -1],
  ] as const) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const handler = (answer: boolean) => (connection: StreamConnection) => ({
      onData: (_: unknown, start: number, end: number) => {
        if (answer) connection.write(new Uint8Array(100), 0, 100);
        else resolve();
        return end - start;
      },
      onReceived: () => {},
      onClose: () => {},
    });
    const listener = network.listen(address, handler(true));
    const caller = (connection: StreamConnection) => {
      connection.write(new Uint8Array(100), 0, 100);
      return handler(false)(connection);
    };
    network.connect(listener.address, 1_000, caller, (reason) => {
      throw new Error(reason);
    });
    await promise;
    // The request, and not its answer.
    expect(noted.splice(0)).toEqual([expected]);
    listener.close();
  }
  network.closeAll("over");
  loop.stop();
  await running;
  rmSync(folder, { recursive: true });
});

/** Starts a thread, which inherits the cores of this one. */
async function startThread(): Promise<Worker> {
  const source = URL.createObjectURL(new Blob(['self.onmessage = () => postMessage("over");']));
  const worker = new Worker(source);
  const heard = new Promise((resolve) => worker.addEventListener("message", resolve));
  worker.postMessage("there?");
  await heard;
  return worker;
}

/** Numbers of this process's threads. */
function tasks(): readonly number[] {
  return [...new Bun.Glob("*").scanSync({ cwd: "/proc/self/task", onlyFiles: false })].map(Number);
}
