export { PeerService, type PeerServiceOptions } from "./peer-service";
