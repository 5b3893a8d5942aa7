/** PeerTransport over Connect: one link per peer, made when the peer is first asked. See peer-link.ts. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
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
  ConfirmBlocksRequestSchema,
  ConfirmBlocksResponseSchema,
  FenceRequestSchema,
  FenceResponseSchema,
  GetStatisticsRequestSchema,
  GetStatisticsResponseSchema,
  ListBlocksRequestSchema,
  ListBlocksResponseSchema,
  type Target,
} from "../gen/storage_pb";
import {
  confirmReplyOf,
  confirmToMessage,
  fenceReplyOf,
  fenceToMessage,
  listReplyOf,
  listToMessage,
  statisticsOf,
} from "./control";
import { ConnectStorageError } from "./errors";
import { targetOf } from "./identity";
import type { ConnectTransportOptions } from "./options";
import { ConnectPeerLink } from "./peer-link";
import { Procedure } from "./procedures";

export class ConnectTransport implements PeerTransport {
  readonly #links = new Map<PeerId, ConnectPeerLink>();
  #closed = false;

  constructor(private readonly options: ConnectTransportOptions) {}

  put(peer: PeerId, request: OutgoingPut): void {
    this.#link(peer).put(request);
  }

  read(peer: PeerId, request: OutgoingRead): void {
    this.#link(peer).read(request);
  }

  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    return this.#links.get(peer)?.withdrawRead(request) ?? false;
  }

  async fence(peer: PeerId, request: FenceRequest): Promise<FenceReply> {
    const body = toBinary(FenceRequestSchema, fenceToMessage(this.#target(peer), request));
    const reply = fenceReplyOf(
      read(FenceResponseSchema, await this.#link(peer).control(Procedure.fence, body)),
    );
    return expectPeer(reply, peer);
  }

  async list(peer: PeerId, request: ListRequest): Promise<ListReply> {
    const body = toBinary(ListBlocksRequestSchema, listToMessage(this.#target(peer), request));
    return listReplyOf(
      read(ListBlocksResponseSchema, await this.#link(peer).control(Procedure.listBlocks, body)),
    );
  }

  async confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply> {
    const body = toBinary(ConfirmBlocksRequestSchema, confirmToMessage(this.#target(peer), request));
    const bytes = await this.#link(peer).control(Procedure.confirmBlocks, body);
    const reply = expectPeer(confirmReplyOf(read(ConfirmBlocksResponseSchema, bytes)), peer);
    if (reply.statuses.length !== request.refs.length)
      throw new ConnectStorageError(
        "malformed",
        `Cannot use an answer: ${reply.statuses.length} confirmations of ${request.refs.length} blocks`,
      );
    return reply;
  }

  async statistics(peer: PeerId): Promise<PeerStatistics> {
    const message = { $typeName: GetStatisticsRequestSchema.typeName, target: this.#target(peer) } as const;
    const bytes = await this.#link(peer).control(
      Procedure.getStatistics,
      toBinary(GetStatisticsRequestSchema, message),
    );
    return expectPeer(statisticsOf(read(GetStatisticsResponseSchema, bytes)), peer);
  }

  isLikelyUp(peer: PeerId): boolean {
    return this.#links.get(peer)?.isLikelyUp ?? true;
  }

  /** Closes the connections to a peer whose address changed, or that left; what is under way is unreachable. */
  forget(peer: PeerId): void {
    this.#links.get(peer)?.close("the peer is looked up again");
    this.#links.delete(peer);
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links.values()) link.close("the client closes");
  }

  #target(peer: PeerId): Target {
    return targetOf(this.options.clusterId, peer);
  }

  #link(peer: PeerId): ConnectPeerLink {
    const known = this.#links.get(peer);
    if (known !== undefined) return known;
    const link = new ConnectPeerLink(peer, this.options);
    if (this.#closed) link.close("the client is closed");
    this.#links.set(peer, link);
    return link;
  }
}

function read<Schema extends Parameters<typeof fromBinary>[0]>(schema: Schema, bytes: Uint8Array) {
  try {
    return fromBinary(schema, bytes);
  } catch (error) {
    throw new ConnectStorageError("malformed", `Cannot use an answer: no ${schema.typeName}`, {
      cause: error,
    });
  }
}

/** An answer of another peer than the one asked proves nothing about it. */
function expectPeer<Reply extends { readonly peerId: PeerId }>(reply: Reply, peer: PeerId): Reply {
  if (reply.peerId !== peer)
    throw new ConnectStorageError(
      "malformed",
      `Cannot use an answer: peer ${reply.peerId} answered for ${peer}`,
    );
  return reply;
}
