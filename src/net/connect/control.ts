/** The control calls of storage over Connect: between the engine's types and the generated messages. */
import { create } from "@bufbuild/protobuf";
import {
  BLOCK_REF_BYTES,
  type BlockRef,
  decodeBlockRef,
  type Epoch,
  encodeBlockRef,
  VOLUME_ID_MAX,
  type VolumeId,
} from "../../base";
import {
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListReply,
  type ListRequest,
  MINTED_RANGES_MAX,
  type MintedEpochs,
  type PeerStatistics,
} from "../../engine";
import {
  type ConfirmBlocksRequest,
  ConfirmBlocksRequestSchema,
  type ConfirmBlocksResponse,
  ConfirmBlocksResponseSchema,
  type FenceResponse,
  FenceResponseSchema,
  type FenceRequest as FenceMessage,
  FenceRequestSchema,
  type GetStatisticsResponse,
  GetStatisticsResponseSchema,
  type ListBlocksRequest,
  ListBlocksRequestSchema,
  type ListBlocksResponse,
  ListBlocksResponseSchema,
  type MintedEpochs as MintedEpochsMessage,
  MintedEpochsSchema,
  type Target,
} from "../gen/storage_pb";
import { statusOf, wireStatus } from "./batches";
import { ConnectStorageError } from "./errors";
import { identityMessage, identityOf } from "./identity";
import { CONFIRM_COUNT_MAX, LIST_COUNT_MAX } from "./limits";

function malformed(problem: string): ConnectStorageError {
  return new ConnectStorageError("malformed", `Cannot read a message: ${problem}`);
}

function numberOf(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(`${what} ${value} is out of range`);
  return Number(value);
}

function volumeIdOf(value: bigint): VolumeId {
  if (value < 1n || value > BigInt(VOLUME_ID_MAX)) throw malformed(`volume id ${value} is out of range`);
  return Number(value) as VolumeId;
}

function refOf(bytes: Uint8Array): BlockRef {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ref = bytes.length === BLOCK_REF_BYTES ? decodeBlockRef(view, 0) : undefined;
  if (ref === undefined) throw malformed("a block reference that names no block");
  return ref;
}

function refBytes(ref: BlockRef): Uint8Array {
  const bytes = new Uint8Array(BLOCK_REF_BYTES);
  encodeBlockRef(new DataView(bytes.buffer), 0, ref);
  return bytes;
}

export function fenceToMessage(target: Target, request: FenceRequest): FenceMessage {
  return create(FenceRequestSchema, {
    target,
    volumeId: BigInt(request.volumeId),
    epoch: BigInt(request.epoch),
    tailEpoch: BigInt(request.tailEpoch),
    tailAfterIndex: BigInt(request.tailAfterIndex),
    ...(request.minted && { minted: mintedToMessage(request.minted) }),
  });
}

function mintedToMessage({ completeAbove, minted }: MintedEpochs): MintedEpochsMessage {
  return create(MintedEpochsSchema, {
    completeAbove: BigInt(completeAbove),
    ranges: minted.map(({ from, to }) => ({ from: BigInt(from), to: BigInt(to) })),
  });
}

function mintedOf({ completeAbove, ranges }: MintedEpochsMessage): MintedEpochs {
  if (ranges.length > MINTED_RANGES_MAX) throw malformed(`${ranges.length} ranges of epochs`);
  return {
    completeAbove: numberOf(completeAbove, "epoch"),
    minted: ranges.map(({ from, to }) => ({ from: numberOf(from, "epoch"), to: numberOf(to, "epoch") })),
  };
}

export function fenceOf(message: FenceMessage): FenceRequest {
  const epoch = numberOf(message.epoch, "epoch");
  if (epoch === 0) throw malformed("a fence of epoch 0");
  return {
    volumeId: volumeIdOf(message.volumeId),
    epoch: epoch as Epoch,
    tailEpoch: numberOf(message.tailEpoch, "epoch"),
    tailAfterIndex: numberOf(message.tailAfterIndex, "index"),
    ...(message.minted && { minted: mintedOf(message.minted) }),
  };
}

export function fenceReplyToMessage(reply: FenceReply): FenceResponse {
  return create(FenceResponseSchema, {
    identity: identityMessage(reply),
    status: wireStatus(reply.status),
    epochKnown: BigInt(reply.epochKnown),
    tail: reply.tail.map((block) => ({ ...block, index: BigInt(block.index) })),
  });
}

