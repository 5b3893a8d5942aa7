/**
 * Reads every block of this peer and checks it, in the background and at a limited rate; what rotted is rewritten from
 * a good copy of another peer and checked again. It runs when its time has come, or when asked; it remembers where it
 * was, so that a restart does not begin anew. The store's own records come first: rot in them would be found by the next
 * start, which would refuse, while the store that serves still knows all that was in them.
 *
 * A bad copy that could not be mended is looked at again every half minute: the peer with a good copy may have come
 * back, or the block was dead (which only a collection finds out) and has been taken away.
 */
import { type BlockRef, formatBlockRef } from "../../base";
import { type BlockListing, keepListing, StorageStatus } from "../ports";
import {
  BlockAccess,
  BlockAges,
  Pacer,
  UpkeepError,
  type UpkeepPorts,
  walkLocalBlocks,
  WorkerLoop,
} from "../upkeep";
import {
  decodeProgress,
  encodeProgress,
  partCount,
  partOf,
  type ScrubProgress,
  type ScrubProgressStore,
} from "./progress";

export interface ScrubOptions {
  readonly bytesPerSecond: number;
  /** From the end of one scrub to the start of the next; 0: only when asked. */
  readonly intervalMs: number;
  readonly progress: ScrubProgressStore;
  readonly isClientBusy?: () => boolean;
  /** Told of every bad copy, repaired or not. */
  readonly onBadCopy?: (ref: BlockRef, repaired: boolean) => void;
  /** Told of rot in the store's own records, which are being written anew. */
  readonly onBadRecords?: (problem: string) => void;
}

export interface ScrubStatus {
  readonly state: "idle" | "running" | "paused" | "stopped";
  readonly blocksChecked: number;
  readonly bytesChecked: number;
  /** Of this scrub, by the store's count of blocks; null before it is known. */
  readonly blocksLeft: number | null;
  readonly secondsLeft: number | null;
  readonly blocksCorrupt: number;
  readonly blocksRepaired: number;
  /** Bad copies of which no good one was found, at most UNREPAIRED_MAX of them. */
  readonly unrepaired: readonly string[];
  readonly startedWallMs: number;
  readonly finishedWallMs: number;
  readonly rateBytesPerSecond: number;
  readonly lastError: string | null;
}

/** Blocks checked by one call: small, so that reads and writes of clients go on between. */
const CHECK_BLOCKS_MAX = 8;
const SAVE_MS = 10_000;
const UNREPAIRED_MAX = 100;
/** Tries of a check that fell between two ring versions. */
const CHECK_TRIES = 3;
const WAIT_MS_MAX = 2 ** 31 - 1;
const MEND_AGAIN_MS = 30_000;

export class Scrubber {
  private readonly access: BlockAccess;
  private readonly pacer: Pacer;
  private readonly loop: WorkerLoop;
  private progress: ScrubProgress = newProgress(0, 0);
  /** What was checked when the part under way began: a restart goes on from there. */
  private checkedBefore = { blocksChecked: 0, bytesChecked: 0 };
  private isLoaded = false;
  private isRequested = false;
  private isRunning = false;
  private savedAtMs = 0;
  private blocksTotal: number | undefined;
  private runStartedMs = 0;
  private blocksThisRun = 0;
  private readonly unrepaired = new Map<string, BlockRef>();

  constructor(
    private readonly ports: UpkeepPorts,
    private readonly options: ScrubOptions,
  ) {
    this.access = new BlockAccess(ports);
    this.pacer = new Pacer({ clock: ports.clock, ...options });
    this.loop = new WorkerLoop({ clock: ports.clock, round: (signal) => this.round(signal) });
  }

  /** Begins to watch the time; scrubs when one is due or was interrupted. */
  start(): void {
    this.loop.start();
  }

  async stop(): Promise<void> {
    await this.loop.stop();
    this.access.close();
    if (this.isLoaded) await this.save();
  }

  /** Scrubs now, from the start unless one is under way. */
  request(): void {
    this.isRequested = true;
    this.loop.wake();
  }

  pause(): void {
    this.pacer.pause();
  }

  resume(): void {
    this.pacer.resume();
  }

  setRate(bytesPerSecond: number): void {
    this.pacer.setRate(bytesPerSecond);
  }

