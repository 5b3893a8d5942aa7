export { AdpClient } from "./client";
export { AdpError, type AdpErrorCode } from "./errors";
export type { AdpPeerStatistics, KindCounts } from "./link";
export { LocalTransport } from "./local";
export {
  ADP_CONNECT_TIMEOUT_MS,
  ADP_CONTROL_TIMEOUT_MS,
  ADP_REQUEST_TIMEOUT_MS,
  type AdpClientOptions,
} from "./options";
export { AdpServer, type AdpServerOptions, type AdpServerStatistics } from "./server";
