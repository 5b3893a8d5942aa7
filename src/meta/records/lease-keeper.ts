/**
 * Keeps one lease-bound key of ours in force (R13): the lock of a volume, the pin of a snapshot, the registration
 * of a peer. A renewal is a keepalive *and* a linearizable look that the key is still ours; only then the deadline
 * moves, to the send time of the renewal + TTL - margin. A key that vanished with its lease is put again under a
 * new lease if that is still allowed; else the key is lost for good. While metadata cannot be reached, renewals go
 * on and the deadline simply passes.
 */
import { type Timer, TorusError } from "../../base";
import type { LeaseState } from "../../engine";
import type { LeaseId } from "../kv";
import { isMetaError, MetaError } from "../errors";
import type { MetaContext } from "./context";

export type KeyState =
  | { readonly kind: "held" }
  /** Gone with its lease; nobody else has it. */
  | { readonly kind: "missing" }
  /** Somebody else's, or no longer allowed: for good. */
  | { readonly kind: "lost"; readonly reason: string };

export interface LeasedKey {
  /** Looks, linearizably; a key of ours that is bound to another lease than this counts as missing. */
  check(lease: LeaseId): Promise<KeyState>;
  /** Puts the key under a new lease, comparing all that must still hold; "missing" means a lost race, try again. */
  retake(lease: LeaseId): Promise<KeyState>;
}

export interface LeaseTimes {
  readonly ttlMs: number;
  /** Taken off the TTL: what clocks may drift apart in it, and how long a read may take after its check. */
  readonly marginMs: number;
}

/** Long enough for an etcd that elects a leader or compacts; short enough to wait out after a crash. */
export const DEFAULT_LEASE_TIMES: LeaseTimes = { ttlMs: 30_000, marginMs: 3_000 };

export class LeaseKeeper implements LeaseState {
  readonly #context: MetaContext;
  readonly #times: LeaseTimes;
  readonly #key: LeasedKey;
  readonly #lostListeners: ((reason: string) => void)[] = [];
  readonly #deadlineListeners: ((deadlineMs: number) => void)[] = [];
  #lease: LeaseId;
  #deadlineMs: number;
  #lostReason: string | undefined;
  #stopped = false;
  #paused = false;
  #isBarred = false;
  #timer: Timer | undefined;
  #renewal: Promise<void> | undefined;

  /** `sentMs`: Clock time just before the lease was granted, whose key is in place by now. */
  constructor(context: MetaContext, times: LeaseTimes, key: LeasedKey, lease: LeaseId, sentMs: number) {
    this.#context = context;
    this.#times = times;
    this.#key = key;
    this.#lease = lease;
    this.#deadlineMs = sentMs + times.ttlMs - times.marginMs;
    this.#schedule(times.ttlMs / 3);
  }

  get lease(): LeaseId {
    return this.#lease;
  }

  get lostReason(): string | undefined {
    return this.#lostReason;
  }

  deadlineMs(): number {
    return this.#deadlineMs;
  }

