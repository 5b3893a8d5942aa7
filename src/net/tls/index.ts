export { TlsDialer } from "./dialer";
export { TlsError } from "./errors";
export { type TlsClient, TlsGate, type TlsSubject } from "./gate";
export { loadTlsIdentity, type TlsFiles, type TlsIdentity } from "./identity";
export { TlsUpgrader, type UpgradedClient } from "./upgrade";
export { TLS_PREFIX, TlsNetwork } from "./network";
