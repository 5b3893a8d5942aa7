/**
 * The scheduling policy of the thread that this runs on, set by what WakeupPreemption makes of the kernel's account of
 * it (/proc/thread-self/schedstat: ns on a core, ns waiting for one, times it was given one).
 *
 * The policy stays as it is where somebody else has set or sets another than the usual, where the kernel keeps no
 * account, and where a filter of system calls is in force that might end the process for asking: TORUS_SET_SCHEDULER=1 in
 * the environment says that it lets sched_getscheduler and sched_setscheduler through, as the systemd unit does; 0 says
 * to keep off in any case.
 *
 * A thread that the runtime starts meanwhile (of its compiler, say) inherits the policy for good; such threads were
 * started earlier as a rule, and work in the background.
 */
import { C, libc } from "./libc";
import { nativeBuffer } from "./memory";
import { maySchedule } from "./system-call-filter";
import { WakeupPreemption } from "./wakeup-preemption";

/** How often the kernel's account is looked at: it costs some us. */
const LOOK_EVERY_MS = 100;
const ACCOUNT_PATH = "/proc/thread-self/schedstat";
const ACCOUNT_BYTES_MAX = 128;
const THIS_THREAD = 0;

export class ThreadPolicy {
  readonly #preemption = new WakeupPreemption();
  readonly #account = nativeBuffer(ACCOUNT_BYTES_MAX);
  /** The open account; below 0 when the policy is not ours to set. */
  #file: number;
  #lookedMs = 0;
  #waitedNs = 0;
  #runCount = 0;
  #receivedBytes = 0;
  #receivedLocalBytes = 0;
  #isBatch = false;

  /** Of the calling thread; all later calls must come from it. */
  constructor() {
    this.#file = maySchedule("TORUS_SET_SCHEDULER")
      ? libc.open(ACCOUNT_PATH, C.O_RDONLY | C.O_CLOEXEC, 0)
      : -1;
  }

  /** `receivedBytes` and, of these, `receivedLocalBytes`: all so far. Cheap when called more often than is looked. */
  look(nowMs: number, receivedBytes: number, receivedLocalBytes: number): void {
    const elapsedMs = nowMs - this.#lookedMs;
    if (this.#file < 0 || elapsedMs < LOOK_EVERY_MS) return;
    const length = libc.pread(this.#file, this.#account.address, ACCOUNT_BYTES_MAX, 0);
    const [, waitedNs = Number.NaN, runCount = Number.NaN] = Buffer.from(
      this.#account.bytes.subarray(0, Math.max(length, 0)),
    )
      .toString("latin1")
      .split(" ")
      .map(Number);
    if (!Number.isFinite(waitedNs) || !Number.isFinite(runCount)) return this.close();
    const isFirst = this.#lookedMs === 0;
    if (!isFirst && waitedNs >= this.#waitedNs && runCount >= this.#runCount)
      this.#preemption.note({
        elapsedMs,
        runCount: runCount - this.#runCount,
        waitedMs: (waitedNs - this.#waitedNs) / 1e6,
        receivedBytes: receivedBytes - this.#receivedBytes,
        receivedLocalBytes: receivedLocalBytes - this.#receivedLocalBytes,
      });
    this.#lookedMs = nowMs;
    this.#waitedNs = waitedNs;
    this.#runCount = runCount;
    this.#receivedBytes = receivedBytes;
    this.#receivedLocalBytes = receivedLocalBytes;
    if (this.#preemption.standsBack !== this.#isBatch) this.#set(!this.#isBatch);
  }

  /** Puts the usual policy back; nothing is set afterwards. */
  close(): void {
    if (this.#isBatch) this.#set(false);
    this.#keepOff();
  }

  #set(isBatch: boolean): void {
    const current = this.#isBatch ? C.SCHED_BATCH : C.SCHED_OTHER;
    const next = isBatch ? C.SCHED_BATCH : C.SCHED_OTHER;
    this.#isBatch = isBatch;
    // Somebody set another since; or who refuses it once, as a container's filter does, refuses it always.
    if (libc.schedGetscheduler(THIS_THREAD) !== current || libc.schedSetscheduler(THIS_THREAD, next) < 0)
      this.#keepOff();
  }

  #keepOff(): void {
    if (this.#file >= 0) libc.close(this.#file);
    this.#file = -1;
    this.#isBatch = false;
  }
}
