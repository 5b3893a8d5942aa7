export { StoreError, type StoreErrorCode } from "./errors";
export { type OpenStoreOptions, openSegmentStore, readStoreIdentity, type StoreIdentity } from "./open-store";
export { MemoryStore, type MemoryStoreOptions } from "./memory-store";
export type { SegmentStore } from "./segment-store";
export type { BlockStore, StoreStatistics } from "./store";
