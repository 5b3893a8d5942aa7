/** The SQLite store across processes: one at a time, durable before it answers, and picky about files. */
import { afterAll, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock, systemRandom } from "../../../src/base/io";
import { type KeyValueStore, openSqliteStore } from "../../../src/meta";
import { openMetadataStore, RemoteStore } from "../../../src/net";
import { SeededRandom, VirtualTime } from "../../support/virtual-time";
import { MetaServerProcess } from "../../support/meta-server-process";
import { until, WatchLog } from "./watch-log";

const folder = mkdtempSync(join(tmpdir(), "torus-sqlite-"));
afterAll(() => rmSync(folder, { recursive: true }));

const failure = (promise: Promise<unknown>): Promise<{ code?: string; message?: string } | undefined> =>
  promise.then(
    () => undefined,
    (error) => error,
  );
const open = (path: string) => openMetadataStore({ url: `sqlite:${path}` }, systemClock, true);
const bytes = (text: string) => new TextEncoder().encode(text);

describe("openSqliteStore", () => {
  test("refuses a file that another process has open, and takes it when that was killed", async () => {
    const path = join(folder, "locked.db");
    const server = await MetaServerProcess.start(path);
    const error = await failure(open(path));
    expect(error).toMatchObject({ code: "in-use" });
    expect(error?.message).toBe(
      `Cannot open metadata at ${path}: another process has it open; talk to that daemon instead (--meta http://HOST:PORT) or stop it`,
    );
    await server.kill();
    await (await open(path)).close();
  }, 30_000);

  test("refuses a second opening in the same process", async () => {
    const path = join(folder, "twice.db");
    const store = await open(path);
    expect(await failure(open(path))).toMatchObject({ code: "in-use" });
    await store.close();
    await (await open(path)).close();
  });

  test("what was answered is there after a kill -9, and nothing is half there", async () => {
    const path = join(folder, "killed.db");
    for (let round = 0; round < 5; round++) {
      const server = await MetaServerProcess.start(path);
      const store = new RemoteStore({ baseUrl: server.url, clock: systemClock });
      const answered: number[] = [];
      let isKilled = false;
      const writers = Array.from({ length: 4 }, async (_, writer) => {
        for (let index = 0; !isKilled; index++) {
          const n = round * 1_000_000 + writer * 10_000 + index;
          const result = await store
            .transact({
              compares: [],
              operations: [
                { kind: "put", key: `pair/a${n}`, value: bytes(`${n}`) },
                { kind: "put", key: `pair/b${n}`, value: bytes(`${n}`) },
              ],
            })
            .catch(() => undefined);
          if (result !== undefined) answered.push(n);
        }
      });
      await until("some writes", () => answered.length > 40);
      await server.kill();
      isKilled = true;
      await store.close();
      await Promise.all(writers);
      const reopened = await open(path);
      const { entries } = await reopened.range("pair/");
      const found = new Set(entries.map((entry) => entry.key));
      for (const n of answered) expect(found.has(`pair/a${n}`)).toBe(true);
      for (const key of found) expect(found.has(key.replace("/a", "/b"))).toBe(true);
      await reopened.close();
    }
  }, 60_000);

  test("leases get their full time again after a restart, and then end", async () => {
    const path = join(folder, "leases.db");
    const time = new VirtualTime();
    const first = openSqliteStore(path, time, new SeededRandom(1));
    const lease = await first.grantLease(10_000);
    await first.transact({
      compares: [],
      operations: [{ kind: "put", key: "leased", value: bytes("x"), lease }],
    });
    await time.advance(9_000);
    await first.close();
    await time.advance(60_000);
    const second = openSqliteStore(path, time, new SeededRandom(2));
    expect(await second.leaseRemainingMs(lease)).toBe(10_000);
    await time.advance(9_500);
    expect(await second.get("leased")).toBeDefined();
    await time.advance(600);
    expect(await second.get("leased")).toBeUndefined();
    await second.close();
    const third = openSqliteStore(path, time, new SeededRandom(3));
    expect(await third.get("leased")).toBeUndefined();
    await third.close();
  });

  test("refuses another program's database, garbage, a newer format and a folder, in one line each", async () => {
    const foreign = join(folder, "foreign.db");
    const database = new Database(foreign);
    database.run("CREATE TABLE t (a)");
    database.close();
    expect((await failure(open(foreign)))?.message).toContain("it belongs to another program");
    const garbage = join(folder, "garbage.db");
    writeFileSync(garbage, "x".repeat(10_000));
    expect(await failure(open(garbage))).toMatchObject({ code: "damaged" });
    const newer = join(folder, "newer.db");
    await (await open(newer)).close();
    const again = new Database(newer);
    again.run("PRAGMA user_version = 99");
    again.close();
    expect(await failure(open(newer))).toMatchObject({ code: "newer-format" });
    expect(await failure(open(folder))).toMatchObject({ code: "damaged" });
    expect(await failure(open("/proc/nowhere/meta.db"))).toMatchObject({ code: "damaged" });
  });

  test("a file that may not grow refuses the write, keeps what was there, and goes on with more room", async () => {
    const path = join(folder, "full.db");
    const fill = (store: KeyValueStore, n: number, lengthBytes: number) =>
      store.transact({
        compares: [],
        operations: [{ kind: "put", key: `full/${n}`, value: new Uint8Array(lengthBytes) }],
      });
    const small = openSqliteStore(path, systemClock, systemRandom, { sizeBytesMax: 1024 * 1024 });
    let count = 0;
    let error: { code?: string; message?: string } | undefined;
    while (error === undefined && count < 100) {
      error = await failure(fill(small, count, 200_000));
      if (error === undefined) count++;
    }
    expect(error).toMatchObject({ code: "out-of-space", retryable: true });
    expect(count).toBeGreaterThan(0);
    expect((await small.range("full/")).entries.length).toBe(count);
    await small.transact({ compares: [], operations: [{ kind: "delete", key: "full/0" }] });
    await fill(small, 0, 100_000);
    await small.close();
    const large = openSqliteStore(path, systemClock, systemRandom);
    expect((await large.range("full/")).entries.length).toBe(count);
    await fill(large, count, 200_000);
    await large.close();
  });
});

