export type {
  CallOptions,
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
export { type MetaLocation, parseMetaUrl, type ParsedMetaUrl, shownMetaUrl } from "./location";
export { checkKey, checkLeaseTtl, checkTransaction } from "./check";
export { CALL_DEADLINE_MS } from "./limits";
export { EmbeddedStore, openMemoryStore, openSqliteStore } from "./embedded";
export { EtcdStore, type EtcdStoreOptions } from "./etcd";
export {
  type AccessList,
  ClusterSettings,
  ClusterWatch,
  decodeCounter,
  decodeName,
  decodeVolume,
  keys,
  parseVolumeKey,
  PeerDirectory,
  PeerRegistration,
  RingAdmin,
  SnapshotAdmin,
  UpkeepAdmin,
  VolumeAccess,
  VolumeAdmin,
  type ClusterSettingsRecord,
  type ClusterState,
  type LeaseTimes,
  type MetaContext,
  type PeerDescription,
  type PeerEntry,
  type JobOrders,
  type SnapshotInfo,
  type StoredVolume,
  type UpkeepOrders,
  type VolumeInfo,
} from "./records";
export { MetaRegistry, MetaVolumeSession } from "./session";
