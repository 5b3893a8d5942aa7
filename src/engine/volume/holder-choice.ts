/**
 * Which of a block's holders a small read asks first. Whoever always asked the first of the permutation would wake as
 * many peers as there are for a handful of reads under way, and what a small read costs is mostly to wake somebody. So
 * a volume has an order of preference among the peers, and its small reads go to the block's holder that comes first
 * in it: few peers get many requests at once, and the same peer each time for the same block, which it then has in
 * memory. Volumes differ in their order, so that all of them together load all peers. Snapshots have none: their many
 * readers would prefer the same.
 *
 * A peer serves the reads of its disk one after the other, so preference ends where they would queue: when another
 * holder would be done 0.1 ms sooner, by the reads that wait at each and what one takes there, that one is asked.
 * Blocks from memory so gather at few peers, those from disks, which take as long each, go to all, and a slow disk is
 * left alone but for one read in some hundred, which finds out whether it still is slow. What a read takes is what one
 * in sixteen took, the network included, divided by those that waited at the peer then. A peer that turns out not to
 * have a block, as a new one to which blocks still move, is not asked for the next reads that it could have.
 *
 * All of it is a hint about order: any holder's answer is as good, for the reader checks it.
 */
import type { BlockRef, Clock, PeerId, VolumeId } from "../../base";
import { hashText, mix, type Ring } from "../../ring";
import { StorageStatus } from "../ports";

/** Reads of more go by the permutation: to wake a peer is little of what they cost. */
const SMALL_SLOTS_MAX = 8;
/** How much longer the preferred holder may take than another. */
const EXTRA_MS_MAX = 0.1;
/** What is believed of all while none was timed. */
const READ_MS_FIRST = 0.02;
const TIMED_EVERY = 16;
/** Weight of one timed read in the mean. */
const READ_MS_GAIN = 1 / 8;
/** Reads that could have gone to a peer until it is tried, whatever reads took there. */
const PASSED_MAX = 128;
/** Reads that pass by a peer that did not have what it should. */
const LACKING_READS = 64;
const TWO_32 = 2 ** 32;

/** What the choice needs of a read. */
export interface ChosenRead {
  readonly slotCount: number;
  /** The peer that it counts at, until that has answered. */
  holder: Holder | undefined;
}

/** A peer as one volume's reads see it. */
export class Holder {
  /** Small reads that it was asked first and has not answered. */
  waiting = 0;
  /** What one takes when several wait, in ms; 0: not known. */
  readMs = 0;
  passed = 0;
  lacking = 0;
  isTried = true;
  timed: ChosenRead | undefined;
  timedFromMs = 0;
  timedAmong = 0;
  untimed = TIMED_EVERY;

  /** `rank`: smaller ones are preferred. */
  constructor(
    readonly peer: PeerId,
    readonly rank: number,
  ) {}

  /** The next read is timed, and what it takes is believed, whatever others took before. */
  tryAnew(): void {
    this.isTried = true;
    this.untimed = TIMED_EVERY;
  }
}

export class HolderChoice {
  readonly #byPeer = new Map<PeerId, Holder>();
  #ring: Ring | undefined;
  /** In the order of the ring's members. */
  #holders: Holder[] = [];
  #permutation = new Uint16Array(0);

  /** `volumeId`: whose reads these are, and whose order of preference. */
  constructor(
    private readonly clock: Clock,
    private readonly volumeId: VolumeId,
  ) {}

  isFor(read: ChosenRead): boolean {
    return read.slotCount > 0 && read.slotCount <= SMALL_SLOTS_MAX;
  }

  /** Undefined: there is no holder that may be asked. Absent `mayAsk`: all may. */
  choose(ring: Ring, ref: BlockRef, mayAsk?: (peer: PeerId) => boolean): Holder | undefined {
    if (ring !== this.#ring) this.#follow(ring);
    const permutation = this.#permutation;
    const count = ring.permutation(ref, permutation.length, permutation);
    let preferred: Holder | undefined;
    let lacking: Holder | undefined;
    for (let at = 0; at < count; at++) {
      const holder = this.#holders[permutation[at] as number] as Holder;
      if (mayAsk !== undefined && !mayAsk(holder.peer)) continue;
      if (holder.lacking > 0) {
        holder.lacking--;
        lacking ??= holder;
      } else if (preferred === undefined || holder.rank < preferred.rank) preferred = holder;
    }
    if (preferred === undefined) return lacking;
    // Of a holder that is not known it is believed that it is as fast as the preferred one.
    const usualMs = preferred.readMs === 0 ? READ_MS_FIRST : preferred.readMs;
    let soonestMs = (preferred.waiting + 1) * usualMs - EXTRA_MS_MAX;
    if (soonestMs <= 0) return preferred;
    let soonest = preferred;
    let trial: Holder | undefined;
    for (let at = 0; at < count; at++) {
      const holder = this.#holders[permutation[at] as number] as Holder;
      if (holder.lacking > 0 || (mayAsk !== undefined && !mayAsk(holder.peer))) continue;
      if (++holder.passed >= PASSED_MAX && holder.waiting === 0) trial = holder;
      const ms = (holder.waiting + 1) * (holder.readMs === 0 ? usualMs : holder.readMs);
      if (ms >= soonestMs) continue;
      soonestMs = ms;
      soonest = holder;
    }
    const chosen = trial ?? soonest;
    chosen.passed = 0;
    if (trial !== undefined) trial.tryAnew();
    return chosen;
  }

  /** The read is about to be sent to the holder; `ended` once it is answered or withdrawn. */
  begin(read: ChosenRead, holder: Holder): void {
    read.holder = holder;
    holder.waiting++;
    if (holder.timed !== undefined || ++holder.untimed < TIMED_EVERY) return;
    holder.untimed = 0;
    holder.timed = read;
    holder.timedFromMs = this.clock.nowMs();
    holder.timedAmong = holder.waiting;
  }

  /** Undefined status: it was withdrawn. */
  ended(read: ChosenRead, holder: Holder, status: StorageStatus | undefined): void {
    read.holder = undefined;
    holder.waiting--;
    if (status === StorageStatus.notFound || status === StorageStatus.corrupt) holder.lacking = LACKING_READS;
    if (holder.timed !== read) return;
    holder.timed = undefined;
    if (status !== StorageStatus.ok) return;
    const ms = (this.clock.nowMs() - holder.timedFromMs) / holder.timedAmong;
    // Never 0, which means that nothing is known.
    holder.readMs = Math.max(
      holder.isTried ? ms : holder.readMs + (ms - holder.readMs) * READ_MS_GAIN,
      Number.EPSILON,
    );
    holder.isTried = false;
  }

  #follow(ring: Ring): void {
    this.#ring = ring;
    const { peers, spec } = ring;
    this.#permutation = new Uint16Array(Math.min(spec.replication, peers.length));
    this.#holders = peers.map((peer) => {
      const holder = this.#byPeer.get(peer) ?? new Holder(peer, this.#rankOf(peer));
      this.#byPeer.set(peer, holder);
      return holder;
    });
    const members = new Set(peers);
    for (const [peer, holder] of this.#byPeer)
      if (!members.has(peer) && holder.waiting === 0) this.#byPeer.delete(peer);
  }

  #rankOf(peer: PeerId): number {
    return mix(mix(hashText(peer), this.volumeId >>> 0), (this.volumeId / TWO_32) >>> 0);
  }
}
