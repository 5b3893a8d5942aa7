/**
 * Everything the engine needs from the outside world, and what it offers to the wire. The engine owns these
 * contracts; net, meta and base's I/O implement them, and the simulator implements them on virtual time.
 *
 * Hot calls (put, read) are callback style and allocate nothing per request beyond the request object, which
 * callers pool; cold calls return promises. Every call completes exactly once, with a status, within its deadline.
 */
import type { BlockRef, ClusterId, Epoch, Incarnation, NativeBuffer, PeerId, VolumeId } from "../base";
import type { RingSpec } from "../ring";
import type { Head, NodePointer } from "./head";

export const StorageStatus = {
  ok: 0,
  notFound: 1,
  /** A newer epoch has fenced this volume on the peer. The writer must stop. */
  fenced: 2,
  outOfSpace: 3,
  /** The peer holds this BlockRef with another CRC. The writer must stop. */
  conflict: 4,
  /** The copy held fails its CRC, or is suspect: neither a copy nor a denial. */
  corrupt: 5,
  wrongCluster: 6,
  /** The bytes of the request make no sense. */
  badRequest: 7,
  /** The store is poisoned (failed fsync) or shutting down. */
  unavailable: 8,
  /** Made on the caller's side: no connection, connection lost, or no answer within the deadline. */
  unreachable: 9,
  /**
   * Only of a put: stored and durable like `ok`, but the peer is nearly full. The writer takes no new data from its
   * users while too few others have room; what it has accepted still fits (see space.ts).
   */
  storedLowSpace: 10,
  /** The caller's certificate may not use this volume. A writer must stop. */
  denied: 11,
} as const;
export type StorageStatus = (typeof StorageStatus)[keyof typeof StorageStatus];

/** Whether a put ended well: the block is durable at the peer. */
export function isStored(status: StorageStatus): boolean {
  return status === StorageStatus.ok || status === StorageStatus.storedLowSpace;
}

// ---------------------------------------------------------------------------------------------------------------
// What a peer answers: implemented by engine/peer over a BlockStore; called by adp, Connect and the simulator.

export interface PeerIdentity {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly incarnation: Incarnation;
}

export interface ServicePut {
  /** Sealed block bytes: header and payload, contiguous. The service owns the range until `done`. */
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly lengthBytes: number;
  /**
   * The writer's epoch, tested against the volume's fence first, always. 0: an unfenced copy made by rebalance,
   * scrub or read repair, which counts for no acknowledgement.
   */
  readonly writerEpoch: number;
  /**
   * The bytes were sealed or verified in this very process and never left it: checking them again would find nothing.
   * Never true of what came over a wire.
   */
  readonly isVerified?: boolean;
  /** Called once, when the block is durable or refused. */
  done(status: StorageStatus): void;
}

export interface ServiceRead {
  readonly ref: BlockRef;
  /** Slots are the 4 KiB units of the payload; slotCount 0 asks for the header alone. */
  readonly firstSlot: number;
  readonly slotCount: number;
  /**
   * ok: `source.bytes[offset .. +lengthBytes)` holds the slots (or the header, which was verified). `check` is made of
   * the CRCs that the block's header holds of these slots, joined (see block/crc.ts); 0 for a header read. Slots and
   * their CRCs are as the disk has them, and the reader's to compare: it must in any case, for what the network did.
   * The source may be lent: it stays unchanged until `release`, which must be called once when given.
   */
  done(
    status: StorageStatus,
    source: NativeBuffer | undefined,
    offset: number,
    lengthBytes: number,
    check: number,
    release?: () => void,
  ): void;
}

/** Epochs from one to another, both included. */
export interface EpochRange {
  readonly from: number;
  readonly to: number;
}

/** What the metadata knows of a volume's epochs: every one above `completeAbove` that was ever minted is in a range. */
export interface MintedEpochs {
  readonly completeAbove: number;
  readonly minted: readonly EpochRange[];
}

/** More are merged: it takes as many openings in a row that failed. */
export const MINTED_RANGES_MAX = 64;

export interface FenceRequest {
  readonly volumeId: VolumeId;
  /** The opener's new epoch; puts of lower epochs are refused once this is answered. */
  readonly epoch: Epoch;
  /** The reply lists data blocks of this epoch ... */
  readonly tailEpoch: number;
  /** ... with an index above this. */
  readonly tailAfterIndex: number;
  /**
   * The epochs that may have fenced this peer. Without them it is not asked whether the metadata was rolled back: by
   * an older client, or because an administrator gives up what was written since.
   */
  readonly minted?: MintedEpochs;
}