export function fenceReplyOf(message: FenceResponse): FenceReply {
  return {
    ...identityOf(message.identity),
    status: statusOf(message.status),
    epochKnown: numberOf(message.epochKnown, "epoch"),
    tail: message.tail.map(({ index, headerCrc, lengthBytes, suspect }) => ({
      index: numberOf(index, "index"),
      headerCrc,
      lengthBytes,
      suspect,
    })),
  };
}

export function listToMessage(target: Target, request: ListRequest): ListBlocksRequest {
  return create(ListBlocksRequestSchema, {
    target,
    cursor: request.cursor ?? "",
    volumeId: BigInt(request.volumeId ?? 0),
    limit: request.limit,
  });
}

export function listOf(message: ListBlocksRequest): ListRequest {
  if (message.limit < 1 || message.limit > LIST_COUNT_MAX)
    throw malformed(`a listing of ${message.limit} blocks; 1 to ${LIST_COUNT_MAX} are possible`);
  return {
    limit: message.limit,
    ...(message.cursor === "" ? {} : { cursor: message.cursor }),
    ...(message.volumeId === 0n ? {} : { volumeId: volumeIdOf(message.volumeId) }),
  };
}

export function listReplyToMessage(
  identity: Parameters<typeof identityMessage>[0],
  reply: ListReply,
): ListBlocksResponse {
  return create(ListBlocksResponseSchema, {
    identity: identityMessage(identity),
    cursor: reply.cursor ?? "",
    blocks: reply.blocks.map((block) => ({ ...block, ref: refBytes(block.ref) })),
  });
}

export function listReplyOf(message: ListBlocksResponse): ListReply {
  const blocks = message.blocks.map(({ ref, lengthBytes, headerCrc, suspect }) => ({
    ref: refOf(ref),
    lengthBytes,
    headerCrc,
    suspect,
  }));
  return message.cursor === "" ? { blocks } : { blocks, cursor: message.cursor };
}

export function confirmToMessage(target: Target, request: ConfirmRequest): ConfirmBlocksRequest {
  return create(ConfirmBlocksRequestSchema, {
    target,
    refs: request.refs.map(refBytes),
    ringVersion: BigInt(request.ringVersion),
  });
}

export function confirmOf(message: ConfirmBlocksRequest): ConfirmRequest {
  if (message.refs.length > CONFIRM_COUNT_MAX)
    throw malformed(`${message.refs.length} blocks to confirm; ${CONFIRM_COUNT_MAX} are possible`);
  return { refs: message.refs.map(refOf), ringVersion: numberOf(message.ringVersion, "ring version") };
}

export function confirmReplyToMessage(reply: ConfirmReply): ConfirmBlocksResponse {
  return create(ConfirmBlocksResponseSchema, {
    identity: identityMessage(reply),
    ringVersion: BigInt(reply.ringVersion),
    statuses: reply.statuses.map(wireStatus),
  });
}

export function confirmReplyOf(message: ConfirmBlocksResponse): ConfirmReply {
  return {
    ...identityOf(message.identity),
    ringVersion: numberOf(message.ringVersion, "ring version"),
    statuses: message.statuses.map(statusOf),
  };
}

export function statisticsToMessage(statistics: PeerStatistics): GetStatisticsResponse {
  return create(GetStatisticsResponseSchema, {
    identity: identityMessage(statistics),
    capacityBytes: BigInt(statistics.capacityBytes),
    usedBytes: BigInt(statistics.usedBytes),
    blockCount: BigInt(statistics.blockCount),
    suspectCount: BigInt(statistics.suspectCount),
    ringVersion: BigInt(statistics.ringVersion),
  });
}

export function statisticsOf(message: GetStatisticsResponse): PeerStatistics {
  return {
    ...identityOf(message.identity),
    capacityBytes: numberOf(message.capacityBytes, "capacity"),
    usedBytes: numberOf(message.usedBytes, "use"),
    blockCount: numberOf(message.blockCount, "block count"),
    suspectCount: numberOf(message.suspectCount, "suspect count"),
    ringVersion: numberOf(message.ringVersion, "ring version"),
  };
}
