/** The errors of the bulk data protocol. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type AdpErrorCode =
  /** No connection to the peer, or no answer within the deadline. */
  | "unreachable"
  /** The peer answered, and said no; `status` of its reply is in the message. */
  | "refused"
  /** Bytes that are no frame of this protocol. */
  | "bad-frame";

export class AdpError extends TorusError<AdpErrorCode> {
  constructor(code: AdpErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
