/** What the kubelet reads of a FlexVolume call, and the errors of one. */
import { TorusError } from "../../base";

export interface FlexAnswer {
  readonly status: "Success" | "Failure" | "Not supported";
  readonly message?: string;
  readonly device?: string;
  readonly capabilities?: { readonly attach: boolean };
}

export type FlexErrorCode =
  /** Words are missing. */
  | "bad-call"
  /** The volume's options say nothing that can be used. */
  | "bad-options"
  /** The device did not come, or did not go, or is somebody else's. */
  | "attach-failed";

export class FlexError extends TorusError<FlexErrorCode> {}
