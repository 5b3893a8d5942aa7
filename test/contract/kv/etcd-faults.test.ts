/** EtcdStore against a real etcd that stalls, dies, loses its leader, compacts, asks for passwords and certificates. */
import { afterAll, afterEach, describe, expect, test } from "bun:test";
import { systemClock, systemRandom } from "../../../src/base/io";
import { EtcdStore, type EtcdStoreOptions, type KeyValueStore } from "../../../src/meta";
import { openMetadataStore } from "../../../src/net";
import { makeCertificates } from "../../support/certificates";
import { EtcdProcess, freePort } from "../../support/etcd";
import { until, WatchLog } from "./watch-log";

const running: EtcdProcess[] = [];
const stores: KeyValueStore[] = [];
afterEach(async () => {
  for (const store of stores.splice(0)) await store.close();
  for (const etcd of running.splice(0)) await etcd.remove();
});

function open(endpoints: readonly string[], options: Partial<EtcdStoreOptions> = {}): EtcdStore {
  const store = new EtcdStore({
    endpoints,
    tls: false,
    clock: systemClock,
    random: systemRandom,
    ...options,
  });
  stores.push(store);
  return store;
}

async function start(...args: Parameters<typeof EtcdProcess.start>): Promise<EtcdProcess> {
  const etcd = await EtcdProcess.start(...args);
  running.push(etcd);
  return etcd;
}

const put = (store: KeyValueStore, key: string, text: string, deadlineMs = 5_000) =>
  store.transact(
    { compares: [], operations: [{ kind: "put", key, value: new TextEncoder().encode(text) }] },
    { deadlineMs },
  );
const failure = (promise: Promise<unknown>): Promise<{ code?: string; message?: string } | undefined> =>
  promise.then(
    () => undefined,
    (error) => error,
  );
const location = (url: string, more = {}) => openMetadataStore({ url, ...more }, systemClock, true);

