/**
 * Serving writes, trims and flushes. A request is worked off page by page: whole pages are copied into the open
 * block and mapped in one synchronous step; a part of a page is merged into what the page holds, which is read
 * first when it is not in memory. A read that was under way while somebody else wrote the page is thrown away and
 * the merge starts over on the newer content, so no write is lost and none waits for a lock. A request that finds
 * no room waits in order: buffers are the backpressure.
 */
import { type AllocateBuffer, assert, type Clock, type NativeBuffer } from "../../base";
import { PAGE_BYTES } from "../block";
import { lsnOf, type PageMap, slotOf } from "../inode";
import { StorageStatus } from "../ports";
import type { BlockRead } from "./block-read";
import type { BlockReader } from "./block-reader";
import { FlushForecast } from "./flush-forecast";
import type { LogWriter } from "./log-writer";
import type { PageCache } from "./page-cache";
import { HOLE_LOCATION, NOT_IN_OVERLAY } from "./page-overlay";
import { Patience, ROUND_PAUSE_MS } from "./patience";
import type { ObserveLatency, VolumeStatistics } from "./statistics";

const POOL_MAX = 1024;
/** The numbers are those of a front end's device status. */
export const WriteStatus = { ok: 0, ioError: 1, noSpace: 2, stopped: 5 } as const;
export type WriteStatus = (typeof WriteStatus)[keyof typeof WriteStatus];
export type WriteDone = (status: WriteStatus) => void;

export interface WritePathPorts {
  /** See VolumeOptions. */
  readonly unansweredReadMs: number;
  readonly clock: Clock;
  readonly allocate: AllocateBuffer;
  readonly map: PageMap;
  readonly log: LogWriter;
  readonly reader: BlockReader;
  readonly cache: PageCache | undefined;
  readonly statistics: VolumeStatistics;
  readonly observe: ObserveLatency | undefined;
}

class WriteRequest {
  offsetBytes = 0;
  lengthBytes = 0;
  /** Bytes done so far. */
  doneBytes = 0;
  /** Undefined: the range becomes zeroes, whole pages of it holes. */
  source: NativeBuffer | undefined;
  sourceOffset = 0;
  forceUnitAccess = false;
  done: WriteDone | undefined;
  startMs = 0;
  /** It need not wait for the pace any more, whatever comes; for room it may have to. */
  isLetGo = false;
  readonly patience = new Patience();
  /** The page being read for a merge: where it was when the read began. */
  mergeLocation = 0;
  scratch: NativeBuffer | undefined;
  /** Kept with the pooled object, so that waiting costs no closure. */
  resume: ((status: StorageStatus) => void) | undefined;
  acknowledged: ((ok: boolean) => void) | undefined;
}

export class WritePath {
  readonly #ports: WritePathPorts;
  readonly #pool: WriteRequest[] = [];
  readonly #waiting: WriteRequest[] = [];
  #waitingHead = 0;
  #working = false;
  #full = false;
  #low = false;
  #held = false;
  #paced = false;
  #stopped = false;
  #active = 0;
  readonly #forecast = new FlushForecast();
  readonly #scratchFree: NativeBuffer[] = [];
  readonly #idleWaiters: (() => void)[] = [];

  constructor(ports: WritePathPorts) {
    this.#ports = ports;
  }

  /** Requests accepted and not answered. */
  get activeCount(): number {
    return this.#active;
  }

