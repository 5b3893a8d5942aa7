/**
 * Administration over faulty metadata against a naive model: whatever answers get lost, delayed or arrive long
 * after, an operation that reports success has happened exactly once, one that reports a plain refusal has not
 * happened and was right to refuse, and only one that says it does not know leaves the outcome open.
 */
import { expect, test } from "bun:test";
import { isMetaError, MetaRegistry, SnapshotAdmin, VolumeAdmin } from "../../../src/meta";
import { keys } from "../../../src/meta/records/layout";
import { type FaultRates, FaultyStore } from "../../support/faulty-store";
import { SeededRandom } from "../../support/virtual-time";
import { makeWorld, MIB, type World } from "./support";

const ROUGH: FaultRates = {
  ...{ lost: 10, unanswered: 15, late: 10 },
  ...{ delayMsMax: 200, slow: 5, lateMsMax: 3_000 },
};
const NAMES = ["a", "b", "c", "d"];
const SNAPSHOTS = ["s", "t"];
const SEEDS = 25;
const STEPS = 60;

interface ModelVolume {
  sizeBytes: number;
  readonly snapshots: Map<string, number>;
}
type Model = Map<string, ModelVolume>;

/** What the store really holds, read without faults; fails on anything that does not fit together. */
async function reality(world: World): Promise<Model> {
  const [view, list, names] = await Promise.all([
    world.registry.collectionView(),
    world.volumes.list(),
    world.store.range(keys.namesPrefix),
  ]);
  expect([...view.damage, ...list.damage]).toEqual([]);
  expect(names.entries.map((entry) => entry.key.slice(keys.namesPrefix.length)).sort()).toEqual(
    list.volumes.map((volume) => volume.name).sort(),
  );
  const ids = list.volumes.map((volume) => volume.volumeId);
  expect(new Set(ids).size).toBe(ids.length);
  const model: Model = new Map();
  for (const volume of list.volumes) {
    expect(volume.head?.sizeBytes).toBe(volume.sizeBytes);
    const held = view.volumes.find((each) => each.volumeId === volume.volumeId);
    const snapshots = new Map(held?.snapshots.map(({ name, sizeBytes }) => [name, sizeBytes]));
    model.set(volume.name, { sizeBytes: volume.sizeBytes, snapshots });
  }
  return model;
}

interface Step {
  readonly text: string;
  run(volumes: VolumeAdmin, snapshots: SnapshotAdmin): Promise<unknown>;
  /** Changes the model and answers "ok", or answers the refusal's code and changes nothing. */
  apply(model: Model): string;
}

function randomStep(random: SeededRandom): Step {
  const pick = (list: readonly string[]) => list[random.below(list.length)] as string;
  const [name, other, snapshot] = [pick(NAMES), pick(NAMES), pick(SNAPSHOTS)];
  const sizeBytes = (1 + random.below(4)) * MIB;
  switch (random.below(7)) {
    case 0:
    case 1:
      return {
        text: `create ${name}`,
        run: (volumes) => volumes.create(name, sizeBytes),
        apply: (model) => {
          if (model.has(name)) return "volume-exists";
          model.set(name, { sizeBytes, snapshots: new Map() });
          return "ok";
        },
      };
    case 2:
      return {
        text: `delete ${name}`,
        run: (volumes) => volumes.delete(name, { withSnapshots: true }),
        apply: (model) => (model.delete(name) ? "ok" : "no-such-volume"),
      };
    case 3:
      return {
        text: `rename ${name} ${other}`,
        run: (volumes) => volumes.rename(name, other),
        apply: (model) => {
          if (model.has(other)) return "volume-exists";
          const volume = model.get(name);
          if (volume === undefined) return "no-such-volume";
          model.delete(name);
          model.set(other, volume);
          return "ok";
        },
      };
    case 4:
      return {
        text: `snapshot ${name}@${snapshot}`,
        run: (_, snapshots) => snapshots.create(name, snapshot),
        apply: (model) => {
          const volume = model.get(name);
          if (volume === undefined) return "no-such-volume";
          if (volume.snapshots.has(snapshot)) return "snapshot-exists";
          volume.snapshots.set(snapshot, volume.sizeBytes);
          return "ok";
        },
      };
    case 5:
      return {
        text: `clone ${name}@${snapshot} ${other}`,
        run: (_, snapshots) => snapshots.clone(name, snapshot, other),
        apply: (model) => {
          if (model.has(other)) return "volume-exists";
          const volume = model.get(name);
          if (volume === undefined) return "no-such-volume";
          const size = volume.snapshots.get(snapshot);
          if (size === undefined) return "no-such-snapshot";
          model.set(other, { sizeBytes: size, snapshots: new Map() });
          return "ok";
        },
      };
    default:
      return {
        text: `resize ${name} ${sizeBytes}`,
        run: (volumes) => volumes.resize(name, sizeBytes),
        apply: (model) => {
          const volume = model.get(name);
          if (volume === undefined) return "no-such-volume";
          if (sizeBytes < volume.sizeBytes) return "bad-size";
          volume.sizeBytes = sizeBytes;
          return "ok";
        },
      };
  }
}