describe("RemoteStore", () => {
  test("a daemon that is not there gives one line", async () => {
    const error = await failure(openMetadataStore({ url: "http://127.0.0.1:9" }, systemClock, true));
    expect(error).toMatchObject({ code: "unreachable" });
    expect(error?.message).toBe(
      "Cannot reach the daemon at http://127.0.0.1:9 (connection refused): start it, or name where metadata lives with --meta",
    );
  });

  test("something else on that port is said not to serve metadata", async () => {
    const server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch: () => new Response("", { status: 404 }),
    });
    const error = await failure(
      openMetadataStore({ url: `http://127.0.0.1:${server.port}` }, systemClock, true),
    );
    expect(error).toMatchObject({ code: "bad-url" });
    await server.stop(true);
  });

  test("a stalled daemon gives deadline for reads and unknown outcome for writes", async () => {
    const server = await MetaServerProcess.start(join(folder, "stalled.db"));
    const store = new RemoteStore({ baseUrl: server.url, clock: systemClock });
    await store.get("a");
    const log = new WatchLog();
    store.watch("a", log);
    await until("snapshot", () => log.snapshotCount === 1);
    server.pause();
    const write = { kind: "put", key: "a", value: bytes("1") } as const;
    const [read, put] = await Promise.all([
      failure(store.get("a", { deadlineMs: 1_000 })),
      failure(store.transact({ compares: [], operations: [write] }, { deadlineMs: 1_000 })),
    ]);
    expect(read).toMatchObject({ code: "deadline" });
    expect(put).toMatchObject({ code: "unknown-outcome" });
    await until("the watch to notice", () => !log.connected);
    server.unpause();
    await until("the watch to come back", () => log.connected);
    await store.close();
    await server.kill();
  }, 60_000);

  test("streams of clients that went away are freed, and a request that is too large is refused", async () => {
    const server = await MetaServerProcess.start(join(folder, "streams.db"));
    for (let index = 0; index < 5; index++) {
      const store = new RemoteStore({ baseUrl: server.url, clock: systemClock });
      const logs = [new WatchLog(), new WatchLog(), new WatchLog()];
      for (const log of logs) store.watch("a", log);
      await until("snapshots", () => logs.every((log) => log.snapshotCount === 1));
      await store.close();
    }
    await until("streams to be freed", async () => (await server.streamCount()) === 0);
    const response = await fetch(`${server.url}/torus.meta.v1.MetaService/Transact`, {
      method: "POST",
      headers: { "content-type": "application/proto" },
      body: new Uint8Array(3 * 1024 * 1024),
    });
    expect(response.status).toBe(429);
    await server.kill();
  }, 60_000);

  test("any Connect client can call it: curl's JSON form", async () => {
    const server = await MetaServerProcess.start(join(folder, "json.db"));
    const call = async (method: string, body: object) =>
      (
        await fetch(`${server.url}/torus.meta.v1.MetaService/${method}`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify(body),
        })
      ).json();
    const put = { put: { key: "k", value: btoa("hello") } };
    expect(await call("Transact", { operations: [put], reads: ["k"] })).toMatchObject({
      committed: true,
      reads: [{ entry: { key: "k", value: btoa("hello") } }],
    });
    expect(await call("KeepLeaseAlive", { lease: "none" })).toMatchObject({ code: "not_found" });
    await server.kill();
  }, 30_000);
});
