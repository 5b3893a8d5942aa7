/**
 * What goes wrong, and when. Every run enables some kinds of faults with weights of its own (a run without
 * partitions finds other bugs than one full of them) and then draws one after the other. Each fault ends by itself;
 * the end of the safety phase ends them all.
 *
 * The budget: what destroys durable data (a wiped disk, one that comes back older, rot) strikes a peer only while
 * every block it holds is held intact by another, so every acknowledged write must survive all of it.
 */
import type { LogSet } from "../../src/engine";
import { type MetaContext, MetaError, RingAdmin, VolumeAdmin } from "../../src/meta";
import { nextRing, type RingChange, RingError } from "../../src/ring";
import type { SimClient } from "./actors/client";
import type { SimPeer } from "./actors/peer";
import type { SimSnapshots } from "./actors/snapshots";
import { canSpare, everythingIsElsewhere } from "./check/copies";
import type { DiskImage } from "./simulated-disk";
import { METADATA, type SimMetadata } from "./world/metadata";
import type { SimNetwork } from "./world/network";
import type { Prng } from "./world/prng";
import type { World } from "./world/world";

/** What of a simulation faults act on. */
export interface Stage {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  readonly peers: readonly SimPeer[];
  readonly clients: readonly SimClient[];
  readonly random: Prng;
  readonly context: MetaContext;
  readonly snapshots: SimSnapshots;
  readonly volumeName: string;
  /** The log sets of all heads. */
  logSets(): Promise<readonly LogSet[]>;
}

interface Kind {
  readonly name: string;
  inject(): void;
}

export class Faults {
  readonly counts: Record<string, number> = {};
  private readonly random: Prng;
  private readonly kinds: { readonly weight: number; readonly item: Kind }[];
  private readonly meanMs: number;
  private readonly images = new Map<SimPeer, DiskImage>();
  private stopped = false;

  constructor(private readonly simulation: Stage) {
    this.random = simulation.random.fork("faults");
    this.meanMs = this.random.pick([150, 600, 2_500]);
    const kinds = this.allKinds();
    // Swarm: most runs leave some kinds out, so that the others are not drowned.
    this.kinds = kinds.map((item) => ({
      item,
      weight: this.random.chance(0.35) ? 0 : 0.2 + this.random.fraction(),
    }));
    const { world } = simulation;
    const enabled = this.kinds.filter(({ weight }) => weight > 0).map(({ item }) => item.name);
    world.log("faults", `every ${this.meanMs} ms one of: ${enabled.join(", ")}`);
  }

  start(): void {
    if (this.stopped) return;
    this.simulation.world.schedule(this.random.delayMs(this.meanMs), undefined, () => {
      if (this.stopped) return;
      const kind = this.random.weighted(this.kinds);
      if (kind !== undefined) {
        this.count(kind.name);
        kind.inject();
      }
      this.start();
    });
  }

  stop(): void {
    this.stopped = true;
  }

  private allKinds(): Kind[] {
    return [
      { name: "peer crash", inject: () => this.crashPeer(this.random.pick(this.simulation.peers)) },
      { name: "all peers crash", inject: () => this.crashAllPeers() },
      { name: "peer pause", inject: () => this.pausePeer() },
      { name: "slow disk", inject: () => this.slowDisk() },
      {
        name: "failed sync",
        inject: () => this.random.pick(this.simulation.peers).disk.failNextSync("segment.sync"),
      },
      {
        name: "failed read",
        inject: () => this.failRead(),
      },
      { name: "disk wiped", inject: () => this.wipeDisk() },
      { name: "disk remembered", inject: () => this.rememberDisk() },
      { name: "disk rolled back", inject: () => this.rollBackDisk() },
      { name: "rot", inject: () => this.rot() },
      { name: "client crash", inject: () => this.crashClient() },
      { name: "client pause", inject: () => this.pauseClient() },
      { name: "wall clock jump", inject: () => this.jumpClock() },
      { name: "partition", inject: () => this.partition() },
      { name: "slow link", inject: () => this.slowLink() },
      { name: "bad network", inject: () => this.badNetwork() },
      { name: "metadata lossy", inject: () => this.badMetadata() },
      { name: "metadata stopped", inject: () => this.stopMetadata() },
      { name: "metadata compacted", inject: () => this.simulation.metadata.inner.compact() },
      { name: "metadata cut off", inject: () => this.cutOffMetadata() },
      { name: "force unlock", inject: () => this.forceUnlock() },
      { name: "snapshot", inject: () => this.administer(this.simulation.snapshots.take()) },
      { name: "snapshot deleted", inject: () => this.administer(this.simulation.snapshots.delete()) },
      { name: "snapshot read", inject: () => this.readSnapshot() },
      { name: "clone", inject: () => this.administer(this.simulation.snapshots.clone()) },
      { name: "ring change", inject: () => this.changeRing() },
    ];
  }

