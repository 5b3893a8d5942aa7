/**
 * What goes wrong, and when. Every run enables some kinds of faults with weights of its own (a run without
 * partitions finds other bugs than one full of them) and then draws one after the other. Each fault ends by itself;
 * the end of the safety phase ends them all.
 *
 * The budget: what destroys durable data (a wiped disk, one that comes back older, rot, a write that went astray)
 * strikes a peer only while every block it holds is held intact by another and every log set can spare its disk, so
 * every acknowledged write must survive all of it. Such moments are rare among faults, so they are waited for in a
 * calm: machines that are down are started, and nothing else goes wrong until it has struck.
 */
import type { PeerId } from "../../../src/base";
import type { SimPeer } from "../actors/peer";
import { canSpare, everythingIsElsewhere } from "../check/copies";
import type { Prng } from "../world/prng";
import { administrationFaults } from "./administration";
import { diskFaults } from "./disks";
import { crashForAWhile, machineFaults, restartClient } from "./machines";
import { networkFaults } from "./networks";
import type { FaultTools, Kind, Stage } from "./stage";

const CALM_MS_MAX = 3_500;
const CALM_POLL_MS = 50;
/** A writer at width 1 mostly stays so. */
const NARROW_MS_MAX = 700;
/** What needs a calm is drawn less often, or there would be little else than calm. */
const CALM_WEIGHT = 0.35;
/** How long a peer may go on with a store that may not open whole. */
const DOUBT_MS_MAX = 400;
/** How often writers crash together with the loss of a disk. */
const INSULT_CHANCE = 0.4;

type Strike = (peer: SimPeer) => undefined | Promise<boolean>;

function allKinds(tools: FaultTools): Kind[] {
  return [
    ...machineFaults(tools),
    ...diskFaults(tools),
    ...networkFaults(tools),
    ...administrationFaults(tools),
  ];
}

export interface FaultOptions {
  /** Kinds that are left out, to see which of them a failure needs. */
  readonly without?: readonly string[];
}

export class Faults {
  readonly counts: Record<string, number> = {};
  private readonly random: Prng;
  private readonly kinds: { readonly weight: number; readonly item: Kind }[];
  private readonly meanMs: number;
  private readonly shared: FaultTools;
  private stopped = false;
  private calm = false;
  private unfinished = 0;
  private stillUntilMs = 0;

  constructor(
    private readonly stage: Stage,
    options: FaultOptions = {},
  ) {
    this.random = stage.random.fork("faults");
    this.meanMs = this.random.pick([100, 300, 1_000]);
    this.shared = this.tools();
    const kinds = allKinds(this.shared);
    // Swarm: most runs leave some kinds out, so that the others are not drowned.
    this.kinds = kinds.map((item) => {
      const drawn = this.random.chance(0.35) ? 0 : 0.2 + this.random.fraction();
      const weight = item.needsCalm === true ? drawn * CALM_WEIGHT : drawn;
      return { item, weight: options.without?.includes(item.name) ? 0 : weight };
    });
    const enabled = this.kinds.filter(({ weight }) => weight > 0).map(({ item }) => item.name);
    stage.world.log("faults", `every ${this.meanMs} ms one of: ${enabled.join(", ")}`);
  }

  /** Names of all kinds there are. */
  get kindNames(): string[] {
    return this.kinds.map(({ item }) => item.name);
  }

  start(): void {
    if (this.stopped) return;
    this.stage.world.schedule(this.random.delayMs(this.meanMs), undefined, () => {
      if (this.stopped) return;
      if (!this.calm && this.stage.world.nowMs >= this.stillUntilMs) this.next();
      this.start();
    });
  }

  stop(): void {
    this.stopped = true;
  }

  /** Whether administrators are still at what they began. */
  get isBusy(): boolean {
    return this.unfinished > 0;
  }

  private next(): void {
    const kind = this.random.weighted(this.kinds);
    kind?.inject(() => {
      this.counts[kind.name] = (this.counts[kind.name] ?? 0) + 1;
    });
  }

  private tools(): FaultTools {
    const { stage, random } = this;
    const { world } = stage;
    return {
      ...{ stage, random },
      later: (delayMs, callback) =>
        void world.schedule(delayMs, undefined, () => {
          if (!this.stopped) callback();
        }),
      holdStill: (durationMs) => {
        this.stillUntilMs = Math.max(this.stillUntilMs, world.nowMs + durationMs);
      },
      durationMs: () => (random.chance(0.7) ? 50 + random.delayMs(1_500) : 2_000 + random.delayMs(15_000)),
      log: (text) => world.log("faults", text),
      administer: (work) => {
        this.unfinished += 1;
        work.then(
          () => {
            this.unfinished -= 1;
          },
          (error: unknown) => world.fail(error instanceof Error ? error : new Error(String(error))),
        );
      },
      strikeExpendable: (wanted, strike) => this.strikeExpendable(wanted, strike),
      canLose: (peer) => this.canLose(peer),
      settle: (peer) => this.settle(peer),
      pause: (durationMs) => this.pause(durationMs),
    };
  }

