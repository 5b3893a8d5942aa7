/**
 * One simulation: from a seed a cluster, clients that work on one volume, and a schedule of faults; first a safety
 * phase in which everything goes wrong that may, then a liveness phase in which faults stop, everybody comes back,
 * and the volume must open, hold what it must, and take writes.
 */
import { type ClusterId, type PeerId, parsePeerId } from "../../src/base";
import { BlockHeader } from "../../src/engine/block";
import { VOLUME_DEFAULTS, type VolumeOptions } from "../../src/engine/volume";
import {
  ClusterSettings,
  type KeyValue,
  type MetaContext,
  MetaRegistry,
  RingAdmin,
  VolumeAdmin,
} from "../../src/meta";
import { createRing, nextRing, type RingMember } from "../../src/ring";
import type { LogSet } from "../../src/engine";
import { decodeHead, keys } from "../../src/meta/records";
import { type ClientMachine, SimClient } from "./actors/client";
import { SimPeer } from "./actors/peer";
import { Regions } from "./actors/regions";
import { SimSnapshots } from "./actors/snapshots";
import { findUnconverged } from "./check/convergence";
import { ContentRegistry } from "./check/content-registry";
import { PageModel } from "./check/page-model";
import type { SimulationConfig } from "./config";
import { configFor, type Plan, Scene } from "./directed";
import { Faults } from "./faults";
import { METADATA, SimMetadata } from "./world/metadata";
import { SimNetwork } from "./world/network";
import { Prng } from "./world/prng";
import { SimProcess, Violation, World } from "./world/world";

const VOLUME = "disk";
const OTHER_VOLUME = "other";
const SETUP_MS = 60_000;
const PLAN_MS = 600_000;
/** After the last fault: leases run out, peers come back, tails are adopted. */
const CONVERGE_MS = 300_000;
/** Collection, rebalance and scrub after that: a collector looks anew after 10 minutes, whatever the metadata says. */
const SETTLE_MS = 1_300_000;
const KIB = 1024;
const MIB = 1024 * KIB;

const NEW_MEMBER = { weight: 1, zone: "" };

export interface SimulationOptions {
  readonly seed: number;
  readonly print?: (line: string) => void;
  /** Length of the safety phase in virtual time. */
  readonly faultMs?: number;
  /** Kinds of faults that are left out. */
  readonly without?: readonly string[];
  /** Instead of chance a directed schedule. */
  readonly plan?: Plan;
}

export interface SimulationResult {
  readonly seed: number;
  readonly traceHash: number;
  readonly traceLines: number;
  readonly eventCount: number;
  readonly virtualMs: number;
  readonly counts: Record<string, number>;
}

export class Simulation {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  readonly config: SimulationConfig;
  readonly model = new PageModel(VOLUME);
  /** All volumes, clones included. */
  readonly volumes: PageModel[] = [this.model, new PageModel(OTHER_VOLUME)];
  readonly regions = new Regions();
  readonly peers: SimPeer[] = [];
  readonly clients: SimClient[] = [];
  readonly random: Prng;
  readonly context: MetaContext;
  readonly volumeName = VOLUME;
  readonly volumeBytes = this.regions.sizeBytes;

  get leaseTtlMs(): number {
    return this.config.leaseTtlMs;
  }

  readonly snapshots: SimSnapshots;
  private readonly admin: SimProcess;
  private readonly newIds: Prng;
  private readonly retired: SimPeer[] = [];
  private clusterId: ClusterId | undefined;
  private peerCount = 0;
  private readonly registry: ContentRegistry;
  private readonly heads = new Map<string, LogSet>();
  private faults: Faults | undefined;

