/**
 * The default ring: a block hashes to one of 2^k partitions, and a table made by the optimiser names the members of
 * each. Beyond the table's copies the walk goes on in rendezvous order, other zones first, until it covers all
 * members. Whole walks are worked out once a partition and kept, so that permutation() is a hash and a copy.
 */
import type { BlockRef, PeerId } from "../base";
import { hashToPartition, mix } from "./hash";
import { RendezvousOrder } from "./rendezvous";
import type { Ring, RingSpec } from "./ring";
import { decodeTable } from "./table-codec";

/** A ring that places by partition: blocks of one partition go to the same members. */
export interface PartitionedRing extends Ring {
  readonly partitionCount: number;
  /** Members that a block has by the table: min(replication, members with weight). */
  readonly copies: number;
  partitionOf(ref: BlockRef): number;
  /** The permutation of a partition, as permutation() of its blocks. */
  partitionPermutation(partition: number, count: number, out: Uint16Array): number;
}

export function isPartitioned(ring: Ring): ring is PartitionedRing {
  return "partitionOf" in ring;
}

export class TableRing implements PartitionedRing {
  readonly peers: readonly PeerId[];
  readonly partitionCount: number;
  readonly copies: number;
  private readonly rows: Uint16Array;
  private readonly order: RendezvousOrder;
  /** One full permutation a partition, made when first asked for; `walkKnown` tells which are there. */
  private walks: Uint16Array | undefined;
  private walkKnown: Uint8Array | undefined;

  constructor(readonly spec: RingSpec) {
    const table = decodeTable(spec.payload, spec.members.length);
    this.peers = spec.members.map((member) => member.peerId);
    this.partitionCount = 2 ** table.partitionBits;
    this.copies = table.copies;
    this.rows = table.rows;
    this.order = new RendezvousOrder(spec);
  }

  partitionOf(ref: BlockRef): number {
    return hashToPartition(ref) & (this.partitionCount - 1);
  }

  permutation(ref: BlockRef, count: number, out: Uint16Array): number {
    return this.partitionPermutation(hashToPartition(ref) & (this.partitionCount - 1), count, out);
  }

  partitionPermutation(partition: number, count: number, out: Uint16Array): number {
    if (count <= this.copies) {
      const start = partition * this.copies;
      for (let i = 0; i < count; i++) out[i] = this.rows[start + i] as number;
      return count;
    }
    const memberCount = this.peers.length;
    const total = Math.min(count, memberCount);
    const walks = this.walkOf(partition);
    const start = partition * memberCount;
    for (let i = 0; i < total; i++) out[i] = walks[start + i] as number;
    return total;
  }

  private walkOf(partition: number): Uint16Array {
    const memberCount = this.peers.length;
    this.walks ??= new Uint16Array(this.partitionCount * memberCount);
    this.walkKnown ??= new Uint8Array(this.partitionCount);
    if (this.walkKnown[partition] === 0) {
      const start = partition * memberCount;
      for (let i = 0; i < this.copies; i++)
        this.walks[start + i] = this.rows[partition * this.copies + i] as number;
      this.order.extend(mix(partition, 0), this.walks, start, this.copies, memberCount);
      this.walkKnown[partition] = 1;
    }
    return this.walks;
  }
}
