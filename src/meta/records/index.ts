export { ClusterSettings, notInitialised, type ClusterInit } from "./cluster-settings";
export { ClusterWatch, type ClusterState } from "./cluster-watch";
export {
  decodeCounter,
  decodeHead,
  decodeLock,
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
} from "./codec";
export { again, readAll, repeat, type MetaContext, unchanged } from "./context";
export { mintEpoch } from "./epochs";
export { encodeRecord } from "./fields";
export { keys, parseVolumeKey } from "./layout";
export { DEFAULT_LEASE_TIMES, LeaseKeeper, type KeyState, type LeaseTimes } from "./lease-keeper";
export { NAME_BYTES_MAX, VOLUME_SIZE_BYTES_MAX, checkName, checkVolumeSize } from "./names";
export {
  PEER_LEASE_TIMES,
  PeerDirectory,
  PeerRegistration,
  type PeerDescription,
  type PeerEntry,
  type PeerReport,
} from "./peer-directory";
export { RingAdmin } from "./ring-admin";
export {
  SnapshotAdmin,
  publicSnapshot,
  type SnapshotCreateOptions,
  type SnapshotInfo,
} from "./snapshot-admin";
export { VolumeAdmin, publicRecord, type VolumeInfo, type VolumeList } from "./volume-admin";
export {
  attachedError,
  hasTail,
  lookAtSnapshot,
  lookAtVolume,
  type SnapshotLook,
  type VolumeLook,
} from "./volume-look";
