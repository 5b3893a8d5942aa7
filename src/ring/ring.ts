/**
 * Placement as a pure function: a ring maps a BlockRef to an ordered permutation of its members. The first R of
 * it are where the block belongs; the rest is the order in which a writer walks on past dead peers and a reader
 * looks further. The same spec gives the same permutation on every machine and in every version of torus
 * (golden vectors hold that).
 */
import type { BlockRef, PeerId } from "../base";

export type RingType = "empty" | "single" | "mod" | "ketama" | "union" | "rendezvous" | "table";

export interface RingMember {
  readonly peerId: PeerId;
  /** Relative capacity, > 0; by default the store's size in GiB. A draining peer has weight 0: it takes no new block. */
  readonly weight: number;
  /** Failure domain; replicas go to different zones while that is possible. Empty: the peer is a zone of its own. */
  readonly zone: string;
}

/** What the metadata stores of one ring version; JSON-serialisable. */
export interface RingSpec {
  /** From 1, grows by one with every change; versions are compared and never go back. */
  readonly version: number;
  readonly type: RingType;
  readonly replication: number;
  readonly members: readonly RingMember[];
  /** Type-specific, e.g. the partition table of `table` (compact text), or the two rings of `union`. */
  readonly payload?: unknown;
}

export interface Ring {
  readonly spec: RingSpec;
  /** The members in the order of the indexes that permutation() writes. */
  readonly peers: readonly PeerId[];
  /**
   * Writes the first `count` member indexes of the block's permutation into `out` and returns how many there are
   * (fewer when the ring has fewer members). Allocates nothing: it is on the write path.
   */
  permutation(ref: BlockRef, count: number, out: Uint16Array): number;
}
