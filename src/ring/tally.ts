/**
 * Counts what a change of ring does to blocks: who holds how many before and after, what each peer receives, and
 * where copies share a zone. Blocks are added one by one, or a whole partition at a time where both rings place by
 * partition, which makes petabytes countable.
 */
import { assert, type BlockRef, type PeerId } from "../base";
import type { Ring, RingSpec } from "./ring";
import { modelShares, type ShareModel, SHARE_UNITS } from "./shares";
import { copyCount } from "./spec";
import { isPartitioned, type PartitionedRing } from "./table-ring";

/** Precision of ideal shares: copies of a block, in partitions of a table this fine. */
const IDEAL_PARTITIONS = 2 ** 16;

export interface PeerTally {
  readonly peerId: PeerId;
  /** "" when it has none, or is in neither ring. */
  readonly zone: string;
  /** In the newer ring; 0 when drained or removed. */
  readonly weight: number;
  readonly blocksBefore: number;
  readonly blocksAfter: number;
  /** Copies it holds after and did not before: they come over the network. */
  readonly blocksReceived: number;
  readonly blocksDropped: number;
  /** What weights, zones and replication ask for, in block copies. */
  readonly idealBefore: number;
  readonly idealAfter: number;
}

export interface ZoneTally {
  /** Copies of each block. */
  readonly copies: number;
  /** Copies asked for, but there are fewer members with weight. */
  readonly copiesShort: number;
  /** The most distinct zones a block's copies can be in. */
  readonly zonesPossible: number;
  /** Blocks in fewer zones than possible: a fault of the ring. */
  readonly blocksViolating: number;
  /** Blocks with two or more copies in one zone, for want of zones or by fault. */
  readonly blocksSharing: number;
}

export interface ChangeTally {
  readonly blocks: number;
  readonly peers: readonly PeerTally[];
  readonly blocksKept: number;
  readonly blocksSent: number;
  /** The least that any placement would have to send to get from the older to what the newer spec asks for. */
  readonly blocksSentLeast: number;
  readonly before: ZoneTally;
  readonly after: ZoneTally;
}

/** One of the two rings, with its members' places in the joint list of peers. */
interface Side {
  readonly ring: Ring;
  readonly model: ShareModel;
  readonly copies: number;
  readonly peerOf: Uint16Array;
  readonly held: Float64Array;
  readonly row: Uint16Array;
  violating: number;
  sharing: number;
}

export class PlacementTally {
  private readonly peerIds: readonly PeerId[];
  private readonly older: Side;
  private readonly newer: Side;
  private readonly received: Float64Array;
  /** Per peer of the older ring: the newer ring's zone + 1 when it may keep its copies, 0 when it has to give them up. */
  private readonly keepZone: Uint16Array;
  private readonly keepCount: Uint16Array;
  /** Per zone of the newer ring + 1: copies that could stay in it. */
  private readonly zoneKeepable: Float64Array;
  private readonly boundZones: boolean;
  private blocks = 0;
  private sent = 0;
  private kept = 0;
  private rowLeast = 0;

  constructor(older: Ring, newer: Ring) {
    const ids = new Set([...newer.peers, ...older.peers]);
    this.peerIds = [...ids].sort();
    this.older = makeSide(older, this.peerIds);
    this.newer = makeSide(newer, this.peerIds);
    this.received = new Float64Array(this.peerIds.length);
    this.boundZones = newer.spec.type === "table" || newer.spec.type === "rendezvous";
    this.keepZone = new Uint16Array(this.peerIds.length);
    newer.spec.members.forEach((member, index) => {
      if (member.weight > 0)
        this.keepZone[this.newer.peerOf[index] as number] =
          (this.newer.model.zones.zoneOfMember[index] as number) + 1;
    });
    this.keepCount = new Uint16Array(this.newer.model.zones.names.length + 1);
    this.zoneKeepable = new Float64Array(this.keepCount.length);
  }

  addBlock(ref: BlockRef, blocks = 1): void {
    this.older.ring.permutation(ref, this.older.copies, this.older.row);
    this.newer.ring.permutation(ref, this.newer.copies, this.newer.row);
    this.addRows(blocks);
  }

  /** Adds blocks of one partition of the finer of two partitioned rings. */
  addPartition(partition: number, blocks: number): void {
    const { older, newer } = this;
    assert(isPartitioned(older.ring) && isPartitioned(newer.ring), "a ring does not place by partition");
    older.ring.partitionPermutation(partition & (older.ring.partitionCount - 1), older.copies, older.row);
    newer.ring.partitionPermutation(partition & (newer.ring.partitionCount - 1), newer.copies, newer.row);
    this.addRows(blocks);
  }

  private addRows(blocks: number): void {
    const { older, newer, received } = this;
    this.blocks += blocks;
    countRow(older, blocks);
    countRow(newer, blocks);
    for (let i = 0; i < newer.copies; i++) {
      const peer = newer.peerOf[newer.row[i] as number] as number;
      let had = false;
      for (let k = 0; k < older.copies; k++)
        if (older.peerOf[older.row[k] as number] === peer) {
          had = true;
          break;
        }
      if (had) this.kept += blocks;
      else {
        this.sent += blocks;
        received[peer]! += blocks;
      }
    }
    this.rowLeast += blocks * Math.max(0, newer.copies - this.keepable(blocks));
  }

