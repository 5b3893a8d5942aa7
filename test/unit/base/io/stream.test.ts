import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  C,
  IoError,
  libc,
  parseStreamAddress,
  resolveStreamAddress,
  type StreamHandler,
  systemClock,
  systemRandom,
} from "../../../../src/base/io";
import { decodeSocketAddress, encodeSocketAddress } from "../../../../src/base/io/socket-address";
import { until, withLoop } from "../../../support/loop";
import { MemoryNetwork } from "../../../support/memory-network";
import { type StreamHarness, streamContract } from "./stream.contract";

const folder = mkdtempSync(join(tmpdir(), "torus-stream-"));
afterAll(() => rmSync(folder, { recursive: true }));

const overSockets = (body: (harness: StreamHarness) => Promise<void>) =>
  withLoop((loop, network) =>
    body({
      network,
      clock: loop,
      random: systemRandom,
      until: (what, condition) => until(loop, what, condition),
    }),
  );

streamContract("tcp", () => "127.0.0.1:0", overSockets);
streamContract("tcp over IPv6", () => "[::1]:0", overSockets);
let socketCount = 0;
streamContract("unix", () => `unix:${folder}/s${socketCount++}`, overSockets);

let memoryCount = 0;
streamContract(
  "memory",
  () => `node:${50 + memoryCount++}`,
  (body) => {
    const wire = new MemoryNetwork({ clock: systemClock, random: systemRandom, latencyMsMax: 1 });
    const until = async (what: string, condition: () => boolean) => {
      const deadlineMs = systemClock.nowMs() + 4000;
      while (!condition()) {
        if (systemClock.nowMs() > deadlineMs) throw new Error(`never happened: ${what}`);
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    return body({ network: wire.node("node"), clock: systemClock, random: systemRandom, until });
  },
);

const idle: StreamHandler = {
  onData: (_b, start, end) => end - start,
  onReceived: () => {},
  onClose: () => {},
};

test("SocketNetwork.listen replaces a stale unix socket, and nothing else", () =>
  withLoop(async (_loop, network) => {
    const path = join(folder, "stale");
    const socket = libc.socket(C.AF_UNIX, C.SOCK_STREAM, 0);
    expect(libc.bind(socket, encodeSocketAddress({ kind: "unix", path }).bytes)).toBe(0);
    libc.close(socket);
    network.listen(`unix:${path}`, () => idle).close();
    const file = join(folder, "file");
    writeFileSync(file, "precious");
    expect(() => network.listen(`unix:${file}`, () => idle)).toThrow("it is in use");
    expect(() => network.listen(`unix:${folder}/none/s`, () => idle)).toThrow("ENOENT; check the address");
    await Promise.resolve();
  }));

test("SocketNetwork.connect gives up after its timeout", () =>
  withLoop(async (loop, network) => {
    // A listener that accepts nothing: once its queue is full the kernel drops further attempts.
    const socket = libc.socket(C.AF_INET, C.SOCK_STREAM, 0);
    libc.bind(socket, encodeSocketAddress(parseStreamAddress("127.0.0.1:0")).bytes);
    libc.listen(socket, 0);
    const name = new Uint8Array(16);
    libc.getsockname(socket, name, new Int32Array([16]));
    const reasons: string[] = [];
    for (let count = 0; count < 4; count++)
      network.connect(
        decodeSocketAddress(name),
        50,
        () => idle,
        (reason) => reasons.push(reason),
      );
    await until(loop, "an attempt timed out", () => reasons.length > 0);
    expect(reasons[0]).toBe("no answer in 50 ms");
    libc.close(socket);
  }));

test("SocketNetwork takes at most connectionCountMax connections and goes on when one closes", () =>
  withLoop(
    async (loop, network) => {
      const accepted: { destroy(reason: string): void }[] = [];
      const listener = network.listen("127.0.0.1:0", (connection) => {
        accepted.push(connection);
        return idle;
      });
      for (let count = 0; count < 4; count++)
        network.connect(
          listener.address,
          1000,
          () => idle,
          (reason) => expect(reason).toBe("nothing"),
        );
      await until(
        loop,
        "two were accepted",
        () => accepted.length === 2 && network.statistics.connectionCount === 6,
      );
      expect(accepted.length).toBe(2);
      accepted[0]?.destroy("over");
      await until(loop, "a third was accepted", () => accepted.length === 3);
      listener.close();
    },
    { connectionCountMax: 2 },
  ));

test("SocketNetwork survives running out of descriptors", async () => {
  const program = join(folder, "emfile.ts");
  const io = new URL("../../../../src/base/io/index.ts", import.meta.url).href;
  writeFileSync(
    program,
    `import { C, EventLoop, libc, SocketNetwork } from ${JSON.stringify(io)};
     const loop = new EventLoop(); const network = new SocketNetwork(loop);
     const handler = { onData: (b, s, e) => e - s, onReceived() {}, onClose() {} };
     let accepted = 0;
     const listener = network.listen("unix:${folder}/emfile", () => { accepted++; return handler; });
     const spare = []; for (;;) { const fd = libc.eventfd(0, C.EFD_CLOEXEC); if (fd < 0) break; spare.push(fd); }
     libc.close(spare.pop());
     let connected;
     network.connect("unix:${folder}/emfile", 1000, (c) => { connected = c; return handler; }, (r) => { throw new Error(r); });
     const look = () => {
       if (network.statistics.acceptFailures > 0 && spare.length > 0) for (const fd of spare.splice(0)) libc.close(fd);
       if (accepted === 1) { console.log("accepted after", network.statistics.acceptFailures > 0); loop.stop(); }
       else loop.schedule(5, look);
     };
     loop.schedule(1, look);
     await loop.run();`,
  );
  const run = Bun.spawn(["sh", "-c", `ulimit -n 200; exec "${process.execPath}" "${program}"`], {
    stderr: "pipe",
    timeout: 8000,
  });
  expect(await new Response(run.stderr).text()).toBe("");
  expect(await new Response(run.stdout).text()).toBe("accepted after true\n");
});

test("parseStreamAddress reads its three forms and refuses others with bad-address", () => {
  expect(parseStreamAddress("10.0.0.1:40000")).toEqual({ kind: "tcp", host: "10.0.0.1", port: 40000 });
  expect(parseStreamAddress("peer-a.example:1")).toEqual({ kind: "tcp", host: "peer-a.example", port: 1 });
  expect(parseStreamAddress("[fe80::1]:80")).toEqual({ kind: "tcp", host: "fe80::1", port: 80 });
  expect(parseStreamAddress("unix:/run/t.sock")).toEqual({ kind: "unix", path: "/run/t.sock" });
  for (const bad of [
    "",
    "host",
    "host:",
    ":80",
    "host:70000",
    "[zz]:1",
    "::1:80",
    "unix:",
    `unix:/${"x".repeat(107)}`,
    "a b:1",
  ]) {
    let code: unknown;
    try {
      parseStreamAddress(bad);
    } catch (error) {
      code = error instanceof IoError ? error.code : error;
    }
    expect([bad, code]).toEqual([bad, "bad-address"]);
  }
  expect(() => encodeSocketAddress(parseStreamAddress("name:80"))).toThrow(
    'Cannot use address "name:80": the host name was not resolved; write host:port, [v6]:port or unix:/path',
  );
});

test("encodeSocketAddress and decodeSocketAddress agree", () => {
  for (const text of [
    "127.0.0.1:80",
    "255.1.2.3:65535",
    "[::]:9",
    "[::1]:1",
    "[fe80::a:0:0:1]:443",
    "[1:2:3:4:5:6:7:8]:5",
  ])
    expect(decodeSocketAddress(encodeSocketAddress(parseStreamAddress(text)).bytes)).toBe(text);
  const mapped = encodeSocketAddress(parseStreamAddress("[::ffff:10.0.0.1]:80"));
  expect(decodeSocketAddress(mapped.bytes)).toBe("[::ffff:a00:1]:80");
});

test("resolveStreamAddress turns a name into a number and leaves the rest alone", async () => {
  expect(await resolveStreamAddress("localhost:80", 2000)).toMatch(/^(127\.0\.0\.1|\[::1\]):80$/);
  expect(await resolveStreamAddress("[::1]:80", 2000)).toBe("[::1]:80");
  expect(await resolveStreamAddress("unix:/x", 2000)).toBe("unix:/x");
});
