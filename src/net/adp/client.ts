/**
 * PeerTransport over adp: one link per peer, made when the peer is first asked. See link.ts for what happens on a
 * link, and local.ts for a peer that lives in this very thread.
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
import {
  ControlOperation,
  decodeConfirmReply,
  decodeFenceReply,
  decodeListReply,
  decodeStatistics,
  encodeConfirmRequest,
  encodeFenceRequest,
  encodeListRequest,
} from "./control";
import { type AdpPeerStatistics, PeerLink, tickMsOf } from "./link";
import type { AdpClientOptions } from "./options";

export class AdpClient implements PeerTransport {
  readonly #links = new Map<PeerId, PeerLink>();
  readonly #tickMs: number;
  #closed = false;

  constructor(private readonly options: AdpClientOptions) {
    this.#tickMs = tickMsOf(options.requestTimeoutMs);
  }

  get peerStatistics(): AdpPeerStatistics[] {
    return [...this.#links.values()].map((link) => link.statistics);
  }

  put(peer: PeerId, request: OutgoingPut): void {
    (this.#links.get(peer) ?? this.#link(peer)).put(request);
  }

  read(peer: PeerId, request: OutgoingRead): void {
    (this.#links.get(peer) ?? this.#link(peer)).read(request);
  }

  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    return this.#links.get(peer)?.withdrawRead(request) ?? false;
  }

  fence(peer: PeerId, request: FenceRequest): Promise<FenceReply> {
    return this.#control(peer, ControlOperation.fence, encodeFenceRequest(request), decodeFenceReply);
  }

  list(peer: PeerId, request: ListRequest): Promise<ListReply> {
    return this.#control(peer, ControlOperation.list, encodeListRequest(request), decodeListReply);
  }

  confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply> {
    return this.#control(peer, ControlOperation.confirm, encodeConfirmRequest(request), decodeConfirmReply);
  }

  statistics(peer: PeerId): Promise<PeerStatistics> {
    return this.#control(peer, ControlOperation.statistics, new Uint8Array(0), decodeStatistics);
  }

  isLikelyUp(peer: PeerId): boolean {
    return this.#links.get(peer)?.isLikelyUp ?? true;
  }

  /** Closes the connection to a peer whose address changed, or that left; what is under way is unreachable. */
  forget(peer: PeerId): void {
    this.#links.get(peer)?.close("the peer is looked up again");
    this.#links.delete(peer);
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links.values()) link.close("the client closes");
  }

  #link(peer: PeerId): PeerLink {
    const link = new PeerLink(peer, this.options, this.#tickMs);
    if (this.#closed) link.close("the client is closed");
    this.#links.set(peer, link);
    return link;
  }

  async #control<Reply>(
    peer: PeerId,
    operation: ControlOperation,
    body: Uint8Array,
    decode: (bytes: Uint8Array) => Reply,
  ): Promise<Reply> {
    const link = this.#links.get(peer) ?? this.#link(peer);
    const reply = await new Promise<Uint8Array>((resolve, reject) => {
      link.control({ operation, body, timeoutMs: this.options.controlTimeoutMs, resolve, reject });
    });
    return decode(reply);
  }
}
