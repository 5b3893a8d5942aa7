export { DistributedBlock } from "./distributed-block";
export {
  Distributor,
  DISTRIBUTOR_DEFAULTS,
  type DistributorListener,
  type DistributorOptions,
  type DistributorStatistics,
} from "./distributor";
export { DistributorError, type DistributorErrorCode } from "./errors";
export { meansDown, PeerHealth } from "./peer-health";
export { Placement } from "./placement";
