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
export { type MetaLocation, parseMetaUrl, type ParsedMetaUrl } from "./location";
export { checkKey, checkLeaseTtl, checkTransaction } from "./check";
export { CALL_DEADLINE_MS } from "./limits";
export { EmbeddedStore, openMemoryStore, openSqliteStore } from "./embedded";
export { EtcdStore, type EtcdStoreOptions } from "./etcd";
export {
  ClusterSettings,
  ClusterWatch,
  DEFAULT_LEASE_TIMES,
  LeaseKeeper,
  NAME_BYTES_MAX,
  PEER_LEASE_TIMES,
  PeerDirectory,
  PeerRegistration,
  RingAdmin,
  SnapshotAdmin,
  VOLUME_SIZE_BYTES_MAX,
  VolumeAdmin,
  checkName,
  checkVolumeSize,
  type ClusterInit,
  type ClusterSettingsRecord,
  type ClusterState,
  type LeaseTimes,
  type MetaContext,
  type PeerDescription,
  type PeerEntry,
  type PeerReport,
  type SnapshotCreateOptions,
  type SnapshotInfo,
  type VolumeInfo,
  type VolumeList,
} from "./records";
export { MetaRegistry, MetaSnapshotSession, MetaVolumeSession, type RegistryOptions } from "./session";
