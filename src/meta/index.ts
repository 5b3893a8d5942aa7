export type {
  CallOptions,
  Compare,
  KeyValue,
  KeyValueStore,
  LeaseId,
  Operation,
  RangeResult,
  Transaction,
  TransactionResult,
  Watch,
  WatchEvent,
  WatchListener,
  WatchOptions,
} from "./kv";
export { MetaError, type MetaErrorCode, isMetaError } from "./errors";
export { EmbeddedStore } from "./embedded/embedded-store";
export { openMemoryStore } from "./embedded/memory-store";
export { openSqliteStore } from "./embedded/sqlite-store";
export { EtcdStore, type EtcdStoreOptions } from "./etcd/etcd-store";
