/**
 * Serving reads: each page from the newest place that has it (open block, sealed blocks in memory, cache, peers),
 * adjoining slots of a block in one request straight into the caller's memory. A range that no peer gives is
 * looked up again, because cleaning may have moved it, asked for again after a pause (`Patience`), and then fails:
 * never zeroes for what was written.
 *
 * An answer is given only while the lease holds (rule R13): the check stands where the answer leaves.
 */
import type { AllocateBuffer, Clock, NativeBuffer } from "../../base";
import { PAGE_BYTES } from "../block";
import { LOAD_PAGE_COUNT_MAX, lsnOf, type PageMap, slotOf } from "../inode";
import { type LeaseState, StorageStatus } from "../ports";
import type { BlockRead } from "./block-read";
import type { BlockReader } from "./block-reader";
import type { LogWriter } from "./log-writer";
import type { PageCache } from "./page-cache";
import { HOLE_LOCATION, NOT_IN_OVERLAY } from "./page-overlay";
import { Patience, ROUND_PAUSE_MS } from "./patience";
import type { ObserveLatency, VolumeStatistics } from "./statistics";

/**
 * A request from this size on leaves nothing in the cache: copying it there costs as much as sending it, and a scan
 * would only drive out what is read again.
 */
const CACHED_REQUEST_BYTES_MAX = 256 * 1024;
/** Pages of one request to a peer. */
const RUN_PAGES_MAX = 256;
const LEASE_POLL_MS = 50;
const POOL_MAX = 1024;

/** The numbers are those of a front end's device status. */
export const ReadStatus = { ok: 0, ioError: 1, stopped: 5 } as const;
export type ReadStatus = (typeof ReadStatus)[keyof typeof ReadStatus];
export type ReadDone = (status: ReadStatus) => void;

export interface ReadPathPorts {
  readonly clock: Clock;
  readonly allocate: AllocateBuffer;
  readonly map: PageMap;
  /** Absent when a snapshot is read: then the map is all there is. */
  readonly log: LogWriter | undefined;
  readonly reader: BlockReader;
  readonly cache: PageCache | undefined;
  readonly lease: LeaseState;
  /** Size of the device now: nothing is read ahead beyond it. */
  readonly sizeBytes: () => number;
  readonly statistics: VolumeStatistics;
  readonly observe: ObserveLatency | undefined;
}

export interface ReadPathOptions {
  readonly leaseStallMs: number;
  readonly unansweredReadMs: number;
  readonly readAheadBytes: number;
}

type ReadSource = "readFromMemory" | "readFromCache" | "readFromPeers";

class ReadRequest {
  offsetBytes = 0;
  lengthBytes = 0;
  destination: NativeBuffer | undefined;
  destinationOffset = 0;
  done: ReadDone | undefined;
  /** Pieces under way, and one for the dispatch itself. */
  pending = 0;
  status: ReadStatus = ReadStatus.ok;
  readonly patience = new Patience();
  startMs = 0;
  /** The slowest that its pages came from so far. */
  source: ReadSource = "readFromMemory";
  leaseWaitUntilMs = 0;
  /** Where dispatch goes on after map nodes were loaded. */
  nextPage = 0;
  resume: ((status: StorageStatus) => void) | undefined;
}

/** One run of pages on its way from a peer. */
class Piece {
  request: ReadRequest | undefined;
  firstPage = 0;
  pageCount = 0;
  location = 0;
  /** Set when the page is only partly wanted: it is read here first. */
  scratch: NativeBuffer | undefined;
  scratchOffset = 0;
}

export class ReadPath {
  readonly #ports: ReadPathPorts;
  readonly #options: ReadPathOptions;
  readonly #requests: ReadRequest[] = [];
  readonly #pieces: Piece[] = [];
  readonly #scratchFree: number[] = [];
  readonly #scratchBuffers: NativeBuffer[] = [];
  #stopped = false;
  #sequentialEnd = -1;
  #sequentialHits = 0;
  #aheadUntilPage = 0;
  #aheadPending = 0;