  private later(delayMs: number, callback: () => void): void {
    this.simulation.world.schedule(delayMs, undefined, () => {
      if (!this.stopped) callback();
    });
  }

  /** Mostly short, sometimes long enough for leases to run out. */
  private durationMs(): number {
    return this.random.chance(0.7) ? 50 + this.random.delayMs(1_500) : 2_000 + this.random.delayMs(15_000);
  }

  private log(text: string): void {
    this.simulation.world.log("faults", text);
  }

  private crashPeer(peer: SimPeer): void {
    peer.crash(this.random.chance(0.6));
    this.later(this.durationMs(), () => peer.boot());
  }

  private crashAllPeers(): void {
    this.log("all peers crash");
    const everything = this.random.chance(0.3);
    for (const peer of this.simulation.peers) this.crashPeer(peer);
    if (everything) for (const client of this.simulation.clients) this.restartClient(client);
  }

  private pausePeer(): void {
    const peer = this.random.pick(this.simulation.peers);
    if (!peer.alive || peer.process.paused) return;
    const { process } = peer;
    process.pause();
    this.log(`${peer.name} hangs`);
    this.later(this.durationMs(), () => process.resume());
  }

  private slowDisk(): void {
    const peer = this.random.pick(this.simulation.peers);
    peer.syncMs = this.random.pick([5, 50, 700]);
    this.log(`the disk of ${peer.name} takes ${peer.syncMs} ms to sync`);
    this.later(this.durationMs(), () => {
      peer.syncMs = 0.3;
    });
  }

  /**
   * Strikes a peer whose disk may lose what it has: whatever it is, another has it, and every log set can spare it
   * (with a width of W, W-1 of its disks may be gone).
   */
  private strikeExpendable(strike: (peer: SimPeer) => void): void {
    const { simulation } = this;
    const peer = this.random.pick(simulation.peers);
    if (!everythingIsElsewhere(peer, simulation.peers)) return;
    // A writer at width 1 has nothing to spare, and may not have told the metadata yet.
    if (simulation.clients.some(({ volume }) => volume !== undefined && volume.health.width < 2)) return;
    const consider = async (): Promise<void> => {
      const sets = await simulation.logSets();
      if (sets.every((set) => canSpare(set, peer, simulation.peers))) strike(peer);
    };
    this.administer(consider());
  }

  /** The next block read there, whenever that is, counts as lost: its copy is suspect from then on. */
  private failRead(): void {
    this.strikeExpendable((peer) => {
      peer.lostData = true;
      peer.disk.failNextRead("data.read");
    });
  }

  /** A new disk in the old machine: the peer comes back empty, under its old id. */
  private wipeDisk(): void {
    this.strikeExpendable((peer) => {
      this.count("wiped");
      peer.process.log("loses its disk");
      peer.crash(true);
      peer.disk.restore(new Map());
      this.images.delete(peer);
      this.later(this.durationMs(), () => peer.boot());
    });
  }

  private rememberDisk(): void {
    const peer = this.random.pick(this.simulation.peers);
    if (!peer.serving) return;
    this.images.set(peer, peer.disk.image());
  }

