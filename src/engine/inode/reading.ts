/** Reading single nodes where waiting with a promise is cheap enough: at an open, and for the collector. */
import type { NodePointer } from "../head";
import { StorageStatus } from "../ports";
import { InodeError } from "./errors";
import type { NodeReader } from "./types";

/** Reads one node and decodes it while its bytes are valid. Rejects with InodeError. */
export function readNode<T>(
  reader: NodeReader,
  pointer: NodePointer,
  decode: (view: DataView, at: number) => T,
): Promise<T> {
  return new Promise((resolve, reject) => {
    reader.readNode(pointer, (status, buffer, offsetBytes) => {
      if (status !== StorageStatus.ok || buffer === undefined) {
        reject(unreadable(pointer, status));
        return;
      }
      try {
        resolve(decode(buffer.view, offsetBytes));
      } catch (error) {
        reject(error);
      }
    });
  });
}

function unreadable(pointer: NodePointer, status: StorageStatus): InodeError {
  const block = `INode block ${pointer.volumeId}/${pointer.epoch}/${pointer.index}`;
  const [code, what] =
    status === StorageStatus.notFound
      ? (["node-missing", `no peer has ${block}`] as const)
      : (["node-unreadable", `${block} gave storage status ${status}`] as const);
  return new InodeError(code, `Cannot read the volume's map: ${what}`, { retryable: true });
}