  constructor(private readonly options: SimulationOptions) {
    this.random = new Prng(options.seed);
    this.world = new World(this.random, options.print);
    this.network = new SimNetwork(this.world);
    this.metadata = new SimMetadata(this.world, this.network);
    const drawn = chooseConfig(this.random.fork("config"));
    this.config = options.plan === undefined ? drawn : configFor(options.plan, drawn);
    this.newIds = this.random.fork("new identities");
    this.admin = new SimProcess(this.world, "admin", this.random.fork("admin"));
    this.context = {
      store: this.metadata.connect(this.admin),
      clock: this.admin.clock,
      random: this.admin.random,
    };
    const { world, network, metadata, model, regions, context, volumes } = this;
    this.snapshots = new SimSnapshots({
      ...{ world, network, metadata, model, regions, context, volumes, volumeName: VOLUME },
      random: this.random.fork("snapshots"),
    });
    this.registry = new ContentRegistry(new BlockHeader());
    this.network.onPut = (_from, peer, put) => {
      this.registry.check(put);
      this.faults?.beforeCounting(peer);
    };
    this.network.onFence = (peer) => this.faults?.beforeCounting(peer);
    this.metadata.inner.watch(keys.volumesPrefix, {
      onSnapshot: (entries) => {
        for (const entry of entries) this.noteHead(entry);
      },
      onEvents: (events) => {
        for (const event of events)
          if (event.kind === "put") this.noteHead(event.entry);
          else this.heads.delete(event.key);
      },
    });
  }

  /** Names of all kinds of faults there are. */
  get faultKinds(): readonly string[] {
    return new Faults(this).kindNames;
  }

  /** Throws the Violation, or whatever production code threw. */
  run(): SimulationResult {
    this.world.log("world", `seed ${this.options.seed}: ${JSON.stringify(this.config)}`);
    this.setUp();
    const { plan } = this.options;
    if (plan === undefined) this.runFaults();
    else this.runPlan(plan);
    this.converge();
    return this.result();
  }

  private runFaults(): void {
    const { without } = this.options;
    this.faults = new Faults(this, without === undefined ? {} : { without });
    this.faults.start();
    const faultMs = this.options.faultMs ?? 8_000 + this.random.below(24_000);
    this.world.run(this.world.nowMs + faultMs, () => false);
    this.faults.stop();
  }

  private runPlan(plan: Plan): void {
    this.await(plan.name, () => plan.run(new Scene(this)), PLAN_MS);
    for (const client of this.clients) client.crash();
  }

  /** Faults are over: everybody is up, reachable and quick. */
  healAll(): void {
    this.world.log("world", "all faults end");
    this.network.healAll();
    this.metadata.healAll();
    for (const peer of this.peers) {
      peer.recoverDisk();
      peer.disk.clearFaults();
      if (peer.process.paused) peer.process.resume();
      peer.boot();
    }
    for (const client of this.clients) if (client.process.paused) client.process.resume();
  }

  /** The log sets of all heads as they are now. */
  logSets(): LogSet[] {
    return [...this.heads.values()];
  }

  private noteHead(entry: KeyValue): void {
    if (entry.key.endsWith("/head")) this.heads.set(entry.key, decodeHead(entry).head.log);
  }

  addPeer(peerId: PeerId = parsePeerId(this.newIds.uuid())): SimPeer {
    const { world, network, metadata, clusterId, config } = this;
    if (clusterId === undefined) throw new Error("there is no cluster yet");
    const { storeBytes, unitBytes, syncMs } = config;
    this.peerCount += 1;
    const machine = { world, network, metadata, clusterId, storeBytes, unitBytes, syncMs };
    const peer = new SimPeer(machine, `peer${this.peerCount}`, peerId, "");
    this.peers.push(peer);
    return peer;
  }

  retirePeer(peer: SimPeer): void {
    this.peers.splice(this.peers.indexOf(peer), 1);
    this.retired.push(peer);
  }

  /** As an operator does, until it is done: the ring without those machines, and their records forgotten. */
  async forgetRetired(): Promise<boolean> {
    const rings = new RingAdmin(this.context);
    const current = await rings.current();
    const peerIds = this.retired
      .map(({ peerId }) => peerId)
      .filter((peerId) => current.members.some((member) => member.peerId === peerId));
    if (peerIds.length === 0) return true;
    const stay = current.members.filter(({ peerId, weight }) => weight > 0 && !peerIds.includes(peerId));
    const heir = this.peers.find(({ peerId }) => !current.members.some((member) => member.peerId === peerId));
    // Somebody has to take blocks.
    if (stay.length === 0 && heir !== undefined)
      await rings.change(
        nextRing(current, { kind: "add", members: [{ ...NEW_MEMBER, peerId: heir.peerId }] }),
      );
    else if (stay.length > 0) {
      await rings.change(nextRing(current, { kind: "remove", peerIds }));
      return true;
    }
    return false;
  }

