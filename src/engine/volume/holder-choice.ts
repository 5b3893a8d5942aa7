/**
 * Which of a block's holders a small read asks first. Whoever always asked the first of the permutation would wake as many
 * peers as there are for a handful of reads under way, and what a small read costs is mostly to wake somebody. So
 * a volume has an order of preference among the peers, and its small reads go to the block's holder that comes first
 * in it: few peers get many requests at once, and the same peer each time for the same block, which it then has in
 * memory. The orders of volumes differ, so that all volumes together load all peers alike.
 *
 * A peer serves the reads of its disk one after the other, so preference ends where they would queue: once what waits at
 * the preferred peer takes more than 0.25 ms, by what reads took there of late, the holder that would be done first is
 * asked. Blocks from memory so gather at few peers, and those from disks, which take as long each, go to all.
 *
 * A peer that turns out not to have a block, as a new one to which blocks still move, is not preferred for the next reads
 * that it could have had. One read in sixteen is timed, and counts as the time it took divided by the reads that
 * waited at that peer then; no clock is read for the others. All of it is a hint about order: any holder's answer is as
 * good, for the reader checks it.
 */
import type { BlockRef, Clock, PeerId } from "../../base";
import type { Ring } from "../../ring";
import { StorageStatus } from "../ports";

/** Reads of more go by the permutation: to wake a peer is little of what they cost. */
const SMALL_SLOTS_MAX = 8;
const WAIT_MS_MAX = 0.25;
const SERVICE_MS_FIRST = 0.02;
const SAMPLE_EVERY = 16;
/** Weight of one timed read in the mean. */
const SERVICE_GAIN = 1 / 8;
/** Reads that pass by a peer that did not have what it should. */
const PASSES = 64;

/** What the choice needs of a read. */
export interface ChosenRead {
  readonly slotCount: number;
  /** The peer that it counts at, until that has answered. */
  holder: Holder | undefined;
}

/** A peer as one volume's reads see it. */
export class Holder {
  rank = 0;
  /** Small reads that it was asked first and has not answered. */
  waiting = 0;
  /** How long it takes for one, in ms, when several wait. */
  serviceMs = SERVICE_MS_FIRST;
  passes = 0;
  timed: ChosenRead | undefined;
  timedFromMs = 0;
  timedAmong = 0;
  untimed = 0;

  constructor(readonly peer: PeerId) {}

  get waitMs(): number {
    return this.waiting * this.serviceMs;
  }
}

export class HolderChoice {
  readonly #byPeer = new Map<PeerId, Holder>();
  #ring: Ring | undefined;
  /** In the order of the ring's members. */
  #holders: Holder[] = [];
  #permutation = new Uint16Array(0);

  /** `volumeId`: whose reads these are; it says where in the ring the order of preference begins. */
  constructor(
    private readonly clock: Clock,
    private readonly volumeId: number,
  ) {}

  isFor(read: ChosenRead): boolean {
    return read.slotCount > 0 && read.slotCount <= SMALL_SLOTS_MAX;
  }

  /** Undefined: the ring names no holder. */
  choose(ring: Ring, ref: BlockRef): Holder | undefined {
    if (ring !== this.#ring) this.#follow(ring);
    const permutation = this.#permutation;
    const count = ring.permutation(ref, permutation.length, permutation);
    let preferred: Holder | undefined;
    let soonest: Holder | undefined;
    for (let at = 0; at < count; at++) {
      const holder = this.#holders[permutation[at] as number] as Holder;
      if (soonest === undefined || holder.waitMs < soonest.waitMs) soonest = holder;
      if (holder.passes > 0) holder.passes--;
      else if (preferred === undefined || holder.rank < preferred.rank) preferred = holder;
    }
    return preferred !== undefined && preferred.waitMs < WAIT_MS_MAX ? preferred : soonest;
  }

  /** The read is about to be sent to the holder; `ended` once it is answered or withdrawn. */
  begin(read: ChosenRead, holder: Holder): void {
    read.holder = holder;
    holder.waiting++;
    if (holder.timed !== undefined || ++holder.untimed < SAMPLE_EVERY) return;
    holder.untimed = 0;
    holder.timed = read;
    holder.timedFromMs = this.clock.nowMs();
    holder.timedAmong = holder.waiting;
  }

  /** Undefined status: it was withdrawn. */
  ended(read: ChosenRead, holder: Holder, status: StorageStatus | undefined): void {
    read.holder = undefined;
    holder.waiting--;
    if (status === StorageStatus.notFound) holder.passes = PASSES;
    if (holder.timed !== read) return;
    holder.timed = undefined;
    if (status !== StorageStatus.ok) return;
    const ms = (this.clock.nowMs() - holder.timedFromMs) / holder.timedAmong;
    holder.serviceMs += (ms - holder.serviceMs) * SERVICE_GAIN;
  }

  #follow(ring: Ring): void {
    this.#ring = ring;
    const { peers, spec } = ring;
    this.#permutation = new Uint16Array(Math.min(spec.replication, peers.length));
    this.#holders = peers.map((peer, index) => {
      const holder = this.#byPeer.get(peer) ?? new Holder(peer);
      this.#byPeer.set(peer, holder);
      holder.rank = (index + this.volumeId) % peers.length;
      return holder;
    });
    const members = new Set(peers);
    for (const [peer, holder] of this.#byPeer)
      if (!members.has(peer) && holder.waiting === 0) this.#byPeer.delete(peer);
  }
}
