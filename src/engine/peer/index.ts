export {
  type Access,
  type AccessDecision,
  AccessGuard,
  EVERY_VOLUME,
} from "./access-guard";
export { GuardedService } from "./guarded-service";
export { PeerError, type PeerErrorCode } from "./errors";
export { PeerService, type PeerServiceOptions } from "./peer-service";
