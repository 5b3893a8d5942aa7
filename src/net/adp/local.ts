/**
 * A PeerTransport for a process that is a peer itself: calls for the local peer go straight to its StorageService
 * in this thread, all others to the transport behind it. As there, nothing completes inside the call that made it:
 * an answer that is there at once is delivered at the end of the turn, before the turn's output leaves.
 */
import type { BlockRef, NativeBuffer, PeerId, TurnScheduler } from "../../base";
import { copyBuffer } from "../../base/io";
import {
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListReply,
  type ListRequest,
  type OutgoingPut,
  type OutgoingRead,
  type PeerStatistics,
  type PeerTransport,
  type ServicePut,
  type ServiceRead,
  type StorageService,
  StorageStatus,
} from "../../engine";

class LocalPut implements ServicePut {
  buffer!: NativeBuffer;
  offset = 0;
  lengthBytes = 0;
  writerEpoch = 0;
  isVerified = false;
  #request: OutgoingPut | undefined;
  #status: StorageStatus = StorageStatus.ok;
  #inCall = false;

  constructor(private readonly transport: LocalTransport) {}

  start(request: OutgoingPut): void {
    this.#request = request;
    this.buffer = request.buffer;
    this.offset = request.offset;
    this.lengthBytes = request.lengthBytes;
    this.writerEpoch = request.writerEpoch;
    // A writer sealed its blocks, or verified those it adopted; copies made by upkeep are checked where they go.
    this.isVerified = request.writerEpoch !== 0;
    this.#inCall = true;
    this.transport.service.put(this);
    this.#inCall = false;
  }

  done(status: StorageStatus): void {
    this.#status = status;
    if (this.#inCall) this.transport.turns.afterTurn(this.#deliver);
    else this.#deliver();
  }

  readonly #deliver = () => {
    const request = this.#request as OutgoingPut;
    const { peerId, incarnation } = this.transport.service.identity;
    const status = this.#status;
    this.#request = undefined;
    this.transport.sparePuts.push(this);
    request.done(peerId, incarnation, status);
  };
}

class LocalRead implements ServiceRead {
  ref!: BlockRef;
  firstSlot = 0;
  slotCount = 0;
  #request: OutgoingRead | undefined;
  #status: StorageStatus = StorageStatus.ok;
  #lengthBytes = 0;
  #check = 0;
  #inCall = false;

  constructor(private readonly transport: LocalTransport) {}

  start(request: OutgoingRead): void {
    this.#request = request;
    this.ref = request.ref;
    this.firstSlot = request.firstSlot;
    this.slotCount = request.slotCount;
    this.#inCall = true;
    this.transport.service.read(this);
    this.#inCall = false;
  }

  done(
    status: StorageStatus,
    source: NativeBuffer | undefined,
    offset: number,
    lengthBytes: number,
    check: number,
    release?: () => void,
  ): void {
    const request = this.#request as OutgoingRead;
    this.#status = status;
    this.#check = check;
    this.#lengthBytes = 0;
    if (status === StorageStatus.ok && source !== undefined) {
      copyBuffer(request.destination, request.destinationOffset, source, offset, lengthBytes);
      this.#lengthBytes = lengthBytes;
    }
    release?.();
    if (this.#inCall) this.transport.turns.afterTurn(this.#deliver);
    else this.#deliver();
  }

  readonly #deliver = () => {
    const request = this.#request as OutgoingRead;
    const [status, lengthBytes, check] = [this.#status, this.#lengthBytes, this.#check];
    this.#request = undefined;
    this.transport.spareReads.push(this);
    request.done(this.transport.localPeerId, status, lengthBytes, check);
  };
}

export class LocalTransport implements PeerTransport {
  readonly localPeerId: PeerId;
  readonly sparePuts: LocalPut[] = [];
  readonly spareReads: LocalRead[] = [];

  constructor(
    readonly service: StorageService,
    readonly turns: TurnScheduler,
    private readonly others: PeerTransport,
  ) {
    this.localPeerId = service.identity.peerId;
  }

  put(peer: PeerId, request: OutgoingPut): void {
    if (peer !== this.localPeerId) return this.others.put(peer, request);
    (this.sparePuts.pop() ?? new LocalPut(this)).start(request);
  }

  read(peer: PeerId, request: OutgoingRead): void {
    if (peer !== this.localPeerId) return this.others.read(peer, request);
    (this.spareReads.pop() ?? new LocalRead(this)).start(request);
  }

  /** The local peer answers by the end of the turn that asked it: there is nothing to withdraw. */
  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    return peer !== this.localPeerId && this.others.withdrawRead(peer, request);
  }

  fence(peer: PeerId, request: FenceRequest): Promise<FenceReply> {
    return peer === this.localPeerId ? this.service.fence(request) : this.others.fence(peer, request);
  }

  list(peer: PeerId, request: ListRequest): Promise<ListReply> {
    return peer === this.localPeerId ? this.service.list(request) : this.others.list(peer, request);
  }

  confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply> {
    return peer === this.localPeerId ? this.service.confirm(request) : this.others.confirm(peer, request);
  }

  statistics(peer: PeerId): Promise<PeerStatistics> {
    return peer === this.localPeerId ? this.service.statistics() : this.others.statistics(peer);
  }

  isLikelyUp(peer: PeerId): boolean {
    return peer === this.localPeerId || this.others.isLikelyUp(peer);
  }
}