  private setUp(): void {
    const { peerCount, replication, ringType, clientCount } = this.config;
    const random = this.random.fork("identities");
    const ids = Array.from({ length: peerCount }, () => parsePeerId(random.uuid()));
    const members: RingMember[] = ids.map((peerId) => ({ ...NEW_MEMBER, peerId }));
    const clusterId = this.await("init", async () => {
      const ring = createRing({ type: ringType, replication, members });
      const settings = await new ClusterSettings(this.context).init({
        ...{ blockSizeBytes: 64 * KIB, blockSpec: "crc,base", ring },
      });
      return settings.clusterId;
    });
    this.clusterId = clusterId;
    for (const peerId of ids) this.addPeer(peerId);
    for (const peer of this.peers) peer.boot();
    this.until("peers serve", SETUP_MS, () => this.peers.every((peer) => peer.serving));
    for (const { name } of this.volumes)
      this.await("create volume", () => new VolumeAdmin(this.context).create(name, this.regions.sizeBytes));
    const directed = this.options.plan !== undefined;
    for (let index = 0; index < clientCount; index += 1)
      this.clients.push(new SimClient({ ...this.clientMachine(), directed }, `client${index + 1}`));
    for (const client of this.clients) client.boot();
  }

  private clientMachine(): ClientMachine {
    const { world, network, metadata, volumes, regions, config, snapshots } = this;
    const leaseTimes = { ttlMs: config.leaseTtlMs, marginMs: 1_000 };
    const { volumeOptions } = config;
    return { world, network, metadata, volumes, regions, leaseTimes, snapshots, volumeOptions };
  }

  private converge(): void {
    this.healAll();
    for (const client of this.clients) client.wanted = false;
    this.until("clients close their volumes", CONVERGE_MS, () => this.clients.every((each) => each.idle));
    this.until("administrators finish", CONVERGE_MS, () => this.faults?.isBusy !== true);
    this.until("peers serve again", CONVERGE_MS, () => this.peers.every((peer) => peer.serving));
    for (let isDone = false; !isDone; ) isDone = this.await("forget lost peers", () => this.forgetRetired());
    for (const model of this.volumes)
      this.verify({ ...this.clientMachine(), volumes: [model] }, `of ${model.name}`);
    for (const snapshot of this.snapshots.list)
      if (!this.await("read a snapshot", () => this.snapshots.read(snapshot)))
        throw new Violation("liveness", `snapshot ${snapshot.name} cannot be read after all faults ended`);
    this.awaitConvergence();
    this.world.log("world", `done: ${this.model.writeCount} writes, ${this.model.readCount} reads`);
  }

  /** Opens a volume on a machine of its own, reads all of it, writes, and detaches. */
  private verify(machine: ClientMachine, name: string): void {
    const verifier = new SimClient({ ...machine, scanOnly: true }, name);
    verifier.boot();
    this.until("the volume opens and is read", CONVERGE_MS, () => verifier.volume !== undefined);
    verifier.wanted = false;
    this.until("the volume is read and closed", CONVERGE_MS, () => verifier.counts.closes > 0);
    if (verifier.counts.scansComplete === 0)
      throw new Violation("liveness", "the volume opened but could not be read after all faults ended");
  }

  /** Invariants 6 and 7: copies where they belong, dead blocks gone, in bounded time. */
  private awaitConvergence(): void {
    let problem: string | undefined = "nothing was looked at yet";
    let looking = false;
    const look = async (): Promise<void> => {
      looking = true;
      const registry = await MetaRegistry.start(this.context);
      const view = await registry.collectionView();
      problem = await findUnconverged(this.peers, view, registry.cluster().ring);
      registry.close();
      looking = false;
    };
    let nextMs = 0;
    const isDone = (): boolean => {
      if (problem === undefined) return true;
      if (looking || this.world.nowMs < nextMs) return false;
      nextMs = this.world.nowMs + 2_000;
      look().catch((error: unknown) =>
        this.world.fail(error instanceof Error ? error : new Error(String(error))),
      );
      return false;
    };
    if (!this.world.run(this.world.nowMs + SETTLE_MS, isDone)) {
      for (const peer of this.peers) {
        const { rebalancer, collector, scrubber } = peer.upkeep ?? {};
        peer.process.log(`rebalance ${JSON.stringify(rebalancer?.status())}`);
        peer.process.log(`collection ${JSON.stringify(collector?.status())}`);
        peer.process.log(`scrub ${JSON.stringify(scrubber?.status())}`);
      }
      throw new Violation(
        "convergence",
        `not within ${SETTLE_MS / 1000} s after all faults ended: ${problem}`,
      );
    }
    this.world.log("world", "copies are where they belong");
  }

