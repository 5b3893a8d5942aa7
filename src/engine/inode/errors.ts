/** Errors of the page map. */
import { TorusError } from "../../base";

export type InodeErrorCode =
  /** Bytes that should be a node of the tree are not. */
  | "bad-node"
  /** An INode block could not be read. */
  | "node-unreadable"
  /** Every peer answered, and none has the INode block. */
  | "node-missing"
  | "too-many-epochs";

export class InodeError extends TorusError<InodeErrorCode> {}
