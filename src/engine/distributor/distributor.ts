/**
 * Sends sealed blocks to their replicas and says when they are acknowledged (rules R1 and R2). A block goes to the
 * first `copies` members of its permutation restricted to the log set; a member that refuses, is gone or keeps
 * silent is passed over for the next, inside the set. It is durable when at least W distinct (peer, incarnation)
 * pairs of the set answered so, and during a change of the set when both the old and the new set say so. Data
 * blocks are acknowledged in index order only.
 *
 * Nothing is ever given up: a block that no candidate takes is kept and tried again, with the reason shown, until
 * the set changes, space is freed or the writer ends. What is sent at once is bounded; the rest waits in order.
 */
import {
  assert,
  type BlockRef,
  type Clock,
  formatBlockRef,
  type Incarnation,
  type PeerId,
  type Timer,
} from "../../base";
import { type PeerTransport, isStored, StorageStatus } from "../ports";
import { type DistributedBlock, type Try, TryState } from "./distributed-block";
import { DistributorError } from "./errors";
import { meansDown, type PeerHealth } from "./peer-health";
import type { Placement } from "./placement";

export interface DistributorOptions {
  /** Blocks at the peers at once; later ones wait (backpressure reaches the writer through its buffers). */
  readonly blocksInFlightMax: number;
  readonly bytesInFlightMax: number;
  /** A member silent for this long on one block is passed over for the next one. */
  readonly walkAfterMs: number;
}

export const DISTRIBUTOR_DEFAULTS: DistributorOptions = {
  blocksInFlightMax: 64,
  bytesInFlightMax: 64 * 1024 * 1024,
  walkAfterMs: 400,
};

const TICK_MS = 100;
const RETRY_BACKOFF_MS_MIN = 200;
const RETRY_BACKOFF_MS_MAX = 2_000;

export interface DistributorListener {
  /** All data blocks up to this index are acknowledged. */
  onAcknowledged(index: number): void;
  /** Some block waits for space that no candidate has (true), or none does any more. */
  onSpaceChange(full: boolean): void;
  /** Too few peers have room for more than what was accepted already (true), or enough have again. */
  onLowSpace(low: boolean): void;
  /** Fewer members than needed take a block: the set has to change, or a peer must return. */
  onStuck(): void;
  /** The writer must stop for good. */
  onFatal(error: DistributorError): void;
}

export interface DistributorStatistics {
  blocksSent: number;
  bytesSent: number;
  replicasAcknowledged: number;
  /** Times a member was passed over. */
  walks: number;
  /** Blocks that ended with fewer copies than wanted. */
  blocksShort: number;
}

export class Distributor {
  readonly health: PeerHealth;
  readonly statistics: DistributorStatistics = {
    blocksSent: 0,
    bytesSent: 0,
    replicasAcknowledged: 0,
    walks: 0,
    blocksShort: 0,
  };
  readonly #clock: Clock;
  readonly #transport: PeerTransport;
  readonly #options: DistributorOptions;
  readonly #listener: DistributorListener;
  #current: Placement;
  #next: Placement | undefined;
  /** Sent and not finished: not acknowledged, or some replica's answer is still due. */
  readonly #active = new Set<DistributedBlock>();
  readonly #waiting: DistributedBlock[] = [];
  #waitingHead = 0;
  /** Data blocks not yet acknowledged, by index. */
  readonly #unacknowledged = new Map<number, DistributedBlock>();
  #activeBytes = 0;
  #acknowledgedIndex = 0;
  #submittedIndex = 0;
  #timer: Timer | undefined;
  #stopped = false;
  #full = false;
  #low = false;
  #running = false;
  readonly #touched: DistributedBlock[] = [];
  readonly #candidates: PeerId[] = [];

  constructor(
    clock: Clock,
    transport: PeerTransport,
    placement: Placement,
    listener: DistributorListener,
    health: PeerHealth,
    options: DistributorOptions = DISTRIBUTOR_DEFAULTS,
  ) {
    this.#clock = clock;
    this.#transport = transport;
    this.#current = placement;
    this.#listener = listener;
    this.#options = options;
    this.health = health;
    health.onSpaceChange = this.#noteLowSpace;
    health.onChange = this.#noteLowSpace;
  }

  get placement(): Placement {
    return this.#current;
  }

  /** The set that a checkpoint under way will put, while its outcome is unknown. */
  get nextPlacement(): Placement | undefined {
    return this.#next;
  }

  get acknowledgedIndex(): number {
    return this.#acknowledgedIndex;
  }

  get blocksPending(): number {
    return this.#active.size + this.#waiting.length - this.#waitingHead;
  }

  /** See DistributorListener.onLowSpace. */
  get low(): boolean {
    return this.#low;
  }

