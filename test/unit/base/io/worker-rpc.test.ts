import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TorusError } from "../../../../src/base";
import { IoError, RpcEndpoint, startLoopWorker, systemClock } from "../../../../src/base/io";

const folder = mkdtempSync(join(tmpdir(), "torus-worker-"));
afterAll(() => rmSync(folder, { recursive: true }));
const io = JSON.stringify(new URL("../../../../src/base/io/index.ts", import.meta.url).href);
const ioPath = JSON.stringify(new URL("../../../../src/base/io/index.ts", import.meta.url).pathname);
const base = JSON.stringify(new URL("../../../../src/base/index.ts", import.meta.url).href);

interface Remote {
  add(pair: { a: number; b: number }): Promise<number>;
  askMain(text: string): Promise<string>;
  failKnown(argument: undefined): Promise<never>;
  failUnknown(argument: undefined): Promise<never>;
  hang(argument: undefined): Promise<never>;
  crash(argument: undefined): Promise<void>;
  missing(argument: undefined): Promise<void>;
}

function workerSource(io: string, base: string): string {
  return `
    import { runLoopWorker } from ${io};
    import { TorusError } from ${base};
    runLoopWorker(async (data, { loop, endpoint }) => {
      if (data.fail) throw new TorusError("no-disk", "Cannot start: no disk", { exitCode: 2 });
      class Methods {
        #secret = data.secret;
        async add({ a, b }) { return a + b + this.#secret; }
        async askMain(text) { endpoint.emit("asked", text); return "worker got " + await endpoint.call("shout", text); }
        async failKnown() { throw new TorusError("out-of-space", "Cannot put: full", { retryable: true, exitCode: 2 }); }
        async failUnknown() { throw new RangeError("oops"); }
        hang() { return new Promise(() => {}); }
        crash() { loop.schedule(0, () => { throw new Error("a bug in the loop"); }); return new Promise(() => {}); }
      }
      return { methods: new Methods(), close: async () => { endpoint.emit("asked", "closing"); } };
    });
  `;
}

const path = join(folder, "worker.ts");
writeFileSync(path, workerSource(io, base));

async function start(
  data: object,
  onFailure: (error: TorusError) => void = (error) => expect(error).toBeNull(),
) {
  const asked: string[] = [];
  const methods = { shout: async (text: string) => text.toUpperCase() };
  const worker = await startLoopWorker<typeof methods, Remote, Record<never, never>, { asked: string }>({
    url: Bun.pathToFileURL(path).href,
    name: "test worker",
    data: { secret: 0, ...data },
    methods,
    startTimeoutMs: 8000,
    onFailure,
  });
  worker.endpoint.on("asked", (text) => asked.push(text));
  return { worker, asked };
}

async function errorOf(promise: Promise<unknown>): Promise<TorusError> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(TorusError);
    return error as TorusError;
  }
  throw new Error("it did not fail");
}

test("a loop worker answers calls, calls back, sends events and stops", async () => {
  const { worker, asked } = await start({ secret: 100 });
  const sums = await Promise.all([1, 2, 3].map((a) => worker.endpoint.call("add", { a, b: 10 * a })));
  expect(sums).toEqual([111, 122, 133]);
  expect(await worker.endpoint.call("askMain", "hi")).toBe("worker got HI");
  expect(asked).toEqual(["hi"]);
  const left = worker.endpoint.call("hang", undefined);
  const leftError = errorOf(left);
  await worker.stop(5000);
  expect(asked).toEqual(["hi", "closing"]);
  expect((await leftError).message).toBe("Cannot go on: the test worker was stopped");
  expect((await errorOf(worker.endpoint.call("add", { a: 1, b: 1 }))).code).toBe("worker-gone");
});

