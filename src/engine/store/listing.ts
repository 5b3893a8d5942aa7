/** What a store's walk shows of one block, and a listing made of a walk. */
import {
  type BlockListing,
  keepListing,
  type ListingVisitor,
  type ListReply,
  type ListRequest,
} from "../ports";
import { MutableRef } from "./block-bytes";

/** The one object that a walk shows for all its blocks. */
export class ListingRow implements BlockListing {
  readonly ref = new MutableRef();
  lengthBytes = 0;
  headerCrc = 0;
  suspect = false;
}

interface Walkable {
  walk(request: ListRequest, visit: ListingVisitor): string | undefined;
}

export function listByWalk(store: Walkable, request: ListRequest): ListReply {
  const blocks: BlockListing[] = [];
  const cursor = store.walk(request, (listing) => void blocks.push(keepListing(listing)));
  return cursor === undefined ? { blocks } : { blocks, cursor };
}
