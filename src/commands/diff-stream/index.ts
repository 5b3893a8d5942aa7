export { DiffStreamError, type DiffStreamErrorCode } from "./errors";
export { snapshotFingerprint } from "./fingerprint";
export { type DiffHeader, type DiffPoint, RECORD_DATA_BYTES_MAX } from "./format";
export { type DiffRecord, type DiffStream, openDiffStream } from "./reader";
export { DiffStreamWriter } from "./writer";
