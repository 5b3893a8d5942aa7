/**
 * The serving side of adp: one handler per connection over a StorageService. Requests of a connection are handed
 * to the service in the order they came (a fence after the puts before it); replies leave in any order, gathered
 * once a turn.
 *
 * A put's block is received straight into a pooled buffer, which the service has until it is done. Backpressure is
 * reading no further: when the pool is empty, or when a connection has too much under way. A read's bytes are sent
 * from where the service has them when they are long, and the service is told when the kernel took them.
 *
 *   greeting --hello--> open --end, error, violation--> closed
 *
 * A peer that sends anything but frames is cut off; nobody else notices.
 */
import {
  type AllocateBuffer,
  assert,
  type BlockRef,
  type Clock,
  decodeBlockRef,
  type NativeBuffer,
  type Timer,
} from "../../base";
import {
  BufferPool,
  copyBuffer,
  type StreamAddress,
  type StreamConnection,
  type StreamHandler,
  type StreamListener,
  type StreamNetwork,
} from "../../base/io";
import { type ServicePut, type ServiceRead, StorageStatus, type WireStorageService } from "../../engine";
import { PeerError } from "../../engine/peer";
import {
  CONTROL_REQUEST_BYTES_MAX,
  ControlOperation,
  decodeConfirmRequest,
  decodeFenceRequest,
  decodeListRequest,
  encodeConfirmReply,
  encodeFenceReply,
  encodeListReply,
  encodeStatistics,
} from "./control";
import { AdpError } from "./errors";
import {
  ADP_VERSION,
  decodeHello,
  encodeHello,
  encodeReplyHeader,
  FrameKind,
  HELLO_BYTES,
  HelloStatus,
  isHeaderWhole,
  READ_BODY_BYTES,
  REPLY_HEADER_BYTES,
  REQUEST_HEADER_BYTES,
  requestExtra,
} from "./frame";

const SMALL_BUFFER_BYTES = 20 * 1024;
const SMALL_BUFFER_COUNT = 1024;
const LARGE_BUFFER_COUNT = 64;
/** Per connection. */
const REQUEST_COUNT_MAX = 1024;
const BYTES_UNDER_WAY_MAX = 32 * 1024 * 1024;
/** Longer read replies are sent from the store's memory; shorter ones are copied behind their header. */
const COPY_BYTES_MAX = 12 * 1024;
/** Longer control requests are received into memory of their own. */
const INLINE_CONTROL_BYTES_MAX = 64 * 1024;
const SLOT_COUNT_MAX = 1024;
const SWEEP_MS = 1_000;
const GREETING_MS_MAX = 5_000;
/** A body that does not get complete holds a buffer that others need. */
const BODY_SWEEPS_MAX = 30;

export interface AdpServerOptions {
  readonly service: WireStorageService;
  readonly network: StreamNetwork;
  readonly clock: Clock;
  readonly allocate: AllocateBuffer;
  /** Header and payload of the largest block of the cluster. */
  readonly blockBytesMax: number;
  readonly smallBufferCount?: number;
  readonly largeBufferCount?: number;
  /** A control call of the service failed in a way that the caller is not told in full. */
  readonly onServiceError: (error: unknown) => void;
  /** A connection was turned away or cut off for what it sent; for a log that folds repetitions. */
  readonly onRefused?: (remote: StreamAddress, reason: string) => void;
  /** Told how long a put or read took, from its header to its answer; must not throw. */
  readonly observe?: (operation: "put" | "read", milliseconds: number) => void;
}

export interface AdpServerStatistics {
  readonly connectionCount: number;
  readonly putCount: number;
  readonly putBytes: number;
  readonly readCount: number;
  readonly readBytes: number;
  readonly controlCount: number;
  /** Connections closed because they sent no frames. */
  readonly violationCount: number;
  /** Times that reading stopped because no buffer was free. */
  readonly bufferWaitCount: number;
}

export class AdpServer {
  readonly connections = new Set<ServerConnection>();
  readonly smallPool: BufferPool;
  readonly largePool: BufferPool;
  readonly sparePuts: ServerPut[] = [];
  readonly spareReads: ServerRead[] = [];
  readonly counts = {
    putCount: 0,
    putBytes: 0,
    readCount: 0,
    readBytes: 0,
    controlCount: 0,
    violationCount: 0,
    bufferWaitCount: 0,
  };
  readonly #listeners: StreamListener[] = [];
  #sweep: Timer | undefined;

