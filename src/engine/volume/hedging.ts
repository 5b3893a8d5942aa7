/**
 * When a read asks a second peer although the first has not failed ("hedged requests": Dean and Barroso, The Tail at
 * Scale, 2013). A peer that hangs would cost every read of its blocks the transport's deadline; asked again elsewhere,
 * it costs some tens of milliseconds.
 *
 *   due      after three times the mean time that reads of its size took of late (where times scatter like those of a
 *            queue one in twenty takes longer), never before 20 ms, which a peer that is well needs for no small read
 *            even while its disk syncs, and always after 400 ms: the deadline, and the pauses of writers, are longer
 *   budget   one second request for 16 reads, and 32 at once: as many as one request queue has under way when a peer
 *            stops. Where the whole cluster is slow nearly all reads wait as they would without, and the mean follows
 *   memory   three sizes of buffers, a bounded number of each; a read that is larger, or finds none free, waits
 *
 * Time is counted in ticks of one timer that runs only while a read waits that may be hedged: no clock is read and no
 * timer set per read, and where this very process was held up its late answers are not taken for slow peers. Reads
 * wait in one list, oldest first. Only reads that were not hedged tell how long reads take.
 */
import { type AllocateBuffer, assert, type Clock, type PeerId, type Timer } from "../../base";
import type { StorageStatus } from "../ports";
import { type BlockRead, Hedge } from "./block-read";

const TICK_MS = 5;
const DUE_TICKS_MIN = 4;
const DUE_TICKS_MAX = 80;
const DUE_MEANS = 3;
/** Weight of one read in the mean. */
const MEAN_GAIN = 1 / 128;
/** What is believed before the first reads were measured: due after 100 ms. */
const MEAN_TICKS_FIRST = 20 / DUE_MEANS;
const BUDGET_SHARE = 1 / 16;
const BUDGET_MAX = 32;

const KIB = 1024;
const SIZE_CLASSES = [
  { bytesMax: 16 * KIB, hedgeCountMax: 64 },
  { bytesMax: 128 * KIB, hedgeCountMax: 8 },
  { bytesMax: 1024 * KIB, hedgeCountMax: 2 },
] as const;

/** Reads of about one size: how long they take, and the memory for second requests. */
class SizeClass {
  meanTicks = MEAN_TICKS_FIRST;
  hedgeCount = 0;
  readonly free: Hedge[] = [];

  constructor(
    readonly bytesMax: number,
    readonly hedgeCountMax: number,
  ) {}

  /** Reads that began this many ticks ago, and not fewer, are due. */
  get dueTicks(): number {
    const ticks = Math.ceil(this.meanTicks * DUE_MEANS);
    // The tick under way when a read began has partly passed: it does not count.
    return 1 + Math.min(Math.max(ticks, DUE_TICKS_MIN), DUE_TICKS_MAX);
  }
}

export interface HedgingPorts {
  readonly clock: Clock;
  readonly allocate: AllocateBuffer;
}

export class Hedging {
  /**
   * Called with a read that is due. Whoever can ask another peer for it takes a Hedge; a read that no other peer can be
   * asked for is unwatched; one that is still watched comes again at the next tick.
   */
  onDue: (read: BlockRead) => void = () => {};
  /** Called with what a peer answered to a Hedge. */
  onAnswer: (hedge: Hedge, peer: PeerId, status: StorageStatus, lengthBytes: number, check: number) => void =
    () => {};
  readonly #clock: Clock;
  readonly #allocate: AllocateBuffer;
  readonly #classes = SIZE_CLASSES.map((one) => new SizeClass(one.bytesMax, one.hedgeCountMax));
  #oldest: BlockRead | undefined;
  #youngest: BlockRead | undefined;
  #tick = 0;
  #timer: Timer | undefined;
  #budget = BUDGET_MAX;

  constructor({ clock, allocate }: HedgingPorts) {
    this.#clock = clock;
    this.#allocate = allocate;
  }

  /** A peer is asked now; the read has no second request. */
  watch(read: BlockRead): void {
    assert(!read.isWatched, "a read is watched twice");
    if (this.#budget < BUDGET_MAX) this.#budget += BUDGET_SHARE;
    read.isWatched = true;
    read.startTick = this.#tick;
    read.watchedBefore = this.#youngest;
    if (this.#youngest === undefined) this.#oldest = read;
    else this.#youngest.watchedAfter = read;
    this.#youngest = read;
    if (this.#timer === undefined) this.#timer = this.#clock.schedule(TICK_MS, this.#onTick);
  }

  /** The peer answered well: so long do reads of this size take. */
  measure(read: BlockRead): void {
    const size = this.#classOf(read);
    if (size !== undefined) size.meanTicks += (this.#tick - read.startTick - size.meanTicks) * MEAN_GAIN;
  }

  unwatch(read: BlockRead): void {
    const { watchedBefore, watchedAfter } = read;
    if (watchedBefore === undefined) this.#oldest = watchedAfter;
    else watchedBefore.watchedAfter = watchedAfter;
    if (watchedAfter === undefined) this.#youngest = watchedBefore;
    else watchedAfter.watchedBefore = watchedBefore;
    read.watchedBefore = undefined;
    read.watchedAfter = undefined;
    read.isWatched = false;
  }

  /** Memory and leave for a second request for the read, which is not watched any more; undefined: not now. */
  take(read: BlockRead): Hedge | undefined {
    const size = this.#classOf(read);
    if (size === undefined || this.#budget < 1) return undefined;
    let hedge = size.free.pop();
    if (hedge === undefined) {
      if (size.hedgeCount === size.hedgeCountMax) return undefined;
      size.hedgeCount++;
      hedge = new Hedge(this.#allocate(size.bytesMax), this.onAnswer);
    }
    this.#budget--;
    this.unwatch(read);
    hedge.start(read);
    return hedge;
  }

  /** The transport is done with it, and nobody wants its answer. */
  giveBack(hedge: Hedge): void {
    hedge.read = undefined;
    this.#classOf(hedge)?.free.push(hedge);
  }

  readonly #onTick = (): void => {
    this.#timer = undefined;
    this.#tick++;
    for (let read = this.#oldest; read !== undefined && this.#budget >= 1; ) {
      const ageTicks = this.#tick - read.startTick;
      if (ageTicks <= DUE_TICKS_MIN) break;
      const next: BlockRead | undefined = read.watchedAfter;
      const size = this.#classOf(read);
      if (size === undefined) this.unwatch(read);
      else if (ageTicks >= size.dueTicks) this.onDue(read);
      read = next;
    }
    if (this.#oldest !== undefined) this.#timer = this.#clock.schedule(TICK_MS, this.#onTick);
  };

  /** Undefined: too large to be read twice. */
  #classOf({ roomBytes }: { readonly roomBytes: number }): SizeClass | undefined {
    for (const size of this.#classes) if (roomBytes <= size.bytesMax) return size;
    return undefined;
  }
}
