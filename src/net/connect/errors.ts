/** The errors of storage over Connect, and the Connect codes that go with a refusal. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type ConnectStorageErrorCode =
  /** No connection to the peer, or no answer within the deadline. */
  | "unreachable"
  /** The peer answered, and said no. */
  | "refused"
  /** Bytes that are no message of this protocol. */
  | "malformed";

export class ConnectStorageError extends TorusError<ConnectStorageErrorCode> {
  constructor(code: ConnectStorageErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}

/** The codes of the Connect protocol that we answer with. */
export type ConnectCode =
  | "invalid_argument"
  | "permission_denied"
  | "not_found"
  | "failed_precondition"
  | "resource_exhausted"
  | "unimplemented"
  | "deadline_exceeded"
  | "unavailable"
  | "internal";

/** What one unary call came to. Plain data: it crosses threads as it is. */
export type UnaryResult =
  | { readonly ok: true; readonly body: Uint8Array }
  | { readonly ok: false; readonly code: ConnectCode; readonly message: string };

export function refusal(code: ConnectCode, message: string): UnaryResult {
  return { ok: false, code, message };
}