  get full(): boolean {
    return this.#full;
  }

  /** Whether some block cannot become durable with the members that answer now. */
  get stuck(): boolean {
    for (const block of this.#active) if (block.stuck) return true;
    return false;
  }

  /**
   * Sends a block. Data blocks must come in index order without a gap. The block and its buffer belong to the
   * distributor until `released` ran.
   */
  submit(block: DistributedBlock): void {
    const ref = block.ref as BlockRef;
    if (block.ordered) {
      if (ref.index !== this.#submittedIndex + 1) assert(false, `block ${ref.index} submitted out of order`);
      this.#submittedIndex = ref.index;
      this.#unacknowledged.set(ref.index, block);
    }
    block.submittedMs = this.#clock.nowMs();
    block.answered = this.#onAnswer;
    if (this.#stopped) return block.released?.();
    if (this.#waitingHead < this.#waiting.length || !this.#hasRoom(block)) {
      this.#waiting.push(block);
      this.#arm();
      return;
    }
    this.#start(block);
  }

  /** Nobody waits for this INode block any more; it is released as soon as no peer can read it. */
  withdraw(block: DistributedBlock): void {
    assert(!block.ordered, "a block of the log cannot be withdrawn");
    block.withdrawn = true;
    block.acknowledged = undefined;
    if (this.#active.has(block)) return this.#touch(block);
    const at = this.#waiting.indexOf(block, this.#waitingHead);
    if (at < 0) return;
    this.#waiting.splice(at, 1);
    block.released?.();
  }

  /** From now on acknowledgements satisfy both sets (R2). */
  beginTransition(next: Placement): void {
    assert(this.#next === undefined, "a change of the log set is already under way");
    this.#next = next;
    this.#revisitAll();
  }

  /** The outcome is known: the new set is in force, or the old one stays. */
  endTransition(committed: boolean): void {
    assert(this.#next !== undefined, "no change of the log set is under way");
    if (committed) this.#current = this.#next;
    this.#next = undefined;
    this.#noteLowSpace();
    this.#revisitAll();
  }

  /** Tries blocks that are stuck at once, because something changed. */
  retryNow(): void {
    for (const block of this.#active) if (block.stuck) block.retryAtMs = 0;
    this.#tick();
  }

  /** Sends nothing more and acknowledges nothing more; blocks are released as answers still due come in. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    const unsent = this.#waiting.splice(0).slice(this.#waitingHead);
    this.#waitingHead = 0;
    for (const block of unsent) block.released?.();
    for (const block of [...this.#active]) this.#finish(block);
  }

  #hasRoom(block: DistributedBlock): boolean {
    return (
      this.#active.size === 0 ||
      (this.#active.size < this.#options.blocksInFlightMax &&
        this.#activeBytes + block.lengthBytes <= this.#options.bytesInFlightMax)
    );
  }

  #start(block: DistributedBlock): void {
    this.#active.add(block);
    this.#activeBytes += block.lengthBytes;
    this.statistics.blocksSent++;
    this.#arm();
    this.#touch(block);
  }

  /** Room may have come: the next blocks in order leave. */
  #startWaiting(): void {
    while (this.#waitingHead < this.#waiting.length) {
      const block = this.#waiting[this.#waitingHead] as DistributedBlock;
      if (!this.#hasRoom(block)) return;
      this.#waitingHead++;
      this.#active.add(block);
      this.#activeBytes += block.lengthBytes;
      this.statistics.blocksSent++;
      this.#touched.push(block);
    }
    this.#waiting.length = 0;
    this.#waitingHead = 0;
  }

  /**
   * Looks at a block again. Transports may answer from inside the call and listeners may submit from inside a
   * callback; such calls only leave the block on the list, so that nothing here is entered twice.
   */
  #touch(block: DistributedBlock): void {
    this.#touched.push(block);
    this.#run();
  }

  #run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#touched.length > 0) {
        for (let at = 0; at < this.#touched.length; at++)
          this.#advance(this.#touched[at] as DistributedBlock);
        this.#touched.length = 0;
        this.#settle();
        this.#startWaiting();
      }
    } finally {
      this.#running = false;
    }
  }

  readonly #onAnswer = (
    block: DistributedBlock,
    peer: PeerId,
    incarnation: Incarnation | "",
    status: StorageStatus,
  ): void => {
    block.outstanding--;
    const one = block.findTry(peer);
    assert(one !== undefined, "an answer came from a peer that was not asked");
    one.incarnation = incarnation;
    if (isStored(status)) {
      one.state = TryState.stored;
      this.statistics.replicasAcknowledged++;
      this.health.succeeded(peer, incarnation);
      this.health.noteSpace(peer, status === StorageStatus.storedLowSpace);
    } else if (stopsWriter(status)) {
      one.state = TryState.failed;
      this.#fail(block, peer, status);
    } else {
      one.state = status === StorageStatus.outOfSpace ? TryState.full : TryState.failed;
      if (status === StorageStatus.outOfSpace) this.health.full(peer, incarnation);
      else if (meansDown(status)) this.health.failed(peer, true);
    }
    this.#touch(block);
  };

  #fail(block: DistributedBlock, peer: PeerId, status: StorageStatus): void {
    if (this.#stopped) return;
    this.stop();
    const name = formatBlockRef(block.ref as BlockRef);
    this.#listener.onFatal(fatalError(name, peer, status));
  }

  /** Copies in `placement` that are stored, and those that may yet be without walking on. */
  #copiesIn(block: DistributedBlock, placement: Placement, withOutstanding: boolean): number {
    let count = 0;
    for (let at = 0; at < block.tryCount; at++) {
      const one = block.tries[at] as Try;
      if (one.state === TryState.stored) {
        if (placement.counts(one.peer, one.incarnation)) count++;
      } else if (withOutstanding && one.state === TryState.outstanding && placement.has(one.peer)) count++;
    }
    return count;
  }

  /** INode blocks belong to the checkpoint that will put the next set; data blocks satisfy both sets (R2). */
  #isDurable(block: DistributedBlock, withOutstanding: boolean): boolean {
    const next = this.#next;
    const current = this.#current;
    if (!block.ordered) {
      const target = next !== undefined && next.log.width > 0 ? next : current;
      return target.log.width > 0 && this.#copiesIn(block, target, withOutstanding) >= target.log.width;
    }
    if (current.log.width === 0) return false;
    if (this.#copiesIn(block, current, withOutstanding) < current.log.width) return false;
    return next === undefined || this.#copiesIn(block, next, withOutstanding) >= next.log.width;
  }

  /** Sends the block wherever it still has to go and notes whether it is durable, stuck or finished. */
  #advance(block: DistributedBlock): void {
    if (!this.#active.has(block)) return;
    if (block.withdrawn) {
      block.durable = true;
      block.stuck = false;
      block.wantsSpace = false;
      if (this.#full) this.#noteSpace();
    } else if (!this.#stopped) {
      if (block.ordered || this.#next === undefined || this.#next.log.width === 0)
        this.#walk(block, this.#current);
      if (this.#next !== undefined) this.#walk(block, this.#next);
      const wasDurable = block.durable;
      block.durable = this.#isDurable(block, false);
      const wasStuck = block.stuck;
      block.stuck = !block.durable && !this.#isDurable(block, true);
      if (block.stuck && !wasStuck) this.#noteStuck(block);
      if (block.durable) block.wantsSpace = false;
      // Answers still due may refuse for space again: only when all have come is it another reason.
      else if (block.stuck && (block.outstanding === 0 || !block.wantsSpace))
        block.wantsSpace = block.someRefusedForSpace();
      if (block.wantsSpace || this.#full) this.#noteSpace();
      if (!block.ordered && block.durable && !wasDurable) {
        const acknowledged = block.acknowledged;
        block.acknowledged = undefined;
        acknowledged?.();
      }
    }
    this.#finish(block);
  }

  #walk(block: DistributedBlock, placement: Placement): void {
    let missing = placement.copies - this.#copiesIn(block, placement, true);
    if (missing <= 0) return;
    const nowMs = this.#clock.nowMs();
    for (let round = 0; round < 2 && missing > 0; round++) {
      placement.candidates(block.ref as BlockRef, round > 0, this.#candidates);
      missing = this.#sendTo(block, missing, nowMs, true);
    }
    // Only peers that are believed dead or full are left: ask them all the same when the block needs them.
    if (this.#copiesIn(block, placement, true) < placement.log.width) {
      placement.candidates(block.ref as BlockRef, true, this.#candidates);
      this.#sendTo(block, placement.log.width - this.#copiesIn(block, placement, true), nowMs, false);
    }
  }

  #sendTo(block: DistributedBlock, count: number, nowMs: number, healthyOnly: boolean): number {
    let missing = count;
    for (let at = 0; at < this.#candidates.length && missing > 0; at++) {
      const peer = this.#candidates[at] as PeerId;
      if (block.findTry(peer) !== undefined) continue;
      if (healthyOnly && (!this.health.isUp(peer) || this.health.isFull(peer))) continue;
      block.addTry(peer, nowMs);
      block.outstanding++;
      this.statistics.bytesSent += block.lengthBytes;
      missing--;
      this.#transport.put(peer, block);
    }
    return missing;
  }

  #noteStuck(block: DistributedBlock): void {
    block.retryBackoffMs = Math.min(
      Math.max(block.retryBackoffMs * 2, RETRY_BACKOFF_MS_MIN),
      RETRY_BACKOFF_MS_MAX,
    );
    block.retryAtMs = this.#clock.nowMs() + block.retryBackoffMs;
    this.#arm();
    this.#listener.onStuck();
  }

  /** Too few members have room for new data: whoever takes data from users should take no more. */
  readonly #noteLowSpace = (): void => {
    if (this.#stopped) return;
    const { members, width } = this.#current.log;
    const roomy = members.filter(
      ({ peerId }) => !this.health.isLow(peerId) && this.health.isUp(peerId),
    ).length;
    const low = members.some(({ peerId }) => this.health.isLow(peerId)) && roomy < width;
    if (low === this.#low) return;
    this.#low = low;
    this.#listener.onLowSpace(low);
  };

  #noteSpace(): void {
    let full = false;
    for (const block of this.#active)
      if (block.wantsSpace) {
        full = true;
        break;
      }
    if (full === this.#full) return;
    this.#full = full;
    this.#listener.onSpaceChange(full);
  }

  /** Lets go of a block that needs nothing more and that no peer can read any more. */
  #finish(block: DistributedBlock): void {
    if (block.outstanding > 0) return;
    if (!this.#stopped) {
      if (!block.durable || (block.ordered && (block.ref as BlockRef).index > this.#acknowledgedIndex))
        return;
      const short = this.#copiesIn(block, this.#current, false) < this.#current.copies;
      if (short && !block.withdrawn) this.statistics.blocksShort++;
    }
    if (!this.#active.delete(block)) return;
    this.#activeBytes -= block.lengthBytes;
    block.answered = undefined;
    block.released?.();
  }

  /** Moves the acknowledged index over what has become durable. */
  #settle(): void {
    if (this.#stopped) return;
    const before = this.#acknowledgedIndex;
    for (;;) {
      const block = this.#unacknowledged.get(this.#acknowledgedIndex + 1);
      if (!block?.durable) break;
      this.#acknowledgedIndex++;
      this.#unacknowledged.delete(this.#acknowledgedIndex);
      block.acknowledged?.();
      this.#finish(block);
    }
    if (this.#acknowledgedIndex !== before) this.#listener.onAcknowledged(this.#acknowledgedIndex);
  }

  #revisitAll(): void {
    for (const block of this.#active) {
      block.forgetFailures();
      block.stuck = false;
      this.#touched.push(block);
    }
    this.#run();
  }

  #arm(): void {
    if (this.#timer || this.#stopped) return;
    this.#timer = this.#clock.schedule(TICK_MS, () => {
      this.#timer = undefined;
      this.#tick();
    });
  }

  #tick(): void {
    if (this.#stopped) return;
    const nowMs = this.#clock.nowMs();
    for (const block of this.#active) {
      const passedOver = this.#passOverSilent(block, nowMs);
      const retry = block.stuck && nowMs >= block.retryAtMs;
      if (retry) {
        block.forgetFailures();
        block.stuck = false;
      }
      if (passedOver || retry) this.#touched.push(block);
    }
    this.#run();
    if (this.#active.size > 0 || this.#waitingHead < this.#waiting.length) this.#arm();
  }

  /** Marks requests that got no answer in time; one at a peer known to be silent is not waited for again. */
  #passOverSilent(block: DistributedBlock, nowMs: number): boolean {
    let some = false;
    for (let at = 0; at < block.tryCount; at++) {
      const one = block.tries[at] as Try;
      if (one.state !== TryState.outstanding) continue;
      const silentMs = nowMs - one.sentMs;
      if (
        silentMs < this.#options.walkAfterMs &&
        (silentMs < TICK_MS || this.health.silentMs(one.peer) === 0)
      )
        continue;
      one.state = TryState.overdue;
      this.statistics.walks++;
      this.health.failed(one.peer, false);
      some = true;
    }
    return some;
  }
}

function stopsWriter(status: StorageStatus): boolean {
  return (
    status === StorageStatus.fenced || status === StorageStatus.conflict || status === StorageStatus.denied
  );
}

function fatalError(block: string, peer: PeerId, status: StorageStatus): DistributorError {
  if (status === StorageStatus.fenced)
    return new DistributorError("fenced", `Stop writing ${block}: peer ${peer} was fenced by a newer writer`);
  if (status === StorageStatus.denied)
    return new DistributorError(
      "denied",
      `Stop writing ${block}: peer ${peer} says that the volume's access list does not name this certificate`,
    );
  return new DistributorError(
    "conflict",
    `Stop writing ${block}: peer ${peer} holds this block with other bytes`,
  );
}
