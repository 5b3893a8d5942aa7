/** The errors of a peer's service; puts and reads answer with a StorageStatus and never throw. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type PeerErrorCode =
  /** The store is poisoned or closing. */
  | "unavailable"
  /** The caller's certificate may not use the volume. */
  | "denied"
  /** More was asked for at once than a request may ask. */
  | "too-large";

export class PeerError extends TorusError<PeerErrorCode> {
  constructor(code: PeerErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