  /** Called with every new deadline, -Infinity when the key is lost: to hand it to another thread. */
  onDeadline(listener: (deadlineMs: number) => void): void {
    this.#deadlineListeners.push(listener);
    listener(this.#deadlineMs);
  }

  /** Called once; at once when it is lost already. */
  onLost(listener: (reason: string) => void): void {
    if (this.#lostReason === undefined) this.#lostListeners.push(listener);
    else listener(this.#lostReason);
  }

  /** Renews now (again after a renewal under way); resolves when it is through, whether it succeeded or not. */
  async renew(): Promise<void> {
    await this.#renewal;
    if (this.#stopped || this.#paused) return;
    this.#renewal ??= this.#renewOnce().finally(() => {
      this.#renewal = undefined;
    });
    await this.#renewal;
  }

  /**
   * No renewals any more, and no loss is reported; the lease is left to the caller to revoke. Resolves when a
   * renewal under way is through, which then has not left the key under another lease.
   */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#setDeadline(Number.NEGATIVE_INFINITY);
    await this.#renewal;
  }

  /**
   * Before the key is deleted by its owner: no read is answered any more, ever, since from now on the key may be
   * gone without our knowing; and nothing is renewed, so that it is not put again, until `resume`.
   */
  async pauseForGood(): Promise<void> {
    this.#isBarred = true;
    this.#paused = true;
    this.#timer?.cancel();
    this.#setDeadline(Number.NEGATIVE_INFINITY);
    await this.#renewal;
  }

  /** The deletion did not happen, or nobody knows: the key is kept from others again, reads stay barred. */
  resume(): void {
    this.#paused = false;
    this.#schedule(0);
  }

  async #renewOnce(): Promise<void> {
    this.#timer?.cancel();
    let isRenewed = false;
    try {
      isRenewed = await this.#keepAlive();
    } catch (error) {
      // Unreachable, late or damaged metadata: what may pass is tried again, the deadline tells readers the truth.
      if (!(error instanceof TorusError)) throw error;
      if (isMetaError(error, "closed")) return;
    }
    if (this.#stopped) return;
    this.#schedule(isRenewed ? this.#times.ttlMs / 3 : Math.min(this.#times.ttlMs / 15, 1_000));
  }

  async #keepAlive(): Promise<boolean> {
    const options = { deadlineMs: Math.min(5_000, this.#times.ttlMs / 3) };
    const sentMs = this.#context.clock.nowMs();
    const { store } = this.#context;
    const isAlive = await store.keepLeaseAlive(this.#lease, options).then(
      () => true,
      (error: unknown) => {
        if (isMetaError(error, "lease-lost")) return false;
        throw error;
      },
    );
    const state = await this.#key.check(this.#lease);
    if (this.#stopped) return false;
    if (state.kind === "lost") return this.#lose(state.reason);
    if (isAlive && state.kind === "held") {
      this.#setDeadline(sentMs + this.#times.ttlMs - this.#times.marginMs);
      return true;
    }
    return this.#retake();
  }

  async #retake(): Promise<boolean> {
    const { store, clock } = this.#context;
    const sentMs = clock.nowMs();
    const lease = await store.grantLease(this.#times.ttlMs);
    let state: KeyState;
    try {
      state = await this.#key.retake(lease);
    } catch (error) {
      if (!isMetaError(error, "unknown-outcome")) throw error;
      // Whether the put went through shows at the next check, which then must find it under this lease.
      this.#lease = lease;
      return false;
    }
    if (this.#stopped) {
      await store.revokeLease(lease);
      return false;
    }
    if (state.kind === "held") {
      this.#lease = lease;
      this.#setDeadline(sentMs + this.#times.ttlMs - this.#times.marginMs);
      return true;
    }
    if (state.kind === "lost") return this.#lose(state.reason);
    return false;
  }

  #lose(reason: string): false {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#lostReason = reason;
    this.#setDeadline(Number.NEGATIVE_INFINITY);
    for (const listener of this.#lostListeners.splice(0)) listener(reason);
    // Only now, when every reader knows: a forced unlock need not wait for the lease to end by itself.
    this.#context.store.revokeLease(this.#lease).catch((error: unknown) => {
      // It ends by itself.
      if (!(error instanceof MetaError)) throw error;
    });
    return false;
  }

  #setDeadline(deadlineMs: number): void {
    this.#deadlineMs = this.#isBarred ? Number.NEGATIVE_INFINITY : deadlineMs;
    for (const listener of this.#deadlineListeners) listener(this.#deadlineMs);
  }

  #schedule(delayMs: number): void {
    if (this.#stopped || this.#paused) return;
    this.#timer?.cancel();
    this.#timer = this.#context.clock.schedule(delayMs, () => {
      void this.renew();
    });
  }
}
