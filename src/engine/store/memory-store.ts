/**
 * A block store in memory: for tests, for the simulator's lighter runs, and for a daemon that is meant to forget.
 * Plain maps, no journal; it answers at the end of the turn like the store on a disk, so that callers meet the same
 * order of events. Every start is an empty store and so a new incarnation.
 */
import {
  type BlockKind,
  type BlockRef,
  type ClusterId,
  type Epoch,
  formatBlockRef,
  heapBuffer,
  type Incarnation,
  type NativeBuffer,
  type PeerId,
  type TurnScheduler,
  type VolumeId,
} from "../../base";
import { BlockFault, BlockVerifier, PAGE_BYTES } from "../block";
import {
  type ListingVisitor,
  type ListReply,
  type ListRequest,
  type RecordCheck,
  type ServicePut,
  type ServiceRead,
  StorageStatus,
  type TailBlock,
} from "../ports";
import { headerCrcAt, MutableRef } from "./block-bytes";
import { listByWalk } from "./listing";
import type { BlockStore, StoreStatistics } from "./store";

interface StoredBlock {
  readonly ref: BlockRef;
  readonly bytes: NativeBuffer;
  readonly lengthBytes: number;
  readonly headerCrc: number;
  /** Grows with every block, so that a listing can go on where it stopped. */
  readonly order: number;
  isSuspect: boolean;
}

export interface MemoryStoreOptions {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly incarnation: Incarnation;
  readonly capacityBytes: number;
  readonly turns: TurnScheduler;
}

export class MemoryStore implements BlockStore {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly bootCount = 1;
  /** Nothing of it comes back. */
  readonly progress = 0;
  readonly poisonReason = undefined;
  incarnation: Incarnation;
  ringVersion = 0;
  readonly #capacityBytes: number;
  readonly #turns: TurnScheduler;
  readonly #verifier: BlockVerifier;
  readonly #blocks = new Map<string, StoredBlock>();
  readonly #fences = new Map<number, number>();
  readonly #ref = new MutableRef();
  #waiting: (() => void)[] = [];
  #usedBytes = 0;
  #order = 0;
  #lentCount = 0;
  #turnCount = 0;
  #isClosed = false;

  constructor(options: MemoryStoreOptions) {
    this.clusterId = options.clusterId;
    this.peerId = options.peerId;
    this.incarnation = options.incarnation;
    this.#capacityBytes = options.capacityBytes;
    this.#turns = options.turns;
    this.#verifier = new BlockVerifier(options.clusterId);
  }

