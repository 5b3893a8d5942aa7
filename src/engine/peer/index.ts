export { PeerError, type PeerErrorCode } from "./errors";
export { PeerService, type PeerServiceOptions } from "./peer-service";
