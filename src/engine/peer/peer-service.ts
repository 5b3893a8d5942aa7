/**
 * What a peer answers, over its store: the peer's side of rules R1, R3 and R8. Every put is checked here before it
 * may be acknowledged: its bytes (header, cluster, every slot), then in the store the fence, whether it is held, and
 * durability. Puts and reads allocate nothing; the rest is rare and answers with promises.
 *
 * The order of a put's tests matters (R1): the fence first, always, against the request's epoch, so that a stale
 * writer learns of its end even for a block that is held already. Only a name that cannot be read comes before it.
 */
import { asEpoch, BlockKind, type BlockRef, type Clock, sleep, type VolumeId } from "../../base";
import { BlockFault, BlockVerifier } from "../block";
import {
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListingVisitor,
  type ListReply,
  type ListRequest,
  LOOK_UP,
  type PeerIdentity,
  type RecordCheck,
  type PeerStatistics,
  type ServicePut,
  type ServiceRead,
  type StorageService,
  StorageStatus,
} from "../ports";
import type { BlockStore } from "../store";
import { PeerError } from "./errors";

/** Blocks one listing may ask for, and names one confirmation may hold. */
const LIST_LIMIT_MAX = 65_536;
const CONFIRM_REFS_MAX = 65_536;
const LOOK_UPS_A_TURN = 256;
/**
 * Deletes handed to the store in one turn: a whole batch of a rebalance, which drops at one ring version (R8). And how
 * many such may be on their way to the disk together.
 */
const DELETE_BATCH = 128;
const DELETE_BATCHES_MAX = 8;
/** Of a log, asked for what they tell of the head. */
const NEWEST_BLOCKS_MAX = 4;

export interface PeerServiceOptions {
  readonly store: BlockStore;
  readonly clock: Clock;
}

export class PeerService implements StorageService {
  readonly #store: BlockStore;
  readonly #clock: Clock;
  readonly #verifier: BlockVerifier;
  #identity: PeerIdentity;
  /** Puts of writers and reads of pages since the start: work of clients, not copies and questions of other peers. */
  clientRequestCount = 0;

