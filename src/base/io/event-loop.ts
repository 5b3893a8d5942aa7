/**
 * One thread's event loop over epoll: it waits for file descriptors and timers, runs their handlers, then what
 * was queued for the end of the turn (one sync for all puts, one send for all replies) and the promises that can go
 * on, until nothing is left of either. A loop blocked in epoll_wait does not see the runtime's own timers, sockets
 * and messages: whatever runs on this thread uses this Clock and these sockets, and another thread that posted a
 * message writes to `wakeHandle` (`kickLoop`) afterwards.
 *
 * Timers wake the loop through one timerfd that is set again only when the earliest due time comes nearer. A timeout of
 * epoll_wait instead would start and cancel a kernel timer with every wait, which costs a virtual machine several
 * exits a request.
 *
 * Before it sleeps, a loop whose events come soon asks for them for a moment: see BusyPoll. Other threads have its core
 * meanwhile if they are ready. Where a quota counts that time it does not (cpu-quota.ts).
 *
 * A turn: epoll_wait -> handlers -> due timers -> (promises -> end-of-turn work) until quiet. The runtime itself
 * gets its turn (posted messages, unhandled rejections) when the loop was kicked or idle, and now and then under
 * load: after every turn it would cost 7 us, a third of a small request. An exception of a handler is a bug: it
 * ends `run` and with it the worker.
 */
import { drainMicrotasks } from "bun:jsc";
import type { Clock, Timer, TurnScheduler } from "../clock";
import { assert } from "../errors";
import { BusyPoll } from "./busy-poll";
import { mayBusyPoll } from "./cpu-quota";
import { C, libc, must } from "./libc";
import { nativeBuffer } from "./memory";
import { bootTimeMs } from "./system";
import { ThreadCores } from "./thread-cores";
import { ThreadPolicy } from "./thread-policy";
import { TimerHeap } from "./timer-heap";

/** epoll_event is packed on x86-64 only. */
const EVENT_BYTES = process.arch === "x64" ? 12 : 16;
const EVENT_DATA_OFFSET = process.arch === "x64" ? 4 : 8;
const EVENT_COUNT_MAX = 256;
/** Turns under load before the runtime gets one. */
const TURNS_BETWEEN_RUNTIME_TURNS = 64;
/** Rounds of end-of-turn work before other descriptors get their chance again. */
const END_ROUNDS_MAX = 16;

/** For epoll_wait: until something happens. */
const FOREVER_MS = -1;

export interface FdWatch {
  /** Which events to hear of from now on: a sum of C.EPOLLIN and C.EPOLLOUT; errors are always told. */
  setEvents(events: number): void;
  /** Stops watching; no handler runs afterwards, even for events already fetched. The descriptor stays open. */
  close(): void;
}

/** Work at the end of each turn, after the afterTurn callbacks; returns whether there was any. */
export type TurnEndHook = () => boolean;

export interface EventLoopOptions {
  /** An eventfd of whoever wakes this loop, who keeps it open; without it the loop makes and closes its own. */
  readonly wakeHandle?: number;
  /** Longest wait in the kernel, without end by default; a test on the main thread sets a few ms to let the runtime breathe. */
  readonly blockMsMax?: number;
}

class Watch implements FdWatch {
  constructor(
    private readonly loop: EventLoop,
    readonly fd: number,
    readonly generation: number,
    readonly handler: (events: number) => void,
  ) {}

  setEvents(events: number): void {
    this.loop.control(C.EPOLL_CTL_MOD, this, events);
  }

  close(): void {
    this.loop.unwatch(this);
  }
}

