/** What can be wrong with a ring: its stored form, or a change somebody asked for. */
import { TorusError, type TorusErrorOptions } from "../base";

export type RingErrorCode =
  /** The stored or given spec makes no sense; nothing is placed by it. */
  | "bad-spec"
  /** The change asked for cannot be made to this ring. */
  | "bad-change"
  | "unknown-peer"
  | "peer-exists";

export class RingError extends TorusError<RingErrorCode> {
  constructor(code: RingErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