  constructor(options: PeerServiceOptions) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#verifier = new BlockVerifier(options.store.clusterId);
    this.#identity = identityOf(options.store);
  }

  get identity(): PeerIdentity {
    if (this.#identity.incarnation !== this.#store.incarnation) this.#identity = identityOf(this.#store);
    return this.#identity;
  }

  put(request: ServicePut): void {
    if (request.writerEpoch !== 0) this.clientRequestCount++;
    if (request.isVerified === true) return this.#store.put(request);
    const fault = this.#verifier.verify(request.buffer, request.offset, request.lengthBytes);
    if (fault === BlockFault.none) return this.#store.put(request);
    if (fault === BlockFault.wrongCluster) return request.done(StorageStatus.wrongCluster);
    // A header that is whole names its volume, and then the fence comes before the complaint about the rest.
    if (
      fault === BlockFault.badSlotCrc &&
      this.#isFenced(this.#verifier.header.ref.volumeId, request.writerEpoch)
    )
      return request.done(StorageStatus.fenced);
    request.done(StorageStatus.badRequest);
  }

  #isFenced(volumeId: VolumeId, writerEpoch: number): boolean {
    return writerEpoch !== 0 && writerEpoch < this.#store.fenceEpoch(volumeId);
  }

  read(request: ServiceRead): void {
    const { firstSlot, slotCount } = request;
    if (!Number.isInteger(firstSlot) || !Number.isInteger(slotCount) || firstSlot < 0 || slotCount < 0)
      return request.done(StorageStatus.badRequest, undefined, 0, 0, 0);
    if (slotCount > 0) this.clientRequestCount++;
    this.#store.read(request);
  }

  /**
   * Refused ("fenced") when this peer knows a newer epoch, or holds a block of this very epoch, which only a rolled
   * back metadata service could hand out again, or has seen a writer or a head that the metadata does not know of (R3c). What is
   * refused leaves no trace, so that every later try is refused, too. The same fence twice is answered alike, so that
   * an opener may repeat a request whose answer was lost.
   */
  async fence(request: FenceRequest): Promise<FenceReply> {
    const store = this.#store;
    const { volumeId, epoch, tailEpoch, tailAfterIndex } = request;
    const heldData = store.heldEpochMax(BlockKind.data, volumeId);
    const heldMax = Math.max(heldData, store.heldEpochMax(BlockKind.inode, volumeId));
    const known = Math.max(store.fenceEpoch(volumeId), heldMax);
    if (known > epoch || heldMax === epoch)
      return { ...this.identity, status: StorageStatus.fenced, epochKnown: known, tail: [] };
    const unknown =
      unknownWriter(request, heldData, [store.fenceEpoch(volumeId), heldMax]) ?? this.#newerHead(request);
    if (unknown !== undefined)
      return { ...this.identity, status: StorageStatus.fenced, epochKnown: unknown, tail: [] };
    const status = await this.#completed((done) => store.fence(volumeId, epoch, done));
    // Another opener may have fenced meanwhile; it is the newer one that may go on.
    const epochKnown = Math.max(store.fenceEpoch(volumeId), epoch);
    const reply = { ...this.identity, epochKnown };
    if (status !== StorageStatus.ok) return { ...reply, status, tail: [] };
    if (epochKnown > epoch) return { ...reply, status: StorageStatus.fenced, tail: [] };
    return { ...reply, status, tail: store.tail(BlockKind.data, volumeId, tailEpoch, tailAfterIndex) };
  }

  /** The head's epoch when a block of it was sealed under a head that reached further than the opener's. */
  #newerHead({ volumeId, minted, tailEpoch, tailAfterIndex }: FenceRequest): number | undefined {
    if (minted === undefined) return undefined;
    const tail = this.#store.tail(BlockKind.data, volumeId, tailEpoch, tailAfterIndex);
    // The newest block tells most; another only where that cannot be read.
    for (const { index } of tail.slice(-NEWEST_BLOCKS_MAX).reverse()) {
      const epoch = asEpoch(tailEpoch);
      const coveredIndex = this.#coveredIndexOf({ kind: BlockKind.data, volumeId, epoch, index });
      if (coveredIndex !== undefined) return coveredIndex > tailAfterIndex ? tailEpoch : undefined;
    }
    return undefined;
  }

  /** What a block's header tells of the head; undefined for one that cannot be read. */
  #coveredIndexOf(ref: BlockRef): number | undefined {
    let coveredIndex: number | undefined;
    this.#store.read({
      ...{ ref, firstSlot: 0, slotCount: 0 },
      done: (status, source, offset, lengthBytes, _check, release) => {
        if (status === StorageStatus.ok && source !== undefined) {
          const { header } = this.#verifier;
          if (header.parse(source, offset, lengthBytes) === BlockFault.none)
            coveredIndex = header.coveredIndex;
        }
        release?.();
      },
    });
    return coveredIndex;
  }

  async list(request: ListRequest): Promise<ListReply> {
    this.#requireStore("list blocks");
    const limit = Math.min(Math.max(1, Math.floor(request.limit)), LIST_LIMIT_MAX);
    return this.#store.list({ ...request, limit });
  }

  walk(request: ListRequest, visit: ListingVisitor): string | undefined {
    this.#requireStore("list blocks");
    return this.#store.walk(request, visit);
  }

  /** Reads and checks each copy from the disk, one a turn, so that reads and puts go on between. */
  async confirm(request: ConfirmRequest): Promise<ConfirmReply> {
    this.#requireStore("confirm blocks");
    if (request.refs.length > CONFIRM_REFS_MAX)
      throw new PeerError(
        "too-large",
        `Cannot confirm ${request.refs.length} blocks at once: the most is ${CONFIRM_REFS_MAX}`,
      );
    if (request.ringVersion === LOOK_UP) return this.#lookUp(request.refs);
    const statuses: StorageStatus[] = [];
    if (request.ringVersion === this.#store.ringVersion)
      for (const ref of request.refs) {
        statuses.push(this.#store.verify(ref));
        await sleep(this.#clock, 0);
      }
    // At another version nothing is confirmed: the asker sees the version, and a status that helps nobody (R8).
    else for (const _ of request.refs) statuses.push(StorageStatus.unavailable);
    return { ...this.identity, ringVersion: this.#store.ringVersion, statuses };
  }

  async #lookUp(refs: readonly BlockRef[]): Promise<ConfirmReply> {
    const statuses: StorageStatus[] = [];
    for (const [at, ref] of refs.entries()) {
      statuses.push(this.#store.lookUp(ref));
      if (at % LOOK_UPS_A_TURN === LOOK_UPS_A_TURN - 1) await sleep(this.#clock, 0);
    }
    return { ...this.identity, ringVersion: LOOK_UP, statuses };
  }

  async statistics(): Promise<PeerStatistics> {
    const { capacityBytes, usedBytes, blockCount, suspectCount } = this.#store.statistics();
    const { ringVersion } = this.#store;
    return { ...this.identity, capacityBytes, usedBytes, blockCount, suspectCount, ringVersion };
  }

  async deleteBlocks(refs: readonly BlockRef[]): Promise<void> {
    const underWay: Promise<StorageStatus>[] = [];
    const settle = async () => {
      for (const status of await Promise.all(underWay.splice(0)))
        if (status !== StorageStatus.ok) throw this.#unavailable("delete blocks");
    };
    for (let start = 0; start < refs.length; start += DELETE_BATCH) {
      if (start > 0) await sleep(this.#clock, 0);
      const batch = refs.slice(start, start + DELETE_BATCH);
      const part = this.#completed((done) => this.#store.delete(batch, done));
      // Looked at in `settle`, which may be some turns away.
      part.catch(() => undefined);
      underWay.push(part);
      if (underWay.length === DELETE_BATCHES_MAX) await settle();
    }
    await settle();
  }

  async adoptRingVersion(version: number): Promise<void> {
    const status = await this.#completed((done) => this.#store.adoptRingVersion(version, done));
    if (status !== StorageStatus.ok) throw this.#unavailable("adopt a ring version");
  }

  async checkRecords(part: number): Promise<RecordCheck> {
    this.#requireStore("check the store's records");
    return new Promise((resolve) => this.#store.checkRecords(part, resolve));
  }

  #completed(start: (done: (status: StorageStatus) => void) => void): Promise<StorageStatus> {
    return new Promise((resolve) => start(resolve));
  }

  #requireStore(action: string): void {
    if (this.#store.poisonReason !== undefined) throw this.#unavailable(action);
  }

  #unavailable(action: string): PeerError {
    const reason = this.#store.poisonReason ?? "the store is closing";
    return new PeerError("unavailable", `Cannot ${action} on peer ${this.#store.peerId}: ${reason}`);
  }
}

/**
 * The epoch of a writer that wrote here and that the opener's metadata does not know of. Data are written only after a
 * first checkpoint, which makes the head's epoch the writer's: data of a newer one than the head's are always such
 * (also where its epoch was minted once more), a fence or map block only if its epoch was not minted since.
 */
function unknownWriter(
  { minted, tailEpoch: headEpoch }: FenceRequest,
  heldData: number,
  others: readonly number[],
): number | undefined {
  if (minted === undefined) return undefined;
  if (heldData > headEpoch) return heldData;
  const floor = Math.max(headEpoch, minted.completeAbove);
  return others.find(
    (epoch) => epoch > floor && !minted.minted.some(({ from, to }) => from <= epoch && epoch <= to),
  );
}

function identityOf(store: BlockStore): PeerIdentity {
  return { clusterId: store.clusterId, peerId: store.peerId, incarnation: store.incarnation };
}
