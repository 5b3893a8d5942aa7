/** The errors that the CSI driver answers, by the specification's gRPC codes, and the one map to them. */
import { Code } from "@connectrpc/connect";
import { TorusError, type TorusErrorOptions } from "../../base";

export type CsiErrorCode =
  | "invalid-argument"
  | "not-found"
  | "already-exists"
  | "out-of-range"
  | "failed-precondition"
  /** Another operation on the volume is under way, or a listing's token is none. */
  | "aborted"
  | "resource-exhausted"
  | "unavailable"
  | "internal";

export class CsiError extends TorusError<CsiErrorCode> {
  constructor(code: CsiErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}

export const GRPC_CODES: Readonly<Record<CsiErrorCode, Code>> = {
  "invalid-argument": Code.InvalidArgument,
  "not-found": Code.NotFound,
  "already-exists": Code.AlreadyExists,
  "out-of-range": Code.OutOfRange,
  "failed-precondition": Code.FailedPrecondition,
  aborted: Code.Aborted,
  "resource-exhausted": Code.ResourceExhausted,
  unavailable: Code.Unavailable,
  internal: Code.Internal,
};

/** A field that the specification requires. Throws "invalid-argument" when it is empty. */
export function required(field: string, value: string): string {
  if (value === "") throw new CsiError("invalid-argument", `Cannot answer a request without ${field}`);
  return value;
}
