/**
 * fdatasync off the loop. A sync may take a millisecond or a hundred; on the loop's own thread every read would wait
 * for it. So one thread does nothing but sync: it sleeps in a read of an eventfd, takes descriptors from a ring in
 * shared memory, syncs them in order, and wakes the loop by a second eventfd. A round trip costs about 15 us.
 *
 *   loop:   ring[head] = fd, head += 1, wake worker          worker: while tail < head: result[tail] = fdatasync
 *   loop:   for each result between done and tail: callback          (ring[tail]), tail += 1, wake loop
 *
 * The words of the shared memory: 0 head, 1 tail, 2 stop; then the descriptors, then the results.
 */
import { assert } from "../errors";
import type { EventLoop, FdWatch } from "./event-loop";
import { C, libc, must } from "./libc";
import { nativeBuffer } from "./memory";

/** Syncs that may be under way at once; a store asks for one per file of a group. */
const RING_SLOTS = 4096;
const HEAD = 0;
const TAIL = 1;
const STOP = 2;
const RING = 4;
const RESULTS = RING + RING_SLOTS;

/** Makes writes durable; `done` gets 0 or -errno and never runs before `sync` returns. */
export interface Syncer {
  sync(file: number, done: (result: number) => void): void;
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
    shared: new SharedArrayBuffer((RESULTS + RING_SLOTS) * 4),
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
      const slot = tail & (RING_SLOTS - 1);
      let result = libc.fdatasync(words[RING + slot] as number);
      while (result === -C.EINTR) result = libc.fdatasync(words[RING + slot] as number);
      words[RESULTS + slot] = result;
      Atomics.store(words, TAIL, (tail + 1) | 0);
      signal(channel.replyHandle);
    }
  }
}

/** The loop's side of a channel. */
export class WorkerSyncer implements Syncer {
  readonly #words: Int32Array;
  readonly #watch: FdWatch;
  readonly #counter = nativeBuffer(8);
  readonly #callbacks: (((result: number) => void) | undefined)[] = new Array(RING_SLOTS).fill(undefined);
  #done = 0;

  constructor(
    loop: EventLoop,
    private readonly channel: SyncChannel,
  ) {
    this.#words = new Int32Array(channel.shared);
    this.#done = Atomics.load(this.#words, TAIL);
    this.#watch = loop.watch(channel.replyHandle, () => this.#collect(), C.EPOLLIN);
  }

  sync(file: number, done: (result: number) => void): void {
    const head = Atomics.load(this.#words, HEAD);
    assert(((head - this.#done) | 0) < RING_SLOTS, "too many syncs are under way");
    const slot = head & (RING_SLOTS - 1);
    this.#words[RING + slot] = file;
    this.#callbacks[slot] = done;
    Atomics.store(this.#words, HEAD, (head + 1) | 0);
    signal(this.channel.requestHandle);
  }

  close(): void {
    this.#watch.close();
  }

  #collect(): void {
    libc.read(this.channel.replyHandle, this.#counter.address, 8);
    const tail = Atomics.load(this.#words, TAIL);
    while (this.#done !== tail) {
      const slot = this.#done & (RING_SLOTS - 1);
      const callback = this.#callbacks[slot];
      this.#callbacks[slot] = undefined;
      this.#done = (this.#done + 1) | 0;
      callback?.(this.#words[RESULTS + slot] as number);
    }
  }
}

/** Syncs on the calling thread, which waits; for tools and tests. `defer` runs a callback soon, but not now. */
export class InlineSyncer implements Syncer {
  constructor(private readonly defer: (callback: () => void) => void) {}

  sync(file: number, done: (result: number) => void): void {
    const result = libc.fdatasync(file);
    this.defer(() => done(result));
  }
}

const one = nativeBuffer(8);
one.words[0] = 1;

function signal(handle: number): void {
  const written = libc.write(handle, one.address, 8);
  if (written !== -C.EAGAIN) must("signal a sync", written);
}
