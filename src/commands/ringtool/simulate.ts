/**
 * Runs a scenario through the rings before and after and counts. Where both rings are tables, blocks are counted by
 * partition, whole windows of consecutive indexes at a time, so that a petabyte takes a second; the other types are
 * asked block by block, for at most SAMPLED_BLOCKS_MAX blocks spread evenly over all.
 */
import type { BlockRef } from "../../base";
import {
  balanceOf,
  buildRing,
  type ChangeTally,
  commonPartitions,
  hashToPartition,
  PARTITION_STRIDE,
  PARTITION_WINDOW_BLOCKS,
  PlacementTally,
  type RingBalance,
} from "../../ring";
import { type Scenario, type SimulatedType, scenarioRings } from "./scenario";
import { type BlockRun, forEachRun } from "./workload";

const SAMPLED_BLOCKS_MAX = 2 ** 23;

export interface Simulation {
  readonly scenario: Scenario;
  readonly type: SimulatedType;
  readonly tally: ChangeTally;
  /** Of the members that ought to hold something, in bytes. */
  readonly balanceBefore: RingBalance;
  readonly balanceAfter: RingBalance;
  /** Every n-th block was looked at; 1: all of them. */
  readonly sampling: number;
  readonly elapsedMs: number;
}

export function simulate(scenario: Scenario, type: SimulatedType): Simulation {
  const startedMs = performance.now();
  const specs = scenarioRings(scenario, type);
  const before = buildRing(specs.before);
  const after = buildRing(specs.after);
  const tally = new PlacementTally(before, after);
  const partitions = commonPartitions(before, after);
  let sampling = 1;
  if (partitions !== undefined) {
    countPartitions(scenario, partitions).forEach((blocks, partition) => {
      if (blocks > 0) tally.addPartition(partition, blocks);
    });
  } else {
    sampling = Math.ceil(scenario.blockCount / SAMPLED_BLOCKS_MAX);
    countBlocks(scenario, sampling, tally);
  }
  const result = tally.result();
  const { blockSizeBytes } = scenario;
  return {
    scenario,
    type,
    tally: result,
    balanceBefore: balanceOf(
      result.peers,
      (peer) => peer.blocksBefore,
      (peer) => peer.idealBefore,
      blockSizeBytes,
    ),
    balanceAfter: balanceOf(
      result.peers,
      (peer) => peer.blocksAfter,
      (peer) => peer.idealAfter,
      blockSizeBytes,
    ),
    sampling,
    elapsedMs: performance.now() - startedMs,
  };
}

/** A reference that is moved from block to block: millions of them need not be made. */
interface MovingRef {
  kind: BlockRef["kind"];
  volumeId: BlockRef["volumeId"];
  epoch: BlockRef["epoch"];
  index: number;
}

function countPartitions(scenario: Scenario, partitionCount: number): Float64Array {
  const counts = new Float64Array(partitionCount);
  let everywhere = 0;
  forEachRun(scenario, ({ first, count }) => {
    const ref: MovingRef = { ...first };
    const end = first.index + count;
    while (ref.index < end) {
      // Within a window every partitionCount blocks in a row touch each partition once.
      const windowEnd = (Math.floor(ref.index / PARTITION_WINDOW_BLOCKS) + 1) * PARTITION_WINDOW_BLOCKS;
      const pieceEnd = Math.min(end, windowEnd);
      const rounds = Math.floor((pieceEnd - ref.index) / partitionCount);
      everywhere += rounds;
      ref.index += rounds * partitionCount;
      let partition = hashToPartition(ref);
      for (; ref.index < pieceEnd; ref.index++, partition = (partition + PARTITION_STRIDE) | 0)
        counts[partition & (partitionCount - 1)]!++;
    }
  });
  return counts.map((count) => count + everywhere);
}

function countBlocks(scenario: Scenario, sampling: number, tally: PlacementTally): void {
  let position = 0;
  forEachRun(scenario, (run: BlockRun) => {
    const ref: MovingRef = { ...run.first };
    const skip = (sampling - (position % sampling)) % sampling;
    for (let offset = skip; offset < run.count; offset += sampling) {
      ref.index = run.first.index + offset;
      tally.addBlock(ref, sampling);
    }
    position += run.count;
  });
}
