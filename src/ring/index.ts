export { buildRing, unionSpec } from "./build";
export {
  checkPeerSettings,
  createRing,
  nextRing,
  type PeerSettings,
  peerSettingsOf,
  type RingChange,
  type RingRequest,
} from "./change";
export { RingError, type RingErrorCode } from "./errors";
export { hashToPartition, PARTITION_STRIDE, PARTITION_WINDOW_BLOCKS } from "./hash";
export { balanceOf, type PeerPlan, planBlocks, planChange, type RingBalance, type RingPlan } from "./plan";
export type { Ring, RingMember, RingSpec, RingType } from "./ring";
export {
  copyCount,
  DEFAULT_RING_TYPE,
  parseRingSpec,
  placingMembers,
  REPLICATION_MAX,
  RING_MEMBERS_MAX,
  RING_TYPES,
} from "./spec";
export { isPartitioned, type PartitionedRing } from "./table-ring";
export {
  type ChangeTally,
  commonPartitions,
  type PeerTally,
  PlacementTally,
  type ZoneTally,
} from "./tally";