export interface TailBlock {
  readonly index: number;
  /** CRC of the block's header, which covers the CRCs of all its slots. */
  readonly headerCrc: number;
  readonly lengthBytes: number;
  /** The bytes did not match: it may have been acknowledged and rotted; or the copy is not durable yet. */
  readonly suspect: boolean;
}

export interface FenceReply extends PeerIdentity {
  readonly status: StorageStatus;
  /**
   * The highest epoch this peer knows for the volume, the request's included. Refused ("fenced") with a lower one: it
   * is a writer's that the metadata does not know of, or the head's, which reached further once.
   */
  readonly epochKnown: number;
  readonly tail: readonly TailBlock[];
}

export interface BlockListing {
  readonly ref: BlockRef;
  readonly lengthBytes: number;
  readonly headerCrc: number;
  readonly suspect: boolean;
}

/** A block met by a walk: one object for all of them, valid during the call. `keepListing` makes one that stays. */
export type ListingVisitor = (listing: BlockListing) => void;

export function keepListing({ ref, lengthBytes, headerCrc, suspect }: BlockListing): BlockListing {
  const { kind, volumeId, epoch, index } = ref;
  return { ref: { kind, volumeId, epoch, index }, lengthBytes, headerCrc, suspect };
}

export interface ListRequest {
  /** Opaque; undefined starts. A listing that spans changes may miss or repeat blocks put meanwhile, never older ones. */
  readonly cursor?: string;
  readonly volumeId?: VolumeId;
  readonly limit: number;
}

export interface ListReply {
  readonly blocks: readonly BlockListing[];
  /** Undefined when the listing is complete. */
  readonly cursor?: string;
}

export interface ConfirmRequest {
  readonly refs: readonly BlockRef[];
  /** R8: the answer counts only when the peer is at this very ring version; or LOOK_UP. */
  readonly ringVersion: number;
}

/**
 * In place of a ring version (which are counted up from 0 and never get as far): what does the peer's index say? That
 * confirms nothing, reads nothing and is answered at any version, with this in place of the peer's own. A peer that does
 * not know the question answers as one at another version does.
 */
export const LOOK_UP = Number.MAX_SAFE_INTEGER;

export interface ConfirmReply extends PeerIdentity {
  /** The peer's; LOOK_UP when that was asked. */
  readonly ringVersion: number;
  /** Per ref: ok (durable, and read and checked now unless looked up), notFound, corrupt, unavailable (not durable yet). */
  readonly statuses: readonly StorageStatus[];
}

export interface PeerStatistics extends PeerIdentity {
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly blockCount: number;
  readonly suspectCount: number;
  readonly ringVersion: number;
}

export interface StorageService {
  readonly identity: PeerIdentity;
  put(request: ServicePut): void;
  read(request: ServiceRead): void;
  fence(request: FenceRequest): Promise<FenceReply>;
  list(request: ListRequest): Promise<ListReply>;
  /** Local use only: a listing that makes no object a block, for looks at all of them. Returns the reply's cursor. */
  walk(request: ListRequest, visit: ListingVisitor): string | undefined;
  confirm(request: ConfirmRequest): Promise<ConfirmReply>;
  statistics(): Promise<PeerStatistics>;
  /** Local use only (collection, rebalance drop): never offered on the wire. */
  deleteBlocks(refs: readonly BlockRef[]): Promise<void>;
  /** Ring versions at a peer are durable and never go back. */
  adoptRingVersion(version: number): Promise<void>;
  /** Local use only: a look at one part of the store's own records, see BlockStore. */
  checkRecords(part: number): Promise<RecordCheck>;
}

/** What a look at one part of a store's own records found. */
export interface RecordCheck {
  readonly bytesChecked: number;
  /** What did not read, and is being written anew; undefined: all is well. */
  readonly problem: string | undefined;
  /** There is no further part. */
  readonly isLast: boolean;
}

/** What is offered on the wire. */
export type WireStorageService = Omit<
  StorageService,
  "walk" | "deleteBlocks" | "adoptRingVersion" | "checkRecords"
>;

// ---------------------------------------------------------------------------------------------------------------
// How a client or peer reaches other peers: implemented by net (adp, Connect) and the simulator.