  /** `source` undefined: zeroes. The range lies within the volume and is not empty. */
  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer | undefined,
    sourceOffset: number,
    forceUnitAccess: boolean,
    done: WriteDone,
  ): void {
    if (this.#stopped) return done(WriteStatus.stopped);
    // What only frees space is taken even when the pool is full.
    if ((this.#full || this.#low) && source !== undefined) return done(WriteStatus.noSpace);
    const request = this.#pool.pop() ?? new WriteRequest();
    request.offsetBytes = offsetBytes;
    request.lengthBytes = lengthBytes;
    request.doneBytes = 0;
    request.source = source;
    request.sourceOffset = sourceOffset;
    request.forceUnitAccess = forceUnitAccess;
    request.done = done;
    request.patience.reset();
    if (this.#ports.observe) request.startMs = this.#ports.clock.nowMs();
    this.#active++;
    request.isLetGo = !this.#paced;
    if (this.#mustQueue(source !== undefined) || !this.#work(request)) this.#waiting.push(request);
  }

  flush(done: WriteDone): void {
    if (this.#stopped) return done(WriteStatus.stopped);
    const { log } = this.#ports;
    this.#forecast.noteFlush();
    const index = log.newestIndex;
    if (index <= log.acknowledgedIndex) return done(WriteStatus.ok);
    if (this.#full) return done(WriteStatus.noSpace);
    log.requestSeal();
    const startMs = this.#ports.observe ? this.#ports.clock.nowMs() : 0;
    log.whenAcknowledged(index, (ok) => {
      if (ok) this.#ports.observe?.("flush", this.#ports.clock.nowMs() - startMs);
      done(ok ? WriteStatus.ok : this.#refusal());
    });
  }

  /** Room came: those who wait go on, in order. */
  readonly onRoom = (): void => {
    if (this.#working) return;
    this.#working = true;
    while (this.#waitingHead < this.#waiting.length) {
      const request = this.#waiting[this.#waitingHead] as WriteRequest;
      if (request.source !== undefined && (this.#held || !request.isLetGo)) break;
      // Out of the line first: whoever is answered may have everybody in it refused.
      this.#waitingHead++;
      if (this.#work(request)) continue;
      if (this.#waiting[this.#waitingHead - 1] === request) this.#waitingHead--;
      else this.#waiting.unshift(request);
      break;
    }
    const wasHeld = this.#isHolding;
    if (wasHeld) this.#passHeld();
    this.#working = false;
    // Who passed may have ended what holds the others.
    if (wasHeld && !this.#isHolding) return this.onRoom();
    if (this.#waitingHead === this.#waiting.length) {
      this.#waiting.length = 0;
      this.#waitingHead = 0;
    }
  };

  /** No peer has space (true): whoever waits for durability or room is told; what was accepted stays. */
  setFull(full: boolean): void {
    this.#full = full;
    if (!full) return this.onRoom();
    this.#ports.log.failWaiters();
    this.#failWaiting((request) => request.source !== undefined, WriteStatus.noSpace);
  }

  /** Space is short but may come back: new data waits (true). What only frees space goes on, also from behind it. */
  setHeld(held: boolean): void {
    this.#held = held;
    this.onRoom();
  }

  /** New data that comes from now on waits (true); false lets go what waited, even if it must wait for room yet. */
  setPaced(paced: boolean): void {
    this.#paced = paced;
    if (!paced)
      for (let at = this.#waitingHead; at < this.#waiting.length; at++)
        (this.#waiting[at] as WriteRequest).isLetGo = true;
    this.onRoom();
  }

  /** The peers have room for what was accepted, and for no more: writes that wait are told. */
  setLow(low: boolean): void {
    this.#low = low;
    if (low) this.#failWaiting((request) => request.source !== undefined, WriteStatus.noSpace);
  }

  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#failWaiting(() => true, WriteStatus.stopped);
  }

  /** Resolves when no request is under way. */
  whenIdle(): Promise<void> {
    if (this.#active === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  #passHeld(): void {
    for (let at = this.#waitingHead; at < this.#waiting.length; ) {
      const request = this.#waiting[at] as WriteRequest;
      if (request.source !== undefined) {
        at++;
        continue;
      }
      this.#waiting.splice(at, 1);
      if (this.#work(request)) continue;
      this.#waiting.splice(at, 0, request);
      return;
    }
  }

  get #isHolding(): boolean {
    return this.#held || this.#paced;
  }

  /** In order behind those who wait; a trim passes data that is held up, for it is what ends the wait. */
  #mustQueue(hasData: boolean): boolean {
    if (this.#isHolding) return hasData;
    return this.#waitingHead < this.#waiting.length;
  }

  #refusal(): WriteStatus {
    if (this.#stopped) return WriteStatus.stopped;
    return this.#full ? WriteStatus.noSpace : WriteStatus.ioError;
  }

  #failWaiting(which: (request: WriteRequest) => boolean, status: WriteStatus): void {
    const waiting = this.#waiting.splice(0).slice(this.#waitingHead);
    this.#waitingHead = 0;
    for (const request of waiting)
      if (which(request)) this.#finish(request, status);
      else this.#waiting.push(request);
  }

  /**
   * Works the request off as far as it goes now. True: it is finished or goes on by itself (a page is being read);
   * false: it needs room and must wait in line.
   */
  #work(request: WriteRequest): boolean {
    while (request.doneBytes < request.lengthBytes) {
      if (this.#stopped) {
        this.#finish(request, WriteStatus.stopped);
        return true;
      }
      const at = request.offsetBytes + request.doneBytes;
      const page = Math.floor(at / PAGE_BYTES);
      const inPage = at - page * PAGE_BYTES;
      const left = request.lengthBytes - request.doneBytes;
      if (inPage === 0 && left >= PAGE_BYTES) {
        if (!this.#writeWhole(request, page, Math.floor(left / PAGE_BYTES))) return false;
        continue;
      }
      const outcome = this.#writePart(request, page, inPage, Math.min(left, PAGE_BYTES - inPage));
      if (outcome !== PART_DONE) return outcome === PART_READING;
    }
    this.#complete(request);
    return true;
  }

  #writeWhole(request: WriteRequest, page: number, pageCount: number): boolean {
    const { log } = this.#ports;
    if (request.source === undefined) {
      if (!log.addHole(page, pageCount)) return false;
      request.doneBytes += pageCount * PAGE_BYTES;
      return true;
    }
    const written = log.writePages(page, pageCount, request.source, request.sourceOffset + request.doneBytes);
    request.doneBytes += written * PAGE_BYTES;
    return written === pageCount;
  }

  #writePart(request: WriteRequest, page: number, inPage: number, lengthBytes: number): number {
    const { log, map } = this.#ports;
    const openOffset = log.openPageOffset(page);
    if (openOffset >= 0) {
      this.#merge(request, log.openBuffer, openOffset + inPage, lengthBytes);
      return PART_DONE;
    }
    let location = log.overlay.locate(page);
    if (location === NOT_IN_OVERLAY) {
      request.resume ??= (status) => this.#onRead(request, status);
      if (!map.ensureLoaded(page, 1, request.resume)) return PART_READING;
      location = map.locationOf(page);
    }
    if (location === HOLE_LOCATION && request.source === undefined) {
      request.doneBytes += lengthBytes;
      return PART_DONE;
    }
    return this.#mergeInto(request, page, location, inPage, lengthBytes);
  }

  #mergeInto(
    request: WriteRequest,
    page: number,
    location: number,
    inPage: number,
    lengthBytes: number,
  ): number {
    const { log, cache, statistics } = this.#ports;
    // Room first: taking a buffer for the open block may end another block's stay in memory.
    if (log.room() === 0) return PART_NO_ROOM;
    const scratch = request.scratch;
    const read = scratch !== undefined && request.mergeLocation === location;
    const block = location === HOLE_LOCATION ? undefined : log.blockInMemory(location);
    if (location === HOLE_LOCATION || read || block || cache?.has(location)) {
      const at = log.placePage(page);
      const bytes = log.openBuffer.bytes;
      if (location === HOLE_LOCATION) bytes.fill(0, at, at + PAGE_BYTES);
      else if (read) bytes.set(scratch.bytes.subarray(0, PAGE_BYTES), at);
      else if (block) {
        const from = block.builder.slotOffset(slotOf(location));
        bytes.set(block.builder.buffer.bytes.subarray(from, from + PAGE_BYTES), at);
      } else
        assert(cache?.read(location, log.openBuffer, at) === true, "a page left the cache within one turn");
      statistics.readModifyWrites++;
      this.#dropScratch(request);
      this.#merge(request, log.openBuffer, at + inPage, lengthBytes);
      log.pageFilled();
      return PART_DONE;
    }
    this.#readForMerge(request, location);
    return PART_READING;
  }

  #merge(request: WriteRequest, destination: NativeBuffer, at: number, lengthBytes: number): void {
    const { source } = request;
    if (source === undefined) destination.bytes.fill(0, at, at + lengthBytes);
    else {
      const from = request.sourceOffset + request.doneBytes;
      destination.bytes.set(source.bytes.subarray(from, from + lengthBytes), at);
    }
    request.doneBytes += lengthBytes;
  }

  #readForMerge(request: WriteRequest, location: number): void {
    const { map, reader, allocate } = this.#ports;
    request.scratch ??= this.#scratchFree.pop() ?? allocate(PAGE_BYTES);
    request.mergeLocation = location;
    const ref = map.refOf(lsnOf(location));
    if (!ref) return this.#onRead(request, StorageStatus.notFound);
    const read = reader.acquire();
    read.ref = ref;
    read.firstSlot = slotOf(location);
    read.slotCount = 1;
    read.expectedBytes = PAGE_BYTES;
    read.destination = request.scratch;
    read.destinationOffset = 0;
    read.context = request;
    read.finished = this.#onMergeRead;
    reader.start(read);
  }

  readonly #onMergeRead = (read: BlockRead, status: StorageStatus): void => {
    const request = read.context as WriteRequest;
    this.#ports.reader.release(read);
    if (status !== StorageStatus.ok) request.mergeLocation = 0;
    this.#onRead(request, status);
  };

  /** A page or a map node that the request waited for is there, or could not be had. */
  #onRead(request: WriteRequest, status: StorageStatus): void {
    if (this.#stopped) return this.#finish(request, WriteStatus.stopped);
    if (status !== StorageStatus.ok) {
      const { clock, unansweredReadMs } = this.#ports;
      if (!request.patience.goesOn(status, clock.nowMs(), unansweredReadMs))
        return this.#finish(request, WriteStatus.ioError);
      clock.schedule(ROUND_PAUSE_MS, () => this.#goOn(request));
      return;
    }
    request.patience.reset();
    this.#goOn(request);
  }

  #goOn(request: WriteRequest): void {
    if (!this.#work(request)) this.#waiting.push(request);
  }

  #complete(request: WriteRequest): void {
    const { log, observe, clock } = this.#ports;
    if (!request.forceUnitAccess) {
      if (this.#forecast.noteWrite()) log.sealNow();
      observe?.("write", clock.nowMs() - request.startMs);
      return this.#finish(request, WriteStatus.ok);
    }
    log.requestSeal();
    request.acknowledged ??= (ok) => this.#finish(request, ok ? WriteStatus.ok : this.#refusal());
    log.whenAcknowledged(log.newestIndex, request.acknowledged);
  }

  #finish(request: WriteRequest, status: WriteStatus): void {
    this.#dropScratch(request);
    const done = request.done as WriteDone;
    request.done = undefined;
    request.source = undefined;
    this.#active--;
    if (this.#pool.length < POOL_MAX) this.#pool.push(request);
    done(status);
    if (this.#active === 0) for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  #dropScratch(request: WriteRequest): void {
    if (!request.scratch) return;
    this.#scratchFree.push(request.scratch);
    request.scratch = undefined;
    request.mergeLocation = 0;
  }
}

const PART_DONE = 0;
const PART_READING = 1;
const PART_NO_ROOM = 2;
