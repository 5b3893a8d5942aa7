/**
 * Moves blocks to where the ring wants them: every peer walks its own blocks after a change of ring or peers, sends
 * what a desired peer lacks and drops what it need not hold (DESIGN section 5, R8). Nothing is remembered on disk: a
 * pass after a restart asks the peers and finds what is done already. Work follows the change: a block whose peers are
 * the same as when everything was settled costs one table look-up.
 */
import type { BlockRef } from "../../base";
import { type BlockListing, keepListing } from "../ports";
import {
  BlockAccess,
  BlockAges,
  Pacer,
  UpkeepError,
  type UpkeepPorts,
  walkLocalBlocks,
  WorkerLoop,
} from "../upkeep";
import { type BatchContext, type BatchOutcome, newOutcome, processBatch } from "./batch";
import { type RebalanceStatus, SpeedMeter } from "./progress";
import { BlockSelector, DesiredPeers, PeerKnowledge, PlacementMemory } from "./targets";

export interface RebalanceOptions {
  readonly bytesPerSecond: number;
  /** At least so long between walks when everything is settled; they find blocks that writers could not place. */
  readonly sweepMs?: number;
  readonly isClientBusy?: () => boolean;
  /** Runs before blocks are sent, so that dead ones are not (collection). */
  readonly collectFirst?: (signal: AbortSignal) => Promise<void>;
  /** Blocks that are dead and kept for a while: no copy of them is made. */
  readonly isDead?: (ref: BlockRef) => boolean;
  /** Two contents under one name: told once a pass. */
  readonly onConflict?: (text: string) => void;
}

const SWEEP_MS = 20_000;
/** While there are blocks that came since the last walks and were not asked about. */
const SWEEP_MS_YOUNG = 5_000;
const SWEEP_MS_MAX = 3_600_000;
const RETRY_MS_MIN = 2_000;
const RETRY_MS_MAX = 60_000;
/** Looking takes at most this share of the time, however often it is done. */
const LOOK_SHARE = 0.05;
const RETRY_MS_QUICK = 5_000;
const BATCH_BLOCKS = 128;
/** So long without any headway by those whose turn it is, this peer sends itself. Their own walks are less apart. */
const PATIENCE_MS = 30_000;

export class Rebalancer {
  private readonly access: BlockAccess;
  private readonly pacer: Pacer;
  private readonly loop: WorkerLoop;
  private readonly speed: SpeedMeter;
  private readonly knowledge = new PeerKnowledge();
  private readonly memory: PlacementMemory;
  private desired: DesiredPeers;
  private settled: DesiredPeers | undefined;
  private readonly unsubscribe: () => void;

  private isMoving = false;
  private blocksLeft = 0;
  private bytesLeft = 0;
  private blocksMoved = 0;
  private bytesMoved = 0;
  private blocksDropped = 0;
  private blocksWaiting = 0;
  private blocksSurplus = 0;
  /** Of which the last walk found that they have to be looked at. */
  private surplusLeft = 0;
  private blocksYoung = 0;
  private blocksHeld: number | undefined;
  /** Since when as many blocks wait for others; undefined while none does. */
  private standsStillSinceMs: number | undefined;
  private waitingForOthersBefore = 0;
  /** The last walk met blocks that are too new to be asked about. */
  private isExpecting = false;
  private retries = 0;

  constructor(
    private readonly ports: UpkeepPorts,
    private readonly options: RebalanceOptions,
  ) {
    const { clock, registry } = ports;
    this.access = new BlockAccess(ports);
    this.pacer = new Pacer({ clock, ...options });
    this.speed = new SpeedMeter(clock);
    this.memory = new PlacementMemory(clock);
    this.desired = new DesiredPeers(this.access.cluster.ring());
    this.loop = new WorkerLoop({ clock, round: (signal) => this.round(signal) });
    this.unsubscribe = registry.onClusterChange((view) => {
      const peersChanged = this.knowledge.update(view);
      if (peersChanged || view.ring.version !== this.desired.ring.spec.version) {
        this.retries = 0;
        this.loop.wake();
      }
    });
  }

  start(): void {
    this.loop.start();
  }

  async stop(): Promise<void> {
    this.unsubscribe();
    await this.loop.stop();
    this.access.close();
  }

  pause(): void {
    this.pacer.pause();
  }

  resume(): void {
    this.pacer.resume();
    this.loop.wake();
  }

  setRate(bytesPerSecond: number): void {
    this.pacer.setRate(bytesPerSecond);
  }

