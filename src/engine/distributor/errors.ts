/** What can stop a writer for good, as the distributor sees it. */
import { TorusError } from "../../base";

export type DistributorErrorCode =
  /** A newer writer has opened the volume. */
  | "fenced"
  /** A peer holds the block's name with other bytes. */
  | "conflict"
  /** The volume's access list does not name this writer's certificate (any more). */
  | "denied";

export class DistributorError extends TorusError<DistributorErrorCode> {}