  constructor(readonly options: AdpServerOptions) {
    this.smallPool = new BufferPool(
      SMALL_BUFFER_BYTES,
      options.smallBufferCount ?? SMALL_BUFFER_COUNT,
      options.allocate,
    );
    this.largePool = new BufferPool(
      Math.max(options.blockBytesMax, SMALL_BUFFER_BYTES),
      options.largeBufferCount ?? LARGE_BUFFER_COUNT,
      options.allocate,
    );
  }

  get statistics(): AdpServerStatistics {
    return { connectionCount: this.connections.size, ...this.counts };
  }

  /** Throws "listen-failed". */
  listen(address: StreamAddress): StreamListener {
    const listener = this.options.network.listen(address, (connection) => this.accept(connection));
    this.#listeners.push(listener);
    return listener;
  }

  /** Serves a connection that somebody else accepted (a TLS bridge), with what its client gets to see of the service. */
  accept(connection: StreamConnection, service = this.options.service): StreamHandler {
    const handler = new ServerConnection(this, connection, service);
    this.connections.add(handler);
    this.#sweep ??= this.options.clock.schedule(SWEEP_MS, this.#onSweep);
    return handler;
  }

  /** 0 where nobody observes: no clock is read then. */
  nowMs(): number {
    return this.options.observe === undefined ? 0 : this.options.clock.nowMs();
  }

  observe(operation: "put" | "read", startMs: number): void {
    this.options.observe?.(operation, this.options.clock.nowMs() - startMs);
  }

  close(): void {
    for (const listener of this.#listeners) listener.close();
    for (const connection of [...this.connections]) connection.destroy("the peer stops");
    this.#sweep?.cancel();
    this.#sweep = undefined;
  }

  readonly #onSweep = () => {
    const nowMs = this.options.clock.nowMs();
    for (const connection of [...this.connections]) connection.sweep(nowMs);
    this.#sweep =
      this.connections.size > 0 ? this.options.clock.schedule(SWEEP_MS, this.#onSweep) : undefined;
  };
}

/** A put from its header until the service is done with it; pooled. */
class ServerPut implements ServicePut {
  buffer!: NativeBuffer;
  readonly offset = 0;
  lengthBytes = 0;
  writerEpoch = 0;
  pool!: BufferPool;
  ordinal = 0;
  startMs = 0;
  connection: ServerConnection | undefined;

  constructor(private readonly server: AdpServer) {}

  done(status: StorageStatus): void {
    const { connection } = this;
    assert(connection !== undefined, "a put was answered twice");
    this.server.observe("put", this.startMs);
    connection.answer(FrameKind.put, status, this.ordinal, this.lengthBytes);
    this.recycle();
  }

  /** Gives buffer and object back. */
  recycle(): void {
    this.connection = undefined;
    this.server.sparePuts.push(this);
    this.pool.release(this.buffer);
  }
}

/** A read until the service has answered; pooled. */
class ServerRead implements ServiceRead {
  ref!: BlockRef;
  firstSlot = 0;
  slotCount = 0;
  ordinal = 0;
  startMs = 0;
  connection: ServerConnection | undefined;

  constructor(private readonly server: AdpServer) {}

  done(
    status: StorageStatus,
    source: NativeBuffer | undefined,
    offset: number,
    lengthBytes: number,
    check: number,
    release?: () => void,
  ): void {
    const { connection } = this;
    assert(connection !== undefined, "a read was answered twice");
    this.server.observe("read", this.startMs);
    this.connection = undefined;
    this.server.spareReads.push(this);
    if (status === StorageStatus.ok && source !== undefined)
      connection.answerRead(this.ordinal, source, offset, lengthBytes, check, release);
    else {
      connection.answer(FrameKind.read, status, this.ordinal, 0);
      release?.();
    }
  }
}

const REFUSALS: Record<Exclude<HelloStatus, typeof HelloStatus.ok>, string> = {
  [HelloStatus.wrongCluster]: "it belongs to another cluster",
  [HelloStatus.wrongPeer]: "it looks for another peer at this address",
  [HelloStatus.noCommonVersion]: "it speaks other versions of the protocol",
  [HelloStatus.garbled]: "it does not speak the protocol",
};

interface ControlBody {
  readonly operation: number;
  readonly ordinal: number;
  readonly crc: number;
  readonly buffer: NativeBuffer;
  readonly lengthBytes: number;
}

class ServerConnection implements StreamHandler {
  #state: "greeting" | "open" | "closed" = "greeting";
  #ordinalNext = 0;
  #requestsUnderWay = 0;
  #bytesUnderWay = 0;
  /** Reading stopped until something under way is done. */
  #stalled = false;
  #waitingFor: BufferPool | undefined;
  /** The put or control request whose body is being received. */
  #receivingPut: ServerPut | undefined;
  #receivingControl: ControlBody | undefined;
  readonly #acceptedMs: number;
  /** Sweeps that saw the same body incomplete. */
  #bodySweeps = 0;