  /** Looks at everything again now: after an operator's word, or when copies were lost. */
  recheck(): void {
    this.settled = undefined;
    this.loop.wake();
  }

  status(): RebalanceStatus {
    const bytesPerSecond = Math.round(this.speed.bytesPerSecond());
    return {
      state: this.state(),
      ringVersion: this.desired.ring.spec.version,
      blocksLeft: this.blocksLeft,
      bytesLeft: this.bytesLeft,
      blocksMoved: this.blocksMoved,
      bytesMoved: this.bytesMoved,
      blocksDropped: this.blocksDropped,
      bytesPerSecond,
      secondsLeft: this.secondsLeft(bytesPerSecond),
      blocksWaiting: this.blocksWaiting,
      blocksSurplus: this.blocksSurplus,
      blocksYoung: this.blocksYoung,
      rateBytesPerSecond: this.pacer.bytesPerSecond,
      isSafeToRemove: !this.isPlacing() && this.blocksHeld === 0,
      lastError: this.loop.lastError ?? null,
    };
  }

  private state(): RebalanceStatus["state"] {
    if (this.loop.isStopped) return "stopped";
    if (this.pacer.isPaused) return "paused";
    if (this.isMoving) return "moving";
    return this.blocksWaiting > 0 || this.loop.lastError !== undefined ? "waiting" : "idle";
  }

  private secondsLeft(bytesPerSecond: number): number | null {
    if (this.bytesLeft === 0) return 0;
    return bytesPerSecond > 0 ? Math.ceil(this.bytesLeft / bytesPerSecond) : null;
  }

  /** This peer has weight in the ring. */
  private isPlacing(): boolean {
    const { peerId } = this.ports.local.identity;
    return this.desired.ring.spec.members.some((member) => member.peerId === peerId && member.weight > 0);
  }

  private async round(signal: AbortSignal): Promise<number> {
    const ring = this.access.cluster.ring();
    if (ring !== this.desired.ring) this.desired = new DesiredPeers(ring);
    this.knowledge.update(this.access.cluster.view);
    await this.ports.local.adoptRingVersion(ring.spec.version);
    try {
      return await this.pass(signal);
    } catch (error) {
      if (error instanceof UpkeepError && error.code === "superseded") return 0;
      throw error;
    } finally {
      this.isMoving = false;
      this.blocksLeft = 0;
      this.bytesLeft = 0;
    }
  }

  private async pass(signal: AbortSignal): Promise<number> {
    const { desired } = this;
    const startedMs = this.ports.clock.nowMs();
    const openBefore = this.knowledge.openPeers;
    const selector = new BlockSelector(
      this.ports.local.identity.peerId,
      desired,
      this.settled,
      this.knowledge,
      this.memory,
    );
    this.memory.turn();
    await this.survey(selector, signal);
    const surveyMs = this.ports.clock.nowMs() - startedMs;
    const outcome = newOutcome();
    if (this.blocksLeft > 0) await this.move(selector, outcome, signal);
    for (const conflict of outcome.conflicts) this.options.onConflict?.(conflict);
    // From here on a peer is open only for what this pass left undone, or if it came back meanwhile.
    if (this.isCurrent(desired)) {
      this.knowledge.settle(openBefore);
      for (const peer of outcome.openPeers) this.knowledge.markOpen(peer);
      this.settled = desired;
    }
    const passMs = this.ports.clock.nowMs() - startedMs;
    return this.waitAfter(outcome, surveyMs, passMs);
  }

  /** Counts what is to be looked at, so that progress has an end to be measured by. */
  private async survey(selector: BlockSelector, signal: AbortSignal): Promise<void> {
    let [held, surplus, surplusLeft, left, leftBytes] = [0, 0, 0, 0, 0];
    this.isExpecting = false;
    await walkLocalBlocks(this.ports, signal, ({ ref, lengthBytes }) => {
      const mustLook = selector.select(ref);
      const { isMine } = selector;
      if (this.memory.see(ref)) this.isExpecting = true;
      held++;
      if (!isMine) surplus++;
      if (!mustLook) return;
      left++;
      if (!isMine) surplusLeft++;
      leftBytes += lengthBytes;
    });
    this.blocksHeld = held;
    this.blocksSurplus = surplus;
    this.surplusLeft = surplusLeft;
    this.blocksLeft = left;
    this.bytesLeft = leftBytes;
  }

