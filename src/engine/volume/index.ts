export { BlockPool } from "./block-pool";
export { BlockReader } from "./block-reader";
export { BufferPool } from "./buffer-pool";
export { ClusterFollower } from "./cluster-follower";
export type { VolumeExtent } from "./device-extents";
export { VolumeError, type VolumeErrorCode } from "./errors";
export { PeerNodeReader } from "./node-reader";
export { openVolume } from "./open";
export { type ReadLevel, VOLUME_DEFAULTS, type VolumeOptions, type WriteLevel } from "./options";
export type { PageCache } from "./page-cache";
export { type Adoption, planAdoption } from "./recovery";
export {
  type LatencyStage,
  newVolumeStatistics,
  type ObserveLatency,
  type VolumeStatistics,
} from "./statistics";
export { openSnapshotVolume, SnapshotVolume } from "./snapshot-volume";
export { type CloseOutcome, Volume, type VolumeHealth, type VolumeState } from "./volume";
export { type VolumeDone, VolumeStatus } from "./volume-status";
export type { VolumeEvent, VolumePorts } from "./volume-core";
