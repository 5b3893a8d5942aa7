/**
 * The requests of a BlockReader, pooled and handed to the transport themselves: a read, and the second request for the
 * same bytes that a read may have. The first writes to the caller's memory, the second to memory of its own, because
 * the first peer may be in the middle of its answer when the second is asked.
 */
import { type BlockRef, heapBuffer, type NativeBuffer, type PeerId } from "../../base";
import { HEADER_BYTES_MAX, PAGE_BYTES } from "../block";
import type { OutgoingRead, StorageStatus } from "../ports";

const NO_REF = { kind: 1, volumeId: 1, epoch: 1, index: 1 } as BlockRef;
export const NO_BUFFER = heapBuffer(0);

export class BlockRead implements OutgoingRead {
  ref: BlockRef = NO_REF;
  firstSlot = 0;
  slotCount = 0;
  destination: NativeBuffer = NO_BUFFER;
  destinationOffset = 0;
  /** Bytes that the slots have at least (the last slot of an INode block may be short); 0 for a header. */
  expectedBytes = 0;
  /** Ask only this peer. */
  onlyPeer: PeerId | undefined;
  /** Runs once with the outcome; whoever acquired the read releases it then. */
  finished: ((read: BlockRead, status: StorageStatus) => void) | undefined;
  /** The caller's own. */
  context: unknown;
  /** Bytes received, after ok. */
  lengthBytes = 0;
  /** Where the good copy came from, after ok. */
  servedBy: PeerId | undefined;
  readonly candidates: PeerId[] = [];
  attempt = 0;
  /** Whether the candidates hold the block's first few peers, and whether they hold all. */
  choseFew = false;
  askedAll = false;
  badPeer: PeerId | undefined;
  sawUnreachable = false;
  /** The peer that may still write to the destination. */
  asked: PeerId | undefined;
  /** The second request under way, or its good answer that waits until the first peer writes no more. */
  hedge: Hedge | undefined;
  /** Its place among the reads that may get a second request (see hedging.ts), while `isWatched`. */
  isWatched = false;
  startTick = 0;
  watchedBefore: BlockRead | undefined;
  watchedAfter: BlockRead | undefined;
  answered:
    | ((read: BlockRead, peer: PeerId, status: StorageStatus, lengthBytes: number, check: number) => void)
    | undefined;

  /** Room that the answer may take. */
  get roomBytes(): number {
    return this.slotCount === 0 ? HEADER_BYTES_MAX : this.slotCount * PAGE_BYTES;
  }

  done(peer: PeerId, status: StorageStatus, lengthBytes: number, check: number): void {
    this.answered?.(this, peer, status, lengthBytes, check);
  }
}

/** A second request. It is its transport's until `done`, also when its read has ended long ago. */
export class Hedge implements OutgoingRead {
  ref: BlockRef = NO_REF;
  firstSlot = 0;
  slotCount = 0;
  readonly destinationOffset = 0;
  /** The read that waits for it; undefined once that has ended otherwise. */
  read: BlockRead | undefined;
  /** The peer that kept silent. */
  silent: PeerId | undefined;
  /** It was answered well, by this peer, and its answer waits in its memory. */
  answeredBy: PeerId | undefined;
  lengthBytes = 0;

  constructor(
    readonly destination: NativeBuffer,
    private readonly answered: (
      hedge: Hedge,
      peer: PeerId,
      status: StorageStatus,
      lengthBytes: number,
      check: number,
    ) => void,
  ) {}

  get roomBytes(): number {
    return this.destination.bytes.length;
  }

  start(read: BlockRead): void {
    this.read = read;
    this.silent = read.asked;
    this.ref = read.ref;
    this.firstSlot = read.firstSlot;
    this.slotCount = read.slotCount;
    this.answeredBy = undefined;
  }

  done(peer: PeerId, status: StorageStatus, lengthBytes: number, check: number): void {
    this.answered(this, peer, status, lengthBytes, check);
  }
}
