/**
 * Calls to a peer as they go over an HTTP connection: a batch of puts, a batch of reads, one control call. Each
 * knows how to write its message and how to deliver the answer, or its lack, to everybody in it, once.
 */
import { heapBuffer, type PeerId } from "../../base";
import type { StreamConnection } from "../../base/io";
import { type OutgoingPut, type OutgoingRead, StorageStatus } from "../../engine";
import {
  PUT_FRAME_BYTES_MAX,
  putItemBytes,
  type ReadResultItem,
  readItemBytes,
  readPutResponse,
  readReadResponse,
  writePutFrame,
  writeReadItem,
} from "./batches";
import { ConnectStorageError } from "./errors";
import { parseIdentity } from "./identity";
import {
  BATCH_BYTES,
  BATCH_COUNT_MAX,
  CONTROL_REPLY_BYTES_MAX,
  READ_REPLY_BYTES_MAX,
  readBytesMax,
} from "./limits";
import { Procedure } from "./procedures";
import { FieldWriter } from "./protobuf";

/** How a call ended without an answer, for everybody in it. */
export interface CallFailure {
  readonly status: StorageStatus;
  readonly reason: string;
  /** The peer is there, but was too slow. */
  readonly isLate?: boolean;
}

/** An operation waiting for a connection. */
export type Waiting =
  | { readonly kind: "put"; readonly put: OutgoingPut; readonly deadlineMs: number; readonly ordinal: number }
  | WaitingRead
  | {
      readonly kind: "control";
      readonly procedure: string;
      readonly body: Uint8Array;
      readonly deadlineMs: number;
      /** Puts made before this one must have ended. */
      readonly afterPut: number;
      resolve(body: Uint8Array): void;
      reject(error: Error): void;
    };

export interface WaitingRead {
  readonly kind: "read";
  /** Once withdrawn, a copy: a call that is made again must say the same, and the caller's has other uses. */
  read: OutgoingRead;
  isWithdrawn: boolean;
  readonly deadlineMs: number;
}

export interface Call {
  readonly procedure: string;
  readonly bodyBytes: number;
  readonly replyBytesMax: number;
  readonly operations: readonly Waiting[];
  writeBody(connection: StreamConnection): void;
  /** Reads the answer, or throws "malformed"; what it returns then tells everybody, and throws nothing of ours. */
  parse(body: Uint8Array): () => void;
}

type WaitingPut = Extract<Waiting, { kind: "put" }>;
type WaitingControl = Extract<Waiting, { kind: "control" }>;

function malformed(problem: string): ConnectStorageError {
  return new ConnectStorageError("malformed", `Cannot use an answer: ${problem}`);
}

/** Takes from the front what fits one batch: at least one. */
export function takeBatch<Item extends Waiting>(queue: Item[], bytesOf: (item: Item) => number): Item[] {
  let count = 0;
  let bytes = 0;
  while (count < queue.length && count < BATCH_COUNT_MAX) {
    bytes += bytesOf(queue[count] as Item);
    if (count > 0 && bytes > BATCH_BYTES) break;
    count++;
  }
  return queue.splice(0, count);
}

export function bytesOfPut({ put }: WaitingPut): number {
  return put.lengthBytes;
}

export function bytesOfRead({ read }: WaitingRead): number {
  return readBytesMax(read.slotCount);
}

export class PutCall implements Call {
  readonly procedure = Procedure.putBlocks;
  readonly replyBytesMax = 16 * 1024;
  readonly bodyBytes: number;

  constructor(
    readonly operations: readonly WaitingPut[],
    private readonly peer: PeerId,
    private readonly head: Uint8Array,
  ) {
    let bodyBytes = head.length;
    for (const { put } of operations) bodyBytes += putItemBytes(put.writerEpoch, put.lengthBytes);
    this.bodyBytes = bodyBytes;
  }

  writeBody(connection: StreamConnection): void {
    connection.write(this.head, 0, this.head.length);
    const writer = new FieldWriter(new Uint8Array(PUT_FRAME_BYTES_MAX));
    for (const { put } of this.operations) {
      writer.position = 0;
      writePutFrame(writer, put.writerEpoch, put.lengthBytes);
      connection.write(writer.bytes, 0, writer.position);
      connection.writeLent(put.buffer, put.offset, put.lengthBytes);
    }
  }

