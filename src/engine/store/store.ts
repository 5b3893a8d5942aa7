/**
 * The contract of a block store: sealed blocks by BlockRef, durable when acknowledged, and the few facts a peer
 * must never forget (fences, incarnation, boot count, ring version). The peer service runs the protocol on top;
 * whatever implements this is held to test/unit/engine/store/contract.ts.
 *
 * Requests answer through their own callback, which may run before the call returns when there is nothing to wait
 * for (refusals, reads). All callbacks of puts made in one turn follow one sync.
 */
import type { BlockKind, BlockRef, ClusterId, Epoch, Incarnation, PeerId, VolumeId } from "../../base";
import type {
  ListingVisitor,
  ListReply,
  ListRequest,
  RecordCheck,
  ServicePut,
  ServiceRead,
  StorageStatus,
  TailBlock,
} from "../ports";

export interface StoreStatistics {
  /** Bytes that blocks can take, headers and rounding included. */
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly blockCount: number;
  readonly suspectCount: number;
  /** Syncs that served puts, deletes or fences, since the store was opened. */
  readonly syncCount: number;
  /** Memory of the index. */
  readonly indexBytes: number;
  /** Blocks lent to readers now. */
  readonly lentCount: number;
}

export interface BlockStore {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  /** Changes only by `renewIncarnation`. */
  readonly incarnation: Incarnation;
  /** How often this store was opened, this time included. */
  readonly bootCount: number;
  /** Never goes down on one disk; see `advance`. */
  readonly progress: number;
  readonly ringVersion: number;
  /** Set once after a failed write or sync: everything answers unavailable and the process should end. */
  readonly poisonReason: string | undefined;

  /**
   * Stores a block whose header and slots the caller has verified. In this order: unavailable, fenced (the
   * request's epoch against the volume's fence), held (ok after it is durable and its bytes were verified again;
   * a bad or suspect copy is replaced), conflict, outOfSpace; ok when durable.
   */
  put(request: ServicePut): void;
  /** Lends the slots, or the header, verified; a copy that fails becomes suspect and answers corrupt. */
  read(request: ServiceRead): void;
  has(ref: BlockRef): boolean;
  /** By the index alone: ok when durable and not suspect, notFound, corrupt (suspect), unavailable (on its way to the disk). */
  lookUp(ref: BlockRef): StorageStatus;
  /** Reads and checks the whole copy from the disk: ok, notFound, corrupt (then marked suspect) or unavailable (not durable). */
  verify(ref: BlockRef): StorageStatus;
  /** Forgets blocks at once; `done` runs when that is durable. Their space is reused later, when no reader has it. */
  delete(refs: readonly BlockRef[], done: (status: StorageStatus) => void): void;
  list(request: ListRequest): ListReply;
  /** As `list`, without an object a block; returns the cursor. */
  walk(request: ListRequest, visit: ListingVisitor): string | undefined;
  /** Blocks of one epoch above an index, in index order. */
  tail(kind: BlockKind, volumeId: VolumeId, epoch: number, afterIndex: number): TailBlock[];

  /** 0 when the volume was never fenced. */
  fenceEpoch(volumeId: VolumeId): number;
  /** The highest epoch among blocks held of the volume and kind, 0 without any. */
  heldEpochMax(kind: BlockKind, volumeId: VolumeId): number;
  /**
   * Refuses lower epochs from this moment, also for puts that still wait for room; `done` runs when every other put
   * accepted before is durable and acknowledged and then the fence too. A fence never goes down.
   */
  fence(volumeId: VolumeId, epoch: Epoch, done: (status: StorageStatus) => void): void;
  /** Ring versions never go back; a lower one is answered ok and changes nothing. */
  adoptRingVersion(version: number, done: (status: StorageStatus) => void): void;
  /**
   * Raises `progress`, durably, if anything was made durable since it was raised last. What the metadata remember of
   * it tells a disk that was put back to a moment before (R5), however often the store was opened.
   */
  advance(done: (status: StorageStatus) => void): void;
  /** For a store that was rolled back: from now on it is another peer for every earlier log set. */
  renewIncarnation(incarnation: Incarnation, done: (status: StorageStatus) => void): void;

  /**
   * Reads, of part 0, 1, ..., what the next start would read besides the blocks, and has what does not read written
   * anew from memory. `done` runs later; at once with isLast when the store answers nothing any more.
   */
  checkRecords(part: number, done: (found: RecordCheck) => void): void;

  statistics(): StoreStatistics;
  /** Completes what is pending, leaves the store clean and releases the disk. */
  close(): Promise<void>;
}
