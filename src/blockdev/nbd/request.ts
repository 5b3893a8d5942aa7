/** One request in flight. Pooled, with its callbacks made once: a request costs no allocation. */
import { assert } from "../../base";
import type { DeviceExtent, DeviceStatus } from "../device";
import type { Piece } from "./buffers";
import { Command, NbdError } from "./protocol";

export type RequestPiece = Piece<Request>;

/** Whom a request reports to: the connection it came on. */
export interface RequestOwner {
  commandDone(request: Request, status: DeviceStatus): void;
  extentsDone(request: Request, status: DeviceStatus, extents: readonly DeviceExtent[]): void;
}

export class Request {
  owner: RequestOwner | undefined;
  command: number = Command.read;
  flags = 0;
  /** The cookie goes back as it came: two halves, never one number. */
  cookieHigh = 0;
  cookieLow = 0;
  offsetBytes = 0;
  lengthBytes = 0;
  /** Answers still to come from the device, and one more while a write's body is arriving. */
  pendingCount = 0;
  /** How far a prefetch has come. */
  progressBytes = 0;
  /** When it came, where latencies are observed. */
  startMs = 0;
  /** The first error that any part of it met. */
  error: NbdError = NbdError.none;
  readonly pieces: RequestPiece[] = [];
  readonly done = (status: DeviceStatus): void => {
    assert(this.owner !== undefined, "A device answered a request twice");
    this.owner.commandDone(this, status);
  };
  readonly extentsDone = (status: DeviceStatus, extents: readonly DeviceExtent[]): void => {
    assert(this.owner !== undefined, "A device answered a request twice");
    this.owner.extentsDone(this, status, extents);
  };
}

export class RequestPool {
  readonly #free: Request[] = [];

  take(owner: RequestOwner): Request {
    const request = this.#free.pop() ?? new Request();
    request.owner = owner;
    request.pendingCount = 1;
    request.progressBytes = 0;
    request.error = NbdError.none;
    return request;
  }

  give(request: Request): void {
    request.owner = undefined;
    request.pieces.length = 0;
    this.#free.push(request);
  }
}
