export { ClusterSettings, notInitialised } from "./cluster-settings";
export { ClusterWatch, type ClusterState } from "./cluster-watch";
export {
  decodeCounter,
  decodeHead,
  decodeLock,
  decodeName,
  decodeRequest,
  decodeSnapshot,
  decodeVolume,
  encodeEpoch,
  encodeHead,
  encodeLock,
  encodeRequest,
  encodeSnapshot,
  encodeVolume,
  type ClusterSettingsRecord,
  type StoredLock,
  type StoredRequest,
  type StoredSnapshot,
  type StoredVolume,
} from "./codec";
export { again, readAll, repeat, type MetaContext, unchanged } from "./context";
export { mintEpoch } from "./epochs";
export { encodeRecord } from "./fields";
export { keys, parseVolumeKey } from "./layout";
export { DEFAULT_LEASE_TIMES, LeaseKeeper, type KeyState, type LeaseTimes } from "./lease-keeper";

export { PeerDirectory, PeerRegistration, type PeerDescription, type PeerEntry } from "./peer-directory";
export { RingAdmin } from "./ring-admin";
export { SnapshotAdmin, publicSnapshot, type SnapshotInfo } from "./snapshot-admin";
export { type JobOrders, UpkeepAdmin, type UpkeepOrders } from "./upkeep-admin";
export { type AccessList, VolumeAccess } from "./volume-access";
export { VolumeAdmin, publicRecord, type VolumeInfo } from "./volume-admin";
export {
  attachedError,
  hasTail,
  lookAtSnapshot,
  lookAtVolume,
  type SnapshotLook,
  type VolumeLook,
} from "./volume-look";
