/** The errors of the I/O part of base. */
import { TorusError, type TorusErrorOptions } from "../errors";

export type IoErrorCode =
  /** A system call failed; `errno` says how. */
  | "system-call-failed"
  /** An address that cannot be parsed. */
  | "bad-address"
  /** A host name that could not be resolved. */
  | "resolve-failed"
  /** A port or socket path that cannot be listened on. */
  | "listen-failed"
  /** A worker that did not answer in time. */
  | "worker-timeout"
  /** A worker that ended, or never started. */
  | "worker-gone"
  /** An error of a worker that was no TorusError: a bug. */
  | "worker-failed";

export interface IoErrorOptions extends TorusErrorOptions {
  readonly errno?: number;
}

export class IoError extends TorusError<IoErrorCode> {
  /** The positive errno of a failed system call, else 0. */
  readonly errno: number;

  constructor(code: IoErrorCode, message: string, options: IoErrorOptions = {}) {
    super(code, message, options);
    this.errno = options.errno ?? 0;
  }
}
