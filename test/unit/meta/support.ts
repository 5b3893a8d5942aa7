/** A small metadata world on virtual time: one memory store and everything on top of it. */
import { type Incarnation, type PeerId, parseIncarnation, parsePeerId } from "../../../src/base";
import type { Head } from "../../../src/engine/head";
import {
  ClusterSettings,
  type EmbeddedStore,
  type LeaseTimes,
  type MetaContext,
  MetaRegistry,
  openMemoryStore,
  PeerDirectory,
  RingAdmin,
  SnapshotAdmin,
  VolumeAdmin,
} from "../../../src/meta";
import { SeededRandom, VirtualTime } from "../../support/virtual-time";

export const LEASE_TIMES: LeaseTimes = { ttlMs: 30_000, marginMs: 3_000 };
export const MIB = 1024 * 1024;

export const peerId = (n: number): PeerId =>
  parsePeerId(`00000000-0000-4000-8000-${String(n).padStart(12, "0")}`);
export const incarnation = (n: number): Incarnation => parseIncarnation(n.toString(16).padStart(16, "0"));

export interface World {
  readonly time: VirtualTime;
  readonly store: EmbeddedStore;
  readonly context: MetaContext;
  readonly settings: ClusterSettings;
  readonly volumes: VolumeAdmin;
  readonly snapshots: SnapshotAdmin;
  readonly peers: PeerDirectory;
  readonly rings: RingAdmin;
  readonly registry: MetaRegistry;
  /** Runs virtual time until it settles. */
  run<T>(promise: Promise<T>): Promise<T>;
  /** The MetaError code it fails with, or "ok". */
  code(promise: Promise<unknown>): Promise<string>;
  message(promise: Promise<unknown>): Promise<string>;
}

export async function makeWorld(seed = 1): Promise<World> {
  const time = new VirtualTime();
  const random = new SeededRandom(seed);
  const store = openMemoryStore(time, random);
  const context = { store, clock: time, random };
  const settings = new ClusterSettings(context);
  const run = <T>(promise: Promise<T>) => time.until(promise);
  await run(
    settings.init({
      blockSizeBytes: 512 * 1024,
      blockSpec: "crc,base",
      ring: { type: "rendezvous", replication: 2, members: [] },
    }),
  );
  const registry = await run(MetaRegistry.start(context, { leaseTimes: LEASE_TIMES }));
  const failure = async (promise: Promise<unknown>) => {
    try {
      await run(promise);
      return undefined;
    } catch (error) {
      return error as Error & { code: string };
    }
  };
  return {
    ...{ time, store, context, settings, registry, run },
    volumes: new VolumeAdmin(context),
    snapshots: new SnapshotAdmin(context),
    peers: new PeerDirectory(context),
    rings: new RingAdmin(context),
    code: async (promise) => (await failure(promise))?.code ?? "ok",
    message: async (promise) => (await failure(promise))?.message ?? "ok",
  };
}

/** A head as a writer of `epoch` would put it. */
export function headOf(epoch: number, dataIndex: number, tail = true, sizeBytes = 10 * MIB): Head {
  return {
    root: null,
    ...{ epoch, dataIndex, inodeIndex: 0, sizeBytes },
    log: tail
      ? { ringVersion: 1, members: [{ peerId: peerId(1), incarnation: incarnation(1) }], width: 1 }
      : { ringVersion: 0, members: [], width: 0 },
  };
}
