/**
 * The storage service, message by message: (procedure, request bytes) -> response bytes. It runs in the thread that
 * has the store; the HTTP side (unary-handler.ts) may run in another, as requests and results are plain bytes.
 *
 * Blocks are copied out of the message into pooled native buffers, which the store has until the put is done: the
 * pool bounds what all callers together have under way, and its waiters are served in order.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { type AllocateBuffer, type NativeBuffer, TorusError } from "../../base";
import { BufferPool } from "../../base/io";
import { type PeerIdentity, StorageStatus, type WireStorageService } from "../../engine";
import { PeerError } from "../../engine/peer";
import { BLOCK_SIZE_MAX, HEADER_BYTES_MAX, PAGE_BYTES } from "../../engine/block";
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
  encodeHead,
  encodePutResponse,
  encodeReadResponse,
  type PutItem,
  type ReadItem,
  type ReadResult,
  readPutRequest,
  readReadRequest,
} from "./batches";
import {
  confirmOf,
  confirmReplyToMessage,
  fenceOf,
  fenceReplyToMessage,
  listOf,
  listReplyToMessage,
  statisticsToMessage,
} from "./control";
import { ConnectStorageError, refusal, type UnaryResult } from "./errors";
import { encodeIdentity, parseTarget, refuseTarget } from "./identity";
import { BATCH_COUNT_MAX, READ_REPLY_BYTES_MAX, readBytesMax } from "./limits";
import { Procedure } from "./procedures";

export interface StorageUnaryOptions {
  readonly service: WireStorageService;
  readonly allocate: AllocateBuffer;
  /** Header and payload of the largest block of the cluster. */
  readonly blockBytesMax: number;
  /** Buffers for small and for large blocks under way. */
  readonly smallBufferCount?: number;
  readonly largeBufferCount?: number;
}

const SMALL_BUFFER_BYTES = 20 * 1024;
const SMALL_BUFFER_COUNT = 512;
const LARGE_BUFFER_COUNT = 32;
const SLOT_COUNT_MAX = BLOCK_SIZE_MAX / PAGE_BYTES;
const NO_DATA = new Uint8Array(0);

export class StorageUnary {
  readonly #service: WireStorageService;
  readonly #blockBytesMax: number;
  readonly #small: BufferPool;
  readonly #large: BufferPool;