  constructor(ports: ReadPathPorts, options: ReadPathOptions) {
    this.#ports = ports;
    this.#options = options;
  }

  /** Every read under way and to come ends with `stopped`. */
  stop(): void {
    this.#stopped = true;
  }

  /** The range lies within the volume and is not empty. */
  read(
    offsetBytes: number,
    lengthBytes: number,
    destination: NativeBuffer,
    destinationOffset: number,
    done: ReadDone,
  ): void {
    const request = this.#requests.pop() ?? new ReadRequest();
    request.offsetBytes = offsetBytes;
    request.lengthBytes = lengthBytes;
    request.destination = destination;
    request.destinationOffset = destinationOffset;
    request.done = done;
    request.pending = 1;
    request.status = ReadStatus.ok;
    request.patience.reset();
    request.leaseWaitUntilMs = 0;
    request.nextPage = Math.floor(offsetBytes / PAGE_BYTES);
    request.source = "readFromMemory";
    if (this.#ports.observe) request.startMs = this.#ports.clock.nowMs();
    this.#dispatch(request);
    if (this.#options.readAheadBytes > 0) this.#readAhead(offsetBytes, lengthBytes);
  }

  #dispatch(request: ReadRequest): void {
    const endPage = Math.ceil((request.offsetBytes + request.lengthBytes) / PAGE_BYTES);
    while (request.nextPage < endPage) {
      if (this.#stopped) {
        request.status = ReadStatus.stopped;
        break;
      }
      const count = Math.min(endPage - request.nextPage, LOAD_PAGE_COUNT_MAX);
      if (!this.#isLoaded(request, count)) return;
      this.#readPages(request, request.nextPage, request.nextPage + count);
      request.nextPage += count;
    }
    this.#pieceEnded(request);
  }

  /** Whether the map can answer for the pages now; otherwise the dispatch goes on when it can. */
  #isLoaded(request: ReadRequest, count: number): boolean {
    const { log, map } = this.#ports;
    const page = request.nextPage;
    if (count === 1 && log && log.overlay.locate(page) !== NOT_IN_OVERLAY) return true;
    request.resume ??= (status) => this.#onLoaded(request, status);
    return map.ensureLoaded(page, count, request.resume);
  }

  #onLoaded(request: ReadRequest, status: StorageStatus): void {
    if (this.#stopped) request.status = ReadStatus.stopped;
    else if (status !== StorageStatus.ok) {
      if (this.#goesOn(request, status)) {
        this.#ports.clock.schedule(ROUND_PAUSE_MS, () => this.#dispatch(request));
        return;
      }
      request.status = ReadStatus.ioError;
    } else return this.#dispatch(request);
    this.#pieceEnded(request);
  }

  #goesOn(request: ReadRequest, failure: StorageStatus): boolean {
    return request.patience.goesOn(failure, this.#ports.clock.nowMs(), this.#options.unansweredReadMs);
  }

  #locate(page: number): number {
    const { log, map } = this.#ports;
    if (log) {
      const location = log.overlay.locate(page);
      if (location !== NOT_IN_OVERLAY) return location;
    }
    return map.locationOf(page);
  }

  /** Reads the part of [firstPage, endPage) that the request wants; the map is loaded for it. */
  #readPages(request: ReadRequest, firstPage: number, endPage: number): void {
    let runPage = -1;
    let runCount = 0;
    let runLocation = 0;
    const endBytes = request.offsetBytes + request.lengthBytes;
    for (let page = firstPage; page < endPage; page++) {
      const location = this.#locate(page);
      const whole = page * PAGE_BYTES >= request.offsetBytes && (page + 1) * PAGE_BYTES <= endBytes;
      if (this.#serveHere(request, page, location, whole)) continue;
      if (!whole) {
        this.#fetch(request, page, 1, location, false);
        continue;
      }
      const joins = runCount > 0 && page === runPage + runCount && location === runLocation + runCount;
      if (joins && runCount < RUN_PAGES_MAX && slotOf(location) > 0) {
        runCount++;
        continue;
      }
      if (runCount > 0) this.#fetch(request, runPage, runCount, runLocation, true);
      runPage = page;
      runCount = 1;
      runLocation = location;
    }
    if (runCount > 0) this.#fetch(request, runPage, runCount, runLocation, true);
  }

