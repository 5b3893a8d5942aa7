/**
 * A StorageService in memory, for tests of what lies between an engine and a peer: it verifies and keeps blocks,
 * knows fences, and can hold its answers back. It is not the engine's peer: no journal, no suspects.
 */
import { BlockKind, type BlockRef, formatBlockRef, heapBuffer, type NativeBuffer } from "../../src/base";
import { BlockFault, BlockHeader, BlockVerifier, PAGE_BYTES } from "../../src/engine/block";
import {
  type BlockListing,
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListingVisitor,
  type ListReply,
  type ListRequest,
  type PeerIdentity,
  type RecordCheck,
  type PeerStatistics,
  type ServicePut,
  type ServiceRead,
  type StorageService,
  StorageStatus,
} from "../../src/engine/ports";

interface Stored {
  readonly ref: BlockRef;
  readonly buffer: NativeBuffer;
  readonly lengthBytes: number;
  readonly headerCrc: number;
}

export class MemoryService implements StorageService {
  readonly blocks = new Map<string, Stored>();
  readonly fences = new Map<number, number>();
  readonly fenceRequests: FenceRequest[] = [];
  /** Answers wait in `held` while this is set. */
  holding = false;
  readonly held: (() => void)[] = [];
  /** Lent reads not yet given back. */
  lentCount = 0;
  putCount = 0;
  failControl = false;
  ringVersion = 1;
  readonly #verifier: BlockVerifier;
  readonly #header = new BlockHeader();

  constructor(
    readonly identity: PeerIdentity,
    private readonly allocate: (lengthBytes: number) => NativeBuffer = heapBuffer,
  ) {
    this.#verifier = new BlockVerifier(identity.clusterId);
  }

  releaseHeld(): void {
    for (const answer of this.held.splice(0)) answer();
  }

  put(request: ServicePut): void {
    this.putCount++;
    const status = this.#store(request);
    this.#answer(() => request.done(status));
  }

  read(request: ServiceRead): void {
    this.#answer(() => this.#read(request));
  }

  async fence(request: FenceRequest): Promise<FenceReply> {
    if (this.failControl) throw new Error("the disk is gone");
    this.fenceRequests.push(request);
    const epochKnown = Math.max(this.fences.get(request.volumeId) ?? 0, request.epoch);
    this.fences.set(request.volumeId, epochKnown);
    const tail = [...this.blocks.values()]
      .filter(
        ({ ref }) =>
          ref.kind === BlockKind.data &&
          ref.volumeId === request.volumeId &&
          ref.epoch === request.tailEpoch &&
          ref.index > request.tailAfterIndex,
      )
      .map(({ ref, headerCrc, lengthBytes }) => ({
        index: ref.index,
        headerCrc,
        lengthBytes,
        suspect: false,
      }));
    return { ...this.identity, status: StorageStatus.ok, epochKnown, tail };
  }

  async list(request: ListRequest): Promise<ListReply> {
    const blocks: BlockListing[] = [];
    const cursor = this.walk(request, (listing) => void blocks.push(listing));
    return cursor === undefined ? { blocks } : { blocks, cursor };
  }

  walk(request: ListRequest, visit: ListingVisitor): string | undefined {
    const all: BlockListing[] = [...this.blocks.values()]
      .filter(({ ref }) => request.volumeId === undefined || ref.volumeId === request.volumeId)
      .map(({ ref, lengthBytes, headerCrc }) => ({
        ref,
        lengthBytes,
        headerCrc,
        suspect: ref.index % 2 === 0,
      }));
    const start = Number(request.cursor ?? 0);
    const end = start + request.limit;
    for (const listing of all.slice(start, end)) visit(listing);
    return end < all.length ? String(end) : undefined;
  }

  async confirm(request: ConfirmRequest): Promise<ConfirmReply> {
    const statuses = request.refs.map((ref) =>
      this.blocks.has(formatBlockRef(ref)) ? StorageStatus.ok : StorageStatus.notFound,
    );
    return { ...this.identity, ringVersion: this.ringVersion, statuses };
  }

  async statistics(): Promise<PeerStatistics> {
    return {
      ...this.identity,
      capacityBytes: 2 ** 44,
      usedBytes: 5,
      blockCount: this.blocks.size,
      suspectCount: 0,
      ringVersion: this.ringVersion,
    };
  }

  async deleteBlocks(refs: readonly BlockRef[]): Promise<void> {
    for (const ref of refs) this.blocks.delete(formatBlockRef(ref));
  }

  async adoptRingVersion(version: number): Promise<void> {
    this.ringVersion = Math.max(this.ringVersion, version);
  }

  async checkRecords(): Promise<RecordCheck> {
    return { bytesChecked: 0, problem: undefined, isLast: true };
  }

  #answer(answer: () => void): void {
    if (this.holding) this.held.push(answer);
    else answer();
  }

  #store(request: ServicePut): StorageStatus {
    if (this.#verifier.verify(request.buffer, request.offset, request.lengthBytes) !== BlockFault.none)
      return StorageStatus.badRequest;
    const { ref, headerCrc } = this.#verifier.header;
    if (request.writerEpoch !== 0 && request.writerEpoch < (this.fences.get(ref.volumeId) ?? 0))
      return StorageStatus.fenced;
    const name = formatBlockRef(ref);
    const existing = this.blocks.get(name);
    if (existing !== undefined) {
      if (existing.headerCrc !== headerCrc) return StorageStatus.conflict;
      // A copy that rotted is replaced, as every store does.
      if (this.#verifier.verify(existing.buffer, 0, existing.lengthBytes) === BlockFault.none)
        return StorageStatus.ok;
    }
    const buffer = this.allocate(request.lengthBytes);
    buffer.bytes.set(request.buffer.bytes.subarray(request.offset, request.offset + request.lengthBytes));
    this.blocks.set(name, { ref, buffer, lengthBytes: request.lengthBytes, headerCrc });
    return StorageStatus.ok;
  }

  #read(request: ServiceRead): void {
    const stored = this.blocks.get(formatBlockRef(request.ref));
    if (stored === undefined) return request.done(StorageStatus.notFound, undefined, 0, 0, 0);
    const header = this.#header;
    header.parse(stored.buffer, 0, stored.lengthBytes);
    if (request.slotCount === 0)
      return request.done(StorageStatus.ok, stored.buffer, 0, header.headerBytes, 0);
    if (request.firstSlot + request.slotCount > header.slotCount)
      return request.done(StorageStatus.badRequest, undefined, 0, 0, 0);
    const offset = header.headerBytes + request.firstSlot * PAGE_BYTES;
    const lengthBytes = Math.min(request.slotCount * PAGE_BYTES, stored.lengthBytes - offset);
    this.lentCount++;
    request.done(
      StorageStatus.ok,
      stored.buffer,
      offset,
      lengthBytes,
      header.check(request.firstSlot, request.slotCount),
      () => {
        this.lentCount--;
      },
    );
  }
}
