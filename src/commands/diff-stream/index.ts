export { DiffStreamError, type DiffStreamErrorCode } from "./errors";
export { snapshotFingerprint } from "./fingerprint";
export type { DiffHeader, DiffPoint } from "./format";
export { type DiffRecord, type DiffStream, openDiffStream } from "./reader";
export { DiffStreamWriter } from "./writer";