  private until(what: string, withinMs: number, isDone: () => boolean): void {
    if (this.world.run(this.world.nowMs + withinMs, isDone)) return;
    throw new Violation("liveness", `${what}: not within ${withinMs / 1000} s after all faults ended`);
  }

  /** Runs the world until a promise of the administrator's is settled. */
  private await<T>(what: string, start: () => Promise<T>, withinMs = SETUP_MS): T {
    let outcome: { readonly value: T } | { readonly error: unknown } | undefined;
    start().then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error };
      },
    );
    this.until(what, withinMs, () => outcome !== undefined);
    if (outcome !== undefined && "value" in outcome) return outcome.value;
    throw outcome?.error;
  }

  private result(): SimulationResult {
    const counts: Record<string, number> = {};
    const add = (prefix: string, from: Record<string, number>): void => {
      for (const [name, count] of Object.entries(from))
        counts[`${prefix}.${name}`] = (counts[`${prefix}.${name}`] ?? 0) + count;
    };
    add("network", this.network.counts);
    add(METADATA, this.metadata.counts);
    for (const peer of this.peers) {
      add("peer", peer.counts);
      add("disk", peer.disk.counts);
    }
    for (const client of this.clients) add("client", client.counts);
    if (this.faults) add("fault", this.faults.counts);
    add("snapshot", this.snapshots.counts);
    for (const { readCount, writeCount, flushCount } of this.volumes)
      add("model", { reads: readCount, writes: writeCount, flushes: flushCount });
    return {
      seed: this.options.seed,
      traceHash: this.world.trace.hash,
      traceLines: this.world.trace.lineCount,
      eventCount: this.world.eventCount,
      virtualMs: this.world.nowMs,
      counts,
    };
  }
}

function chooseConfig(random: Prng): SimulationConfig {
  const peerCount = random.pick([1, 2, 3, 3, 3, 4, 5]);
  const replication = Math.min(peerCount, random.pick([1, 2, 2, 2, 3, 3]));
  const writeLevel = random.pick(["all", "all", "all", "quorum", "one"] as const);
  const volumeOptions: Partial<VolumeOptions> = {
    writeLevel,
    readLevel: random.pick(["block", "seq", "spread"] as const),
    writeBackMs: random.pick([50, 300, 1_000]),
    sealEarlyBytes: random.pick([8 * KIB, 64 * KIB]),
    checkpointLogBytes: random.pick([64 * KIB, 512 * KIB, VOLUME_DEFAULTS.checkpointLogBytes]),
    checkpointIntervalMs: random.pick([500, 3_000, 30_000]),
    mapBytesMax: random.pick([0, 64 * KIB, VOLUME_DEFAULTS.mapBytesMax]),
    followAfterMs: random.pick([500, 5_000]),
    readAheadBytes: random.pick([0, 64 * KIB]),
    cleanDeadBytesMin: random.pick([32 * KIB, 256 * KIB, VOLUME_DEFAULTS.cleanDeadBytesMin]),
    // Its own draw: older seeds keep the rest of their story.
    paceBytesPerSecondMin: random
      .fork("pace")
      .pick([2 * KIB, ...Array<number>(3).fill(VOLUME_DEFAULTS.paceBytesPerSecondMin)]),
  };
  return {
    ...{ peerCount, replication, writeLevel, volumeOptions },
    ringType: random.pick(["table", "rendezvous", "ketama", "mod"] as const),
    clientCount: random.pick([1, 2, 2, 2, 3]),
    leaseTtlMs: random.pick([3_000, 6_000, 12_000]),
    storeBytes: random.chance(0.1) ? 6 * MIB : 64 * MIB,
    unitBytes: random.pick([512, 4096]),
    syncMs: random.pick([0.3, 3, 15]),
  };
}
