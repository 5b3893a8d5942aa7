export { DistributedBlock } from "./distributed-block";
export { Distributor, type DistributorListener } from "./distributor";
export { DistributorError } from "./errors";
export { meansDown, PeerHealth } from "./peer-health";
export { Placement } from "./placement";