test("an error crosses threads with code, retryable and exit code; a bug becomes worker-failed", async () => {
  const { worker } = await start({});
  const known = await errorOf(worker.endpoint.call("failKnown", undefined));
  expect([known.code, known.message, known.retryable, known.exitCode]).toEqual([
    "out-of-space",
    "Cannot put: full",
    true,
    2,
  ]);
  const unknown = await errorOf(worker.endpoint.call("failUnknown", undefined));
  expect([unknown.code, unknown.message]).toEqual(["worker-failed", "Cannot go on in another thread: oops"]);
  const missing = await errorOf(worker.endpoint.call("missing", undefined));
  expect(missing.message).toBe("Cannot call missing: no such method");
  const late = await errorOf(worker.endpoint.call("hang", undefined, 20));
  expect([late.code, late.message, late.retryable]).toEqual([
    "worker-timeout",
    "Cannot finish hang: no answer from its thread in 20 ms",
    true,
  ]);
  await worker.stop(5000);
});

test("a worker whose loop throws fails all calls and reports once", async () => {
  const failures: TorusError[] = [];
  const { worker } = await start({}, (error) => failures.push(error));
  const error = await errorOf(worker.endpoint.call("crash", undefined));
  expect(error.message).toBe("Cannot go on in another thread: a bug in the loop");
  expect(failures).toEqual([error]);
  await worker.stop(1000);
});

test("startLoopWorker throws the error of the setup, or of a file that does not load", async () => {
  const refused = await errorOf(start({ fail: true }));
  expect([refused.code, refused.message, refused.exitCode]).toEqual(["no-disk", "Cannot start: no disk", 2]);
  const missing = await errorOf(
    startLoopWorker({
      url: "file:///nowhere/worker.ts",
      name: "lost worker",
      data: null,
      methods: {},
      startTimeoutMs: 5000,
      onFailure: () => {},
    }),
  );
  expect(missing.code).toBe("worker-gone");
  expect(missing.message).toStartWith("Cannot go on: the lost worker failed:");
});

test("RpcEndpoint tells the caller that a result cannot be cloned", async () => {
  const { port1, port2 } = new MessageChannel();
  const bugs: unknown[] = [];
  const near = new RpcEndpoint<Record<never, never>, { get(argument: undefined): Promise<unknown> }>({
    channel: port1,
    clock: systemClock,
    methods: {},
    onBug: (error) => bugs.push(error),
  });
  new RpcEndpoint({
    channel: port2,
    clock: systemClock,
    methods: { get: async () => () => 1 },
    onBug: (error) => bugs.push(error),
  });
  port1.start();
  port2.start();
  expect((await errorOf(near.call("get", undefined))).code).toBe("worker-failed");
  near.close(new IoError("worker-gone", "over"));
  port1.close();
  port2.close();
  expect(bugs).toEqual([]);
});

test("a loop worker runs inside a compiled executable, without its sources", async () => {
  const source = join(folder, "compiled");
  mkdirSync(join(source, "commands/workers"), { recursive: true });
  const basePath = JSON.stringify(new URL("../../../../src/base/index.ts", import.meta.url).pathname);
  writeFileSync(join(source, "commands/workers/echo.ts"), workerSource(ioPath, basePath));
  writeFileSync(
    join(source, "main.ts"),
    `import { startLoopWorker } from ${ioPath};
     const worker = await startLoopWorker({ url: "file:///$bunfs/root/commands/workers/echo.ts", name: "echo", data: { secret: 5 },
       methods: { shout: async (t) => t + "!" }, startTimeoutMs: 8000, onFailure: (e) => { throw e; } });
     console.log(await worker.endpoint.call("add", { a: 1, b: 2 }), await worker.endpoint.call("askMain", "ho"));
     await worker.stop(2000);
     console.log("stopped");`,
  );
  const output = join(folder, "executable");
  const build = Bun.spawn(
    [
      process.execPath,
      "build",
      "--compile",
      "--minify",
      "main.ts",
      "commands/workers/echo.ts",
      "--outfile",
      output,
    ],
    { cwd: source, stdout: "pipe", stderr: "pipe" },
  );
  expect([await build.exited, await new Response(build.stderr).text()]).toEqual([0, expect.any(String)]);
  renameSync(source, `${source}-gone`);
  const run = Bun.spawn([output], { cwd: "/", stdout: "pipe", stderr: "pipe", timeout: 10_000 });
  expect(await new Response(run.stderr).text()).toBe("");
  expect(await new Response(run.stdout).text()).toBe("8 worker got ho!\nstopped\n");
}, 30_000);
