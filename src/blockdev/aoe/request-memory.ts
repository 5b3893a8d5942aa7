/**
 * What was asked before, so that a frame that comes twice (sent again, or doubled by the network) has one effect. A
 * request is known by its client's MAC, its tag and a CRC of everything behind the header. While the first is under
 * way a second is dropped: the answer is coming. A write that was answered is answered again, not done again, for
 * half a minute: by then clients have started anew and tags may come round.
 *
 * A client that sends again under a new tag (Linux does) is beyond this memory; RequestOrder makes that harmless.
 */
import type { MacAddress } from "./protocol";

const CLIENTS_MAX = 256;
const REQUESTS_PER_CLIENT_MAX = 4096;
const REMEMBER_MS = 30_000;

export interface RememberedRequest {
  readonly tag: number;
  readonly checksum: number;
  /** Undefined while under way. */
  doneMs: number | undefined;
  /** Of the answer. */
  status: number;
  error: number;
}

export class RequestMemory {
  readonly #clients = new Map<MacAddress, Map<number, RememberedRequest>>();

  /** The same request, if it is under way or was answered lately. */
  find(client: MacAddress, tag: number, checksum: number, nowMs: number): RememberedRequest | undefined {
    const requests = this.#clients.get(client);
    const found = requests?.get(tag);
    if (requests === undefined || found === undefined || found.checksum !== checksum) return undefined;
    if (found.doneMs === undefined || nowMs - found.doneMs < REMEMBER_MS) return found;
    requests.delete(tag);
    return undefined;
  }

  /** Remembers a new request as under way. The oldest of a client, and the client longest unheard of, are forgotten. */
  begin(client: MacAddress, tag: number, checksum: number): RememberedRequest {
    const requests = this.#clients.get(client) ?? new Map<number, RememberedRequest>();
    this.#clients.delete(client);
    this.#clients.set(client, requests);
    const request = { tag, checksum, doneMs: undefined, status: 0, error: 0 };
    // Deleted first, so that the order of a Map is the order of coming.
    requests.delete(tag);
    requests.set(tag, request);
    if (requests.size > REQUESTS_PER_CLIENT_MAX) forgetFirst(requests);
    if (this.#clients.size > CLIENTS_MAX) forgetFirst(this.#clients);
    return request;
  }

  /** A request that may be done again without harm need not be remembered once it is answered. */
  forget(client: MacAddress, request: RememberedRequest): void {
    const requests = this.#clients.get(client);
    if (requests?.get(request.tag) === request) requests.delete(request.tag);
  }
}

function forgetFirst<Key>(map: Map<Key, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key);
    return;
  }
}