  private pause(durationMs: number): Promise<void> {
    return new Promise((resolve) => void this.stage.world.schedule(durationMs, undefined, resolve));
  }

  private strikeExpendable(wanted: (peer: SimPeer) => boolean, strike: Strike): void {
    const { stage } = this;
    const candidates = stage.peers.filter(wanted);
    if (candidates.length === 0 || stage.peers.length < 2) return;
    const peer = this.random.pick(candidates);
    this.calm = true;
    stage.network.healAll();
    stage.metadata.healAll();
    for (const each of stage.peers) {
      each.disk.clearFaults();
      each.recoverDisk();
      if (each.process.paused) each.process.resume();
      each.boot();
    }
    this.seek(peer, stage.world.nowMs + CALM_MS_MAX, strike).then(
      () => {
        this.calm = false;
      },
      (error: unknown) => stage.world.fail(error instanceof Error ? error : new Error(String(error))),
    );
  }

  private async seek(peer: SimPeer, untilMs: number, strike: Strike): Promise<void> {
    const { world } = this.stage;
    const giveUpMs = world.nowMs + NARROW_MS_MAX;
    while (world.nowMs < untilMs && !this.stopped) {
      if (this.isNarrow && world.nowMs > giveUpMs) return;
      if (this.canLose(peer)) {
        if ((await strike(peer)) !== false && !this.stopped) this.addInsult(peer);
        return;
      }
      await this.pause(CALM_POLL_MS);
    }
  }

  /**
   * A block may have been on its way when its copy here was lost unseen: it counts when another has it, so that must
   * come before anybody does with fewer copies. What the store reads at its next start may be damaged: blocks that
   * come until then may be lost with it.
   */
  private async settle(peer: SimPeer): Promise<void> {
    const { peers, clients, world } = this.stage;
    const writers = clients.map(({ volume }) => volume).filter((volume) => volume !== undefined);
    const isAnybodyLeft = (): boolean => clients.some(({ volume }) => volume && writers.includes(volume));
    const reopenMs = world.nowMs + this.random.below(DOUBT_MS_MAX);
    while (!this.stopped) {
      if (peer.isDoubtful && peer.serving && world.nowMs >= reopenMs) this.openAnew(peer);
      if (!peer.isDoubtful && (!isAnybodyLeft() || everythingIsElsewhere(peer, peers))) return;
      await this.pause(CALM_POLL_MS);
    }
  }

  private openAnew(peer: SimPeer): void {
    peer.crash(this.random.chance(0.5));
    peer.boot();
  }

  /**
   * A writer that may count on this peer alone, or an opener that is about to name it in a log set, must not do so while
   * nobody knows whether its store opens whole.
   */
  beforeCounting(peerId: PeerId): void {
    if (this.stopped) return;
    const peer = this.stage.peers.find((each) => each.peerId === peerId);
    if (peer?.isDoubtful !== true || !this.isNarrow) return;
    this.stage.world.schedule(0, undefined, () => {
      if (peer.isDoubtful && peer.serving) this.openAnew(peer);
    });
  }

  /** What was lost on one disk shows when the tail is adopted, best while another that has it is away. */
  private addInsult(struck: SimPeer): void {
    const { clients, peers } = this.stage;
    if (!this.random.chance(INSULT_CHANCE)) return;
    const others = peers.filter((peer) => peer !== struck);
    if (others.length > 0 && this.random.chance(0.6)) crashForAWhile(this.shared, this.random.pick(others));
    for (const client of clients) restartClient(this.shared, client);
  }

  /** A writer at width 1 has nothing to spare, and may not have told the metadata yet; nor has one that opens. */
  private get isNarrow(): boolean {
    return this.stage.clients.some(
      ({ volume, isOpening }) => isOpening || (volume !== undefined && volume.health.width < 2),
    );
  }

  private canLose(peer: SimPeer): boolean {
    const { stage } = this;
    const { peers } = stage;
    if (this.stopped || !peers.includes(peer) || this.isNarrow) return false;
    return everythingIsElsewhere(peer, peers) && stage.logSets().every((set) => canSpare(set, peer, peers));
  }
}