  status(): ScrubStatus {
    const { progress } = this;
    const blocksLeft =
      this.isRunning && this.blocksTotal !== undefined ? this.blocksTotal - progress.blocksChecked : null;
    return {
      state: this.loop.isStopped
        ? "stopped"
        : this.pacer.isPaused
          ? "paused"
          : this.isRunning
            ? "running"
            : "idle",
      blocksChecked: progress.blocksChecked,
      bytesChecked: progress.bytesChecked,
      blocksLeft: blocksLeft === null ? null : Math.max(0, blocksLeft),
      secondsLeft: this.secondsLeft(blocksLeft),
      blocksCorrupt: progress.blocksCorrupt,
      blocksRepaired: progress.blocksRepaired,
      unrepaired: [...this.unrepaired.keys()],
      startedWallMs: progress.startedWallMs,
      finishedWallMs: progress.finishedWallMs,
      rateBytesPerSecond: this.pacer.bytesPerSecond,
      lastError: this.loop.lastError ?? null,
    };
  }

  private secondsLeft(blocksLeft: number | null): number | null {
    const elapsedMs = this.ports.clock.nowMs() - this.runStartedMs;
    if (blocksLeft === null || this.blocksThisRun === 0) return null;
    return Math.ceil((Math.max(0, blocksLeft) * elapsedMs) / this.blocksThisRun / 1000);
  }

  private async round(signal: AbortSignal): Promise<number> {
    if (!this.isLoaded) {
      this.progress = decodeProgress(await this.options.progress.load()) ?? newProgress(0, 0);
      this.isLoaded = true;
    }
    const isInterrupted = this.progress.parts > 0;
    const dueInMs = this.dueInMs();
    if (!isInterrupted && !this.isRequested && dueInMs > 0) {
      await this.mendAgain(signal);
      return this.waitMs();
    }
    if (!isInterrupted) this.progress = newProgress(this.ports.clock.wallMs(), this.progress.finishedWallMs);
    this.noteChecked();
    this.isRequested = false;
    this.isRunning = true;
    try {
      await this.scrub(signal);
    } finally {
      this.isRunning = false;
    }
    return this.waitMs();
  }

  private waitMs(): number {
    return Math.min(WAIT_MS_MAX, this.dueInMs(), this.unrepaired.size > 0 ? MEND_AGAIN_MS : WAIT_MS_MAX);
  }

  private dueInMs(): number {
    const { intervalMs } = this.options;
    if (intervalMs === 0) return WAIT_MS_MAX;
    const { finishedWallMs } = this.progress;
    const dueWallMs = finishedWallMs + intervalMs;
    // A wall clock set back must not put the next scrub off for years.
    return Math.min(intervalMs, Math.max(0, dueWallMs - this.ports.clock.wallMs()));
  }

  private async scrub(signal: AbortSignal): Promise<void> {
    const { local, clock } = this.ports;
    this.runStartedMs = clock.nowMs();
    this.blocksThisRun = 0;
    this.blocksTotal = (await local.statistics()).blockCount;
    if (this.progress.parts === 0) {
      this.unrepaired.clear();
      await this.checkRecords(signal);
      this.progress = { ...this.progress, parts: partCount(this.blocksTotal) };
    }
    const { parts } = this.progress;
    for (let part = this.progress.partsDone; part < parts; part++) {
      await this.scrubPart(part, parts, signal);
      this.progress = { ...this.progress, partsDone: part + 1 };
      this.noteChecked();
      if (clock.nowMs() - this.savedAtMs >= SAVE_MS) await this.save();
    }
    this.progress = { ...this.progress, parts: 0, partsDone: 0, finishedWallMs: clock.wallMs() };
    await this.save();
  }

  private async checkRecords(signal: AbortSignal): Promise<void> {
    for (let part = 0, isLast = false; !isLast; part++) {
      const found = await this.ports.local.checkRecords(part);
      ({ isLast } = found);
      if (found.problem !== undefined) this.options.onBadRecords?.(found.problem);
      await this.pacer.take(found.bytesChecked, signal);
    }
  }