  /** Copies the page if it is a hole or in memory. */
  #serveHere(request: ReadRequest, page: number, location: number, whole: boolean): boolean {
    const destination = request.destination as NativeBuffer;
    const pageStart = page * PAGE_BYTES;
    const from = whole ? 0 : Math.max(0, request.offsetBytes - pageStart);
    const to = whole
      ? PAGE_BYTES
      : Math.min(PAGE_BYTES, request.offsetBytes + request.lengthBytes - pageStart);
    const at = request.destinationOffset + pageStart + from - request.offsetBytes;
    if (location === HOLE_LOCATION) {
      destination.bytes.fill(0, at, at + to - from);
      return true;
    }
    const { log, cache, statistics } = this.#ports;
    const block = log?.blockInMemory(location);
    if (block) {
      const source = block.builder.slotOffset(slotOf(location));
      destination.bytes.set(block.builder.buffer.bytes.subarray(source + from, source + to), at);
      statistics.pagesFromMemory++;
      return true;
    }
    if (!cache) return false;
    if (whole) {
      if (!cache.read(location, destination, at)) return false;
    } else {
      if (!cache.has(location)) return false;
      const scratch = this.#takeScratch();
      const buffer = this.#scratchBuffer(scratch);
      const hit = cache.read(location, buffer, this.#scratchOffset(scratch));
      if (hit) {
        const base = this.#scratchOffset(scratch);
        destination.bytes.set(buffer.bytes.subarray(base + from, base + to), at);
      }
      this.#scratchFree.push(scratch);
      if (!hit) return false;
    }
    statistics.pagesFromCache++;
    if (request.source === "readFromMemory") request.source = "readFromCache";
    return true;
  }

