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
export { ClusterSettings, type ClusterInit } from "./records/cluster-settings";
export { type ClusterState, ClusterWatch } from "./records/cluster-watch";
export type { ClusterSettingsRecord } from "./records/codec";
export type { MetaContext } from "./records/context";
export { DEFAULT_LEASE_TIMES, LeaseKeeper, type LeaseTimes } from "./records/lease-keeper";
export { checkName, checkVolumeSize, NAME_BYTES_MAX, VOLUME_SIZE_BYTES_MAX } from "./records/names";
export {
  PEER_LEASE_TIMES,
  type PeerDescription,
  PeerDirectory,
  type PeerEntry,
  PeerRegistration,
  type PeerReport,
} from "./records/peer-directory";
export { RingAdmin } from "./records/ring-admin";
export { SnapshotAdmin, type SnapshotCreateOptions, type SnapshotInfo } from "./records/snapshot-admin";
export { VolumeAdmin, type VolumeInfo, type VolumeList } from "./records/volume-admin";
export { MetaRegistry, type RegistryOptions } from "./session/registry";
export { MetaSnapshotSession } from "./session/snapshot-session";
export { MetaVolumeSession } from "./session/volume-session";
export { type MetaLocation, parseMetaUrl, type ParsedMetaUrl } from "./location";
export { checkKey, checkLeaseTtl, checkTransaction } from "./check";
export { CALL_DEADLINE_MS } from "./limits";
