/**
 * Keeps requests on the same sectors in the order in which they came: a client that gave up waiting and sent a write
 * again must not see the first one happen after a later write of its own. Requests that share no sector, and reads
 * among themselves, do not wait for each other. Lists are scanned: there are as many requests as frame buffers.
 */

export interface OrderedRequest {
  readonly startSector: number;
  readonly endSector: number;
  readonly isWrite: boolean;
  /** Starts its work; called once. */
  run(): void;
}

function conflict(one: OrderedRequest, other: OrderedRequest): boolean {
  return (
    (one.isWrite || other.isWrite) && one.startSector < other.endSector && other.startSector < one.endSector
  );
}

export class RequestOrder {
  readonly #active: OrderedRequest[] = [];
  #waiting: OrderedRequest[] = [];

  get count(): number {
    return this.#active.length + this.#waiting.length;
  }

  /** Runs it now, or after all earlier ones that it must not overtake. */
  submit(request: OrderedRequest): void {
    if (this.#isFree(request, this.#waiting)) this.#start(request);
    else this.#waiting.push(request);
  }

  /** Its effect has happened; starts who waited for it. */
  finish(request: OrderedRequest): void {
    const index = this.#active.indexOf(request);
    if (index < 0) return;
    this.#active.splice(index, 1);
    if (this.#waiting.length === 0) return;
    const candidates = this.#waiting;
    const still: OrderedRequest[] = [];
    const ready: OrderedRequest[] = [];
    for (const candidate of candidates)
      if (this.#isFree(candidate, still) && !ready.some((one) => conflict(one, candidate)))
        ready.push(candidate);
      else still.push(candidate);
    this.#waiting = still;
    // All are active before the first runs: its end, inside run, must not start what waits for another.
    this.#active.push(...ready);
    for (const request of ready) request.run();
  }

  #isFree(request: OrderedRequest, earlier: readonly OrderedRequest[]): boolean {
    return (
      !this.#active.some((one) => conflict(one, request)) && !earlier.some((one) => conflict(one, request))
    );
  }

  #start(request: OrderedRequest): void {
    this.#active.push(request);
    request.run();
  }
}