  constructor(
    private readonly server: AdpServer,
    private readonly connection: StreamConnection,
    private readonly service: WireStorageService,
  ) {
    this.#acceptedMs = server.options.clock.nowMs();
  }

  onData(buffer: NativeBuffer, start: number, end: number): number {
    let position = start;
    if (this.#state === "greeting") {
      if (end - position < HELLO_BYTES) return 0;
      this.#greet(buffer.bytes, position);
      position += HELLO_BYTES;
    }
    while (this.#state === "open" && end - position >= REQUEST_HEADER_BYTES) {
      if (this.#requestsUnderWay >= REQUEST_COUNT_MAX || this.#bytesUnderWay >= BYTES_UNDER_WAY_MAX) {
        this.#stalled = true;
        this.connection.pause();
        break;
      }
      const { view } = buffer;
      if (!isHeaderWhole(view, position)) return this.#violate("a garbled request header");
      const bodyBytes = view.getUint32(position, true);
      const kind = view.getUint8(position + 4);
      if (kind === FrameKind.put) {
        if (!this.#startPut(view, position, bodyBytes)) break;
        return position + REQUEST_HEADER_BYTES - start;
      }
      if (kind === FrameKind.read) {
        if (bodyBytes !== READ_BODY_BYTES) return this.#violate(`a read request of ${bodyBytes} bytes`);
        if (end - position < REQUEST_HEADER_BYTES + READ_BODY_BYTES) break;
        this.#startRead(view, position + REQUEST_HEADER_BYTES);
        position += REQUEST_HEADER_BYTES + READ_BODY_BYTES;
      } else if (kind === FrameKind.control) {
        if (bodyBytes > CONTROL_REQUEST_BYTES_MAX)
          return this.#violate(`a control request of ${bodyBytes} bytes`);
        if (bodyBytes > INLINE_CONTROL_BYTES_MAX) {
          this.#receiveControl(view, position, bodyBytes);
          return position + REQUEST_HEADER_BYTES - start;
        }
        if (end - position < REQUEST_HEADER_BYTES + bodyBytes) break;
        const bodyStart = position + REQUEST_HEADER_BYTES;
        const body = buffer.bytes.slice(bodyStart, bodyStart + bodyBytes);
        this.#startControl(
          view.getUint8(position + 5),
          this.#ordinalNext++,
          requestExtra(view, position),
          body,
        );
        position = bodyStart + bodyBytes;
      } else return this.#violate(`a request of kind ${kind}`);
    }
    return position - start;
  }

  onReceived(): void {
    const put = this.#receivingPut;
    if (put !== undefined) {
      this.#receivingPut = undefined;
      this.#begin(put.lengthBytes);
      this.server.counts.putCount++;
      this.server.counts.putBytes += put.lengthBytes;
      this.service.put(put);
      return;
    }
    const control = this.#receivingControl as ControlBody;
    this.#receivingControl = undefined;
    this.#startControl(
      control.operation,
      control.ordinal,
      control.crc,
      control.buffer.bytes.subarray(0, control.lengthBytes),
    );
  }

  onClose(): void {
    this.#state = "closed";
    this.server.connections.delete(this);
    this.#receivingControl = undefined;
    this.#receivingPut?.recycle();
    this.#receivingPut = undefined;
    // If a buffer was meant for this connection, somebody else may wait for it.
    this.#waitingFor?.wakeNext();
    this.#waitingFor = undefined;
  }

  destroy(reason: string): void {
    this.connection.destroy(reason);
  }