export class EventLoop implements Clock, TurnScheduler {
  /** The eventfd's number, valid in every thread of this process: see `kickLoop`. */
  readonly wakeHandle: number;
  readonly #ownsWakeHandle: boolean;
  readonly #epoll: number;
  readonly #events = nativeBuffer(EVENT_BYTES * EVENT_COUNT_MAX);
  readonly #control = nativeBuffer(16);
  readonly #counter = nativeBuffer(8);
  readonly #probe = nativeBuffer(EVENT_BYTES);
  readonly #watches: (Watch | undefined)[] = [];
  readonly #timers = new TimerHeap();
  readonly #timerFile: number;
  readonly #timerSpecification = nativeBuffer(32);
  /** When the timerfd fires next. */
  #armedMs = Number.POSITIVE_INFINITY;
  /** Some timer may be due. */
  #timersDue = false;
  readonly #hooks: TurnEndHook[] = [];
  readonly #blockMsMax: number;
  /** Undefined: it sleeps at once. */
  readonly #poll = mayBusyPoll() ? new BusyPoll() : undefined;
  /** When the last wait ended, and what had been received then. */
  #wokeMs = performance.now();
  #wokeBytes = 0;
  /** Of the time since: spent in a system call that waits. */
  #blockedMs = 0;
  #afterTurn: (() => void)[] = [];
  #generation = 0;
  #running = false;
  #stopped = false;
  #runtimeTurnDue = false;
  #disposed = false;
  /** Turns so far, for metrics. */
  turnCount = 0;
  /** Events handled so far. */
  eventCount = 0;
  /** By all that is watched here, which counts it: for metrics, and for BusyPoll, which takes it for the work done. */
  receivedBytes = 0;
  /** Of these: from senders on this machine. */
  receivedLocalBytes = 0;
  #threadPolicy: ThreadPolicy | undefined;
  #threadCores: ThreadCores | undefined;

  constructor(options: EventLoopOptions = {}) {
    this.#epoll = must("make an epoll instance", libc.epollCreate());
    this.#ownsWakeHandle = options.wakeHandle === undefined;
    this.wakeHandle = options.wakeHandle ?? createWakeHandle();
    this.#blockMsMax = options.blockMsMax ?? FOREVER_MS;
    this.#timerFile = must(
      "make a timer",
      libc.timerfdCreate(C.CLOCK_BOOTTIME, C.TFD_NONBLOCK | C.TFD_CLOEXEC),
    );
    this.watch(this.#timerFile, () => {
      libc.read(this.#timerFile, this.#counter.address, 8);
      this.#armedMs = Number.POSITIVE_INFINITY;
      this.#timersDue = true;
      // Timers alone wake a loop that is idle.
      this.#runtimeTurnDue = true;
    });
    this.watch(this.wakeHandle, () => {
      libc.read(this.wakeHandle, this.#counter.address, 8);
      this.#runtimeTurnDue = true;
    });
  }

  nowMs(): number {
    return bootTimeMs();
  }

  wallMs(): number {
    return Date.now();
  }

  schedule(delayMs: number, callback: () => void): Timer {
    return this.#timers.add(bootTimeMs() + delayMs, callback);
  }

  afterTurn(callback: () => void): void {
    this.#afterTurn.push(callback);
  }