  put(request: ServicePut): void {
    if (this.#isClosed) return request.done(StorageStatus.unavailable);
    if (!this.#ref.loadFromHeader(request.buffer, request.offset))
      return request.done(StorageStatus.badRequest);
    const fence = this.#fences.get(this.#ref.volumeId);
    if (request.writerEpoch !== 0 && fence !== undefined && request.writerEpoch < fence)
      return request.done(StorageStatus.fenced);
    const key = formatBlockRef(this.#ref);
    const headerCrc = headerCrcAt(request.buffer, request.offset);
    const held = this.#blocks.get(key);
    if (held !== undefined && held.headerCrc !== headerCrc) return request.done(StorageStatus.conflict);
    if (held === undefined || held.isSuspect || !this.#isIntact(held)) {
      if (held === undefined && this.#usedBytes + request.lengthBytes > this.#capacityBytes)
        return request.done(StorageStatus.outOfSpace);
      this.#keep(key, headerCrc, request, held);
    }
    this.#atTurnEnd(() => request.done(StorageStatus.ok));
  }

  #keep(key: string, headerCrc: number, request: ServicePut, held: StoredBlock | undefined): void {
    const { lengthBytes, buffer, offset } = request;
    const bytes = heapBuffer(lengthBytes);
    bytes.bytes.set(buffer.bytes.subarray(offset, offset + lengthBytes));
    const { kind, volumeId, epoch, index } = this.#ref;
    if (held === undefined) this.#usedBytes += lengthBytes;
    const order = held?.order ?? ++this.#order;
    const ref = { kind, volumeId, epoch, index };
    this.#blocks.set(key, { ref, bytes, lengthBytes, headerCrc, order, isSuspect: false });
  }

  read(request: ServiceRead): void {
    const fail = (status: StorageStatus) => request.done(status, undefined, 0, 0, 0);
    if (this.#isClosed) return fail(StorageStatus.unavailable);
    const held = this.#blocks.get(formatBlockRef(request.ref));
    if (held === undefined) return fail(StorageStatus.notFound);
    if (held.isSuspect || !this.#isIntact(held)) {
      held.isSuspect = true;
      return fail(StorageStatus.corrupt);
    }
    const { header } = this.#verifier;
    const { firstSlot, slotCount } = request;
    if (firstSlot + slotCount > header.slotCount) return fail(StorageStatus.badRequest);
    this.#lentCount += 1;
    const release = () => {
      this.#lentCount -= 1;
    };
    if (slotCount === 0) return request.done(StorageStatus.ok, held.bytes, 0, header.headerBytes, 0, release);
    const offset = header.headerBytes + firstSlot * PAGE_BYTES;
    const lengthBytes = Math.min(slotCount * PAGE_BYTES, held.lengthBytes - offset);
    const check = header.check(firstSlot, slotCount);
    request.done(StorageStatus.ok, held.bytes, offset, lengthBytes, check, release);
  }

  #isIntact(held: StoredBlock): boolean {
    return (
      this.#verifier.verify(held.bytes, 0, held.lengthBytes) === BlockFault.none &&
      this.#verifier.header.headerCrc === held.headerCrc
    );
  }

  has(ref: BlockRef): boolean {
    return this.#blocks.has(formatBlockRef(ref));
  }

  lookUp(ref: BlockRef): StorageStatus {
    if (this.#isClosed) return StorageStatus.unavailable;
    const held = this.#blocks.get(formatBlockRef(ref));
    if (held === undefined) return StorageStatus.notFound;
    return held.isSuspect ? StorageStatus.corrupt : StorageStatus.ok;
  }

  verify(ref: BlockRef): StorageStatus {
    const held = this.#blocks.get(formatBlockRef(ref));
    if (held === undefined) return StorageStatus.notFound;
    if (!this.#isIntact(held)) held.isSuspect = true;
    return held.isSuspect ? StorageStatus.corrupt : StorageStatus.ok;
  }

  delete(refs: readonly BlockRef[], done: (status: StorageStatus) => void): void {
    if (this.#isClosed) return done(StorageStatus.unavailable);
    for (const ref of refs) {
      const key = formatBlockRef(ref);
      const held = this.#blocks.get(key);
      if (held === undefined) continue;
      this.#usedBytes -= held.lengthBytes;
      this.#blocks.delete(key);
    }
    this.#atTurnEnd(() => done(StorageStatus.ok));
  }

  list(request: ListRequest): ListReply {
    return listByWalk(this, request);
  }

  walk(request: ListRequest, visit: ListingVisitor): string | undefined {
    const after = request.cursor === undefined ? 0 : Number(request.cursor);
    let [count, last] = [0, 0];
    for (const held of [...this.#blocks.values()].sort((a, b) => a.order - b.order)) {
      if (held.order <= after) continue;
      if (request.volumeId !== undefined && held.ref.volumeId !== request.volumeId) continue;
      if (count === request.limit) return String(last);
      const { ref, lengthBytes, headerCrc, isSuspect } = held;
      count++;
      last = held.order;
      visit({ ref, lengthBytes, headerCrc, suspect: isSuspect });
    }
    return undefined;
  }

  tail(kind: BlockKind, volumeId: VolumeId, epoch: number, afterIndex: number): TailBlock[] {
    const tail: TailBlock[] = [];
    for (const { ref, headerCrc, lengthBytes, isSuspect } of this.#blocks.values())
      if (ref.kind === kind && ref.volumeId === volumeId && ref.epoch === epoch && ref.index > afterIndex)
        tail.push({ index: ref.index, headerCrc, lengthBytes, suspect: isSuspect });
    return tail.sort((a, b) => a.index - b.index);
  }

  fenceEpoch(volumeId: VolumeId): number {
    return this.#fences.get(volumeId) ?? 0;
  }

  heldEpochMax(kind: BlockKind, volumeId: VolumeId): number {
    let highest = 0;
    for (const { ref } of this.#blocks.values())
      if (ref.kind === kind && ref.volumeId === volumeId) highest = Math.max(highest, ref.epoch);
    return highest;
  }

  fence(volumeId: VolumeId, epoch: Epoch, done: (status: StorageStatus) => void): void {
    if (this.#isClosed) return done(StorageStatus.unavailable);
    this.#fences.set(volumeId, Math.max(epoch, this.fenceEpoch(volumeId)));
    this.#atTurnEnd(() => done(StorageStatus.ok));
  }

  adoptRingVersion(version: number, done: (status: StorageStatus) => void): void {
    this.ringVersion = Math.max(this.ringVersion, version);
    this.#atTurnEnd(() => done(StorageStatus.ok));
  }

  advance(done: (status: StorageStatus) => void): void {
    this.#atTurnEnd(() => done(StorageStatus.ok));
  }

  renewIncarnation(incarnation: Incarnation, done: (status: StorageStatus) => void): void {
    this.incarnation = incarnation;
    this.#atTurnEnd(() => done(StorageStatus.ok));
  }

  /** There is nothing on a disk. */
  checkRecords(_part: number, done: (found: RecordCheck) => void): void {
    done({ bytesChecked: 0, problem: undefined, isLast: true });
  }

  statistics(): StoreStatistics {
    let suspectCount = 0;
    for (const held of this.#blocks.values()) if (held.isSuspect) suspectCount += 1;
    return {
      capacityBytes: this.#capacityBytes,
      usedBytes: this.#usedBytes,
      blockCount: this.#blocks.size,
      suspectCount,
      syncCount: this.#turnCount,
      indexBytes: 0,
      lentCount: this.#lentCount,
    };
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return new Promise((resolve) => this.#atTurnEnd(resolve));
  }

  #atTurnEnd(answer: () => void): void {
    if (this.#waiting.length === 0) this.#turns.afterTurn(this.#answerAll);
    this.#waiting.push(answer);
  }

  readonly #answerAll = (): void => {
    const answers = this.#waiting;
    this.#waiting = [];
    this.#turnCount += 1;
    for (const answer of answers) answer();
  };
}
