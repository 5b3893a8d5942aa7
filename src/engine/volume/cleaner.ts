/**
 * Cleaning (rule R11): overwritten pages leave dead space in old blocks; the live rest of the emptiest blocks is
 * rewritten into the log, after which collection deletes them. A page is copied only if, in the very step in which
 * the copy enters the open block, the map still names the source and the overlay has nothing newer. The source is
 * read whole and checked; a block that cannot be read is left alone.
 *
 * Blocks that a snapshot or clone may hold are skipped, since copying from them frees nothing. Which these are is
 * known by the epoch of the snapshots' roots, and exactly for snapshots taken by this writer.
 */
import { type NativeBuffer, sleep } from "../../base";
import { BLOCK_HEADROOM_BYTES, HOLE_SLOT, BlockHeader, PAGE_BYTES } from "../block";
import { type BlockUse, makeLocation } from "../inode";
import { StorageStatus } from "../ports";
import type { LogWriter } from "./log-writer";
import { NOT_IN_OVERLAY } from "./page-overlay";
import { PinnedBlocks } from "./pinned-blocks";
import type { VolumeCore } from "./volume-core";

/** Emptiest blocks taken from one scan of the live counts. */
const CANDIDATES_MAX = 64;
/** Between two scans: what was copied has to reach the map before the counts tell. */
const SCAN_PAUSE_MS = 50;
/** A block with a larger part live is not worth its copy. */
const LIVE_PART_MAX = 0.85;
/** From this ratio on the rate limit does not hold. */
const HURRY_RATIO = 1.85;
/** What is worth cleaning when space is short, ... */
const SHORT_RATIO = 1.05;
/** ... and so long after it was, without a rate limit: a pool this tight is short again at once otherwise. */
const TIGHT_RATIO = 1.25;
const TIGHT_MS = 60_000;
/** After a scan that found nothing to clean. */
const IDLE_MS = 30_000;
/** The same while space is short or will be soon: dead space comes fast then. */
const TIGHT_IDLE_MS = 3_000;
const ROOM_POLL_MS = 20;
/** Buffers left to the writers. */
const FREE_BUFFERS_MIN = 3;

interface Candidate {
  readonly lsn: number;
  readonly livePart: number;
}

export class Cleaner {
  readonly #core: VolumeCore;
  readonly #log: LogWriter;
  readonly #pinned: PinnedBlocks;
  #running: Promise<void> | undefined;
  #stopped = false;
  #idleUntilMs = 0;
  /** What may still be copied; bounded while space is short. */
  #budgetBytes = Number.POSITIVE_INFINITY;
  /** The blocks may take this many times the live bytes. */
  #ratioMax: number;
  #tightUntilMs = 0;
  /** Blocks of this pass: their counts fall only when the copies reach the map. */
  readonly #cleaned = new Set<number>();

  constructor(core: VolumeCore, log: LogWriter) {
    this.#core = core;
    this.#log = log;
    this.#ratioMax = core.options.cleanAboveRatio;
    this.#pinned = new PinnedBlocks(core.ports.clock, core.ports.registry, core.session.grant);
  }

  /** Bytes of blocks with live pages, as a multiple of the live bytes. */
  get ratio(): number {
    const { livePageCount, deadSlotCount } = this.#core.map.statistics();
    return (livePageCount + deadSlotCount) / Math.max(1, livePageCount);
  }

