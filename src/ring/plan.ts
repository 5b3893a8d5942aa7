/**
 * What a change of ring would move, before it is made: per peer and in all, against the least possible, with balance
 * and zones before and after. Exact where both rings are tables; otherwise taken from a fixed sample of block names.
 */
import { asEpoch, asVolumeId, BlockKind, type BlockRef, type PeerId } from "../base";
import { buildRing } from "./build";
import type { RingSpec } from "./ring";
import { type ChangeTally, commonPartitions, PlacementTally, type PeerTally, type ZoneTally } from "./tally";

const SAMPLE_BLOCKS = 2 ** 16;

export interface RingBalance {
  readonly mean: number;
  readonly stddev: number;
  readonly min: number;
  readonly max: number;
  /** The largest |held - ideal| / ideal of a member with weight. */
  readonly worstDeviation: number;
}

export interface PeerPlan {
  readonly peerId: PeerId;
  readonly zone: string;
  readonly weight: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly bytesReceived: number;
  readonly bytesDropped: number;
  /** What weights and zones ask for. */
  readonly bytesIdeal: number;
}

export interface RingPlan {
  readonly fromVersion: number;
  readonly toVersion: number;
  /** False: estimated from a sample, good to about one per cent. */
  readonly exact: boolean;
  /** Data before replication that the figures stand for. */
  readonly dataBytes: number;
  readonly bytesMoved: number;
  readonly bytesMovedLeast: number;
  readonly balanceBefore: RingBalance;
  readonly balanceAfter: RingBalance;
  readonly zonesBefore: ZoneTally;
  readonly zonesAfter: ZoneTally;
  readonly peers: readonly PeerPlan[];
  /** Partitions (or sampled blocks) that get at least one new member, and their number in all. */
  readonly copiesMoved: number;
  readonly copies: number;
}

/** Plans the change between two specs for `dataBytes` of data (before replication). Throws RingError on bad specs. */
export function planChange(older: RingSpec, newer: RingSpec, dataBytes: number): RingPlan {
  const olderRing = buildRing(older);
  const newerRing = buildRing(newer);
  const tally = new PlacementTally(olderRing, newerRing);
  const partitions = commonPartitions(olderRing, newerRing);
  if (partitions !== undefined)
    for (let partition = 0; partition < partitions; partition++) tally.addPartition(partition, 1);
  else
    for (let index = 1; index <= SAMPLE_BLOCKS; index++)
      tally.addBlock({ kind: BlockKind.data, volumeId: asVolumeId(1), epoch: asEpoch(1), index });
  return planOf(older, newer, tally, dataBytes, partitions !== undefined);
}

/** Plans the change for the very blocks there are: nothing is estimated. */
export function planBlocks(
  older: RingSpec,
  newer: RingSpec,
  blocks: Iterable<{ readonly ref: BlockRef; readonly lengthBytes: number }>,
): RingPlan {
  const tally = new PlacementTally(buildRing(older), buildRing(newer));
  let dataBytes = 0;
  for (const { ref, lengthBytes } of blocks) {
    tally.addBlock(ref, lengthBytes);
    dataBytes += lengthBytes;
  }
  return planOf(older, newer, tally, dataBytes, true);
}

function planOf(
  older: RingSpec,
  newer: RingSpec,
  tally: PlacementTally,
  dataBytes: number,
  exact: boolean,
): RingPlan {
  const result = tally.result();
  const bytesPerBlock = result.blocks > 0 ? dataBytes / result.blocks : 0;
  return {
    fromVersion: older.version,
    toVersion: newer.version,
    exact,
    dataBytes,
    bytesMoved: Math.round(result.blocksSent * bytesPerBlock),
    bytesMovedLeast: Math.round(result.blocksSentLeast * bytesPerBlock),
    ...balances(result, bytesPerBlock),
    zonesBefore: result.before,
    zonesAfter: result.after,
    peers: result.peers.map((peer) => ({
      peerId: peer.peerId,
      zone: peer.zone,
      weight: peer.weight,
      bytesBefore: Math.round(peer.blocksBefore * bytesPerBlock),
      bytesAfter: Math.round(peer.blocksAfter * bytesPerBlock),
      bytesReceived: Math.round(peer.blocksReceived * bytesPerBlock),
      bytesDropped: Math.round(peer.blocksDropped * bytesPerBlock),
      bytesIdeal: Math.round(peer.idealAfter * bytesPerBlock),
    })),
    copiesMoved: result.blocksSent,
    copies: result.blocksSent + result.blocksKept,
  };
}

function balances(result: ChangeTally, scale: number): Pick<RingPlan, "balanceBefore" | "balanceAfter"> {
  return {
    balanceBefore: balanceOf(
      result.peers,
      (peer) => peer.blocksBefore,
      (peer) => peer.idealBefore,
      scale,
    ),
    balanceAfter: balanceOf(
      result.peers,
      (peer) => peer.blocksAfter,
      (peer) => peer.idealAfter,
      scale,
    ),
  };
}

/** Over the peers that ought to hold something; `scale` turns blocks into whatever the figures are wanted in. */
export function balanceOf(
  peers: readonly PeerTally[],
  held: (peer: PeerTally) => number,
  ideal: (peer: PeerTally) => number,
  scale = 1,
): RingBalance {
  const counted = peers.filter((peer) => ideal(peer) > 0);
  if (counted.length === 0) return { mean: 0, stddev: 0, min: 0, max: 0, worstDeviation: 0 };
  const values = counted.map((peer) => held(peer) * scale);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return {
    mean,
    stddev: Math.sqrt(variance),
    min: Math.min(...values),
    max: Math.max(...values),
    worstDeviation: Math.max(...counted.map((peer) => Math.abs(held(peer) - ideal(peer)) / ideal(peer))),
  };
}