  parse(body: Uint8Array): () => void {
    const { head, statuses } = readPutResponse(body);
    const { peerId, incarnation } = parseIdentity(body.subarray(head.start, head.end));
    if (peerId !== this.peer) throw malformed(`peer ${peerId} answered`);
    if (statuses.length !== this.operations.length)
      throw malformed(`${statuses.length} answers to ${this.operations.length} puts`);
    return () => {
      for (const [index, { put }] of this.operations.entries())
        put.done(peerId, incarnation, statuses[index] as StorageStatus);
    };
  }
}

export class ReadCall implements Call {
  readonly procedure = Procedure.readBlocks;
  readonly replyBytesMax = READ_REPLY_BYTES_MAX + 64 * 1024;
  readonly bodyBytes: number;

  constructor(
    readonly operations: readonly WaitingRead[],
    private readonly peer: PeerId,
    private readonly head: Uint8Array,
  ) {
    let bodyBytes = head.length;
    for (const { read } of operations) bodyBytes += readItemBytes(read.firstSlot, read.slotCount);
    this.bodyBytes = bodyBytes;
  }

  writeBody(connection: StreamConnection): void {
    const writer = new FieldWriter(new Uint8Array(this.bodyBytes)).raw(this.head);
    for (const { read } of this.operations) writeReadItem(writer, read.ref, read.firstSlot, read.slotCount);
    connection.write(writer.bytes, 0, this.bodyBytes);
  }

  parse(body: Uint8Array): () => void {
    const { head, items } = readReadResponse(body, this.operations.length);
    const { peerId } = parseIdentity(body.subarray(head.start, head.end));
    if (peerId !== this.peer) throw malformed(`peer ${peerId} answered`);
    if (items.length !== this.operations.length)
      throw malformed(`${items.length} answers to ${this.operations.length} reads`);
    for (const [index, { read }] of this.operations.entries())
      checkRoom(items[index] as ReadResultItem, read);
    return () => {
      for (const [index, { read, isWithdrawn }] of this.operations.entries()) {
        if (isWithdrawn) continue;
        const item = items[index] as ReadResultItem;
        read.destination.bytes.set(body.subarray(item.start, item.end), read.destinationOffset);
        read.done(peerId, item.status, item.end - item.start, item.check);
      }
    };
  }
}

function checkRoom(item: ReadResultItem, read: OutgoingRead): void {
  const lengthBytes = item.end - item.start;
  const roomBytes = readBytesMax(read.slotCount);
  if (lengthBytes > roomBytes) throw malformed(`${lengthBytes} bytes where ${roomBytes} were asked for`);
  if (item.status === StorageStatus.ok && lengthBytes === 0) throw malformed("a read that holds nothing");
}

export class ControlCall implements Call {
  readonly procedure: string;
  readonly replyBytesMax = CONTROL_REPLY_BYTES_MAX;
  readonly bodyBytes: number;
  readonly operations: readonly WaitingControl[];
  readonly #control: WaitingControl;

  constructor(control: WaitingControl) {
    this.#control = control;
    this.operations = [control];
    this.procedure = control.procedure;
    this.bodyBytes = control.body.length;
  }

  writeBody(connection: StreamConnection): void {
    connection.write(this.#control.body, 0, this.bodyBytes);
  }

  parse(body: Uint8Array): () => void {
    // A copy: the connection's buffer is used again before whoever waits goes on.
    const copy = body.slice();
    return () => this.#control.resolve(copy);
  }
}

/** Its answer is of no interest any more: whoever asked has its memory back, and is told nothing. */
export function withdrawRead(operation: WaitingRead): void {
  const { ref, firstSlot, slotCount } = operation.read;
  operation.read = { ref, firstSlot, slotCount, destination: NO_ROOM, destinationOffset: 0, done: () => {} };
  operation.isWithdrawn = true;
}

const NO_ROOM = heapBuffer(0);

/** Tells one operation that it failed. */
export function failOperation(operation: Waiting, peer: PeerId, failure: CallFailure): void {
  switch (operation.kind) {
    case "put":
      operation.put.done(peer, "", failure.status);
      return;
    case "read":
      if (!operation.isWithdrawn) operation.read.done(peer, failure.status, 0, 0);
      return;
    case "control": {
      const unreachable = failure.status === StorageStatus.unreachable;
      const message = unreachable ? `Cannot reach peer ${peer}: ${failure.reason}` : failure.reason;
      operation.reject(
        new ConnectStorageError(unreachable ? "unreachable" : "refused", message, { retryable: unreachable }),
      );
    }
  }
}