  /** Starts a pass when there is need; called every now and then. */
  tick(): void {
    const { options, distributor, ports, onCleanError } = this.#core;
    if (this.#stopped || this.#running || options.cleanBytesPerSecond === 0 || distributor.full) return;
    if (ports.clock.nowMs() < this.#idleUntilMs || !this.#isNeeded()) return;
    this.#start().catch((error: unknown) => onCleanError(error));
  }

  /** Ends the pass under way, and begins none, until `resume`. */
  suspend(): void {
    this.#budgetBytes = 0;
  }

  resume(): void {
    const { ports, options } = this.#core;
    this.#budgetBytes = Number.POSITIVE_INFINITY;
    this.#ratioMax = Math.min(TIGHT_RATIO, options.cleanAboveRatio);
    this.#tightUntilMs = ports.clock.nowMs() + TIGHT_MS;
    this.#idleUntilMs = 0;
  }

  /** Space will be short soon: cleans as it does after a shortage, so that there need not be one. */
  tighten(): void {
    if (this.#budgetBytes !== Number.POSITIVE_INFINITY) return;
    // What was not worth a copy before may be now.
    if (!this.isTight) this.#idleUntilMs = 0;
    this.#ratioMax = Math.min(TIGHT_RATIO, this.#core.options.cleanAboveRatio);
    this.#tightUntilMs = this.#core.ports.clock.nowMs() + TIGHT_MS;
  }

  /** Space was short not long ago, or will be soon. */
  get isTight(): boolean {
    if (this.#tightUntilMs === 0) return false;
    if (this.#core.ports.clock.nowMs() < this.#tightUntilMs) return true;
    this.#tightUntilMs = 0;
    if (this.#budgetBytes > 0) this.#ratioMax = this.#core.options.cleanAboveRatio;
    return false;
  }

  /**
   * While suspended: copies up to about `bytesMax` without a rate limit, out of whatever blocks have some dead space.
   * Returns the bytes copied; 0 says that there is nothing to gain, or that it cannot be had now.
   */
  async cleanSome(bytesMax: number): Promise<number> {
    await this.#running?.catch(() => undefined);
    // The shortage ended while the pass before did: cleaning goes on by itself, and must not be suspended again.
    if (this.#budgetBytes === Number.POSITIVE_INFINITY) return 0;
    const { options, distributor, onCleanError, statistics } = this.#core;
    if (this.#stopped || options.cleanBytesPerSecond === 0 || distributor.full) return 0;
    const before = statistics.pagesCleaned;
    this.#budgetBytes = bytesMax;
    this.#ratioMax = SHORT_RATIO;
    await this.#start().catch((error: unknown) => onCleanError(error));
    // Unless the shortage ended meanwhile, and with it the suspension.
    if (this.#budgetBytes !== Number.POSITIVE_INFINITY) this.suspend();
    return (statistics.pagesCleaned - before) * PAGE_BYTES;
  }

  #start(): Promise<void> {
    const pass = this.#pass().finally(() => {
      this.#running = undefined;
    });
    this.#running = pass;
    return pass;
  }

  /** The snapshot whose root is this holds all blocks up to the newest in the map. */
  snapshotTaken(rootIndex: number, dataIndex: number): void {
    this.#pinned.snapshotTaken(rootIndex, dataIndex === 0 ? 0 : this.#core.map.claimLsn(dataIndex));
  }

  /** Resolves when nothing is copied any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running?.catch(() => undefined);
  }

  #isNeeded(): boolean {
    const { deadSlotCount } = this.#core.map.statistics();
    if (this.#budgetBytes <= 0) return false;
    return deadSlotCount * PAGE_BYTES >= this.#core.options.cleanDeadBytesMin && this.ratio > this.#ratioMax;
  }

  /** Goes on, scan by scan, until there is no need or nothing worth its copy. */
  async #pass(): Promise<void> {
    const { clock } = this.#core.ports;
    await this.#pinned.refresh();
    this.#cleaned.clear();
    while (!this.#stopped && this.#isNeeded()) {
      let copied = 0;
      for (const { lsn } of await this.#chooseCandidates()) {
        if (this.#stopped || !this.#isNeeded()) return;
        const bytes = await this.#cleanBlock(lsn);
        this.#cleaned.add(lsn);
        copied += bytes;
        this.#budgetBytes -= bytes;
        const delayMs = (bytes * 1000) / this.#core.options.cleanBytesPerSecond;
        const mayWait = this.#budgetBytes === Number.POSITIVE_INFINITY && !this.isTight;
        if (mayWait && this.ratio < HURRY_RATIO && delayMs > 0) await sleep(clock, delayMs);
      }
      if (copied === 0) {
        this.#idleUntilMs = clock.nowMs() + (this.isTight ? TIGHT_IDLE_MS : IDLE_MS);
        return;
      }
      await sleep(clock, SCAN_PAUSE_MS);
    }
  }

  /** One scan over the live counts, keeping the emptiest. */
  async #chooseCandidates(): Promise<readonly Candidate[]> {
    const { map } = this.#core;
    let found: Candidate[] = [];
    let livePartMax = LIVE_PART_MAX;
    const visit = (use: BlockUse): void => {
      const livePart = use.livePages / Math.max(1, use.slotCount);
      if (livePart > livePartMax || this.#cleaned.has(use.lsn)) return;
      const ref = map.refOf(use.lsn);
      if (!ref || this.#pinned.has(ref, use.lsn)) return;
      found.push({ lsn: use.lsn, livePart });
      if (found.length < 2 * CANDIDATES_MAX) return;
      found = emptiest(found);
      livePartMax = (found.at(-1) as Candidate).livePart;
    };
    for (let from = 1; from > 0 && !this.#stopped; ) {
      const step = await new Promise<{ status: StorageStatus; next: number }>((resolve) =>
        map.scanBlocks(from, visit, (status, next) => resolve({ status, next })),
      );
      if (step.status !== StorageStatus.ok) return [];
      from = step.next;
      await sleep(this.#core.ports.clock, 0);
    }
    return emptiest(found);
  }

  /** Copies what is live of one block; returns how many bytes. */
  async #cleanBlock(lsn: number): Promise<number> {
    const { ports, reader, map, statistics } = this.#core;
    const ref = map.refOf(lsn);
    if (!ref) return 0;
    const buffer = await ports.bufferPool.acquire();
    try {
      const found = await reader.readBlock(ref, buffer);
      if (found.status !== StorageStatus.ok || this.#stopped) return 0;
      // Copying takes a while too: what came before it in this turn is answered first.
      await sleep(ports.clock, 0);
      const header = new BlockHeader();
      header.parse(buffer, found.offset, found.lengthBytes);
      const pages = await this.#copyLive(lsn, header, buffer);
      statistics.pagesCleaned += pages;
      statistics.blocksCleaned++;
      return pages * PAGE_BYTES;
    } finally {
      ports.bufferPool.release(buffer);
    }
  }

  /** Returns how many pages. Waits only where it must: most runs are of one page, and most of the map is there. */
  async #copyLive(lsn: number, header: BlockHeader, buffer: NativeBuffer): Promise<number> {
    const extent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
    let pages = 0;
    for (let index = 0; index < header.extentCount; index++) {
      header.extent(index, extent);
      if (extent.firstSlot === HOLE_SLOT) continue;
      for (let done = 0; done < extent.pageCount; ) {
        if (this.#stopped || (this.#isShort && !(await this.#hasRoom()))) return pages;
        const page = extent.firstPage + done;
        const slot = extent.firstSlot + done;
        const left = extent.pageCount - done;
        const source = BLOCK_HEADROOM_BYTES + slot * PAGE_BYTES;
        const copy = () => this.#copySome(page, left, makeLocation(lsn, slot), source, buffer);
        const loading = this.#whenLoaded(page, left, copy);
        const step = loading === undefined ? copy() : await loading;
        if (step === undefined) break;
        done += step.passed;
        pages += step.copied;
      }
    }
    return pages;
  }

  /**
   * Undefined when the map has the pages now. Otherwise `act` runs in the very turn in which it has them, since it may
   * let go of them at once; its result, or undefined when a map node cannot be read.
   */
  #whenLoaded<T>(page: number, pageCount: number, act: () => T): Promise<T | undefined> | undefined {
    const { promise, resolve } = Promise.withResolvers<T | undefined>();
    const isLoaded = this.#core.map.ensureLoaded(page, pageCount, (status) =>
      resolve(status === StorageStatus.ok && !this.#stopped ? act() : undefined),
    );
    return isLoaded ? undefined : promise;
  }

  /** The one synchronous step: compare with map and overlay, copy, map. */
  #copySome(
    firstPage: number,
    pageCount: number,
    location: number,
    source: number,
    buffer: NativeBuffer,
  ): { passed: number; copied: number } {
    let skipped = 0;
    while (skipped < pageCount && !this.#isLive(firstPage + skipped, location + skipped)) skipped++;
    let live = 0;
    while (skipped + live < pageCount && this.#isLive(firstPage + skipped + live, location + skipped + live))
      live++;
    const room = Math.min(live, this.#log.room());
    const copied =
      room === 0 ? 0 : this.#log.writePages(firstPage + skipped, room, buffer, source + skipped * PAGE_BYTES);
    return { passed: skipped + copied, copied };
  }

  #isLive(page: number, location: number): boolean {
    return this.#log.overlay.locate(page) === NOT_IN_OVERLAY && this.#core.map.locationOf(page) === location;
  }

  /**
   * Writers go first: cleaning waits while buffers are short. Free buffers alone do not say that there is room: the
   * log holds back at its own limit of blocks that are not yet in the map. Waiting is always for the clock, never for a
   * promise that is settled already: that would keep the thread from the very events that make room.
   */
  async #hasRoom(): Promise<boolean> {
    while (!this.#stopped && this.#isShort) await sleep(this.#core.ports.clock, ROOM_POLL_MS);
    return !this.#stopped;
  }

  get #isShort(): boolean {
    const { blockPool } = this.#core.ports;
    const needed = Math.min(FREE_BUFFERS_MIN, blockPool.blockCountMax - 1);
    return blockPool.freeCount < needed || this.#core.distributor.full || this.#log.room() === 0;
  }
}

function emptiest(candidates: Candidate[]): Candidate[] {
  return candidates
    .sort((one, other) => one.livePart - other.livePart || one.lsn - other.lsn)
    .slice(0, CANDIDATES_MAX);
}