export interface OutgoingPut {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly writerEpoch: number;
  /** The range may be reused once this ran for every peer it was sent to. */
  done(peer: PeerId, incarnation: Incarnation | "", status: StorageStatus): void;
}

export interface OutgoingRead {
  readonly ref: BlockRef;
  readonly firstSlot: number;
  readonly slotCount: number;
  /** The answer's bytes are written to destination.bytes[destinationOffset ..]; there is room for slotCount pages, or for HEADER_BYTES_MAX when slotCount is 0. */
  readonly destination: NativeBuffer;
  readonly destinationOffset: number;
  done(peer: PeerId, status: StorageStatus, lengthBytes: number, check: number): void;
}

/**
 * Requests to one peer leave in the order of the calls (a fence sent after a put arrives after it); requests are
 * gathered and sent once a turn. A peer not connected is connected to on demand, with backoff; meanwhile calls
 * complete with `unreachable` at once when the last attempt failed less than a backoff ago.
 */
export interface PeerTransport {
  put(peer: PeerId, request: OutgoingPut): void;
  read(peer: PeerId, request: OutgoingRead): void;
  /**
   * Gives a read up that was asked of the peer and is not done. True: from here on nothing is written to its destination
   * and its done does not run; what the peer still answers is thrown away. False: it ends by itself, with done as ever.
   */
  withdrawRead(peer: PeerId, request: OutgoingRead): boolean;
  fence(peer: PeerId, request: FenceRequest): Promise<FenceReply>;
  list(peer: PeerId, request: ListRequest): Promise<ListReply>;
  confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply>;
  statistics(peer: PeerId): Promise<PeerStatistics>;
  /** Whether a connection is up, or none was tried yet: a hint for placement, never a proof. */
  isLikelyUp(peer: PeerId): boolean;
}

// ---------------------------------------------------------------------------------------------------------------
// What the engine asks of the metadata service: implemented once in meta on top of the key-value port.

export interface PeerRecord {
  readonly peerId: PeerId;
  /** `adp://10.0.0.1:40000` or `http://...`. */
  readonly address: string;
  readonly incarnation: Incarnation;
  readonly zone: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** Its registration lease is alive. */
  readonly live: boolean;
}

export interface ClusterView {
  readonly clusterId: ClusterId;
  readonly blockSizeBytes: number;
  readonly ring: RingSpec;
  readonly peers: readonly PeerRecord[];
}

export interface VolumeRecord {
  readonly volumeId: VolumeId;
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdMs: number;
}

/** What R3(a) returns: lock put, epoch minted and head read in one transaction. */
export interface OpenGrant {
  readonly volume: VolumeRecord;
  readonly epoch: Epoch;
  /** As of this mint. */
  readonly minted: MintedEpochs;
  readonly head: Head;
  readonly headRevision: number;
  /**
   * Set when the open is a restore (R10): fence by `head.log` as always, but adopt nothing; the first commitHead
   * puts {this snapshot's root and size, E, 0, 0}. It is refused when the snapshot was deleted meanwhile.
   */
  readonly restoreFrom?: SnapshotRecord;
}

/** A snapshot never changes: a root and a size, never a tail. */
export interface SnapshotRecord {
  readonly volumeId: VolumeId;
  readonly name: string;
  readonly root: NodePointer | null;
  readonly sizeBytes: number;
  readonly createdMs: number;
  /** Fingerprint of the snapshot, here or in another cluster, that this one is an exact copy of. */
  readonly origin?: string;
}

export type CommitOutcome =
  | { readonly kind: "committed"; readonly headRevision: number }
  /** Another epoch opened or the head moved: this writer must stop for good. */
  | { readonly kind: "refused"; readonly reason: string }
  /**
   * Only where a request was answered: the request was cancelled or can no longer be met (the snapshot's name is
   * taken, its lease ended). Nothing was changed, the request is gone, the writer goes on as before.
   */
  | { readonly kind: "withdrawn"; readonly reason: string };

export interface LeaseState {
  /** Reads may be answered until this moment on Clock.nowMs() (R13). */
  deadlineMs(): number;
  /**
   * Calls back at once and with every change of the deadline, before the change is relied on by anybody; -Infinity when
   * the lease is lost. For whoever shows the deadline to another thread; a lease read across threads has none.
   */
  onDeadline?(listener: (deadlineMs: number) => void): void;
}

