/**
 * One PeerTransport over several: the scheme of a peer's address (`adp://`, `http://`) chooses which. A peer without a
 * known address goes to the first transport, which answers `unreachable` as it does for any peer it cannot find.
 * A peer whose address changes its scheme is asked by the other transport from then on.
 */
import type { PeerId } from "../../base";
import type {
  ConfirmReply,
  ConfirmRequest,
  FenceReply,
  FenceRequest,
  ListReply,
  ListRequest,
  OutgoingPut,
  OutgoingRead,
  PeerStatistics,
  PeerTransport,
} from "../../engine";

export interface PeerRouterOptions {
  /** By scheme, without `://`; the first is for peers of unknown address. */
  readonly transports: ReadonlyMap<string, PeerTransport>;
  /** The peer's address as it is registered: `adp://10.0.0.1:40000`. */
  readonly addressOf: (peer: PeerId) => string | undefined;
}

/** `adp` of `adp://10.0.0.1:40000`; undefined for an address without a scheme. */
export function schemeOf(address: string): string | undefined {
  const end = address.indexOf("://");
  return end > 0 ? address.slice(0, end) : undefined;
}

interface Route {
  readonly address: string | undefined;
  readonly transport: PeerTransport;
}

export class PeerRouter implements PeerTransport {
  readonly #first: PeerTransport;
  /** What the address of each peer asked for last came to. */
  readonly #routes = new Map<PeerId, Route>();

  constructor(private readonly options: PeerRouterOptions) {
    const [first] = options.transports.values();
    if (first === undefined) throw new RangeError("a peer router of no transports");
    this.#first = first;
  }

  put(peer: PeerId, request: OutgoingPut): void {
    this.#transport(peer).put(peer, request);
  }

  read(peer: PeerId, request: OutgoingRead): void {
    this.#transport(peer).read(peer, request);
  }

  /** Its address may have changed since it was asked: whichever transport has the read gives it up. */
  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    for (const transport of this.options.transports.values())
      if (transport.withdrawRead(peer, request)) return true;
    return false;
  }

  fence(peer: PeerId, request: FenceRequest): Promise<FenceReply> {
    return this.#transport(peer).fence(peer, request);
  }

  list(peer: PeerId, request: ListRequest): Promise<ListReply> {
    return this.#transport(peer).list(peer, request);
  }

  confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply> {
    return this.#transport(peer).confirm(peer, request);
  }

  statistics(peer: PeerId): Promise<PeerStatistics> {
    return this.#transport(peer).statistics(peer);
  }

  isLikelyUp(peer: PeerId): boolean {
    return this.#transport(peer).isLikelyUp(peer);
  }

  /** Asked several times for every block, so that an address is looked into only when it is new. */
  #transport(peer: PeerId): PeerTransport {
    const address = this.options.addressOf(peer);
    let route = this.#routes.get(peer);
    if (route === undefined || route.address !== address) {
      const scheme = schemeOf(address ?? "");
      const transport = scheme === undefined ? undefined : this.options.transports.get(scheme);
      route = { address, transport: transport ?? this.#first };
      this.#routes.set(peer, route);
    }
    return route.transport;
  }
}
