/** Storage over Connect: see README.md. */
export type {
  ConnectCode,
  ConnectStorageErrorCode,
  UnaryResult,
} from "./errors";
export {
  CONNECT_CONNECT_TIMEOUT_MS,
  CONNECT_CONTROL_TIMEOUT_MS,
  CONNECT_REQUEST_TIMEOUT_MS,
  type ConnectTransportOptions,
} from "./options";
export { StorageUnary, type StorageUnaryOptions } from "./storage-unary";
export { ConnectTransport } from "./transport";
export { createUnaryHandler, type UnaryHandler, type UnaryHandlerOptions } from "./unary-handler";
