/** What can be wrong with a stream of differences. */
import { TorusError } from "../../base";

export type DiffStreamErrorCode =
  | "not-a-diff-stream"
  | "unknown-stream-version"
  | "damaged-stream"
  | "truncated-stream";

export class DiffStreamError extends TorusError<DiffStreamErrorCode> {
  constructor(code: DiffStreamErrorCode, message: string, cause?: unknown) {
    super(code, message, { cause });
  }
}

export function damaged(what: string): DiffStreamError {
  return new DiffStreamError("damaged-stream", `Cannot import the stream: ${what}`);
}
