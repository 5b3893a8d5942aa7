/** The NBD server: see README.md. */
export type { NbdLimits } from "./limits";
export { type NbdEvent, NbdServer, type NbdServerOptions } from "./server";
export type { NbdStatistics } from "./statistics";
export type { ResumedHandshake, TlsState } from "./handshake";
export { kernelFlags } from "./options";
export type { OpenExport } from "./handshake";
