/**
 * Every error that metadata throws on purpose. The first group comes from the stores and says what is known about
 * the call's outcome; the second from the records and is the text a user of ctl or blk reads.
 */
import { TorusError, type TorusErrorOptions } from "../base";

export type MetaErrorCode =
  // Stores
  | "deadline"
  | "unknown-outcome"
  | "unreachable"
  | "lease-lost"
  | "closed"
  | "bad-request"
  | "too-large"
  | "unauthenticated"
  | "out-of-space"
  | "in-use"
  | "damaged"
  | "bad-url"
  // Records
  | "bad-record"
  | "newer-format"
  | "conflict"
  | "not-initialised"
  | "already-initialised"
  | "bad-settings"
  | "bad-name"
  | "bad-size"
  | "no-such-volume"
  | "volume-exists"
  | "volume-attached"
  | "volume-detached"
  | "volume-has-tail"
  | "volume-has-snapshots"
  | "no-such-snapshot"
  | "snapshot-exists"
  | "snapshot-in-use"
  | "request-failed"
  | "session-ended"
  | "peer-registered"
  | "peer-rolled-back"
  | "no-such-peer"
  | "peer-in-ring"
  | "bad-ring"
  | "ring-changed"
  | "no-such-ring";

export class MetaError extends TorusError<MetaErrorCode> {}

/** The call was provably not applied, but may work later. */
export function unreachable(message: string, cause?: unknown): MetaError {
  return new MetaError("unreachable", message, { retryable: true, cause });
}

/** The call may or may not have been applied: read again before going on. */
export function unknownOutcome(message: string, cause?: unknown): MetaError {
  return new MetaError("unknown-outcome", message, { retryable: true, cause });
}

/** A name, size or option that the user should change. */
export function usageError(code: MetaErrorCode, message: string, options: TorusErrorOptions = {}): MetaError {
  return new MetaError(code, message, { exitCode: 2, ...options });
}

export function isMetaError(error: unknown, ...codes: readonly MetaErrorCode[]): error is MetaError {
  return error instanceof MetaError && (codes.length === 0 || codes.includes(error.code));
}