  /** The disk comes back as it was some time ago (a snapshot of a virtual machine, an old clone). */
  private rollBackDisk(): void {
    this.strikeExpendable((peer) => {
      const image = this.images.get(peer);
      if (image === undefined) return;
      this.count("rolled back");
      peer.process.log("comes back with an older disk");
      peer.crash(true);
      peer.disk.restore(image);
      this.later(this.durationMs(), () => peer.boot());
    });
  }

  /** Bits flip in the files of a peer, while it runs or while it is down. */
  private rot(): void {
    this.strikeExpendable((peer) => this.flipBits(peer));
  }

  private flipBits(peer: SimPeer): void {
    this.count("rotten");
    const down = this.random.chance(0.5);
    if (down) peer.crash(false);
    peer.lostData = true;
    // Not the state: a peer that lost its name is not this peer any more.
    const files = peer.disk.fileNames().filter((name) => name.startsWith("blocks"));
    if (files.length === 0) return;
    const flips = this.random.between(1, 8);
    for (let flip = 0; flip < flips; flip += 1) {
      const name = this.random.pick(files);
      peer.disk.flipBit(name, this.random.below(peer.disk.bytesOf(name).length), this.random.below(8));
    }
    this.log(`${flips} bits of the disk of ${peer.name} flip`);
    if (down) this.later(this.durationMs(), () => peer.boot());
  }

  private count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  private crashClient(): void {
    this.restartClient(this.random.pick(this.simulation.clients));
  }

  private restartClient(client: Stage["clients"][0]): void {
    client.crash();
    this.later(this.durationMs() / 4, () => client.boot());
  }

  private pauseClient(): void {
    const client = this.random.pick(this.simulation.clients);
    if (!client.alive || client.process.paused) return;
    const { process } = client;
    process.pause();
    this.log(`${client.name} is stopped`);
    this.later(this.durationMs(), () => {
      this.log(`${client.name} goes on`);
      process.resume();
    });
  }

  private jumpClock(): void {
    const { process } = this.random.pick([...this.simulation.clients, ...this.simulation.peers]);
    process.wallSkewMs = this.random.between(-10_000_000, 10_000_000);
    this.log(`the wall clock of ${process.name} is off by ${process.wallSkewMs} ms`);
  }

  private partition(): void {
    const { network, clients, peers } = this.simulation;
    const client = this.random.pick(clients).name;
    const cut = peers.filter(() => this.random.chance(0.4)).map((peer) => peer.name);
    const direction = this.random.pick(["both", "to", "from"] as const);
    if (cut.length === 0) return;
    this.log(`${client} is cut off from ${cut.join(", ")} (${direction})`);
    for (const peer of cut) {
      if (direction !== "from") network.block(client, peer);
      if (direction !== "to") network.block(peer, client);
    }
    this.later(this.durationMs(), () => {
      this.log(`${client} reaches ${cut.join(", ")} again`);
      for (const peer of cut) {
        network.unblock(client, peer);
        network.unblock(peer, client);
      }
    });
  }

  private slowLink(): void {
    const { network, clients, peers } = this.simulation;
    const client = this.random.pick(clients).name;
    const peer = this.random.pick(peers).name;
    const extraMs = this.random.pick([5, 100, 1_500]);
    const ends = this.random.chance(0.5) ? [client, peer] : [peer, client];
    network.slowDown(ends[0] as string, ends[1] as string, extraMs);
    this.log(`messages from ${ends[0]} to ${ends[1]} take ${extraMs} ms more`);
    this.later(this.durationMs(), () => network.slowDown(ends[0] as string, ends[1] as string, 0));
  }

  private badNetwork(): void {
    const { weather } = this.simulation.network;
    weather.latencyMs = this.random.pick([0.4, 3, 30]);
    weather.resetChance = this.random.pick([0, 0.01, 0.1]);
    weather.duplicateChance = this.random.pick([0, 0.05]);
    weather.corruptChance = this.random.pick([0, 0, 0.02]);
    this.log(`network: ${JSON.stringify(weather)}`);
    this.later(this.durationMs(), () =>
      Object.assign(weather, { latencyMs: 0.4, resetChance: 0, duplicateChance: 0, corruptChance: 0 }),
    );
  }

