/** The errors of serving AoE. */
import { TorusError, type TorusErrorOptions } from "../../base";

export type AoeErrorCodeName =
  /** No such interface, or one that AoE cannot use. */
  | "bad-interface"
  /** A shelf or slot out of range, a MAC that is none. */
  | "bad-address"
  /** Raw sockets need root or CAP_NET_RAW. */
  | "not-permitted"
  /** This kernel has no aoe driver. */
  | "not-supported";

export class AoeError extends TorusError<AoeErrorCodeName> {
  constructor(code: AoeErrorCodeName, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}
