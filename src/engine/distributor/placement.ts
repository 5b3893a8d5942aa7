/**
 * A log set made ready for use: which peers may hold the log's tail, in which incarnation each counts, how many
 * must hold a block (W) and how many should (copies). Candidates come in the order of the permutation of the log
 * set's own ring version, restricted to its members (rule R1), whatever the ring is now.
 */
import { assert, type BlockRef, type Incarnation, type PeerId } from "../../base";
import type { Ring } from "../../ring";
import type { LogSet } from "../head";

/** Permutation entries asked for beyond copies and excluded members, before the whole ring is walked. */
const SPARE_CANDIDATES = 2;

export class Placement {
  readonly log: LogSet;
  readonly ring: Ring;
  /** Copies a block is sent to: at least W, at most the replication and the members of S. */
  readonly copies: number;
  readonly #incarnations = new Map<PeerId, Incarnation>();
  readonly #permutation: Uint16Array;

  constructor(log: LogSet, ring: Ring, copies: number) {
    assert(ring.spec.version === log.ringVersion || log.members.length === 0, "ring is not the log set's");
    assert(log.width <= log.members.length, `width ${log.width} exceeds ${log.members.length} members`);
    this.log = log;
    this.ring = ring;
    this.copies = Math.max(log.width, Math.min(copies, log.members.length));
    for (const member of log.members) this.#incarnations.set(member.peerId, member.incarnation);
    this.#permutation = new Uint16Array(ring.peers.length);
  }

  /** Whether an acknowledgement by this disk in this life counts (R1). */
  counts(peer: PeerId, incarnation: Incarnation | ""): boolean {
    return incarnation !== "" && this.#incarnations.get(peer) === incarnation;
  }

  has(peer: PeerId): boolean {
    return this.#incarnations.has(peer);
  }

  /**
   * Fills `out` with members of S in the order of the block's permutation. With `all` unset only the first few,
   * which is what a healthy pool needs; ask again with `all` to walk on.
   */
  candidates(ref: BlockRef, all: boolean, out: PeerId[]): void {
    out.length = 0;
    const peers = this.ring.peers;
    const excluded = peers.length - this.#incarnations.size;
    const wanted = all ? peers.length : Math.min(peers.length, this.copies + excluded + SPARE_CANDIDATES);
    const count = this.ring.permutation(ref, wanted, this.#permutation);
    for (let position = 0; position < count; position++) {
      const peer = peers[this.#permutation[position] as number] as PeerId;
      if (this.#incarnations.has(peer)) out.push(peer);
    }
    if (!all) return;
    // A ring may leave members out of a permutation (weight 0); they stay in S and may hold the block too.
    for (const peer of this.#incarnations.keys()) if (!out.includes(peer)) out.push(peer);
  }
}
