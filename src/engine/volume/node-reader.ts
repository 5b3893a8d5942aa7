/** Reads nodes of the page map out of INode blocks, checked slot by slot, with one buffer for each read under way. */
import { type AllocateBuffer, asEpoch, BlockKind, type NativeBuffer } from "../../base";
import { PAGE_BYTES } from "../block";
import type { NodePointer } from "../head";
import type { NodeReader } from "../inode";
import { StorageStatus } from "../ports";
import { type BlockReader, slotsOf } from "./block-reader";

/** A node of 1024 leaves' entries with its head, and a page more for where it starts. */
const BUFFER_BYTES = 32 * 1024;
const FREE_BUFFERS_MAX = 16;

export type NodeDone = (status: StorageStatus, buffer: NativeBuffer | undefined, offsetBytes: number) => void;

export class PeerNodeReader implements NodeReader {
  readonly #reader: BlockReader;
  readonly #allocate: AllocateBuffer;
  readonly #free: NativeBuffer[] = [];

  constructor(reader: BlockReader, allocate: AllocateBuffer) {
    this.#reader = reader;
    this.#allocate = allocate;
  }

  readNode(pointer: NodePointer, done: NodeDone): void {
    const firstSlot = Math.floor(pointer.offsetBytes / PAGE_BYTES);
    const skipBytes = pointer.offsetBytes - firstSlot * PAGE_BYTES;
    const slotCount = slotsOf(skipBytes + pointer.lengthBytes);
    const roomBytes = slotCount * PAGE_BYTES;
    const buffer =
      (roomBytes <= BUFFER_BYTES ? this.#free.pop() : undefined) ??
      this.#allocate(Math.max(roomBytes, BUFFER_BYTES));
    const read = this.#reader.acquire();
    read.ref = {
      kind: BlockKind.inode,
      volumeId: pointer.volumeId,
      epoch: asEpoch(pointer.epoch),
      index: pointer.index,
    };
    read.firstSlot = firstSlot;
    read.slotCount = slotCount;
    read.expectedBytes = skipBytes + pointer.lengthBytes;
    read.destination = buffer;
    read.destinationOffset = 0;
    read.finished = (finished, status) => {
      this.#reader.release(finished);
      if (status === StorageStatus.ok) done(status, buffer, skipBytes);
      else done(status, undefined, 0);
      if (buffer.bytes.length === BUFFER_BYTES && this.#free.length < FREE_BUFFERS_MAX)
        this.#free.push(buffer);
    };
    this.#reader.start(read);
  }
}