  /** Of the older row, how many copies the newer ring could keep where they are. */
  private keepable(blocks: number): number {
    const { older, newer, keepZone, keepCount } = this;
    let count = 0;
    keepCount.fill(0);
    for (let k = 0; k < older.copies; k++) {
      const zone = keepZone[older.peerOf[older.row[k] as number] as number] as number;
      if (zone === 0) continue;
      if (this.boundZones && (keepCount[zone] as number) >= (newer.model.bounds.high[zone - 1] as number))
        continue;
      keepCount[zone]!++;
      this.zoneKeepable[zone]! += blocks;
      count++;
    }
    return count;
  }

  result(): ChangeTally {
    const { older, newer, blocks } = this;
    const idealOlder = idealByPeer(older, this.peerIds.length);
    const idealNewer = idealByPeer(newer, this.peerIds.length);
    const members = new Map(
      [
        ...older.ring.spec.members.map((member) => ({ ...member, weight: 0 })),
        ...newer.ring.spec.members,
      ].map((member) => [member.peerId, member]),
    );
    const peers = this.peerIds.map((peerId, peer): PeerTally => {
      const before = older.held[peer] as number;
      const after = newer.held[peer] as number;
      const receivedBlocks = this.received[peer] as number;
      return {
        peerId,
        zone: members.get(peerId)?.zone ?? "",
        weight: members.get(peerId)?.weight ?? 0,
        blocksBefore: before,
        blocksAfter: after,
        blocksReceived: receivedBlocks,
        blocksDropped: before - (after - receivedBlocks),
        idealBefore: (idealOlder[peer] as number) * blocks,
        idealAfter: (idealNewer[peer] as number) * blocks,
      };
    });
    return {
      blocks,
      peers,
      blocksKept: this.kept,
      blocksSent: this.sent,
      blocksSentLeast: Math.max(
        this.shareLeast(peers),
        this.rowLeast,
        this.boundZones ? this.zoneLeast(peers) : 0,
      ),
      before: zoneTally(older),
      after: zoneTally(newer),
    };
  }

  /** The least by shares: what members lack of their new share, whoever it comes from. */
  private shareLeast(peers: readonly PeerTally[]): number {
    return peers.reduce((sum, peer) => sum + Math.max(0, peer.idealAfter - peer.idealBefore), 0);
  }

  /**
   * The least by zones, to get to the loads that came out: a zone receives at least what its members gained, and at
   * least what it gained as a whole once the rows that crowd it have given copies up.
   */
  private zoneLeast(peers: readonly PeerTally[]): number {
    const { newer } = this;
    const zoneCount = newer.model.zones.names.length;
    const gained = new Float64Array(zoneCount);
    const whole = new Float64Array(zoneCount);
    newer.peerOf.forEach((peer, member) => {
      const { blocksAfter, blocksBefore } = peers[peer] as PeerTally;
      const zone = newer.model.zones.zoneOfMember[member] as number;
      gained[zone]! += Math.max(0, blocksAfter - blocksBefore);
      whole[zone]! += blocksAfter;
    });
    return gained.reduce(
      (sum, gain, zone) =>
        sum + Math.max(gain, (whole[zone] as number) - (this.zoneKeepable[zone + 1] as number)),
      0,
    );
  }
}

/** The number of partitions to walk so that both rings are constant within each; undefined when they are not tables. */
export function commonPartitions(older: Ring, newer: Ring): number | undefined {
  if (!isPartitioned(older) || !isPartitioned(newer)) return undefined;
  return Math.max((older as PartitionedRing).partitionCount, (newer as PartitionedRing).partitionCount);
}

function makeSide(ring: Ring, peerIds: readonly PeerId[]): Side {
  const spec: RingSpec = ring.spec;
  const copies = copyCount(spec);
  return {
    ring,
    model: modelShares(spec.members, spec.replication, IDEAL_PARTITIONS),
    copies,
    peerOf: Uint16Array.from(ring.peers, (peerId) => peerIds.indexOf(peerId)),
    held: new Float64Array(peerIds.length),
    row: new Uint16Array(Math.max(1, spec.members.length)),
    violating: 0,
    sharing: 0,
  };
}

function countRow(side: Side, blocks: number): void {
  const { row, copies, held, peerOf, model } = side;
  const zoneOf = model.zones.zoneOfMember;
  let distinct = 0;
  for (let i = 0; i < copies; i++) {
    const member = row[i] as number;
    held[peerOf[member] as number]! += blocks;
    let first = true;
    for (let k = 0; k < i; k++)
      if (zoneOf[row[k] as number] === zoneOf[member]) {
        first = false;
        break;
      }
    if (first) distinct++;
  }
  if (distinct < copies) side.sharing += blocks;
  if (distinct < model.bounds.distinct) side.violating += blocks;
}

function idealByPeer(side: Side, peerCount: number): Float64Array {
  const ideal = new Float64Array(peerCount);
  side.model.idealUnits.forEach((units, member) => {
    ideal[side.peerOf[member] as number] = units / (SHARE_UNITS * IDEAL_PARTITIONS);
  });
  return ideal;
}

function zoneTally(side: Side): ZoneTally {
  return {
    copies: side.copies,
    copiesShort: side.ring.spec.replication - side.copies,
    zonesPossible: side.model.bounds.distinct,
    blocksViolating: side.violating,
    blocksSharing: side.sharing,
  };
}
