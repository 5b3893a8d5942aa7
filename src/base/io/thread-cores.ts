/**
 * Keeps the thread that this runs on to one core or lets it use all it was given, as CoreChoice finds.
 *
 * The cores stay as they are where there is only one, where the kernel does not say which core a request came from (only
 * TCP within the machine does), where somebody else has changed them since, and where a filter of system calls is in
 * force that might end the process for asking: TORUS_SET_AFFINITY=1 in the environment says that it lets
 * sched_getaffinity and sched_setaffinity through; 0 says to keep off in any case.
 *
 * Threads that the runtime starts meanwhile (of its compiler, say) inherit the one core: they are given the others back.
 * Those that were there before are not touched: if they have one core, somebody else gave it to them.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import { CoreChoice } from "./core-choice";
import { libc } from "./libc";
import { maySchedule } from "./system-call-filter";

const LOOK_EVERY_MS = 5;
/** How often other threads are looked at while this one keeps to a core. */
const THREADS_EVERY_MS = 1_000;
/** Of a mask: 1,024 cores, as many as the C library's own masks have. */
const MASK_BYTES = 128;
const THIS_THREAD = 0;

interface KeptCore {
  readonly core: number;
  readonly mask: Uint8Array;
  /** Threads that were there when it began, this one among them. */
  readonly elders: ReadonlySet<number>;
}

export class ThreadCores {
  /** The next request is to say where it came from: see noteSender. */
  wantsSender = false;
  readonly #choice = new CoreChoice();
  /** What the thread was given; undefined when its cores are not ours to choose. */
  #given: Uint8Array | undefined;
  /** What was made of that, while it keeps to one. */
  #kept: KeptCore | undefined;
  /** What the process's first thread had; undefined when this is it. */
  readonly #processMask: Uint8Array | undefined;
  #lookedMs = 0;
  #threadsLookedMs = 0;
  #turnCount = 0;
  #receivedBytes = 0;

  /**
   * Of the calling thread; all later calls must come from it. The cores of `processThread` change when somebody sets those
   * of the whole process.
   */
  constructor(private readonly processThread = process.pid) {
    const given = maySchedule("TORUS_SET_AFFINITY") ? coresOf(THIS_THREAD) : undefined;
    if (given === undefined || coreCount(given) < 2) return;
    this.#given = given;
    if (processThread !== ownThread()) this.#processMask = coresOf(processThread);
  }

  /** A request came from a program on this core of this machine; below 0: the kernel does not know. */
  noteSender(core: number): void {
    this.wantsSender = false;
    this.#choice.noteSender(core);
  }

  /** Turns and bytes received: all so far. Cheap when called more often than is looked. */
  look(nowMs: number, turnCount: number, receivedBytes: number): void {
    const elapsedMs = nowMs - this.#lookedMs;
    if (this.#given === undefined || elapsedMs < LOOK_EVERY_MS) return;
    const isFirst = this.#lookedMs === 0;
    const span = {
      elapsedMs,
      turnCount: turnCount - this.#turnCount,
      receivedBytes: receivedBytes - this.#receivedBytes,
    };
    this.#lookedMs = nowMs;
    this.#turnCount = turnCount;
    this.#receivedBytes = receivedBytes;
    if (isFirst) return;
    // No program has sent anything since the last look.
    if (this.wantsSender) this.#choice.noteSender(-1);
    this.#choice.note(span);
    this.wantsSender = true;
    this.#keepTo(this.#choice.core);
    if (this.#kept === undefined || nowMs - this.#threadsLookedMs < THREADS_EVERY_MS) return;
    this.#threadsLookedMs = nowMs;
    this.#lookAtThreads(this.#kept);
  }

  /** Gives the thread all its cores back; nothing is set afterwards. */
  close(): void {
    this.#keepTo(undefined);
    this.#keepOff();
  }

  #keepTo(core: number | undefined): void {
    const given = this.#given;
    const before = this.#kept;
    if (given === undefined) return;
    const next = core !== undefined && has(given, core) ? core : undefined;
    if (next === before?.core) return;
    const found = coresOf(THIS_THREAD);
    const isOurs = found !== undefined && isSame(found, before?.mask ?? given);
    if (before !== undefined && this.#isProcessSetTo(before.mask)) return this.#keepOff();
    if (before !== undefined) this.#freeYounger(before);
    if (!isOurs) return this.#keepOff();
    const kept =
      next === undefined ? undefined : { core: next, mask: only(next), elders: new Set(threads()) };
    if (libc.schedSetaffinity(THIS_THREAD, kept?.mask ?? given) < 0) return this.#keepOff();
    this.#kept = kept;
  }

  #lookAtThreads(kept: KeptCore): void {
    if (this.#isProcessSetTo(kept.mask)) this.#keepOff();
    else this.#freeYounger(kept);
  }

  /** Somebody gave all threads the very core that this one keeps to: then it is theirs to give. */
  #isProcessSetTo(mask: Uint8Array): boolean {
    const before = this.#processMask;
    const now = before === undefined ? undefined : coresOf(this.processThread);
    return before !== undefined && now !== undefined && !isSame(before, now) && isSame(now, mask);
  }

  /** Threads that were started meanwhile and have this one's core inherited it. */
  #freeYounger({ mask, elders }: KeptCore): void {
    const given = this.#given as Uint8Array;
    for (const thread of threads()) {
      if (elders.has(thread)) continue;
      const found = coresOf(thread);
      if (found !== undefined && isSame(found, mask)) libc.schedSetaffinity(thread, given);
    }
  }

  #keepOff(): void {
    this.#given = undefined;
    this.#kept = undefined;
    this.wantsSender = false;
  }
}

/** The number of the calling thread, by a way that old C libraries have too. */
function ownThread(): number {
  return Number(basename(readlinkSync("/proc/thread-self")));
}

/** Numbers of this process's threads. */
function threads(): readonly number[] {
  try {
    return readdirSync("/proc/self/task").map(Number);
  } catch {
    return [];
  }
}

/** Undefined when the kernel does not say, or the thread has ended. */
function coresOf(thread: number): Uint8Array | undefined {
  const mask = new Uint8Array(MASK_BYTES);
  return libc.schedGetaffinity(thread, mask) < 0 ? undefined : mask;
}

function has(mask: Uint8Array, core: number): boolean {
  return (((mask[core >> 3] ?? 0) >> (core & 7)) & 1) === 1;
}

function only(core: number): Uint8Array {
  const mask = new Uint8Array(MASK_BYTES);
  mask[core >> 3] = 1 << (core & 7);
  return mask;
}

function coreCount(mask: Uint8Array): number {
  return Array.from({ length: MASK_BYTES * 8 }, (_, core) => core).filter((core) => has(mask, core)).length;
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
