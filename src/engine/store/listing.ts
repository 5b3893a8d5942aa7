/** What a store's walk shows of one block, and a listing made of a walk. */
import { type BlockListing, keepListing, type ListReply, type ListRequest } from "../ports";
import { MutableRef } from "./block-bytes";
import type { BlockStore } from "./store";

/** The one object that a walk shows for all its blocks. */
export class ListingRow implements BlockListing {
  readonly ref = new MutableRef();
  lengthBytes = 0;
  headerCrc = 0;
  suspect = false;
}

export function listByWalk(store: Pick<BlockStore, "walk">, request: ListRequest): ListReply {
  const blocks: BlockListing[] = [];
  const cursor = store.walk(request, (listing) => void blocks.push(keepListing(listing)));
  return cursor === undefined ? { blocks } : { blocks, cursor };
}