describe("EtcdStore", () => {
  test("an etcd that is not there gives one line that names the endpoint and what to do", async () => {
    const port = await freePort();
    const error = await failure(location(`etcd://127.0.0.1:${port}`));
    expect(error?.code).toBe("unreachable");
    expect(error?.message).toBe(
      `Cannot reach etcd at 127.0.0.1:${port} (connection refused): start it, or name where metadata lives with --meta`,
    );
    expect(await failure(put(open([`127.0.0.1:${port}`]), "k", "v"))).toMatchObject({ code: "unreachable" });
  }, 30_000);

  test("an unknown host name is said to be one", async () => {
    const error = await failure(location("etcd://nowhere.invalid:2379"));
    expect(error?.message).toContain("nowhere.invalid:2379 (unknown host name)");
  }, 30_000);

  test("a stalled etcd gives deadline for reads and unknown outcome for writes, then goes on", async () => {
    const etcd = await start();
    const store = open([etcd.endpoint]);
    await put(store, "stall/a", "1");
    const log = new WatchLog();
    store.watch("stall/", log);
    await until("snapshot", () => log.snapshotCount === 1);
    etcd.pause();
    const [read, write] = await Promise.all([
      failure(store.get("stall/a", { deadlineMs: 1_500 })),
      failure(put(store, "stall/b", "1", 1_500)),
    ]);
    etcd.unpause();
    expect(read).toMatchObject({ code: "deadline", retryable: true });
    expect(write).toMatchObject({ code: "unknown-outcome", retryable: true });
    await until("answer", () => store.get("stall/a").then(Boolean, () => false));
    const last = await put(store, "stall/c", "2");
    await until("events", () => log.lastRevision === last.revision);
    expect(log.snapshotCount).toBe(1);
  }, 60_000);

  test("an aborted call ends at once", async () => {
    const etcd = await start();
    const store = open([etcd.endpoint]);
    await put(store, "abort/a", "1");
    etcd.pause();
    const abort = new AbortController();
    const read = failure(store.get("abort/a", { signal: abort.signal }));
    const write = failure(
      store.transact(
        { compares: [], operations: [{ kind: "delete", key: "abort/a" }] },
        { signal: abort.signal },
      ),
    );
    const startMs = performance.now();
    await Bun.sleep(50);
    abort.abort(new Error("enough"));
    expect((await read)?.message).toBe("enough");
    expect(await write).toMatchObject({ code: "unknown-outcome" });
    expect(performance.now() - startMs).toBeLessThan(3_000);
    etcd.unpause();
  }, 30_000);

  test("a watch that missed compacted revisions while etcd was away gets a snapshot and goes on", async () => {
    const etcd = await start();
    const store = open([etcd.endpoint]);
    const log = new WatchLog();
    await put(store, "gap/a", "1");
    store.watch("gap/", log);
    await until("snapshot", () => log.snapshotCount === 1 && log.connected);
    // Cut this client off for good (its etcd ends), change and compact behind its back, and let it come back.
    await etcd.kill();
    await until("loss", () => !log.connected);
    const port = etcd.port;
    await etcd.resume();
    const other = open([`127.0.0.1:${port}`]);
    await until("answer", () => other.get("gap/a").then(Boolean, () => false));
    let revision = 0;
    for (let index = 0; index < 10; index++) revision = (await put(other, "gap/a", `n${index}`)).revision;
    await etcd.compact(revision);
    const last = await put(other, "gap/b", "after");
    await until("events", () => log.lastRevision === last.revision);
    expect([...log.state]).toEqual([
      ["gap/a", "n9"],
      ["gap/b", "after"],
    ]);
  }, 60_000);

  test("a cluster that loses its leader is answered by the others, and the watch misses nothing", async () => {
    const members = await EtcdProcess.startCluster(3);
    running.push(...members);
    const store = open(members.map((member) => member.endpoint));
    const log = new WatchLog();
    await put(store, "lead/a", "1");
    store.watch("lead/", log);
    await until("snapshot", () => log.snapshotCount === 1);
    const revisions: number[] = [];
    for (let round = 0; round < 2; round++) {
      const leaders = await Promise.all(members.map((member) => member.isLeader().catch(() => false)));
      const leader = members[leaders.indexOf(true)] as EtcdProcess;
      await leader.kill();
      let written = 0;
      await until("writes", async () => {
        try {
          revisions.push((await put(store, "lead/a", `r${round}`, 3_000)).revision);
          return ++written >= 3;
        } catch (error) {
          expect(["unknown-outcome", "unreachable", "deadline"]).toContain((error as { code: string }).code);
          return false;
        }
      });
      await leader.resume();
    }
    await until("events", () => log.lastRevision === revisions.at(-1));
    for (const revision of revisions) expect(log.revisions).toContain(revision);
    expect(log.snapshotCount).toBe(1);
  }, 120_000);

  test("without a quorum calls fail within their deadline, and work again with it", async () => {
    const members = await EtcdProcess.startCluster(3);
    running.push(...members);
    const store = open(members.map((member) => member.endpoint));
    await put(store, "quorum/a", "1");
    await members[0]?.kill();
    await members[1]?.kill();
    const startMs = performance.now();
    const error = await failure(store.get("quorum/a", { deadlineMs: 4_000 }));
    expect(["deadline", "unreachable"]).toContain(error?.code ?? "");
    expect(performance.now() - startMs).toBeLessThan(8_000);
    await Promise.all([members[0]?.resume(), members[1]?.resume()]);
    await until("answer", () => store.get("quorum/a").then(Boolean, () => false));
  }, 120_000);

  test("user and password are used, a wrong one is one line, and an expired token is renewed", async () => {
    const etcd = await start({ flags: ["--auth-token=simple", "--auth-token-ttl=1"] });
    for (const args of [
      ["user", "add", "root:secret"],
      ["user", "grant-role", "root", "root"],
      ["auth", "enable"],
    ])
      expect((await etcd.control(...args)).exitCode).toBe(0);
    const store = await location(`etcd://root:secret@${etcd.endpoint}`);
    stores.push(store);
    expect(store.description).toBe(`etcd://${etcd.endpoint}`);
    const log = new WatchLog();
    store.watch("auth/", log);
    await until("snapshot", () => log.snapshotCount === 1);
    const lease = await store.grantLease(5_000);
    // Longer than a token lives.
    const untilMs = Date.now() + 3_500;
    await until("time", async () => {
      await Bun.sleep(1_200);
      return Date.now() > untilMs;
    });
    await store.keepLeaseAlive(lease);
    const { revision } = await put(store, "auth/a", "1");
    await until("events", () => log.lastRevision === revision);
    const wrong = await failure(location(`etcd://root:guess@${etcd.endpoint}`));
    expect(wrong).toMatchObject({ code: "unauthenticated" });
    expect(wrong?.message).toContain("check user, password and role");
    expect(wrong?.message).not.toContain("guess");
    const none = await failure(location(`etcd://${etcd.endpoint}`));
    expect(none).toMatchObject({ code: "unauthenticated" });
  }, 60_000);
});

