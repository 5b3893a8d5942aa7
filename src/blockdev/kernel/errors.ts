/** The errors of attaching to the kernel. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type KernelErrorCode =
  /** The kernel has no nbd driver, or not what is asked of it. */
  | "not-supported"
  /** Not root, or not allowed to. */
  | "not-permitted"
  /** The device is attached to something else, mounted, or in use. */
  | "busy"
  /** There is no such device, or it is not attached. */
  | "not-attached"
  /** No answer in time. */
  | "timed-out"
  /** The kernel said no. */
  | "refused"
  /** A program (mkfs, mount) failed. */
  | "program-failed";

export class KernelError extends TorusError<KernelErrorCode> {
  /** The positive errno behind it, or 0. */
  readonly errno: number;

  constructor(
    code: KernelErrorCode,
    message: string,
    options: TorusErrorOptions & { readonly errno?: number } = {},
  ) {
    super(code, message, options);
    this.errno = options.errno ?? 0;
  }
}