test("administration over faulty metadata does each thing once, or says that it does not know", async () => {
  const counts = { ok: 0, refused: 0, open: 0, faults: 0 };
  for (let seed = 1; seed <= SEEDS; seed++) {
    const world = await makeWorld(seed);
    const random = new SeededRandom(seed * 7);
    const store = new FaultyStore(world.store, world.time, random, ROUGH);
    const context = { ...world.context, store };
    const [volumes, snapshots] = [new VolumeAdmin(context), new SnapshotAdmin(context)];
    let model: Model = new Map();
    for (let index = 0; index < STEPS; index++) {
      const step = randomStep(random);
      const trace = `seed ${seed} step ${index}: ${step.text}`;
      let code = "ok";
      try {
        await world.run(step.run(volumes, snapshots));
      } catch (error) {
        if (!isMetaError(error)) throw error;
        code = error.retryable ? "open" : error.code;
      }
      // Calls that were given up may still arrive; after this nothing is under way.
      await world.time.advance(ROUGH.lateMsMax + 10_000);
      const actual = await world.run(reality(world));
      if (code === "open") {
        counts.open++;
        model = actual;
        continue;
      }
      expect(`${trace}: ${step.apply(model)}`).toBe(`${trace}: ${code}`);
      expect([trace, [...actual].sort()]).toEqual([trace, [...model].sort()]);
      if (code === "ok") counts.ok++;
      else counts.refused++;
    }
    counts.faults += store.counts.lost + store.counts.unanswered + store.counts.late;
  }
  expect(counts.ok).toBeGreaterThan(SEEDS * 10);
  expect(counts.refused).toBeGreaterThan(SEEDS * 5);
  expect(counts.faults).toBeGreaterThan(SEEDS * STEPS);
}, 120_000);

const SLOW: FaultRates = {
  ...{ lost: 0, unanswered: 0, late: 0 },
  ...{ delayMsMax: 100, slow: 20, lateMsMax: 0 },
};

test("administrators racing on the same names leave nothing half done, and no id twice", async () => {
  const counts = new Map<string, number>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const world = await makeWorld(seed);
    const random = new SeededRandom(seed * 13);
    const store = new FaultyStore(world.store, world.time, random, SLOW);
    const context = { ...world.context, store };
    const registry = await world.run(MetaRegistry.start(context));
    const [volumes, snapshots] = [new VolumeAdmin(context), new SnapshotAdmin(context)];
    const created: number[] = [];
    const actions: Record<string, () => Promise<unknown>> = {
      create: async () => {
        created.push((await volumes.create("a", MIB)).volumeId);
      },
      createOther: async () => {
        created.push((await volumes.create(`n${random.nextU32()}`, MIB)).volumeId);
      },
      delete: () => volumes.delete("a", { withSnapshots: true }),
      rename: () => volumes.rename("a", "b"),
      renameBack: () => volumes.rename("b", "a"),
      snapshot: () => snapshots.create("a", "s", { timeoutMs: 2_000 }),
      deleteSnapshot: () => snapshots.delete("a", "s"),
      clone: async () => {
        created.push((await snapshots.clone("a", "s", `c${random.nextU32()}`)).volumeId);
      },
      read: async () => {
        const session = await registry.openSnapshot("a", "s", "reader");
        // While it is open, the snapshot is there.
        await world.time.pause(random.below(2_000));
        const key = keys.snapshot(session.volume.volumeId, "s");
        expect(session.lease.lostReason ?? (await world.store.get(key))).toBeDefined();
        expect(session.lease.lostReason).toBeUndefined();
        await session.close();
      },
      write: async () => {
        const session = await registry.openVolume("a", "writer");
        const { epoch, head, headRevision } = session.grant;
        await world.time.pause(random.below(1_000));
        const outcome = await session.commitDetach(headRevision, { ...head, epoch });
        expect(outcome.kind).toBe("committed");
      },
    };
    const names = Object.keys(actions);
    const racers = Array.from({ length: 4 }, async () => {
      for (let round = 0; round < 25; round++) {
        const name = names[random.below(names.length)] as string;
        try {
          await (actions[name] as () => Promise<unknown>)();
          counts.set(name, (counts.get(name) ?? 0) + 1);
        } catch (error) {
          if (!isMetaError(error)) throw new Error(`seed ${seed}: ${name}`, { cause: error });
        }
      }
    });
    await world.run(Promise.all(racers));
    await world.time.advance(60_000);
    expect(new Set(created).size).toBe(created.length);
    await world.run(reality(world));
  }
  for (const name of ["create", "delete", "rename", "snapshot", "clone", "read", "write"])
    expect([name, (counts.get(name) ?? 0) > 0]).toEqual([name, true]);
}, 120_000);
