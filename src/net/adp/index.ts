export { AdpClient } from "./client";
export { AdpError } from "./errors";
export type { AdpPeerStatistics } from "./link";
export { LocalTransport } from "./local";
export {
  ADP_CONNECT_TIMEOUT_MS,
  ADP_CONTROL_TIMEOUT_MS,
  ADP_REQUEST_TIMEOUT_MS,
  type AdpClientOptions,
} from "./options";
export { AdpServer, type AdpServerStatistics } from "./server";