  /** Whether something waits for this turn to end. */
  get hasEvents(): boolean {
    return libc.epollWait(this.#epoll, this.#probe.address, 1, 0) > 0;
  }

  /**
   * For a loop that serves others: lets those on the same machine keep the core while they have more for it, as long as
   * that pays, and asks before it sleeps, unless that is found not to pay. To be called on its thread.
   */
  serveOthers(): void {
    this.#threadPolicy ??= new ThreadPolicy();
    this.#poll?.preferAsking();
  }

  /**
   * For a loop that works for programs on the same machine, which connect to it: keeps to the core that they run on, as
   * long as that pays. To be called on its thread.
   */
  keepToSenders(): void {
    this.#threadCores ??= new ThreadCores();
  }

  /** Whether a program's next message is to say which core it came from. */
  get wantsSenderCore(): boolean {
    return this.#threadCores?.wantsSender === true;
  }

  /** A program's message came from this core; below 0: the kernel does not know. */
  noteSenderCore(core: number): void {
    this.#threadCores?.noteSender(core);
  }

  /** A handler waited so long in the kernel: time in which the loop neither worked nor was free. */
  noteBlocked(timeMs: number): void {
    this.#blockedMs += timeMs;
  }

  /** Registers permanent end-of-turn work, such as sending what all sockets gathered. */
  onTurnEnd(hook: TurnEndHook): void {
    this.#hooks.push(hook);
  }

  /** Calls `handler` with the events that a descriptor has, as long as it has them (level-triggered). */
  watch(fd: number, handler: (events: number) => void, events: number = C.EPOLLIN): FdWatch {
    assert(this.#watches[fd] === undefined, `descriptor ${fd} is already watched`);
    this.#generation = (this.#generation + 1) >>> 0;
    const watch = new Watch(this, fd, this.#generation, handler);
    this.control(C.EPOLL_CTL_ADD, watch, events);
    this.#watches[fd] = watch;
    return watch;
  }

  /** Runs turns until `stop`. Rejects with whatever a handler threw. */
  run(): Promise<void> {
    assert(!this.#running && !this.#stopped, "an event loop runs once");
    this.#running = true;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const end = (settle: () => void) => {
      this.#stopped = true;
      this.#running = false;
      this.#dispose();
      settle();
    };
    // From a callback of the runtime, not from a promise: inside one, drainMicrotasks would do nothing.
    const runSome = () => {
      try {
        this.#runTurns();
      } catch (error) {
        return end(() => reject(error));
      }
      if (this.#stopped) end(resolve);
      else setImmediate(runSome);
    };
    setImmediate(runSome);
    return promise;
  }

  /** Ends `run` after the current turn. */
  stop(): void {
    this.#stopped = true;
    if (!this.#running) this.#dispose();
    else this.wake();
  }

  /** Ends the current or next wait. */
  wake(): void {
    kickLoop(this.wakeHandle);
  }

  /** Turns until the runtime is to have one. */
  #runTurns(): void {
    this.#runtimeTurnDue = false;
    // What the runtime's own turn brought may have queued work.
    let isQuiet = this.#finishTurn();
    for (let count = 0; count < TURNS_BETWEEN_RUNTIME_TURNS && !this.#stopped; count++) {
      const waitMs = this.#lookToTimers();
      const eventCount = this.#waitAndHandle(isQuiet ? waitMs : 0);
      const wasIdle = eventCount === 0 && isQuiet;
      isQuiet = this.#finishTurn();
      if (wasIdle || this.#runtimeTurnDue) return;
    }
  }

  #waitAndHandle(timeoutMs: number): number {
    this.turnCount++;
    const count = timeoutMs === 0 ? this.#epollWait(0) : this.#await(timeoutMs);
    if (count < 0 && count !== -C.EINTR) must("wait for events", count);
    const view = this.#events.view;
    for (let index = 0; index < count; index++) {
      const offset = index * EVENT_BYTES;
      const watch = this.#watches[view.getUint32(offset + EVENT_DATA_OFFSET, true)];
      // The number may have been closed and opened again since the kernel reported: generations tell.
      if (watch === undefined || watch.generation !== view.getUint32(offset + EVENT_DATA_OFFSET + 4, true))
        continue;
      this.eventCount++;
      watch.handler(view.getUint32(offset, true));
    }
    if (this.#timersDue) {
      this.#timersDue = false;
      this.#timers.runDue(bootTimeMs());
    }
    return count;
  }

  /** Waits, at first by asking where that pays. */
  #await(timeoutMs: number): number {
    const startedMs = performance.now();
    const untilMs = startedMs + (this.#poll?.windowMs ?? 0);
    let endedMs = startedMs;
    let count = 0;
    while (count === 0 && endedMs < untilMs) {
      count = this.#epollWait(0);
      if (count === 0) libc.schedYield();
      endedMs = performance.now();
    }
    if (count === 0) {
      count = this.#epollWait(timeoutMs);
      endedMs = performance.now();
    }
    const workedMs = startedMs - this.#wokeMs - this.#blockedMs;
    this.#poll?.note(workedMs, endedMs - startedMs, this.receivedBytes - this.#wokeBytes);
    this.#threadPolicy?.look(endedMs, this.receivedBytes, this.receivedLocalBytes);
    this.#threadCores?.look(endedMs, this.turnCount, this.receivedBytes);
    this.#wokeMs = endedMs;
    this.#blockedMs = 0;
    this.#wokeBytes = this.receivedBytes;
    return count;
  }

  #epollWait(timeoutMs: number): number {
    return libc.epollWait(this.#epoll, this.#events.address, EVENT_COUNT_MAX, timeoutMs);
  }

  /** For Watch. */
  control(operation: number, watch: Watch, events: number): void {
    const view = this.#control.view;
    view.setUint32(0, events, true);
    view.setUint32(EVENT_DATA_OFFSET, watch.fd, true);
    view.setUint32(EVENT_DATA_OFFSET + 4, watch.generation, true);
    must(
      `watch descriptor ${watch.fd}`,
      libc.epollCtl(this.#epoll, operation, watch.fd, this.#control.address),
    );
  }

  /** For Watch. */
  unwatch(watch: Watch): void {
    if (this.#watches[watch.fd] !== watch) return;
    this.#watches[watch.fd] = undefined;
    if (!this.#disposed) this.control(C.EPOLL_CTL_DEL, watch, 0);
  }

  /** Sees to it that the first timer ends the wait; returns how long that may last. */
  #lookToTimers(): number {
    const dueMs = this.#timers.nextDueMs;
    if (dueMs >= this.#armedMs) return this.#blockMsMax;
    if (dueMs <= bootTimeMs()) {
      this.#timersDue = true;
      return 0;
    }
    this.#arm(dueMs);
    return this.#blockMsMax;
  }

  #arm(dueMs: number): void {
    const { words } = this.#timerSpecification;
    const seconds = Math.floor(dueMs / 1000);
    words[4] = seconds;
    words[6] = Math.min(Math.ceil((dueMs - seconds * 1000) * 1e6), 999_999_999);
    must(
      "set a timer",
      libc.timerfdSettime(this.#timerFile, C.TFD_TIMER_ABSTIME, this.#timerSpecification.address),
    );
    this.#armedMs = dueMs;
  }

  /** Promises and end-of-turn work until neither is left; false when it stopped before that. */
  #finishTurn(): boolean {
    for (let round = 0; round < END_ROUNDS_MAX; round++) {
      // First, so that a round without work ends the turn with no promise left that could have made some.
      drainMicrotasks();
      let worked = false;
      const callbacks = this.#afterTurn;
      if (callbacks.length > 0) {
        worked = true;
        this.#afterTurn = [];
        for (const callback of callbacks) callback();
      }
      for (const hook of this.#hooks) if (hook()) worked = true;
      if (!worked) return true;
    }
    return false;
  }

  #dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#threadPolicy?.close();
    this.#threadCores?.close();
    libc.close(this.#epoll);
    libc.close(this.#timerFile);
    if (this.#ownsWakeHandle) libc.close(this.wakeHandle);
  }
}

/** Makes an eventfd for `EventLoopOptions.wakeHandle`; the maker closes it, after the loop has ended. */
export function createWakeHandle(): number {
  return must("make an eventfd", libc.eventfd(0, C.EFD_NONBLOCK | C.EFD_CLOEXEC));
}

const one = nativeBuffer(8);
one.words[0] = 1;

/** Wakes the loop that waits on this eventfd, from any thread. */
export function kickLoop(wakeHandle: number): void {
  const written = libc.write(wakeHandle, one.address, 8);
  // EAGAIN: the counter is full, so the loop is about to wake anyway.
  if (written !== -C.EAGAIN) must("wake an event loop", written);
}
