export { diffRoots, type PageDifference } from "./differences";
export { InodeError } from "./errors";
export { createPageMap, openPageMap } from "./page-map";
export { type ReferenceVisitor, walkReferences } from "./references";
export {
  type BlockUse,
  type FrozenMap,
  type InodeSink,
  type InodeTarget,
  LOAD_PAGE_COUNT_MAX,
  type Loaded,
  lsnOf,
  makeLocation,
  type NodeReader,
  type PageMap,
  SLOTS_PER_LSN,
  slotOf,
} from "./types";
