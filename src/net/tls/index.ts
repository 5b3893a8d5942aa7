export { TlsDialer } from "./dialer";
export { TlsError } from "./errors";
export { TlsGate } from "./gate";
export { loadTlsIdentity, type TlsFiles } from "./identity";
export { TlsNetwork } from "./network";
