/** Between etcd's messages (int64 as text, keys as bytes) and the key-value port's types. */
import type { ICompare, IKeyValue, IRequestOp } from "etcd3";
import type { Compare, KeyValue, Operation } from "../kv";

/** The key after the last one that starts with `prefix`; keys are ASCII, so the last byte can grow. */
export function prefixEnd(prefix: string): Buffer {
  const end = Buffer.from(prefix);
  end[end.length - 1] = (end[end.length - 1] as number) + 1;
  return end;
}

export function decodeEntry(entry: IKeyValue): KeyValue {
  return {
    key: entry.key.toString(),
    // A copy: gRPC's buffers are slices of larger ones.
    value: new Uint8Array(entry.value),
    createRevision: Number(entry.create_revision),
    modRevision: Number(entry.mod_revision),
    lease: entry.lease === "0" ? "" : entry.lease,
  };
}

export function encodeCompare(compare: Compare): ICompare {
  return {
    result: "Equal",
    target: "Mod",
    key: Buffer.from(compare.key),
    mod_revision: String(compare.modRevision),
  };
}

export function encodeRead(key: string): IRequestOp {
  return { request_range: { key: Buffer.from(key) } };
}

export function encodeOperation(operation: Operation): IRequestOp {
  switch (operation.kind) {
    case "put":
      return {
        request_put: {
          key: Buffer.from(operation.key),
          value: Buffer.from(operation.value),
          lease: operation.lease ?? "0",
        },
      };
    case "delete":
      return { request_delete_range: { key: Buffer.from(operation.key) } };
    case "delete-prefix":
      return {
        request_delete_range: { key: Buffer.from(operation.prefix), range_end: prefixEnd(operation.prefix) },
      };
  }
}