  sweep(nowMs: number): void {
    if (this.#state === "greeting" && nowMs - this.#acceptedMs > GREETING_MS_MAX)
      this.destroy("no hello came");
    const isReceiving = this.#receivingPut !== undefined || this.#receivingControl !== undefined;
    if (isReceiving && ++this.#bodySweeps > BODY_SWEEPS_MAX)
      this.destroy("the rest of a request did not come");
  }

  /** A reply without a body. */
  answer(kind: FrameKind, status: StorageStatus, ordinal: number, requestBytes: number): void {
    this.#finish(requestBytes);
    if (this.#state !== "open") return;
    const place = this.connection.reserve(REPLY_HEADER_BYTES);
    encodeReplyHeader(place.buffer.view, place.offset, 0, kind, status, ordinal, 0);
  }

  answerRead(
    ordinal: number,
    source: NativeBuffer,
    offset: number,
    lengthBytes: number,
    check: number,
    release: (() => void) | undefined,
  ): void {
    this.#finish(0);
    if (this.#state !== "open") {
      release?.();
      return;
    }
    this.server.counts.readBytes += lengthBytes;
    const isCopied = lengthBytes <= COPY_BYTES_MAX;
    const place = this.connection.reserve(REPLY_HEADER_BYTES + (isCopied ? lengthBytes : 0));
    const { view } = place.buffer;
    encodeReplyHeader(view, place.offset, lengthBytes, FrameKind.read, StorageStatus.ok, ordinal, check);
    if (isCopied) copyBuffer(place.buffer, place.offset + REPLY_HEADER_BYTES, source, offset, lengthBytes);
    else if (source.address !== 0) return this.connection.writeLent(source, offset, lengthBytes, release);
    else this.connection.write(source.bytes, offset, offset + lengthBytes);
    release?.();
  }

  #greet(bytes: Uint8Array, offset: number): void {
    const { blockBytesMax } = this.server.options;
    const { identity } = this.service;
    const hello = decodeHello(bytes, offset);
    let status: HelloStatus = HelloStatus.ok;
    if (hello === undefined) status = HelloStatus.garbled;
    else if (hello.clusterId !== identity.clusterId) status = HelloStatus.wrongCluster;
    else if (hello.peerId !== "" && hello.peerId !== identity.peerId) status = HelloStatus.wrongPeer;
    else if (hello.versionMin > ADP_VERSION || hello.versionMax < ADP_VERSION)
      status = HelloStatus.noCommonVersion;
    const place = this.connection.reserve(HELLO_BYTES);
    encodeHello(place.buffer.bytes, place.offset, {
      ...identity,
      versionMin: ADP_VERSION,
      versionMax: ADP_VERSION,
      status,
      blockBytesMax,
      requestCountMax: REQUEST_COUNT_MAX,
    });
    if (status === HelloStatus.ok) {
      this.#state = "open";
      return;
    }
    this.#state = "closed";
    if (status === HelloStatus.garbled) this.server.counts.violationCount++;
    this.server.options.onRefused?.(this.connection.remote, REFUSALS[status]);
    this.connection.end();
  }

  /** False when no buffer is free: the header is presented again later. */
  #startPut(view: DataView, position: number, bodyBytes: number): boolean {
    const epoch = requestExtra(view, position);
    if (bodyBytes === 0 || bodyBytes > this.server.options.blockBytesMax || !Number.isSafeInteger(epoch)) {
      this.#violate(`a block of ${bodyBytes} bytes under epoch ${epoch}`);
      return false;
    }
    const pool = bodyBytes <= SMALL_BUFFER_BYTES ? this.server.smallPool : this.server.largePool;
    const buffer = pool.acquire();
    if (buffer === undefined) {
      this.#waitFor(pool);
      return false;
    }
    const put = this.server.sparePuts.pop() ?? new ServerPut(this.server);
    put.startMs = this.server.nowMs();
    put.buffer = buffer;
    put.lengthBytes = bodyBytes;
    put.writerEpoch = epoch;
    put.pool = pool;
    put.ordinal = this.#ordinalNext++;
    put.connection = this;
    this.#receivingPut = put;
    this.#bodySweeps = 0;
    this.connection.receiveInto(buffer, 0, bodyBytes);
    return true;
  }

  #waitFor(pool: BufferPool): void {
    this.server.counts.bufferWaitCount++;
    this.connection.pause();
    this.#waitingFor = pool;
    pool.whenAvailable(() => {
      if (this.#state === "closed") return pool.wakeNext();
      this.connection.resume();
    });
  }

  #startRead(view: DataView, offset: number): void {
    const ordinal = this.#ordinalNext++;
    this.server.counts.readCount++;
    const ref = decodeBlockRef(view, offset);
    const firstSlot = view.getUint32(offset + 24, true);
    const slotCount = view.getUint32(offset + 28, true);
    this.#begin(0);
    if (ref === undefined || slotCount > SLOT_COUNT_MAX || firstSlot >= SLOT_COUNT_MAX) {
      this.answer(FrameKind.read, StorageStatus.badRequest, ordinal, 0);
      return;
    }
    const read = this.server.spareReads.pop() ?? new ServerRead(this.server);
    read.startMs = this.server.nowMs();
    read.ref = ref;
    read.firstSlot = firstSlot;
    read.slotCount = slotCount;
    read.ordinal = ordinal;
    read.connection = this;
    this.service.read(read);
  }

