/**
 * What a store needs of a disk: a handful of fixed-size files with reserved space, synchronous reads and writes
 * (which go to the page cache, or to the device), an asynchronous sync, and optionally a mapping to read through.
 * Every call names its operation, so that a test can fail exactly one of them. Hot calls answer with a DiskStatus;
 * opening, creating and removing throw DiskError.
 *
 * What may be assumed: a 512-byte sector is written whole or not at all; between two syncs nothing else is known,
 * neither order nor completeness; after a failed sync nothing written before it may be trusted, ever.
 */
import type { NativeBuffer } from "./buffer";
import { TorusError, type TorusErrorOptions } from "./errors";

export const SECTOR_BYTES = 512;

export type DiskErrorCode =
  /** Another process has the directory or device. */
  | "disk-in-use"
  /** No room for what was asked to be reserved. */
  | "disk-full"
  /** The device holds something that is not ours. */
  | "disk-foreign"
  /** A system call failed, or a file is not there. */
  | "disk-failed";

export class DiskError extends TorusError<DiskErrorCode> {
  constructor(code: DiskErrorCode, message: string, options: TorusErrorOptions = {}) {
    super(code, message, options);
  }
}

export const DiskStatus = {
  ok: 0,
  noSpace: 1,
  ioError: 2,
} as const;
export type DiskStatus = (typeof DiskStatus)[keyof typeof DiskStatus];

export type DiskOperation =
  | "state.read"
  | "state.write"
  | "state.sync"
  | "superblock.read"
  | "superblock.write"
  | "superblock.sync"
  | "checkpoint.read"
  | "checkpoint.write"
  | "checkpoint.sync"
  | "journal.read"
  | "journal.write"
  | "data.read"
  | "data.write"
  | "data.zero"
  /** Data and journal of one file, made durable together. */
  | "segment.sync";

export interface DiskFile {
  readonly name: string;
  readonly sizeBytes: number;
  /**
   * Offset and length are multiples of the disk's unit for everything but `data.write`, whose last unit the disk
   * may fill up with anything. The source may be reused when this returns.
   */
  write(
    operation: DiskOperation,
    fileOffsetBytes: number,
    source: NativeBuffer,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus;
  /** Reads exactly `lengthBytes`, from any offset. */
  read(
    operation: DiskOperation,
    fileOffsetBytes: number,
    destination: NativeBuffer,
    destinationOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus;
  /** Makes every write that returned before this call durable; `done` never runs before this returns. */
  sync(operation: DiskOperation, done: (status: DiskStatus) => void): void;
  /**
   * Writes zeros and waits until they have left the page cache, elsewhere than on the caller's thread; absent where
   * a first write costs no more than a later one. It must not overlap a write until `done`.
   */
  zero?(fileOffsetBytes: number, lengthBytes: number, done: (status: DiskStatus) => void): void;
  /**
   * The whole file as memory, coherent with `write`, for reading only; undefined when the disk cannot. Stays valid
   * until the disk is closed. A bad sector under a mapping kills the process, so scrub and replay use `read`.
   */
  map(): NativeBuffer | undefined;
}

export interface DiskEntry {
  readonly name: string;
  readonly sizeBytes: number;
}

export interface Disk {
  /** For messages: the directory or device. */
  readonly description: string;
  /** Smallest write, 512 or 4096 bytes; blocks are stored in multiples of it. */
  readonly unitBytes: number;
  /** Takes the disk for this process; throws "disk-in-use" saying what to do. */
  lock(): void;
  list(): readonly DiskEntry[];
  open(name: string): DiskFile;
  /**
   * A new file of zeros with its space reserved, durable under its name; throws "disk-full". Where reserving takes
   * long (in memory) only the first `headBytes` are backed at once, and a later write may meet noSpace.
   */
  create(name: string, sizeBytes: number, headBytes: number): DiskFile;
  remove(name: string): void;
  /** Closes files and gives the lock back; syncs under way complete or are abandoned. */
  close(): void;
}
