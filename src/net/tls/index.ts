export { TlsDialer } from "./dialer";
export { TlsError, type TlsErrorCode } from "./errors";
export { type TlsClient, TlsGate, type TlsGateOptions } from "./gate";
export { loadTlsIdentity, type TlsFiles, type TlsIdentity } from "./identity";
export { type Dial, TLS_PREFIX, TlsNetwork } from "./network";
