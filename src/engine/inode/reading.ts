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
        const where = `INode block ${pointer.volumeId}/${pointer.epoch}/${pointer.index}`;
        reject(
          new InodeError(
            "node-unreadable",
            `Cannot read the volume's map: ${where} gave storage status ${status}`,
            {
              retryable: true,
            },
          ),
        );
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