/** One open volume's line to the metadata: made by the open, ends with close. */
export interface VolumeSession {
  readonly grant: OpenGrant;
  readonly lease: LeaseState;
  /**
   * Puts the head if epoch, lock and head revision still hold. An unknown outcome is re-read linearizably inside;
   * throws (retryable) only while the metadata cannot be reached. After a throw the outcome is still unknown: the
   * caller repeats the same call until it returns (acknowledging under the old and the new set meanwhile, R2).
   * A changed `head.sizeBytes` is the volume's new size, in the same transaction; `answeredRequestId` names the
   * resize request it meets.
   */
  commitHead(expectedRevision: number, head: Head, answeredRequestId?: string): Promise<CommitOutcome>;
  /**
   * R6: head with S empty and the lock deleted, in one transaction. From its start on the lease's deadline is past
   * for good, whatever the outcome: the lock may be gone before anybody here knows.
   */
  commitDetach(expectedRevision: number, head: Head): Promise<CommitOutcome>;
  /** R9: head put, snapshot put, request deleted, in one transaction. */
  commitSnapshot(expectedRevision: number, head: Head, requestId: string): Promise<CommitOutcome>;
  /** Removes a request that cannot be met; whoever asked is told the reason. */
  rejectRequest(requestId: string, reason: string): Promise<void>;
  /** Snapshot requests and size changes asked by others, each delivered once, pending ones first. */
  onRequest(listener: (request: VolumeRequest) => void): void;
  /** The lock was lost and cannot be retaken, or a newer epoch exists: fail all I/O. */
  onLost(listener: (reason: string) => void): void;
  /** Gives the lock up without a word about the head (a failed open). */
  abandon(): Promise<void>;
}

export type VolumeRequest =
  | { readonly kind: "snapshot"; readonly requestId: string; readonly name: string }
  | { readonly kind: "resize"; readonly requestId: string; readonly sizeBytes: number };

/** A snapshot held open for reading: its pin, bound to a lease, keeps it from being deleted. */
export interface SnapshotSession {
  readonly volume: VolumeRecord;
  readonly snapshot: SnapshotRecord;
  readonly lease: LeaseState;
  /** The pin was lost and the snapshot deleted meanwhile: stop reading. */
  onLost(listener: (reason: string) => void): void;
  close(): Promise<void>;
}

export interface OpenOptions {
  /** Restore this snapshot of the volume: see OpenGrant.restoreFrom. */
  readonly restoreSnapshot?: string;
  /** Wait this long for another holder's lock to end (a crashed holder's lease); default 0. */
  readonly waitForLockMs?: number;
}

/** What one volume holds on to, for collection (R7). */
export interface CollectionVolume {
  readonly volumeId: VolumeId;
  /** The volume at the bottom of this tree of clones; its own id when it is no clone. */
  readonly lineageId: VolumeId;
  /** Volumes (existing or deleted) whose blocks this one may reference through its clone's origin, oldest first. */
  readonly ancestorIds: readonly VolumeId[];
  readonly head: Head;
  readonly snapshots: readonly SnapshotRecord[];
}

/** Everything that references blocks, read at one revision. */
export interface CollectionView {
  readonly revision: number;
  /** Ids up to this were given out; one at or below it without a volume here is a deleted volume. */
  readonly volumeIdLast: number;
  readonly volumes: readonly CollectionVolume[];
  /** Records that cannot be read: nothing of this lineage may be deleted; without a lineage, nothing at all. */
  readonly damage: readonly {
    readonly key: string;
    readonly reason: string;
    readonly lineageId: VolumeId | undefined;
  }[];
}

export interface VolumeRegistry {
  /** Mints an epoch and takes the lock (R3a). */
  openVolume(name: string, holder: string, options?: OpenOptions): Promise<VolumeSession>;
  /** Pins a snapshot for reading; any number at once, from anywhere, attached or not. */
  openSnapshot(name: string, snapshotName: string, holder: string): Promise<SnapshotSession>;
  /** Linearizable: called after the caller listed its own blocks (R7). */
  collectionView(): Promise<CollectionView>;
  ringAt(version: number): Promise<RingSpec>;
  cluster(): ClusterView;
  /** Calls back on every change of ring or peers. */
  onClusterChange(listener: (view: ClusterView) => void): () => void;
}
