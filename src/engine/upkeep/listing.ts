/** Walks all blocks of the local peer, a page of its listing at a time. */
import type { BlockListing } from "../ports";
import type { LocalPeer } from "./block-access";

const PAGE_BLOCKS = 4096;

/** Calls `visit` for every page; a block put meanwhile may be missed or seen twice, an older one never. */
export async function walkLocalBlocks(
  local: LocalPeer,
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
  } while (cursor !== undefined);
}
