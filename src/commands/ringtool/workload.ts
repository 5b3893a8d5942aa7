/**
 * The blocks of the simulated volumes, as runs of consecutive indexes of one epoch: a volume written once is one long
 * run; a volume rewritten in small pieces has runs of up to 64 blocks from many epochs, with gaps where cleaning took
 * blocks away. Runs, not blocks, are what is kept, so that a petabyte costs no more memory than a gigabyte.
 */
import { asEpoch, asVolumeId, type BlockRef, BlockKind } from "../../base";
import { seededRandom } from "./random";
import type { Scenario } from "./scenario";

export interface BlockRun {
  /** The first block of the run; the others have the following indexes. */
  readonly first: BlockRef;
  readonly count: number;
}

const VOLUME_BLOCKS = 131_072;
const SHORT_RUN_BLOCKS_MAX = 64;
/** Beyond this many short runs they are made longer instead: their number is what costs time. */
const SHORT_RUNS_MAX = 40_000;
const FIRST_EPOCH = 1_700_000_000_000;

/** Calls `visit` for every run of the scenario, always the same ones in the same order. */
export function forEachRun(scenario: Scenario, visit: (run: BlockRun) => void): void {
  const random = seededRandom(scenario.seed ^ 0x7075_7273);
  const rewrittenBlocks = (scenario.blockCount * scenario.rewrittenPercent) / 100;
  const runBlocksMax = Math.max(SHORT_RUN_BLOCKS_MAX, Math.ceil((2 * rewrittenBlocks) / SHORT_RUNS_MAX));
  let blocksLeft = scenario.blockCount;
  for (let volume = 1; blocksLeft > 0; volume++) {
    const blocks = Math.min(blocksLeft, VOLUME_BLOCKS);
    blocksLeft -= blocks;
    // Every hundred volumes hold the wanted share of rewritten ones, spread evenly.
    const isRewritten = (volume * scenario.rewrittenPercent) % 100 < scenario.rewrittenPercent;
    if (isRewritten) visitShortRuns(volume, blocks, runBlocksMax, random.below, visit);
    else visit({ first: blockRef(volume, FIRST_EPOCH, 1), count: blocks });
  }
}

function visitShortRuns(
  volume: number,
  blocks: number,
  runBlocksMax: number,
  below: (limit: number) => number,
  visit: (run: BlockRun) => void,
): void {
  let epoch = FIRST_EPOCH;
  let index = 1;
  for (let left = blocks; left > 0; ) {
    const count = Math.min(left, 1 + below(runBlocksMax));
    visit({ first: blockRef(volume, epoch, index), count });
    left -= count;
    index += count + below(runBlocksMax);
    if (below(16) === 0) {
      epoch += 1 + below(3_600_000);
      index = 1;
    }
  }
}

function blockRef(volume: number, epoch: number, index: number): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(volume), epoch: asEpoch(epoch), index };
}
