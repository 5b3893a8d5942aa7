/**
 * fdatasync, as a rule off the loop. A sync may take a millisecond or a hundred; on the loop's own thread every read
 * would wait for it. So one thread does nothing but sync: it sleeps in a read of an eventfd, takes jobs from a ring in
 * shared memory, does them in order, and wakes the loop by a second eventfd. A round trip costs about 15 us. A job may
 * be a write too: to a raw device, which takes as long as a sync; threads of one process share memory, so it is named
 * by its address.
 *
 * The worker also tells how long each sync took, for where it does not pay to hand them over (see `InPlaceSyncs`): then
 * the loop does them itself, when all that the turn has to send has left.
 *
 *   loop:   ring[head] = job, head += 1, wake worker          worker: while tail < head: do ring[tail],
 *   loop:   for each result between done and tail: callback           result[tail], tail += 1, wake loop
 *
 * The words of the shared memory: 0 head, 1 tail, 2 stop; then JOB_WORDS for each job: descriptor, length (0: a
 * sync), address low and high, offset low and high, result, 1 when the write is to leave the page cache.
 * A sync's answer has the microseconds it took in the place of the address.
 */
import { assert } from "../errors";
import type { EventLoop, FdWatch } from "./event-loop";
import { InPlaceSyncs, QUICK_SYNC_US_MAX } from "./in-place-syncs";
import { C, libc, must } from "./libc";
import { nativeBuffer } from "./memory";

/** Jobs that may be under way at once; a store asks for one sync per file of a group. */
const RING_SLOTS = 4096;
const JOB_WORDS = 8;
const TIME_WORD = 2;
const RESULT_WORD = 6;
const WRITE_OUT_WORD = 7;
const HEAD = 0;
const TAIL = 1;
const STOP = 2;
const RING = 8;
const TWO_32 = 2 ** 32;