  constructor(options: StorageUnaryOptions) {
    this.#service = options.service;
    this.#blockBytesMax = Math.min(options.blockBytesMax, BLOCK_SIZE_MAX + HEADER_BYTES_MAX);
    this.#small = new BufferPool(
      SMALL_BUFFER_BYTES,
      options.smallBufferCount ?? SMALL_BUFFER_COUNT,
      options.allocate,
    );
    const largeBytes = Math.max(this.#blockBytesMax, SMALL_BUFFER_BYTES);
    this.#large = new BufferPool(
      largeBytes,
      options.largeBufferCount ?? LARGE_BUFFER_COUNT,
      options.allocate,
    );
  }

  /**
   * Never throws for what a caller sent. `procedure` is the last part of the path; `service` is the one that this
   * caller gets to see, by default the whole.
   */
  async handle(procedure: string, body: Uint8Array, service = this.#service): Promise<UnaryResult> {
    try {
      return await this.#dispatch(procedure, body, service);
    } catch (error) {
      if (error instanceof ConnectStorageError && error.code === "malformed")
        return refusal("invalid_argument", error.message);
      if (error instanceof PeerError && error.code === "denied")
        return refusal("permission_denied", error.message);
      // A TorusError of the service is an answer; anything else is a bug and must not pass as one.
      if (error instanceof TorusError)
        return refusal(error.retryable ? "unavailable" : "internal", error.message);
      throw error;
    }
  }

  async #dispatch(procedure: string, body: Uint8Array, service: WireStorageService): Promise<UnaryResult> {
    const { identity } = service;
    switch (procedure) {
      case Procedure.putBlocks:
        return this.#putBlocks(body, service);
      case Procedure.readBlocks:
        return this.#readBlocks(body, service);
      case Procedure.fence: {
        const message = decode(FenceRequestSchema, body);
        const reply = () => service.fence(fenceOf(message));
        return this.#answer(message.target, identity, async () =>
          toBinary(FenceResponseSchema, fenceReplyToMessage(await reply())),
        );
      }
      case Procedure.listBlocks: {
        const message = decode(ListBlocksRequestSchema, body);
        const reply = () => service.list(listOf(message));
        return this.#answer(message.target, identity, async () =>
          toBinary(ListBlocksResponseSchema, listReplyToMessage(identity, await reply())),
        );
      }
      case Procedure.confirmBlocks: {
        const message = decode(ConfirmBlocksRequestSchema, body);
        const reply = () => service.confirm(confirmOf(message));
        return this.#answer(message.target, identity, async () =>
          toBinary(ConfirmBlocksResponseSchema, confirmReplyToMessage(await reply())),
        );
      }
      case Procedure.getStatistics: {
        const message = decode(GetStatisticsRequestSchema, body);
        return this.#answer(message.target, identity, async () =>
          toBinary(GetStatisticsResponseSchema, statisticsToMessage(await service.statistics())),
        );
      }
      default:
        return refusal("unimplemented", `Cannot answer: there is no procedure ${procedure}`);
    }
  }

  async #answer(
    target: Target | undefined,
    identity: PeerIdentity,
    answer: () => Promise<Uint8Array>,
  ): Promise<UnaryResult> {
    return refuseTarget(target, identity) ?? { ok: true, body: await answer() };
  }

  async #putBlocks(body: Uint8Array, service: WireStorageService): Promise<UnaryResult> {
    const { head, items } = readPutRequest(body, BATCH_COUNT_MAX);
    const refused = refuseTarget(targetAt(body, head), service.identity);
    if (refused !== undefined) return refused;
    const statuses = await Promise.all(items.map((item) => this.#putBlock(body, item, service)));
    return {
      ok: true,
      body: encodePutResponse(encodeHead(encodeIdentity(service.identity)), statuses),
    };
  }

  async #putBlock(body: Uint8Array, item: PutItem, service: WireStorageService): Promise<StorageStatus> {
    const lengthBytes = item.end - item.start;
    if (lengthBytes === 0 || lengthBytes > this.#blockBytesMax) return StorageStatus.badRequest;
    const pool = lengthBytes <= SMALL_BUFFER_BYTES ? this.#small : this.#large;
    const buffer = pool.acquire() ?? (await waitForBuffer(pool));
    buffer.bytes.set(body.subarray(item.start, item.end), 0);
    const { writerEpoch } = item;
    return await new Promise((resolve) => {
      const done = (status: StorageStatus) => {
        pool.release(buffer);
        resolve(status);
      };
      service.put({ buffer, offset: 0, lengthBytes, writerEpoch, done });
    });
  }

  async #readBlocks(body: Uint8Array, service: WireStorageService): Promise<UnaryResult> {
    const { head, items } = readReadRequest(body, BATCH_COUNT_MAX);
    const refused = refuseTarget(targetAt(body, head), service.identity);
    if (refused !== undefined) return refused;
    const bytesMax = items.reduce((sum, item) => sum + readBytesMax(item.slotCount), 0);
    if (bytesMax > READ_REPLY_BYTES_MAX)
      return refusal(
        "resource_exhausted",
        `Cannot read ${bytesMax} bytes at once: ${READ_REPLY_BYTES_MAX} are possible`,
      );
    const results = await Promise.all(items.map((item) => this.#readBlock(item, service)));
    return {
      ok: true,
      body: encodeReadResponse(encodeHead(encodeIdentity(service.identity)), results),
    };
  }

  #readBlock(item: ReadItem, service: WireStorageService): Promise<ReadResult> | ReadResult {
    const { ref, firstSlot, slotCount } = item;
    if (ref === undefined || firstSlot + slotCount > SLOT_COUNT_MAX)
      return { status: StorageStatus.badRequest, check: 0, data: NO_DATA };
    return new Promise((resolve) => {
      service.read({
        ref,
        firstSlot,
        slotCount,
        done: (status, source, offset, lengthBytes, check, release) => {
          // A copy: what is lent may be reused once the message is on its way to another thread.
          const data = source === undefined ? NO_DATA : source.bytes.slice(offset, offset + lengthBytes);
          release?.();
          resolve({ status, check, data });
        },
      });
    });
  }
}

function waitForBuffer(pool: BufferPool): Promise<NativeBuffer> {
  return new Promise((resolve) => {
    const retry = () => {
      const buffer = pool.acquire();
      if (buffer === undefined) pool.whenAvailable(retry);
      else resolve(buffer);
    };
    pool.whenAvailable(retry);
  });
}

function targetAt(body: Uint8Array, range: { readonly start: number; readonly end: number }): Target {
  try {
    return parseTarget(body.subarray(range.start, range.end));
  } catch (error) {
    throw new ConnectStorageError("malformed", "Cannot read a message: its target", { cause: error });
  }
}

function decode<Schema extends Parameters<typeof fromBinary>[0]>(schema: Schema, body: Uint8Array) {
  try {
    return fromBinary(schema, body);
  } catch (error) {
    throw new ConnectStorageError("malformed", `Cannot read a message: no ${schema.typeName}`, {
      cause: error,
    });
  }
}