  #receiveControl(view: DataView, position: number, bodyBytes: number): void {
    const buffer = this.server.options.allocate(bodyBytes);
    this.#receivingControl = {
      operation: view.getUint8(position + 5),
      ordinal: this.#ordinalNext++,
      crc: requestExtra(view, position),
      buffer,
      lengthBytes: bodyBytes,
    };
    this.#bodySweeps = 0;
    this.connection.receiveInto(buffer, 0, bodyBytes);
  }

  #startControl(operation: number, ordinal: number, crc: number, body: Uint8Array): void {
    this.#begin(body.length);
    this.server.counts.controlCount++;
    if (Bun.hash.crc32(body) !== crc) {
      this.answer(FrameKind.control, StorageStatus.badRequest, ordinal, body.length);
      return;
    }
    this.#runControl(operation, body).then(
      (reply) => this.#answerControl(ordinal, reply, body.length),
      (error: unknown) => {
        const isBadRequest = error instanceof AdpError && error.code === "bad-frame";
        const isDenied = error instanceof PeerError && error.code === "denied";
        if (!isBadRequest && !isDenied) this.server.options.onServiceError(error);
        let status: StorageStatus = StorageStatus.unavailable;
        if (isBadRequest) status = StorageStatus.badRequest;
        else if (isDenied) status = StorageStatus.denied;
        this.answer(FrameKind.control, status, ordinal, body.length);
      },
    );
  }

  async #runControl(operation: number, body: Uint8Array): Promise<Uint8Array> {
    const { service } = this;
    switch (operation) {
      case ControlOperation.fence:
        return encodeFenceReply(await service.fence(decodeFenceRequest(body)));
      case ControlOperation.list:
        return encodeListReply(await service.list(decodeListRequest(body)));
      case ControlOperation.confirm:
        return encodeConfirmReply(await service.confirm(decodeConfirmRequest(body)));
      case ControlOperation.statistics:
        return encodeStatistics(await service.statistics());
      default:
        throw new AdpError("bad-frame", `Cannot run control operation ${operation}: it is unknown`);
    }
  }

  #answerControl(ordinal: number, reply: Uint8Array, requestBytes: number): void {
    this.#finish(requestBytes);
    if (this.#state !== "open") return;
    const place = this.connection.reserve(REPLY_HEADER_BYTES);
    const check = Bun.hash.crc32(reply);
    encodeReplyHeader(
      place.buffer.view,
      place.offset,
      reply.length,
      FrameKind.control,
      StorageStatus.ok,
      ordinal,
      check,
    );
    this.connection.write(reply, 0, reply.length);
  }

  #begin(bytes: number): void {
    this.#waitingFor = undefined;
    this.#requestsUnderWay++;
    this.#bytesUnderWay += bytes;
  }

  #finish(bytes: number): void {
    this.#requestsUnderWay--;
    this.#bytesUnderWay -= bytes;
    if (!this.#stalled || this.#state !== "open") return;
    // Not at once: what was kept is presented again from its start each time.
    if (this.#requestsUnderWay > REQUEST_COUNT_MAX / 2 || this.#bytesUnderWay > BYTES_UNDER_WAY_MAX / 2)
      return;
    this.#stalled = false;
    this.connection.resume();
  }

  #violate(problem: string): number {
    this.server.counts.violationCount++;
    this.server.options.onRefused?.(this.connection.remote, `it sent ${problem}`);
    this.destroy(`it sent ${problem}`);
    return 0;
  }
}
