/** Between the messages of meta.proto and the types of the key-value port. */
import { create } from "@bufbuild/protobuf";
import type { KeyValue, Operation, Transaction, TransactionResult, WatchEvent } from "../../meta";
import {
  type Event,
  EventSchema,
  type KeyValue as KeyValueMessage,
  KeyValueSchema,
  type Operation as OperationMessage,
  OperationSchema,
  type TransactRequest,
  TransactRequestSchema,
  type TransactResponse,
  TransactResponseSchema,
} from "../gen/meta_pb";

export function entryToMessage(entry: KeyValue): KeyValueMessage {
  return create(KeyValueSchema, {
    key: entry.key,
    value: entry.value,
    createRevision: BigInt(entry.createRevision),
    modRevision: BigInt(entry.modRevision),
    lease: entry.lease,
  });
}

export function entryFromMessage(message: KeyValueMessage): KeyValue {
  return {
    key: message.key,
    // A copy: the message's bytes are a slice of the whole answer.
    value: message.value.slice(),
    createRevision: Number(message.createRevision),
    modRevision: Number(message.modRevision),
    lease: message.lease,
  };
}

function operationToMessage(operation: Operation): OperationMessage {
  switch (operation.kind) {
    case "put":
      return create(OperationSchema, {
        kind: {
          case: "put",
          value: { key: operation.key, value: operation.value, lease: operation.lease ?? "" },
        },
      });
    case "delete":
      return create(OperationSchema, { kind: { case: "deleteKey", value: operation.key } });
    case "delete-prefix":
      return create(OperationSchema, { kind: { case: "deletePrefix", value: operation.prefix } });
  }
}

/** Undefined when the message names no operation that this version knows. */
function operationFromMessage({ kind }: OperationMessage): Operation | undefined {
  switch (kind.case) {
    case "put": {
      const { key, value, lease } = kind.value;
      return { kind: "put", key, value, ...(lease !== "" && { lease }) };
    }
    case "deleteKey":
      return { kind: "delete", key: kind.value };
    case "deletePrefix":
      return { kind: "delete-prefix", prefix: kind.value };
    default:
      return undefined;
  }
}

export function transactionToMessage(transaction: Transaction): TransactRequest {
  return create(TransactRequestSchema, {
    compares: transaction.compares.map(({ key, modRevision }) => ({ key, modRevision: BigInt(modRevision) })),
    operations: transaction.operations.map(operationToMessage),
    reads: [...(transaction.reads ?? [])],
  });
}

/** Undefined when it holds an operation that this version does not know: doing the rest alone would be wrong. */
export function transactionFromMessage(message: TransactRequest): Transaction | undefined {
  const operations: Operation[] = [];
  for (const each of message.operations) {
    const operation = operationFromMessage(each);
    if (operation === undefined) return undefined;
    operations.push(operation);
  }
  return {
    compares: message.compares.map(({ key, modRevision }) => ({ key, modRevision: Number(modRevision) })),
    operations,
    reads: message.reads,
  };
}

export function resultToMessage(result: TransactionResult): TransactResponse {
  return create(TransactResponseSchema, {
    committed: result.committed,
    revision: BigInt(result.revision),
    reads: result.reads.map((entry) => (entry === undefined ? {} : { entry: entryToMessage(entry) })),
  });
}

export function resultFromMessage(message: TransactResponse): TransactionResult {
  return {
    committed: message.committed,
    revision: Number(message.revision),
    reads: message.reads.map(({ entry }) => (entry === undefined ? undefined : entryFromMessage(entry))),
  };
}

export function eventToMessage(event: WatchEvent): Event {
  return create(EventSchema, {
    kind:
      event.kind === "put"
        ? { case: "put", value: entryToMessage(event.entry) }
        : { case: "deletedKey", value: event.key },
  });
}

export function eventFromMessage(message: Event, revision: number): WatchEvent | undefined {
  switch (message.kind.case) {
    case "put":
      return { kind: "put", entry: entryFromMessage(message.kind.value) };
    case "deletedKey":
      return { kind: "delete", key: message.kind.value, modRevision: revision };
    default:
      return undefined;
  }
}

/** Entries in parts of bounded size; at least one part, perhaps empty. */
export function parts(entries: readonly KeyValue[], bytesMax: number): KeyValue[][] {
  const result: KeyValue[][] = [[]];
  let bytes = 0;
  for (const entry of entries) {
    const entryBytes = entry.key.length + entry.value.length + 64;
    if (bytes + entryBytes > bytesMax && bytes > 0) {
      result.push([]);
      bytes = 0;
    }
    (result.at(-1) as KeyValue[]).push(entry);
    bytes += entryBytes;
  }
  return result;
}
