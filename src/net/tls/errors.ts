/** The errors of TLS in front of the event loop. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type TlsErrorCode =
  /** A certificate, key or CA file that cannot be read or does not belong together. */
  | "bad-certificate"
  | "listen-failed"
  /** No TLS connection to the other side: refused, not trusted, or no answer in time. */
  | "connect-failed";

export class TlsError extends TorusError<TlsErrorCode> {
  constructor(code: TlsErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
