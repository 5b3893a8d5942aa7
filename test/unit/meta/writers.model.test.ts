/**
 * Several writers fight for one volume over metadata that loses, delays and half-answers calls, cuts sides off and
 * lets leases end. An observer that sees every revision of the real store checks what must hold whatever happens:
 *
 * - no epoch is granted to two writers;
 * - a head is only ever put under the epoch in force at that moment (an old writer's commit is always refused);
 * - a commit reported as committed is in the history, under exactly that revision;
 * - while a writer may answer reads (its deadline is ahead), nobody else has been granted the volume.
 *
 * Every run is one seed on virtual time; a failure names it.
 */
import { expect, test } from "bun:test";
import { decodeEpoch, decodeHead } from "../../../src/meta/records/codec";
import { isMetaError, MetaRegistry, type MetaVolumeSession, VolumeAdmin } from "../../../src/meta";
import { type FaultRates, FaultyStore, NO_FAULTS } from "../../support/faulty-store";
import { SeededRandom } from "../../support/virtual-time";
import { headOf, LEASE_TIMES, makeWorld, type World } from "./support";

const ROUGH: FaultRates = { lost: 8, unanswered: 8, late: 8, delayMsMax: 500, slow: 15, lateMsMax: 40_000 };
const WRITERS = 3;
const RUN_MS = 20 * 60_000;
const HEAD_KEY = "torus/volumes/0000000000001/head";
const EPOCH_KEY = "torus/volumes/0000000000001/epoch";

interface Faults {
  grants: number;
  commits: number;
  refusals: number;
  losses: number;
}

class Observer {
  readonly #heads = new Map<number, { epoch: number; dataIndex: number }>();
  readonly problems: string[] = [];
  #epoch = 0;

