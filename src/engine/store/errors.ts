/** The errors of a peer's block store: only opening and maintenance throw; requests answer with a StorageStatus. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type StoreErrorCode =
  | "wrong-cluster"
  | "wrong-peer"
  /** What was durable is missing or unreadable: acknowledged blocks or fences may be lost. */
  | "damaged"
  /** The size asked for cannot hold a store, or not what the store already holds. */
  | "bad-size"
  /** The disk's sectors are not what the store was made for. */
  | "foreign-disk"
  /** A read, write or sync failed while opening. */
  | "io-failed";

export class StoreError extends TorusError<StoreErrorCode> {
  constructor(code: StoreErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
