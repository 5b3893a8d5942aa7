/**
 * Walks all blocks of the local peer, a page of its listing at a time, each in a turn of its own: it runs on the thread
 * that serves clients.
 */
import { type Clock, sleep } from "../../base";
import type { BlockListing } from "../ports";
import type { LocalPeer } from "./block-access";

/** What is looked at without a pause: less than a millisecond's work. */
const PAGE_BLOCKS = 256;

/** Calls `visit` for every page; a block put meanwhile may be missed or seen twice, an older one never. */
export async function walkLocalBlocks(
  { local, clock }: { readonly local: LocalPeer; readonly clock: Clock },
  signal: AbortSignal,
  visit: (blocks: readonly BlockListing[]) => void | Promise<void>,
): Promise<void> {
  let cursor: string | undefined;
  do {
    signal.throwIfAborted();
    const reply = await local.list(
      cursor === undefined ? { limit: PAGE_BLOCKS } : { limit: PAGE_BLOCKS, cursor },
    );
    await visit(reply.blocks);
    cursor = reply.cursor;
    if (cursor !== undefined) await sleep(clock, 0, signal);
  } while (cursor !== undefined);
}
