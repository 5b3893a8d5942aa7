/** Orders for background work: kept, followed, and none lost when several give them at once. */
import { expect, test } from "bun:test";
import { type UpkeepOrders, UpkeepAdmin } from "../../../src/meta";
import { makeWorld } from "./support";

const KEY = "torus/cluster/upkeep";

test("UpkeepAdmin says that nothing was ordered before anybody ordered anything", async () => {
  const world = await makeWorld();
  const job = { paused: false, bytesPerSecond: null, requests: 0 };
  expect(await world.run(new UpkeepAdmin(world.context).get())).toEqual({
    rebalance: job,
    scrub: job,
    gc: { requests: 0 },
  });
});

test("UpkeepAdmin.change loses none of many changes at once, and followers see the last", async () => {
  const world = await makeWorld();
  const seen: UpkeepOrders[] = [];
  const unfollow = new UpkeepAdmin(world.context).follow(
    (orders) => seen.push(orders),
    (error) => {
      throw error;
    },
  );
  await world.run(
    Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        new UpkeepAdmin(world.context).change((orders) =>
          index % 2 === 0
            ? { ...orders, gc: { requests: orders.gc.requests + 1 } }
            : { ...orders, scrub: { ...orders.scrub, requests: orders.scrub.requests + 1, paused: true } },
        ),
      ),
    ),
  );
  const last = await world.run(new UpkeepAdmin(world.context).get());
  expect(last.gc.requests).toBe(6);
  expect(last.scrub).toEqual({ paused: true, bytesPerSecond: null, requests: 6 });
  await world.time.advance(1_000);
  expect(seen.at(-1)).toEqual(last);
  unfollow();
  await world.run(new UpkeepAdmin(world.context).change((orders) => ({ ...orders, gc: { requests: 99 } })));
  await world.time.advance(1_000);
  expect(seen.at(-1)).toEqual(last);
});

test("UpkeepAdmin names a damaged record and goes on following", async () => {
  const world = await makeWorld();
  const seen: UpkeepOrders[] = [];
  const damage: string[] = [];
  new UpkeepAdmin(world.context).follow(
    (orders) => seen.push(orders),
    (error) => damage.push(error.code),
  );
  const put = (text: string) =>
    world.run(
      world.store.transact({
        compares: [],
        operations: [{ kind: "put", key: KEY, value: new TextEncoder().encode(text) }],
      }),
    );
  const job = { paused: false, bytesPerSecond: null, requests: 0 };
  for (const text of [
    "nonsense",
    JSON.stringify({ format: 1, rebalance: job, scrub: job }),
    JSON.stringify({ format: 1, rebalance: { ...job, paused: "yes" }, scrub: job, gc: { requests: 0 } }),
    JSON.stringify({ format: 1, rebalance: { ...job, bytesPerSecond: 0 }, scrub: job, gc: { requests: 0 } }),
    JSON.stringify({ format: 1, rebalance: job, scrub: job, gc: { requests: -1 } }),
  ]) {
    await put(text);
    await world.time.advance(1_000);
    expect(await world.code(new UpkeepAdmin(world.context).get())).toBe("bad-record");
  }
  expect(damage).toEqual(Array.from({ length: 5 }, () => "bad-record"));
  await put(JSON.stringify({ format: 1, rebalance: job, scrub: job, gc: { requests: 7 } }));
  await world.time.advance(1_000);
  expect(seen.at(-1)?.gc.requests).toBe(7);
});