  private async move(selector: BlockSelector, outcome: BatchOutcome, signal: AbortSignal): Promise<void> {
    const { desired } = this;
    this.isMoving = true;
    await this.options.collectFirst?.(signal);
    const context: BatchContext = {
      self: this.ports.local.identity.peerId,
      access: this.access,
      local: this.ports.local,
      transport: this.ports.transport,
      pacer: this.pacer,
      desired,
      knowledge: this.knowledge,
      ages: new BlockAges(await this.ports.registry.collectionView()),
      signal,
      sendAll: this.isOutOfPatience(),
      isDead: this.options.isDead ?? (() => false),
      isCurrent: () => this.isCurrent(desired),
      onMoved: (bytes) => {
        this.blocksMoved++;
        this.bytesMoved += bytes;
        this.speed.add(bytes);
      },
      onDropped: (blocks) => {
        this.blocksDropped += blocks;
      },
      onPlaced: (ref) => this.memory.markPlaced(ref),
    };
    const found: BlockListing[] = [];
    const process = async (countMin: number) => {
      while (found.length >= countMin)
        await this.processCounted(context, found.splice(0, BATCH_BLOCKS), outcome);
    };
    await walkLocalBlocks(
      this.ports,
      signal,
      (listing) => {
        if (selector.select(listing.ref) && !context.ages.isDeleted(listing.ref.volumeId))
          found.push(keepListing(listing));
      },
      () => process(BATCH_BLOCKS),
    );
    await process(1);
  }

  private async processCounted(
    context: BatchContext,
    batch: readonly BlockListing[],
    outcome: BatchOutcome,
  ): Promise<void> {
    if (!context.isCurrent())
      throw new UpkeepError(
        "superseded",
        "Cannot finish the rebalance pass: the ring changed, it starts again",
      );
    const movedBytesBefore = outcome.movedBytes;
    await processBatch(context, batch, outcome);
    const bytes = batch.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    // What was sent is counted already; looking at the rest is work done too.
    this.speed.add(Math.max(0, bytes - (outcome.movedBytes - movedBytesBefore)));
    this.blocksLeft = Math.max(0, this.blocksLeft - batch.length);
    this.bytesLeft = Math.max(0, this.bytesLeft - bytes);
  }

  private isOutOfPatience(): boolean {
    const { standsStillSinceMs } = this;
    return standsStillSinceMs !== undefined && this.ports.clock.nowMs() - standsStillSinceMs >= PATIENCE_MS;
  }

  /** Another's turn that never comes must not keep a block from its place for ever. */
  private noteWaitingForOthers(count: number): void {
    if (count === 0) this.standsStillSinceMs = undefined;
    else if (count < this.waitingForOthersBefore || this.standsStillSinceMs === undefined)
      this.standsStillSinceMs = this.ports.clock.nowMs();
    this.waitingForOthersBefore = count;
  }

  private isCurrent(desired: DesiredPeers): boolean {
    return this.access.cluster.view.ring.version === desired.ring.spec.version;
  }

  private waitAfter(outcome: BatchOutcome, surveyMs: number, passMs: number): number {
    const { sweepMs: sweepMsMin = SWEEP_MS } = this.options;
    const wantedMs = this.isExpecting ? Math.min(sweepMsMin, SWEEP_MS_YOUNG) : sweepMsMin;
    const sweepMs = Math.min(SWEEP_MS_MAX, Math.max(wantedMs, surveyMs / LOOK_SHARE));
    this.blocksWaiting = outcome.waiting;
    this.blocksYoung = outcome.young;
    this.noteWaitingForOthers(outcome.waitingForOthers);
    if (outcome.moved > 0 || outcome.dropped > 0) this.retries = 0;
    if (outcome.dropped > 0) this.blocksHeld = undefined;
    // What was dropped just now is counted by another walk at once: a drained peer says soon that it is empty.
    if (outcome.waiting + outcome.young === 0 && outcome.dropped > 0) return 0;
    if (outcome.waiting === 0) {
      this.retries = 0;
      // Needless copies that did not wait were collected meanwhile, or their volumes' heads are about to pass them.
      const soonMs = outcome.young > 0 ? RETRY_MS_QUICK : RETRY_MS_MIN;
      return this.surplusLeft > 0 ? Math.min(sweepMs, Math.max(soonMs, surveyMs / LOOK_SHARE)) : sweepMs;
    }
    // A pass that moved something took the time its pace asks for; one that did not only asked and waited.
    const lookMs = outcome.moved > 0 || outcome.dropped > 0 ? surveyMs : passMs;
    const retryMsMax = Math.min(RETRY_MS_MAX, Math.max(RETRY_MS_QUICK, lookMs / LOOK_SHARE));
    return Math.min(sweepMs, retryMsMax, RETRY_MS_MIN * 2 ** this.retries++);
  }
}