  #fetch(request: ReadRequest, firstPage: number, pageCount: number, location: number, whole: boolean): void {
    const { map, reader } = this.#ports;
    const piece = this.#pieces.pop() ?? new Piece();
    piece.request = request;
    piece.firstPage = firstPage;
    piece.pageCount = pageCount;
    piece.location = location;
    request.source = "readFromPeers";
    request.pending++;
    const ref = map.refOf(lsnOf(location));
    if (!ref) return this.#onPieceFailed(request, piece, StorageStatus.notFound);
    const read = reader.acquire();
    read.ref = ref;
    read.firstSlot = slotOf(location);
    read.slotCount = pageCount;
    read.expectedBytes = pageCount * PAGE_BYTES;
    read.context = piece;
    read.finished = this.#onPiece;
    if (whole) {
      piece.scratchOffset = -1;
      read.destination = request.destination as NativeBuffer;
      read.destinationOffset = request.destinationOffset + firstPage * PAGE_BYTES - request.offsetBytes;
    } else {
      piece.scratchOffset = this.#takeScratch();
      read.destination = this.#scratchBuffer(piece.scratchOffset);
      read.destinationOffset = this.#scratchOffset(piece.scratchOffset);
    }
    reader.start(read);
  }

  readonly #onPiece = (read: BlockRead, status: StorageStatus): void => {
    const piece = read.context as Piece;
    const request = piece.request as ReadRequest;
    const { cache, statistics, reader } = this.#ports;
    if (status === StorageStatus.ok) {
      statistics.pagesFromPeers += piece.pageCount;
      if (cache && request.lengthBytes < CACHED_REQUEST_BYTES_MAX)
        for (let index = 0; index < piece.pageCount; index++)
          cache.insert(piece.location + index, read.destination, read.destinationOffset + index * PAGE_BYTES);
      if (piece.scratchOffset >= 0) this.#copyPart(request, piece, read);
    }
    if (piece.scratchOffset >= 0) this.#scratchFree.push(piece.scratchOffset);
    reader.release(read);
    if (status !== StorageStatus.ok) return this.#onPieceFailed(request, piece, status);
    this.#pieces.push(piece);
    this.#pieceEnded(request);
  };

  #copyPart(request: ReadRequest, piece: Piece, read: BlockRead): void {
    const pageStart = piece.firstPage * PAGE_BYTES;
    const from = Math.max(0, request.offsetBytes - pageStart);
    const to = Math.min(PAGE_BYTES, request.offsetBytes + request.lengthBytes - pageStart);
    const source = read.destinationOffset;
    (request.destination as NativeBuffer).bytes.set(
      read.destination.bytes.subarray(source + from, source + to),
      request.destinationOffset + pageStart + from - request.offsetBytes,
    );
  }

  /** Every peer was asked in vain: look the pages up again, for they may have moved, and ask again. */
  #onPieceFailed(request: ReadRequest, piece: Piece, failure: StorageStatus): void {
    const { firstPage, pageCount, location } = piece;
    this.#pieces.push(piece);
    if (this.#stopped) request.status = ReadStatus.stopped;
    if (request.status !== ReadStatus.ok) return this.#pieceEnded(request);
    const moved = this.#hasMoved(firstPage, pageCount, location);
    if (!moved && !this.#goesOn(request, failure)) {
      request.status = ReadStatus.ioError;
      return this.#pieceEnded(request);
    }
    this.#ports.clock.schedule(moved ? 0 : ROUND_PAUSE_MS, () =>
      this.#readAgain(request, firstPage, pageCount),
    );
  }

  /** Looks pages up again, loading the map if it must, and reads them from where they are now. */
  #readAgain(request: ReadRequest, firstPage: number, pageCount: number): void {
    const loaded = (status: StorageStatus): void => {
      if (this.#stopped) request.status = ReadStatus.stopped;
      else if (status === StorageStatus.ok) this.#readPages(request, firstPage, firstPage + pageCount);
      else if (this.#goesOn(request, status)) {
        this.#ports.clock.schedule(ROUND_PAUSE_MS, () => this.#readAgain(request, firstPage, pageCount));
        return;
      } else request.status = ReadStatus.ioError;
      this.#pieceEnded(request);
    };
    if (this.#ports.map.ensureLoaded(firstPage, pageCount, loaded)) loaded(StorageStatus.ok);
  }

  #hasMoved(firstPage: number, pageCount: number, location: number): boolean {
    if (!this.#ports.map.ensureLoaded(firstPage, pageCount, () => {})) return false;
    for (let index = 0; index < pageCount; index++)
      if (this.#locate(firstPage + index) !== location + index) return true;
    return false;
  }

  #pieceEnded(request: ReadRequest): void {
    request.pending--;
    if (request.pending === 0) this.#answer(request);
  }

  #answer(request: ReadRequest): void {
    const { clock, lease, observe } = this.#ports;
    if (request.status === ReadStatus.ok) {
      const nowMs = clock.nowMs();
      if (nowMs >= lease.deadlineMs()) return this.#awaitLease(request, nowMs);
      observe?.("read", nowMs - request.startMs);
      observe?.(request.source, nowMs - request.startMs);
    }
    const done = request.done as ReadDone;
    request.done = undefined;
    request.destination = undefined;
    const status = request.status;
    if (this.#requests.length < POOL_MAX) this.#requests.push(request);
    done(status);
  }

  #awaitLease(request: ReadRequest, nowMs: number): void {
    if (request.leaseWaitUntilMs === 0) request.leaseWaitUntilMs = nowMs + this.#options.leaseStallMs;
    if (this.#stopped) request.status = ReadStatus.stopped;
    else if (nowMs >= request.leaseWaitUntilMs) request.status = ReadStatus.ioError;
    else {
      this.#ports.clock.schedule(LEASE_POLL_MS, () => this.#answer(request));
      return;
    }
    this.#answer(request);
  }

  // ---- scratch pages --------------------------------------------------------------------------------------------

  #takeScratch(): number {
    const free = this.#scratchFree.pop();
    if (free !== undefined) return free;
    const first = this.#scratchBuffers.length * SCRATCH_PAGES;
    this.#scratchBuffers.push(this.#ports.allocate(SCRATCH_PAGES * PAGE_BYTES));
    for (let index = SCRATCH_PAGES - 1; index > 0; index--) this.#scratchFree.push(first + index);
    return first;
  }

  #scratchBuffer(scratch: number): NativeBuffer {
    return this.#scratchBuffers[Math.floor(scratch / SCRATCH_PAGES)] as NativeBuffer;
  }

  #scratchOffset(scratch: number): number {
    return (scratch % SCRATCH_PAGES) * PAGE_BYTES;
  }

  // ---- readahead ------------------------------------------------------------------------------------------------

  /** Two reads that follow one another make a reader sequential; what it will ask next goes into the cache. */
  #readAhead(offsetBytes: number, lengthBytes: number): void {
    if (!this.#ports.cache || lengthBytes >= this.#options.readAheadBytes) return;
    if (offsetBytes === this.#sequentialEnd) this.#sequentialHits++;
    else {
      this.#sequentialHits = 0;
      this.#aheadUntilPage = 0;
    }
    this.#sequentialEnd = offsetBytes + lengthBytes;
    if (this.#sequentialHits < 2 || this.#aheadPending > 0) return;
    const nextPage = Math.max(Math.ceil(this.#sequentialEnd / PAGE_BYTES), this.#aheadUntilPage);
    const aheadBytes = Math.min(this.#sequentialEnd + this.#options.readAheadBytes, this.#ports.sizeBytes());
    const wantedPage = Math.ceil(aheadBytes / PAGE_BYTES);
    if (wantedPage - nextPage < this.#options.readAheadBytes / PAGE_BYTES / 2) return;
    this.#aheadUntilPage = wantedPage;
    this.#fetchAhead(nextPage, wantedPage);
  }

  #fetchAhead(firstPage: number, endPage: number): void {
    const { map, reader, cache, log } = this.#ports;
    if (!map.ensureLoaded(firstPage, endPage - firstPage, () => {})) return;
    for (let page = firstPage; page < endPage; ) {
      const location = this.#locate(page);
      const skip = location === HOLE_LOCATION || log?.blockInMemory(location) || cache?.has(location);
      if (skip) {
        page++;
        continue;
      }
      let count = 1;
      while (
        page + count < endPage &&
        count < AHEAD_RUN_PAGES &&
        this.#locate(page + count) === location + count &&
        slotOf(location + count) > 0
      )
        count++;
      const ref = map.refOf(lsnOf(location));
      if (!ref) return;
      const read = reader.acquire();
      read.ref = ref;
      read.firstSlot = slotOf(location);
      read.slotCount = count;
      read.expectedBytes = count * PAGE_BYTES;
      read.destination = this.#takeAhead();
      read.destinationOffset = 0;
      read.context = location;
      read.finished = this.#onAhead;
      this.#aheadPending++;
      reader.start(read);
      page += count;
    }
  }

  readonly #aheadFree: NativeBuffer[] = [];

  #takeAhead(): NativeBuffer {
    return this.#aheadFree.pop() ?? this.#ports.allocate(AHEAD_RUN_PAGES * PAGE_BYTES);
  }

  /** A page that could not be had ahead is simply asked for again when it is wanted. */
  readonly #onAhead = (read: BlockRead, status: StorageStatus): void => {
    this.#aheadPending--;
    if (status === StorageStatus.ok)
      for (let index = 0; index < read.slotCount; index++)
        this.#ports.cache?.insert((read.context as number) + index, read.destination, index * PAGE_BYTES);
    this.#aheadFree.push(read.destination);
    this.#ports.reader.release(read);
  };
}

const SCRATCH_PAGES = 16;
const AHEAD_RUN_PAGES = 64;