  constructor(world: World) {
    world.store.watch("torus/volumes/", {
      onSnapshot: () => {},
      onEvents: (events, revision) => {
        for (const event of events) {
          if (event.kind !== "put") continue;
          if (event.entry.key === EPOCH_KEY) {
            const { epoch } = decodeEpoch(event.entry);
            if (epoch <= this.#epoch) this.problems.push(`epoch ${epoch} after ${this.#epoch}`);
            this.#epoch = epoch;
          }
          if (event.entry.key === HEAD_KEY) {
            const { head } = decodeHead(event.entry);
            if (head.epoch !== this.#epoch)
              this.problems.push(`head of epoch ${head.epoch} put while ${this.#epoch} was in force`);
            this.#heads.set(revision, head);
          }
        }
      },
    });
  }

  headAt(revision: number): { epoch: number; dataIndex: number } | undefined {
    return this.#heads.get(revision);
  }
}

class Writer {
  readonly store: FaultyStore;
  readonly registry: MetaRegistry;
  readonly #world: World;
  readonly #random: SeededRandom;
  readonly #observer: Observer;
  readonly #counts: Faults;
  session: MetaVolumeSession | undefined;
  #isStopped = false;

  constructor(
    world: World,
    store: FaultyStore,
    registry: MetaRegistry,
    random: SeededRandom,
    observer: Observer,
    counts: Faults,
  ) {
    this.#world = world;
    this.store = store;
    this.registry = registry;
    this.#random = random;
    this.#observer = observer;
    this.#counts = counts;
  }

  stop(): void {
    this.#isStopped = true;
  }

  async live(others: () => readonly Writer[], granted: Map<number, Writer>): Promise<void> {
    while (!this.#isStopped) {
      await this.#pause(5_000);
      try {
        await this.#life(others, granted);
      } catch (error) {
        if (!isMetaError(error)) throw error;
      }
      this.session = undefined;
    }
  }

  async #life(others: () => readonly Writer[], granted: Map<number, Writer>): Promise<void> {
    const session = await this.registry.openVolume("db", "w", { waitForLockMs: this.#random.below(60_000) });
    const { epoch } = session.grant;
    this.#counts.grants++;
    if (granted.has(epoch)) this.#observer.problems.push(`epoch ${epoch} granted twice`);
    granted.set(epoch, this);
    this.session = session;
    const nowMs = this.#world.time.nowMs();
    for (const other of others())
      if (other !== this && (other.session?.lease.deadlineMs() ?? 0) > nowMs)
        this.#observer.problems.push(`epoch ${epoch} granted while another may still answer reads`);
    let isLost = false;
    session.onLost(() => {
      isLost = true;
      this.#counts.losses++;
    });
    let { headRevision } = session.grant;
    for (let dataIndex = 1; !this.#isStopped; dataIndex++) {
      await this.#pause(8_000);
      const isLast = this.#random.chance(10);
      const head = headOf(epoch, dataIndex, !isLast);
      const outcome = await this.#untilKnown(() =>
        isLast ? session.commitDetach(headRevision, head) : session.commitHead(headRevision, head),
      );
      if (outcome === undefined || outcome.kind !== "committed") {
        this.#counts.refusals++;
        break;
      }
      this.#counts.commits++;
      headRevision = outcome.headRevision;
      const seen = this.#observer.headAt(headRevision);
      if (seen?.epoch !== epoch || seen.dataIndex !== dataIndex)
        this.#observer.problems.push(`commit ${epoch}/${dataIndex} is not at revision ${headRevision}`);
      if (isLast) return;
      // A crash: no word to anybody, no renewals.
      if (this.#random.chance(4)) return session.lease.stop();
    }
    if (!isLost) await session.abandon();
  }

  /** As the engine does: repeats until the outcome is known or it is told to end. */
  async #untilKnown<T>(call: () => Promise<T>): Promise<T | undefined> {
    while (!this.#isStopped)
      try {
        return await call();
      } catch (error) {
        if (!isMetaError(error) || !error.retryable) throw error;
      }
    return undefined;
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#world.time.schedule(1 + this.#random.below(ms), resolve));
  }
}

async function fight(seed: number): Promise<Faults> {
  const world = await makeWorld(seed);
  await world.run(world.volumes.create("db", 10 * 1024 * 1024));
  const random = new SeededRandom(seed + 1);
  const observer = new Observer(world);
  const counts: Faults = { grants: 0, commits: 0, refusals: 0, losses: 0 };
  const granted = new Map<number, Writer>();
  const writers: Writer[] = [];
  for (let index = 0; index < WRITERS; index++) {
    const store = new FaultyStore(world.store, world.time, random, NO_FAULTS);
    const context = { ...world.context, store };
    const registry = await world.run(MetaRegistry.start(context, { leaseTimes: LEASE_TIMES }));
    store.rates = ROUGH;
    writers.push(new Writer(world, store, registry, random, observer, counts));
  }
  const lives = writers.map((writer) => writer.live(() => writers, granted));
  const admin = new VolumeAdmin(world.context);
  const untilMs = world.time.nowMs() + RUN_MS;
  while (world.time.nowMs() < untilMs) {
    await world.time.advance(1_000 + random.below(20_000));
    const victim = writers[random.below(WRITERS)] as Writer;
    if (random.chance(20)) victim.store.isCutOff = !victim.store.isCutOff;
    if (random.chance(5)) await world.run(admin.forceUnlock("db"));
    expect(observer.problems).toEqual([]);
  }
  for (const writer of writers) {
    writer.store.isCutOff = false;
    writer.store.rates = NO_FAULTS;
    writer.stop();
  }
  await world.run(Promise.all(lives));
  await world.time.advance(120_000);
  // Once faults stop, the volume can be had again.
  const last = await world.run(world.registry.openVolume("db", "last"));
  expect(
    await world.run(last.commitHead(last.grant.headRevision, headOf(last.grant.epoch, 1))),
  ).toMatchObject({
    kind: "committed",
  });
  expect(observer.problems).toEqual([]);
  return counts;
}

const SEEDS = 30;

test("writers over faulty metadata never share an epoch, and an old writer's commit is always refused", async () => {
  const total: Faults = { grants: 0, commits: 0, refusals: 0, losses: 0 };
  for (let seed = 1; seed <= SEEDS; seed++)
    try {
      const counts = await fight(seed);
      for (const key of Object.keys(total) as (keyof Faults)[]) total[key] += counts[key];
    } catch (error) {
      throw new Error(`seed ${seed} failed`, { cause: error });
    }
  // The runs did hurt.
  expect(total.grants).toBeGreaterThan(SEEDS);
  expect(total.commits).toBeGreaterThan(SEEDS * 10);
  expect(total.refusals).toBeGreaterThan(0);
  expect(total.losses).toBeGreaterThan(0);
}, 120_000);
