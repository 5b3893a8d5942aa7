/**
 * The contract of the key-value port, run over every implementation. Each test works under a prefix of its own, so
 * that one server serves them all.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { KeyValueStore, Operation } from "../../../src/meta";
import { until, WatchLog } from "./watch-log";

export interface StoreHarness {
  start(): Promise<void>;
  /** A further connection to the same data. */
  open(): Promise<KeyValueStore>;
  /** Whether `open` may be called while another is open. */
  readonly isShared: boolean;
  /** Forgets all history up to now. */
  compact(store: KeyValueStore): Promise<void>;
  /** Kills whatever holds the data, and starts it again; undefined when nothing survives (memory). */
  readonly restart: (() => Promise<void>) | undefined;
  stop(): Promise<void>;
}

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (value: Uint8Array | undefined) =>
  value === undefined ? undefined : new TextDecoder().decode(value);
const put = (key: string, value: string, lease?: string): Operation => ({
  kind: "put",
  key,
  value: bytes(value),
  ...(lease !== undefined && { lease }),
});
const LEASE_MS = 2_000;
/** What a promise was rejected with. Bun's own `rejects` spins the event loop, which starves HTTP/2. */
const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

let prefixes = 0;

export function keyValueContract(name: string, harness: StoreHarness): void {
  describe(`KeyValueStore contract: ${name}`, () => {
    let store: KeyValueStore;
    const newPrefix = () => `contract/${++prefixes}/`;
    const apply = (...operations: Operation[]) => store.transact({ compares: [], operations });

    beforeAll(async () => {
      await harness.start();
      store = await harness.open();
    }, 60_000);
    afterAll(async () => {
      await store.close();
      await harness.stop();
    }, 60_000);

    test("get answers undefined for a missing key, and value and revisions for one that was put", async () => {
      const prefix = newPrefix();
      expect(await store.get(`${prefix}a`)).toBeUndefined();
      const first = await apply(put(`${prefix}a`, "1"));
      const second = await apply(put(`${prefix}a`, "2"));
      expect(second.revision).toBeGreaterThan(first.revision);
      const entry = await store.get(`${prefix}a`);
      expect(text(entry?.value)).toBe("2");
      expect(entry).toMatchObject({
        createRevision: first.revision,
        modRevision: second.revision,
        lease: "",
      });
    });

    test("get returns the very bytes, an empty value too", async () => {
      const prefix = newPrefix();
      const value = Uint8Array.from({ length: 1024 }, (_, index) => index & 0xff);
      await store.transact({ compares: [], operations: [{ kind: "put", key: `${prefix}b`, value }] });
      value.fill(0);
      await apply(put(`${prefix}e`, ""));
      const entry = await store.get(`${prefix}b`);
      expect([...(entry?.value ?? [])]).toEqual(Array.from({ length: 1024 }, (_, index) => index & 0xff));
      expect((await store.get(`${prefix}e`))?.value.length).toBe(0);
    });

    test("range returns exactly the keys under the prefix, in order, at one revision", async () => {
      const prefix = newPrefix();
      const { revision } = await apply(
        put(`${prefix}x/b`, "2"),
        put(`${prefix}x/a`, "1"),
        put(`${prefix}x0`, "no"),
        put(`${prefix}w`, "no"),
        put(`${prefix}x/~`, "3"),
      );
      const range = await store.range(`${prefix}x/`);
      expect(range.entries.map((entry) => entry.key)).toEqual([
        `${prefix}x/a`,
        `${prefix}x/b`,
        `${prefix}x/~`,
      ]);
      expect(range.revision).toBeGreaterThanOrEqual(revision);
      expect((await store.range(`${prefix}none/`)).entries).toEqual([]);
    });

    test("range returns more keys than fit one page", async () => {
      const prefix = newPrefix();
      const count = 2_500;
      for (let from = 0; from < count; from += 125)
        await apply(
          ...Array.from({ length: 125 }, (_, index) =>
            put(`${prefix}${String(from + index).padStart(5, "0")}`, "v"),
          ),
        );
      const { entries } = await store.range(prefix);
      expect(entries.length).toBe(count);
      expect(entries.every((entry, index) => entry.key.endsWith(String(index).padStart(5, "0")))).toBe(true);
    }, 30_000);

    test("transact applies all or nothing, and reads in either case", async () => {
      const prefix = newPrefix();
      const made = await store.transact({
        compares: [{ key: `${prefix}a`, modRevision: 0 }],
        operations: [put(`${prefix}a`, "1"), put(`${prefix}b`, "1")],
        reads: [`${prefix}a`, `${prefix}c`],
      });
      expect(made.committed).toBe(true);
      expect(made.reads.map((entry) => text(entry?.value))).toEqual(["1", undefined]);
      expect(made.reads[0]?.modRevision).toBe(made.revision);
      const refused = await store.transact({
        compares: [
          { key: `${prefix}a`, modRevision: made.revision },
          { key: `${prefix}b`, modRevision: 0 },
        ],
        operations: [put(`${prefix}a`, "2"), { kind: "delete", key: `${prefix}b` }],
        reads: [`${prefix}a`, `${prefix}b`],
      });
      expect(refused.committed).toBe(false);
      expect(refused.reads.map((entry) => text(entry?.value))).toEqual(["1", "1"]);
      const swapped = await store.transact({
        compares: [{ key: `${prefix}a`, modRevision: made.revision }],
        operations: [put(`${prefix}a`, "2"), { kind: "delete", key: `${prefix}b` }],
        reads: [`${prefix}a`, `${prefix}b`],
      });
      expect(swapped.committed).toBe(true);
      expect(swapped.reads.map((entry) => text(entry?.value))).toEqual(["2", undefined]);
    });

    test("transact without effect makes no revision", async () => {
      const prefix = newPrefix();
      const before = (await apply(put(`${prefix}a`, "1"))).revision;
      expect((await apply({ kind: "delete", key: `${prefix}none` })).revision).toBe(before);
      expect((await apply({ kind: "delete-prefix", prefix: `${prefix}none/` })).revision).toBe(before);
      expect((await store.transact({ compares: [], operations: [] })).committed).toBe(true);
      expect((await apply({ kind: "delete", key: `${prefix}a` })).revision).toBe(before + 1);
    });

    test("transact deletes a prefix and nothing beside it", async () => {
      const prefix = newPrefix();
      await apply(put(`${prefix}d/1`, "x"), put(`${prefix}d/2`, "x"), put(`${prefix}d0`, "stays"));
      await apply({ kind: "delete-prefix", prefix: `${prefix}d/` }, put(`${prefix}z`, "new"));
      const { entries } = await store.range(prefix);
      expect(entries.map((entry) => entry.key)).toEqual([`${prefix}d0`, `${prefix}z`]);
    });

    test("a key made again after a delete has a new create revision", async () => {
      const key = `${newPrefix()}a`;
      const first = await apply(put(key, "1"));
      await apply({ kind: "delete", key });
      const again = await store.transact({
        compares: [{ key, modRevision: 0 }],
        operations: [put(key, "2")],
        reads: [key],
      });
      expect(again.committed).toBe(true);
      expect(again.reads[0]?.createRevision).toBe(again.revision);
      expect(again.revision).toBe(first.revision + 2);
    });

    test("of racing compare-and-sets exactly one wins", async () => {
      const key = `${newPrefix()}race`;
      const results = await Promise.all(
        Array.from({ length: 12 }, (_, index) =>
          store.transact({
            compares: [{ key, modRevision: 0 }],
            operations: [put(key, `${index}`)],
            reads: [key],
          }),
        ),
      );
      expect(results.filter((result) => result.committed).length).toBe(1);
      const winner = String(results.findIndex((result) => result.committed));
      expect(results.every((result) => text(result.reads[0]?.value) === winner)).toBe(true);
    });

    const refusals: [string, string, () => Promise<unknown>][] = [
      ["an empty key", "bad-request", () => store.get("")],
      ["a key with a space", "bad-request", () => store.get("a b")],
      ["a key with an umlaut", "bad-request", () => apply(put("ä", ""))],
      ["an endless key", "bad-request", () => store.get("k".repeat(1025))],
      ["an empty prefix", "bad-request", () => store.range("")],
      ["one key put twice", "bad-request", () => apply(put("k/a", "1"), put("k/a", "2"))],
      [
        "one key put and its prefix deleted",
        "bad-request",
        () => apply(put("k/a", "1"), { kind: "delete-prefix", prefix: "k/" }),
      ],
      [
        "129 operations",
        "too-large",
        () => apply(...Array.from({ length: 129 }, (_, index) => put(`k/${index}`, ""))),
      ],
      ["more than 1 MiB", "too-large", () => apply(put("k/big", "x".repeat(1024 * 1024)))],
      ["a lease of no time", "bad-request", () => store.grantLease(0)],
      ["a lease that is gone", "lease-lost", () => apply(put("k/leased", "1", "1234567"))],
    ];
    for (const [what, code, call] of refusals)
      test(`refuses ${what} with ${code}`, async () => {
        expect(await failure(call())).toMatchObject({ code });
      });

    test("watch starts with a snapshot and delivers every revision once, whole and in order", async () => {
      const prefix = newPrefix();
      await apply(put(`${prefix}old`, "1"));
      const log = new WatchLog();
      const watch = store.watch(prefix, log);
      await until("snapshot", () => log.snapshotCount === 1);
      expect([...log.state]).toEqual([[`${prefix}old`, "1"]]);
      const made: number[] = [];
      for (let index = 0; index < 20; index++)
        made.push((await apply(put(`${prefix}a`, `${index}`), put(`${prefix}b`, `${index}`))).revision);
      made.push((await apply({ kind: "delete-prefix", prefix: `${prefix}` })).revision);
      await until("events", () => log.revisions.length === made.length);
      expect(log.revisions).toEqual(made);
      expect(log.groups[0]?.length).toBe(2);
      expect(log.groups.at(-1)?.length).toBe(3);
      expect(log.state.size).toBe(0);
      watch.close();
      await apply(put(`${prefix}late`, "1"));
      await store.get(`${prefix}late`);
      expect(log.revisions.length).toBe(made.length);
    });

    test("watch delivers nothing of other prefixes", async () => {
      const prefix = newPrefix();
      const log = new WatchLog();
      const watch = store.watch(`${prefix}in/`, log);
      await until("snapshot", () => log.snapshotCount === 1);
      await apply(put(`${prefix}out`, "1"), put(`${prefix}in/a`, "1"));
      await apply(put(`${prefix}out`, "2"));
      const last = await apply(put(`${prefix}in/b`, "1"));
      await until("events", () => log.lastRevision === last.revision);
      expect(log.events.length).toBe(2);
      watch.close();
    });

    test("watch goes on after a revision without a snapshot while history reaches back", async () => {
      const prefix = newPrefix();
      const { revision } = await apply(put(`${prefix}a`, "1"));
      await apply(put(`${prefix}a`, "2"));
      const last = await apply(put(`${prefix}b`, "1"));
      const log = new WatchLog();
      const watch = store.watch(prefix, log, { afterRevision: revision });
      await until("events", () => log.lastRevision === last.revision);
      expect(log.snapshotCount).toBe(0);
      expect(log.revisions.length).toBe(2);
      watch.close();
    });

    test("watch starts with a snapshot when the revision was compacted away or lies ahead", async () => {
      const prefix = newPrefix();
      const { revision } = await apply(put(`${prefix}a`, "1"));
      for (let index = 2; index < 5; index++) await apply(put(`${prefix}a`, `${index}`));
      await harness.compact(store);
      for (const afterRevision of [revision, revision + 1_000_000]) {
        const log = new WatchLog();
        const watch = store.watch(prefix, log, { afterRevision });
        await until("snapshot", () => log.snapshotCount === 1);
        expect(log.state.get(`${prefix}a`)).toBe("4");
        const next = await apply(put(`${prefix}b`, "after"));
        await until("events", () => log.lastRevision === next.revision);
        watch.close();
      }
    });

    test("a lease that is not kept alive ends, and its keys with it", async () => {
      const prefix = newPrefix();
      const lease = await store.grantLease(LEASE_MS);
      await apply(put(`${prefix}bound`, "1", lease), put(`${prefix}free`, "1"));
      expect((await store.get(`${prefix}bound`))?.lease).toBe(lease);
      const log = new WatchLog();
      const watch = store.watch(prefix, log);
      await until("snapshot", () => log.snapshotCount === 1);
      const remainingMs = await store.leaseRemainingMs(lease);
      expect(remainingMs).toBeGreaterThan(0);
      await until("expiry", () => !log.state.has(`${prefix}bound`));
      expect(await store.get(`${prefix}bound`)).toBeUndefined();
      expect(await store.get(`${prefix}free`)).toBeDefined();
      expect(await store.leaseRemainingMs(lease)).toBe(0);
      expect(await failure(store.keepLeaseAlive(lease))).toMatchObject({ code: "lease-lost" });
      watch.close();
    }, 30_000);

    test("a lease that is kept alive outlives its time", async () => {
      const prefix = newPrefix();
      const lease = await store.grantLease(LEASE_MS);
      const witness = await store.grantLease(LEASE_MS);
      await apply(put(`${prefix}kept`, "1", lease), put(`${prefix}left`, "1", witness));
      await until("the other lease to end", async () => {
        await store.keepLeaseAlive(lease);
        return (await store.get(`${prefix}left`)) === undefined;
      });
      expect(await store.get(`${prefix}kept`)).toBeDefined();
      await store.revokeLease(lease);
      expect(await store.get(`${prefix}kept`)).toBeUndefined();
      await store.revokeLease(lease);
    }, 30_000);

    test("a key put again without its lease outlives the lease", async () => {
      const prefix = newPrefix();
      const lease = await store.grantLease(LEASE_MS);
      await apply(put(`${prefix}a`, "1", lease), put(`${prefix}b`, "1", lease));
      await apply(put(`${prefix}a`, "2"));
      await store.revokeLease(lease);
      expect(await store.get(`${prefix}a`)).toMatchObject({ lease: "" });
      expect(await store.get(`${prefix}b`)).toBeUndefined();
    });

    test("random transactions agree with a naive model", async () => {
      const key = fc.constantFrom("a", "b", "c/1", "c/2", "c/3", "d");
      const operation = fc.oneof(
        fc.record({ kind: fc.constant("put" as const), key, value: fc.string({ maxLength: 4 }) }),
        fc.record({ kind: fc.constant("delete" as const), key }),
      );
      const step = fc.record({
        operations: fc.uniqueArray(operation, { maxLength: 4, selector: (each) => each.key }),
        compare: fc.option(fc.record({ key, holds: fc.boolean() }), { nil: undefined }),
        sweep: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
          const prefix = newPrefix();
          const model = new Map<string, { value: string; modRevision: number }>();
          for (const { operations, compare, sweep } of steps) {
            const held = compare === undefined || compare.holds;
            const present = compare && (model.get(prefix + compare.key)?.modRevision ?? 0);
            const result = await store.transact({
              compares:
                compare === undefined
                  ? []
                  : [
                      {
                        key: prefix + compare.key,
                        modRevision: (present as number) + (compare.holds ? 0 : 1),
                      },
                    ],
              operations: operations.map((each) =>
                each.kind === "put"
                  ? put(prefix + each.key, each.value)
                  : { kind: "delete", key: prefix + each.key },
              ),
            });
            expect(result.committed).toBe(held);
            if (held)
              for (const each of operations)
                if (each.kind === "delete") model.delete(prefix + each.key);
                else model.set(prefix + each.key, { value: each.value, modRevision: result.revision });
            if (sweep) {
              await apply({ kind: "delete-prefix", prefix: `${prefix}c/` });
              for (const each of model.keys()) if (each.startsWith(`${prefix}c/`)) model.delete(each);
            }
            const { entries } = await store.range(prefix);
            expect(entries.map((each) => [each.key, text(each.value), each.modRevision])).toEqual(
              [...model]
                .sort(([a], [b]) => (a < b ? -1 : 1))
                .map(([each, { value, modRevision }]) => [each, value, modRevision]),
            );
          }
        }),
        { numRuns: 25 },
      );
    }, 60_000);

    if (harness.isShared)
      test("two connections see each other's writes at once", async () => {
        const prefix = newPrefix();
        const other = await harness.open();
        const log = new WatchLog();
        const watch = other.watch(prefix, log);
        await until("snapshot", () => log.snapshotCount === 1);
        const { revision } = await apply(put(`${prefix}a`, "1"));
        expect(text((await other.get(`${prefix}a`))?.value)).toBe("1");
        await until("events", () => log.lastRevision === revision);
        watch.close();
        await other.close();
      });

    const { restart } = harness;
    if (restart !== undefined)
      test("keys, revisions, leases and watches survive a kill and restart of what holds them", async () => {
        const prefix = newPrefix();
        const lease = await store.grantLease(30_000);
        const { revision } = await apply(put(`${prefix}a`, "1"), put(`${prefix}leased`, "1", lease));
        const log = new WatchLog();
        if (harness.isShared) {
          store.watch(prefix, log);
          await until("snapshot", () => log.snapshotCount === 1);
        } else await store.close();
        await restart();
        if (!harness.isShared) {
          store = await harness.open();
          store.watch(prefix, log);
          await until("snapshot", () => log.snapshotCount === 1);
        }
        await until("answer", () => store.get(`${prefix}a`).then(Boolean, () => false));
        expect(await store.get(`${prefix}a`)).toMatchObject({ modRevision: revision });
        expect(await store.get(`${prefix}leased`)).toMatchObject({ lease });
        await store.keepLeaseAlive(lease);
        const made: number[] = [];
        for (let index = 0; index < 5; index++)
          made.push((await apply(put(`${prefix}a`, `n${index}`))).revision);
        await until("events", () => log.lastRevision === made.at(-1));
        expect(log.state.get(`${prefix}a`)).toBe("n4");
        expect(log.state.get(`${prefix}leased`)).toBe("1");
        await store.revokeLease(lease);
        await until("end of lease", () => !log.state.has(`${prefix}leased`));
      }, 60_000);

    test("a closed store refuses calls and its watches are silent", async () => {
      const prefix = newPrefix();
      const other = harness.isShared ? await harness.open() : store;
      const log = new WatchLog();
      other.watch(prefix, log);
      await until("snapshot", () => log.snapshotCount === 1);
      await other.close();
      expect(await failure(other.get(`${prefix}a`))).toMatchObject({ code: "closed" });
      expect(() => other.watch(prefix, log)).toThrow("it was closed");
      if (!harness.isShared) store = await harness.open();
      await apply(put(`${prefix}a`, "1"));
      expect(log.events.length).toBe(0);
    });
  });
}