describe("EtcdStore over TLS", () => {
  const certificates = makeCertificates();
  afterAll(() => certificates.remove());
  const files = {
    caFile: certificates.caFile,
    certFile: certificates.client.certificateFile,
    keyFile: certificates.client.keyFile,
  };

  test("a client certificate is presented and the server's is checked", async () => {
    const { caFile, server, client } = certificates;
    const etcd = await start({
      flags: [
        "--client-cert-auth",
        `--trusted-ca-file=${caFile}`,
        `--cert-file=${server.certificateFile}`,
        `--key-file=${server.keyFile}`,
      ],
      tls: { caFile, certificateFile: client.certificateFile, keyFile: client.keyFile },
    });
    const store = await location(`etcd://${etcd.endpoint}`, files);
    stores.push(store);
    const log = new WatchLog();
    store.watch("tls/", log);
    await until("snapshot", () => log.snapshotCount === 1);
    const { revision } = await put(store, "tls/a", "1");
    await until("events", () => log.lastRevision === revision);
    const lease = await store.grantLease(5_000);
    await store.keepLeaseAlive(lease);
    for (const host of ["localhost", "127.0.0.1"])
      stores.push(await location(`etcd://${host}:${etcd.port}`, files));
    // An address that the certificate does not name, without a certificate, without our CA, and without TLS at all.
    const other = await failure(location(`etcd://127.0.0.2:${etcd.port}`, files));
    expect(other?.message).toContain("127.0.0.2");
    expect(other).toMatchObject({ code: "unreachable" });
    expect(await failure(location(`etcd://${etcd.endpoint}`, { caFile }))).toMatchObject({
      code: "unreachable",
    });
    expect(await failure(location(`etcds://${etcd.endpoint}`))).toMatchObject({ code: "unreachable" });
    expect(await failure(location(`etcd://${etcd.endpoint}`))).toMatchObject({ code: "unreachable" });
  }, 90_000);

  test("user and password work over TLS to an address", async () => {
    const { caFile, server, client } = certificates;
    const etcd = await start({
      flags: [`--cert-file=${server.certificateFile}`, `--key-file=${server.keyFile}`],
      tls: { caFile, certificateFile: client.certificateFile, keyFile: client.keyFile },
    });
    for (const args of [
      ["user", "add", "root:secret"],
      ["user", "grant-role", "root", "root"],
      ["auth", "enable"],
    ])
      expect((await etcd.control(...args)).exitCode).toBe(0);
    const store = await location(`etcd://${etcd.endpoint}`, { caFile, user: "root", password: "secret" });
    stores.push(store);
    expect((await put(store, "tls/a", "1")).committed).toBe(true);
  }, 60_000);

  test("files that are missing or no PEM are named", async () => {
    const missing = await failure(location("etcd://h", { caFile: "/nonexistent/ca.pem" }));
    expect(missing?.message).toContain("Cannot read the CA file /nonexistent/ca.pem");
    const wrong = await failure(location("etcd://h", { caFile: import.meta.path }));
    expect(wrong?.message).toContain("it is not in PEM form");
    const half = await failure(location("etcd://h", { certFile: certificates.client.certificateFile }));
    expect(half?.message).toContain("without its key");
  });
});