  private badMetadata(): void {
    const { weather } = this.simulation.metadata;
    weather.latencyMs = this.random.pick([1, 20, 300]);
    weather.lostReplyChance = this.random.pick([0, 0.1, 0.4]);
    weather.lostRequestChance = this.random.pick([0, 0.1, 0.3]);
    this.log(`metadata: ${JSON.stringify(weather)}`);
    this.later(this.durationMs(), () =>
      Object.assign(weather, { latencyMs: 1, lostReplyChance: 0, lostRequestChance: 0 }),
    );
  }

  private stopMetadata(): void {
    const { weather } = this.simulation.metadata;
    weather.stopped = true;
    this.log("the metadata service stops");
    this.later(this.durationMs(), () => {
      weather.stopped = false;
      this.log("the metadata service answers again");
    });
  }

  private cutOffMetadata(): void {
    const { network, clients, peers } = this.simulation;
    const machine = this.random.pick([...clients, ...peers]).name;
    const direction = this.random.pick(["both", "to", "from"] as const);
    this.log(`${machine} is cut off from the metadata (${direction})`);
    if (direction !== "from") network.block(machine, METADATA);
    if (direction !== "to") network.block(METADATA, machine);
    this.later(this.durationMs(), () => {
      network.unblock(machine, METADATA);
      network.unblock(METADATA, machine);
    });
  }

  private forceUnlock(): void {
    const { context, volumeName } = this.simulation;
    this.log("an administrator forces the lock open");
    new VolumeAdmin(context).forceUnlock(volumeName).then(
      (was) => this.log(`forced unlock ends: ${was ? "unlocked" : "was not locked"}`),
      (error: unknown) => this.expectMetaError("force unlock", error),
    );
  }

  private changeRing(): void {
    const rings = new RingAdmin(this.simulation.context);
    const change = async (): Promise<void> => {
      const current = await rings.current();
      const peer = this.random.pick(this.simulation.peers);
      const member = current.members.find((each) => each.peerId === peer.peerId);
      const changes: RingChange[] = [
        {
          kind: "set-replication",
          replication: this.random.between(1, Math.min(3, this.simulation.peers.length)),
        },
        { kind: "manual", type: this.random.pick(["table", "rendezvous", "ketama", "mod"] as const) },
      ];
      if (member === undefined)
        changes.push({ kind: "add", members: [{ peerId: peer.peerId, weight: 1, zone: "" }] });
      else if (member.weight === 0) changes.push({ kind: "undrain", peerId: peer.peerId, weight: 1 });
      // Somebody has to take blocks: an empty ring is refused to every open, rightly.
      else if (current.members.filter((each) => each.weight > 0).length > 1)
        changes.push({ kind: "drain", peerId: peer.peerId }, { kind: "remove", peerIds: [peer.peerId] });
      const next = nextRing(current, this.random.pick(changes));
      await rings.change(next);
      this.log(
        `ring version ${next.version}: ${next.type}, replication ${next.replication}, ${next.members.length} members`,
      );
    };
    change().catch((error: unknown) => {
      if (!(error instanceof RingError)) this.expectMetaError("ring change", error);
    });
  }

  private readSnapshot(): void {
    const { snapshots } = this.simulation;
    if (snapshots.list.length > 0)
      this.administer(snapshots.read(this.random.pick(snapshots.list)).then(() => undefined));
  }

  private administer(work: Promise<void>): void {
    work.catch((error: unknown) =>
      this.simulation.world.fail(error instanceof Error ? error : new Error(String(error))),
    );
  }

  private expectMetaError(what: string, error: unknown): void {
    if (error instanceof MetaError) this.log(`${what}: ${error.message}`);
    else this.simulation.world.fail(error instanceof Error ? error : new Error(String(error)));
  }
}
