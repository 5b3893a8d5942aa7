/**
 * Walks all blocks of the local peer, a part at a time, each in a turn of its own: it runs on the thread that serves
 * clients, whose requests wait for a part's end.
 */
import { type Clock, sleep } from "../../base";
import type { ListingVisitor } from "../ports";
import type { LocalPeer } from "./block-access";

/** Some 50 us of work: what a small request takes itself. */
const PART_BLOCKS = 256;

/**
 * Calls `visit` for every block and `afterPart`, if there is one, between them; a block put meanwhile may be missed
 * or seen twice, an older one never.
 */
export async function walkLocalBlocks(
  { local, clock }: { readonly local: LocalPeer; readonly clock: Clock },
  signal: AbortSignal,
  visit: ListingVisitor,
  afterPart?: () => Promise<void>,
): Promise<void> {
  let cursor: string | undefined;
  do {
    signal.throwIfAborted();
    cursor = local.walk(
      cursor === undefined ? { limit: PART_BLOCKS } : { limit: PART_BLOCKS, cursor },
      visit,
    );
    await afterPart?.();
    if (cursor !== undefined) await sleep(clock, 0, signal);
  } while (cursor !== undefined);
}
