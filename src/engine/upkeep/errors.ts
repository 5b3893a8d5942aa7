/** What stops background work; it is shown in the status and tried again later. */
import { TorusError } from "../../base";

export type UpkeepErrorCode =
  /** The local store or the metadata did not answer. */
  | "unavailable"
  /** The ring changed while a pass ran: it starts again. */
  | "superseded";

export class UpkeepError extends TorusError<UpkeepErrorCode> {
  constructor(code: UpkeepErrorCode, message: string, cause?: unknown) {
    super(code, message, { retryable: true, ...(cause === undefined ? {} : { cause }) });
  }
}