/** Does slow file work elsewhere, in the order asked for; `done` gets 0 or -errno, never before the call returns. */
export interface Syncer {
  /** fdatasync. */
  sync(file: number, done: (result: number) => void): void;
  /** Writes the whole range; the memory must not change, nor go, until `done`. */
  write(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void;
  /** The same, and waits until the range has left the page cache: a later sync then has less to do. */
  writeOut(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void;
}

/** What the loop's thread and the sync worker share; structured-cloneable, made by the main thread. */
export interface SyncChannel {
  readonly shared: SharedArrayBuffer;
  /** Eventfds: requests wake the worker (it blocks in read), replies wake the loop. */
  readonly requestHandle: number;
  readonly replyHandle: number;
}

export function createSyncChannel(): SyncChannel {
  return {
    shared: new SharedArrayBuffer((RING + RING_SLOTS * JOB_WORDS) * 4),
    requestHandle: must("make an eventfd", libc.eventfd(0, C.EFD_CLOEXEC)),
    replyHandle: must("make an eventfd", libc.eventfd(0, C.EFD_NONBLOCK | C.EFD_CLOEXEC)),
  };
}

/** Ends the worker's `serveSyncs`; the eventfds are closed by `closeSyncChannel` after the worker has ended. */
export function stopSyncs(channel: SyncChannel): void {
  Atomics.store(new Int32Array(channel.shared), STOP, 1);
  signal(channel.requestHandle);
}

export function closeSyncChannel(channel: SyncChannel): void {
  libc.close(channel.requestHandle);
  libc.close(channel.replyHandle);
}

/** The worker's whole life: returns after `stopSyncs`. */
export function serveSyncs(channel: SyncChannel): void {
  const words = new Int32Array(channel.shared);
  const counter = nativeBuffer(8);
  while (Atomics.load(words, STOP) === 0) {
    const count = libc.read(channel.requestHandle, counter.address, 8);
    if (count === -C.EINTR) continue;
    must("wait for syncs", count);
    for (;;) {
      const tail = Atomics.load(words, TAIL);
      if (tail === Atomics.load(words, HEAD)) break;
      const job = RING + (tail & (RING_SLOTS - 1)) * JOB_WORDS;
      const startNs = Bun.nanoseconds();
      words[job + RESULT_WORD] = doJob(words, job);
      words[job + TIME_WORD] = Math.min((Bun.nanoseconds() - startNs) / 1000, 2 ** 31 - 1);
      Atomics.store(words, TAIL, (tail + 1) | 0);
      signal(channel.replyHandle);
    }
  }
}

function doJob(words: Int32Array, job: number): number {
  const word = (index: number) => (words[job + index] as number) >>> 0;
  const file = word(0);
  const lengthBytes = word(1);
  if (lengthBytes === 0) return syncFile(file);
  const address = word(2) + word(3) * TWO_32;
  const offsetBytes = word(4) + word(5) * TWO_32;
  return word(WRITE_OUT_WORD) === 1
    ? writeOutFile(file, address, lengthBytes, offsetBytes)
    : writeFile(file, address, lengthBytes, offsetBytes);
}

function writeOutFile(file: number, address: number, lengthBytes: number, offsetBytes: number): number {
  const result = writeFile(file, address, lengthBytes, offsetBytes);
  const all = C.SYNC_FILE_RANGE_WAIT_BEFORE | C.SYNC_FILE_RANGE_WRITE | C.SYNC_FILE_RANGE_WAIT_AFTER;
  return result < 0 ? result : libc.syncFileRange(file, offsetBytes, lengthBytes, all);
}

function syncFile(file: number): number {
  let result = libc.fdatasync(file);
  while (result === -C.EINTR) result = libc.fdatasync(file);
  return result;
}

/** Writes the whole range: 0 or -errno. */
export function writeFile(file: number, address: number, lengthBytes: number, offsetBytes: number): number {
  let done = 0;
  while (done < lengthBytes) {
    const count = libc.pwrite(file, address + done, lengthBytes - done, offsetBytes + done);
    if (count > 0) done += count;
    else if (count === 0) return -C.EIO;
    else if (count !== -C.EINTR) return count;
  }
  return 0;
}

/** The loop's side of a channel. */
export class WorkerSyncer implements Syncer {
  readonly #words: Int32Array;
  readonly #watch: FdWatch;
  readonly #counter = nativeBuffer(8);
  readonly #callbacks: (((result: number) => void) | undefined)[] = new Array(RING_SLOTS).fill(undefined);
  /** The loop's count of events when each job was submitted. */
  readonly #eventCounts = new Float64Array(RING_SLOTS);
  #done = 0;
  readonly #inPlace = new InPlaceSyncs();
  /** To be done in place when this turn's output has left, unless another job comes before. */
  readonly #deferred: { readonly file: number; readonly done: (result: number) => void }[] = [];

  constructor(
    private readonly loop: EventLoop,
    private readonly channel: SyncChannel,
  ) {
    this.#words = new Int32Array(channel.shared);
    this.#done = Atomics.load(this.#words, TAIL);
    this.#watch = loop.watch(channel.replyHandle, () => this.#collect(), C.EPOLLIN);
  }

  sync(file: number, done: (result: number) => void): void {
    const isIdle = Atomics.load(this.#words, HEAD) === this.#done;
    if (!isIdle || !this.#inPlace.pays) return this.#submit(file, 0, 0, 0, 0, done);
    this.#deferred.push({ file, done });
    if (this.#deferred.length === 1) this.loop.afterTurn(this.#syncDeferred);
  }

  write(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void {
    this.#submit(file, address, lengthBytes, offsetBytes, 0, done);
  }

  writeOut(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void {
    this.#submit(file, address, lengthBytes, offsetBytes, 1, done);
  }

  close(): void {
    this.#watch.close();
  }

  readonly #syncDeferred = (): void => {
    for (const { file, done } of this.#deferred.splice(0)) this.#syncInPlace(file, done);
  };

  #syncInPlace(file: number, done: (result: number) => void): void {
    const startNs = Bun.nanoseconds();
    const result = syncFile(file);
    const timeUs = (Bun.nanoseconds() - startNs) / 1000;
    const isQuick = timeUs <= QUICK_SYNC_US_MAX;
    if (!isQuick) this.loop.noteBlocked(timeUs / 1000);
    this.#inPlace.note(timeUs, !isQuick && !this.loop.hasEvents);
    done(result);
  }

  #submit(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    writeOut: number,
    done: (result: number) => void,
  ): void {
    // Jobs are begun in the order asked for.
    for (const sync of this.#deferred.splice(0)) this.#submit(sync.file, 0, 0, 0, 0, sync.done);
    if (lengthBytes >= TWO_32) assert(false, `a job of ${lengthBytes} bytes`);
    const words = this.#words;
    const head = Atomics.load(words, HEAD);
    assert(((head - this.#done) | 0) < RING_SLOTS, "too many syncs are under way");
    const slot = head & (RING_SLOTS - 1);
    const job = RING + slot * JOB_WORDS;
    words[job] = file;
    words[job + 1] = lengthBytes;
    words[job + 2] = (address % TWO_32) | 0;
    words[job + 3] = Math.floor(address / TWO_32);
    words[job + 4] = (offsetBytes % TWO_32) | 0;
    words[job + 5] = Math.floor(offsetBytes / TWO_32);
    words[job + WRITE_OUT_WORD] = writeOut;
    this.#callbacks[slot] = done;
    this.#eventCounts[slot] = this.loop.eventCount;
    Atomics.store(words, HEAD, (head + 1) | 0);
    signal(this.channel.requestHandle);
  }

  #collect(): void {
    libc.read(this.channel.replyHandle, this.#counter.address, 8);
    const tail = Atomics.load(this.#words, TAIL);
    while (this.#done !== tail) {
      const slot = this.#done & (RING_SLOTS - 1);
      const callback = this.#callbacks[slot];
      this.#callbacks[slot] = undefined;
      this.#done = (this.#done + 1) | 0;
      const job = RING + slot * JOB_WORDS;
      // One event is this answer's own.
      const isLone = this.loop.eventCount <= (this.#eventCounts[slot] as number) + 1;
      if (this.#words[job + 1] === 0) this.#inPlace.note(this.#words[job + TIME_WORD] as number, isLone);
      callback?.(this.#words[job + RESULT_WORD] as number);
    }
  }
}

/** The same on the calling thread, which waits; for tools and tests. `defer` runs a callback soon, but not now. */
export class InlineSyncer implements Syncer {
  constructor(private readonly defer: (callback: () => void) => void) {}

  sync(file: number, done: (result: number) => void): void {
    const result = syncFile(file);
    this.defer(() => done(result));
  }

  write(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void {
    const result = writeFile(file, address, lengthBytes, offsetBytes);
    this.defer(() => done(result));
  }

  writeOut(
    file: number,
    address: number,
    lengthBytes: number,
    offsetBytes: number,
    done: (result: number) => void,
  ): void {
    const result = writeOutFile(file, address, lengthBytes, offsetBytes);
    this.defer(() => done(result));
  }
}

const one = nativeBuffer(8);
one.words[0] = 1;

function signal(handle: number): void {
  const written = libc.write(handle, one.address, 8);
  if (written !== -C.EAGAIN) must("signal a sync", written);
}