  private async scrubPart(part: number, parts: number, signal: AbortSignal): Promise<void> {
    const due: BlockListing[] = [];
    const check = async (countMin: number) => {
      while (due.length >= countMin) await this.check(due.splice(0, CHECK_BLOCKS_MAX), signal);
    };
    await walkLocalBlocks(
      this.ports,
      signal,
      (listing) => {
        if (partOf(listing.ref, parts) === part) due.push(keepListing(listing));
      },
      () => check(CHECK_BLOCKS_MAX),
    );
    await check(1);
  }

  private noteChecked(): void {
    const { blocksChecked, bytesChecked } = this.progress;
    this.checkedBefore = { blocksChecked, bytesChecked };
  }

  private async save(): Promise<void> {
    this.savedAtMs = this.ports.clock.nowMs();
    const checked = this.progress.parts > 0 ? this.checkedBefore : {};
    await this.options.progress.save(encodeProgress({ ...this.progress, ...checked }));
  }

  private async check(blocks: readonly BlockListing[], signal: AbortSignal): Promise<void> {
    const bytes = blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
    await this.pacer.take(bytes, signal);
    const refs = blocks.map((block) => block.ref);
    const statuses = await this.verifyHere(refs);
    for (const [index, ref] of refs.entries())
      if (statuses[index] === StorageStatus.corrupt) await this.mend(ref, signal);
    this.progress = {
      ...this.progress,
      blocksChecked: this.progress.blocksChecked + blocks.length,
      bytesChecked: this.progress.bytesChecked + bytes,
    };
    this.blocksThisRun += blocks.length;
  }

  /** Reads and checks the local copies; a confirmation counts only at the peer's own ring version, so that is asked for. */
  private async verifyHere(refs: readonly BlockRef[]): Promise<readonly StorageStatus[]> {
    const { local } = this.ports;
    for (let attempt = 0; attempt < CHECK_TRIES; attempt++) {
      const { ringVersion } = await local.statistics();
      const reply = await local.confirm({ refs, ringVersion });
      if (reply.ringVersion === ringVersion) return reply.statuses;
    }
    throw new UpkeepError(
      "unavailable",
      `Cannot check blocks: the ring version changed ${CHECK_TRIES} times meanwhile`,
    );
  }

  private async mend(ref: BlockRef, signal: AbortSignal): Promise<void> {
    const ages = new BlockAges(await this.ports.registry.collectionView());
    // Nobody misses it, and collection takes it away.
    if (ages.isDeleted(ref.volumeId)) return;
    this.progress = { ...this.progress, blocksCorrupt: this.progress.blocksCorrupt + 1 };
    const isRepaired = await this.repair(ref, signal);
    if (!isRepaired && this.unrepaired.size < UNREPAIRED_MAX) this.unrepaired.set(formatBlockRef(ref), ref);
    this.options.onBadCopy?.(ref, isRepaired);
  }

  private async mendAgain(signal: AbortSignal): Promise<void> {
    if (this.unrepaired.size === 0) return;
    const ages = new BlockAges(await this.ports.registry.collectionView());
    for (const [name, ref] of this.unrepaired) {
      const [status] = await this.verifyHere([ref]);
      if (status === StorageStatus.corrupt && !ages.isDeleted(ref.volumeId)) {
        if (!(await this.repair(ref, signal))) continue;
        this.options.onBadCopy?.(ref, true);
      }
      this.unrepaired.delete(name);
    }
    await this.save();
  }

  /** Whether the copy here is good now. */
  private async repair(ref: BlockRef, signal: AbortSignal): Promise<boolean> {
    const { peerId } = this.ports.local.identity;
    // The copy here answers "corrupt", so whatever is read is another's, and verified.
    const status = await this.access.withBlock(ref, undefined, async (block) => {
      await this.pacer.take(block.lengthBytes, signal);
      return await this.access.send(peerId, block);
    });
    const isRepaired = status === StorageStatus.ok && (await this.verifyHere([ref]))[0] === StorageStatus.ok;
    if (isRepaired) this.progress = { ...this.progress, blocksRepaired: this.progress.blocksRepaired + 1 };
    return isRepaired;
  }
}

function newProgress(startedWallMs: number, finishedWallMs: number): ScrubProgress {
  return {
    parts: 0,
    partsDone: 0,
    startedWallMs,
    blocksChecked: 0,
    bytesChecked: 0,
    blocksCorrupt: 0,
    blocksRepaired: 0,
    finishedWallMs,
  };
}
