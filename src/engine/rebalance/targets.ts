/**
 * Which blocks a pass has to look at, decided without asking anybody: those whose peers changed since the ring at
 * which everything was settled, those that a peer should have of which it is not known what it has (it was away, or
 * its disk is another), those that this peer holds though it should not, and those that came since: a writer that
 * could not reach a peer leaves its blocks short of a copy, whatever the metadata says of that peer.
 */
import type { BlockRef, Clock, PeerId } from "../../base";
import { copyCount, type Ring } from "../../ring";
import type { ClusterView } from "../ports";
import { BlockSet } from "../upkeep";

/** Where a block belongs at one ring version. */
export class DesiredPeers {
  readonly copies: number;
  /** Fewer peers than copies asked for: nothing may be dropped. */
  readonly isShort: boolean;
  private readonly row: Uint16Array;

  constructor(readonly ring: Ring) {
    this.copies = copyCount(ring.spec);
    this.isShort = this.copies < ring.spec.replication;
    this.row = new Uint16Array(Math.max(1, ring.peers.length));
  }

  /** The block's peers in the order of its permutation, into `out`. */
  of(ref: BlockRef, out: PeerId[]): PeerId[] {
    const count = this.ring.permutation(ref, this.copies, this.row);
    out.length = 0;
    for (let i = 0; i < count; i++) out.push(this.ring.peers[this.row[i] as number] as PeerId);
    return out;
  }

  /** The whole walk, for finding who else may hold the block. */
  walk(ref: BlockRef): PeerId[] {
    const count = this.ring.permutation(ref, this.ring.peers.length, this.row);
    return Array.from(this.row.subarray(0, count), (index) => this.ring.peers[index] as PeerId);
  }
}

/** What is known of the other peers between passes. */
export class PeerKnowledge {
  /** Incarnation of live peers, as last seen. */
  private readonly live = new Map<PeerId, string>();
  /** Peers of which it is not known whether they hold what they should. */
  private readonly unsettled = new Set<PeerId>();

  /** Takes in who is live; returns whether a peer came (back) or became another. */
  update(view: ClusterView): boolean {
    let changed = false;
    const seen = new Set<PeerId>();
    for (const peer of view.peers) {
      if (!peer.live) continue;
      seen.add(peer.peerId);
      if (this.live.get(peer.peerId) === peer.incarnation) continue;
      this.live.set(peer.peerId, peer.incarnation);
      this.unsettled.add(peer.peerId);
      changed = true;
    }
    for (const peerId of this.live.keys()) if (!seen.has(peerId)) this.live.delete(peerId);
    return changed;
  }

  isLive(peer: PeerId): boolean {
    return this.live.has(peer);
  }

  /** Live, and possibly without blocks that it should have. */
  isOpen(peer: PeerId): boolean {
    return this.unsettled.has(peer) && this.live.has(peer);
  }

  markOpen(peer: PeerId): void {
    this.unsettled.add(peer);
  }

  get openPeers(): ReadonlySet<PeerId> {
    return new Set([...this.unsettled].filter((peer) => this.live.has(peer)));
  }

  settle(peers: Iterable<PeerId>): void {
    for (const peer of peers) this.unsettled.delete(peer);
  }
}

/** New blocks are looked at in turns of this: until then their writers may still be sending them. */
const SETTLING_MS = 5_000;

/** Which blocks are known to be at all their peers, and which new ones are old enough to be asked about. */
export class PlacementMemory {
  private readonly placed = new BlockSet();
  /** Not known to be placed, and seen this long ago. */
  private older = new BlockSet();
  private newer = new BlockSet();
  private turnedAtMs: number;

  constructor(private readonly clock: Clock) {
    this.turnedAtMs = clock.nowMs();
  }

  get memoryBytes(): number {
    return this.placed.memoryBytes + this.older.memoryBytes + this.newer.memoryBytes;
  }

  /** Before a walk. */
  turn(): void {
    const nowMs = this.clock.nowMs();
    if (nowMs - this.turnedAtMs < SETTLING_MS) return;
    this.turnedAtMs = nowMs;
    this.older = this.newer;
    this.newer = new BlockSet();
  }

  /** Takes note of a block that the walk meets; returns whether it is too new to be asked about in this one. */
  see(ref: BlockRef): boolean {
    if (this.placed.has(ref)) return false;
    this.newer.add(ref);
    return !this.older.has(ref);
  }

  markPlaced(ref: BlockRef): void {
    this.placed.add(ref);
  }

  isDue(ref: BlockRef): boolean {
    return this.older.has(ref) && !this.placed.has(ref);
  }
}

/** Asked about every block that is here, again and again: it makes no objects. */
export class BlockSelector {
  private readonly now: PeerId[] = [];
  private readonly before: PeerId[] = [];
  /** Of the block selected last: this peer should hold it. */
  isMine = false;

  constructor(
    private readonly self: PeerId,
    private readonly desired: DesiredPeers,
    /** Where blocks belonged when everything was settled last; undefined after a start. */
    private readonly settled: DesiredPeers | undefined,
    private readonly knowledge: PeerKnowledge,
    private readonly memory: PlacementMemory,
  ) {}

  /** Returns whether the block must be looked at. */
  select(ref: BlockRef): boolean {
    const { now, before, self, knowledge } = this;
    this.desired.of(ref, now);
    this.isMine = now.includes(self);
    if (!this.isMine && !this.desired.isShort && this.areAllLive()) return true;
    if (this.isAnyOtherOpen()) return true;
    if (this.settled === undefined || this.memory.isDue(ref)) return this.isAnyOtherLive();
    if (this.settled === this.desired) return false;
    this.settled.of(ref, before);
    return now.some((peer) => !before.includes(peer) && peer !== self && knowledge.isLive(peer));
  }

  private areAllLive(): boolean {
    for (const peer of this.now) if (!this.knowledge.isLive(peer)) return false;
    return true;
  }

  private isAnyOtherOpen(): boolean {
    for (const peer of this.now) if (peer !== this.self && this.knowledge.isOpen(peer)) return true;
    return false;
  }

  private isAnyOtherLive(): boolean {
    for (const peer of this.now) if (peer !== this.self && this.knowledge.isLive(peer)) return true;
    return false;
  }
}
