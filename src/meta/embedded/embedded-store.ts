/**
 * A key-value store inside this process: the RevisionState with leases on the Clock port and watches. With a
 * Journal every change is durable before it is answered (SQLite); without one it is the memory store, which the
 * simulator drives on virtual time. No call waits for anything, so deadlines cannot pass.
 */
import type { Clock, Random, Timer } from "../../base";
import type {
  CallOptions,
  KeyValue,
  KeyValueStore,
  LeaseId,
  RangeResult,
  Transaction,
  TransactionResult,
  Watch,
  WatchListener,
  WatchOptions,
} from "../kv";
import { checkKey, checkLeaseTtl, checkTransaction } from "../check";
import { MetaError } from "../errors";
import { eventsUnder, type RevisionState, type TransactionPlan } from "./revision-state";

/** Makes changes durable before they are applied and answered; throws when it cannot, and then nothing is applied. */
export interface Journal {
  commit(plan: TransactionPlan, endedLease?: LeaseId): void;
  grantLease(id: LeaseId, ttlMs: number): void;
  close(): void;
}

export interface EmbeddedStoreOptions {
  readonly description: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly state: RevisionState;
  readonly journal?: Journal;
}

interface Watcher {
  readonly prefix: string;
  readonly listener: WatchListener;
  /** Revisions up to this were delivered; undefined until the first delivery. */
  position: number | undefined;
  closed: boolean;
}

export class EmbeddedStore implements KeyValueStore {
  readonly description: string;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #state: RevisionState;
  readonly #journal: Journal | undefined;
  readonly #watchers = new Set<Watcher>();
  #expiry: Timer | undefined;
  #expiryMs = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(options: EmbeddedStoreOptions) {
    this.description = options.description;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#state = options.state;
    this.#journal = options.journal;
    this.#scheduleExpiry();
  }

  /** Forgets history, as etcd does from time to time; watches that resume from before it get a snapshot. */
  compact(): void {
    this.#state.compact(this.#state.revision);
  }

  async get(key: string, options?: CallOptions): Promise<KeyValue | undefined> {
    this.#begin(options);
    checkKey(key);
    return this.#state.get(key);
  }

  async range(prefix: string, options?: CallOptions): Promise<RangeResult> {
    this.#begin(options);
    checkKey(prefix);
    return this.#state.range(prefix);
  }

  async transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult> {
    this.#begin(options);
    checkTransaction(transaction);
    const plan = this.#state.plan(transaction);
    this.#commit(plan);
    return {
      committed: plan.committed,
      revision: this.#state.revision,
      reads: (transaction.reads ?? []).map((key) => this.#state.get(key)),
    };
  }

  watch(prefix: string, listener: WatchListener, options: WatchOptions = {}): Watch {
    checkKey(prefix);
    this.#assertOpen();
    const watcher: Watcher = { prefix, listener, position: undefined, closed: false };
    this.#watchers.add(watcher);
    queueMicrotask(() => this.#startWatcher(watcher, options.afterRevision));
    return {
      close: () => {
        watcher.closed = true;
        this.#watchers.delete(watcher);
      },
    };
  }

  async grantLease(ttlMs: number, options?: CallOptions): Promise<LeaseId> {
    this.#begin(options);
    checkLeaseTtl(ttlMs);
    const id = this.#random.hex(8);
    const roundedMs = Math.ceil(ttlMs / 1000) * 1000;
    this.#journal?.grantLease(id, roundedMs);
    this.#state.grantLease(id, roundedMs, this.#clock.nowMs());
    if (this.#clock.nowMs() + roundedMs < this.#expiryMs) this.#scheduleExpiry();
    return id;
  }

  async keepLeaseAlive(lease: LeaseId, options?: CallOptions): Promise<void> {
    this.#begin(options);
    if (!this.#state.keepLeaseAlive(lease, this.#clock.nowMs()))
      throw new MetaError("lease-lost", `Cannot keep lease ${lease} alive: it has ended`);
  }

  async leaseRemainingMs(lease: LeaseId, options?: CallOptions): Promise<number> {
    this.#begin(options);
    return this.#state.leaseRemainingMs(lease, this.#clock.nowMs());
  }

  async revokeLease(lease: LeaseId, options?: CallOptions): Promise<void> {
    this.#begin(options);
    if (this.#state.hasLease(lease)) this.#endLease(lease);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#expiry?.cancel();
    for (const watcher of this.#watchers) watcher.closed = true;
    this.#watchers.clear();
    this.#journal?.close();
  }

  #assertOpen(): void {
    if (this.#closed) throw new MetaError("closed", `Cannot use ${this.description}: it was closed`);
  }

  #begin(options: CallOptions | undefined): void {
    this.#assertOpen();
    options?.signal?.throwIfAborted();
    this.#expireLeases();
  }

  #commit(plan: TransactionPlan, endedLease?: LeaseId): void {
    if (plan.events.length > 0 || endedLease !== undefined) this.#journal?.commit(plan, endedLease);
    this.#state.apply(plan);
    if (plan.events.length > 0) queueMicrotask(() => this.#deliver(plan));
  }

  #deliver(plan: TransactionPlan): void {
    for (const watcher of this.#watchers) {
      if (watcher.position === undefined || watcher.position >= plan.revision) continue;
      watcher.position = plan.revision;
      const events = eventsUnder(plan.events, watcher.prefix);
      if (events.length > 0) watcher.listener.onEvents(events, plan.revision);
    }
  }

  #startWatcher(watcher: Watcher, afterRevision: number | undefined): void {
    if (watcher.closed) return;
    const missed =
      afterRevision === undefined ? undefined : this.#state.eventsAfter(afterRevision, watcher.prefix);
    const range = this.#state.range(watcher.prefix);
    watcher.position = range.revision;
    watcher.listener.onConnection?.(true);
    if (missed === undefined) watcher.listener.onSnapshot(range.entries, range.revision);
    else
      for (const record of missed)
        if (!watcher.closed) watcher.listener.onEvents(record.events, record.revision);
  }

  #endLease(id: LeaseId): void {
    this.#commit(this.#state.planLeaseEnd(id), id);
    this.#state.forgetLease(id);
  }

  #expireLeases(): void {
    const nowMs = this.#clock.nowMs();
    if (nowMs < this.#expiryMs) return;
    for (const id of this.#state.expiredLeases(nowMs)) this.#endLease(id);
    this.#scheduleExpiry();
  }

  /** A keepalive only moves ends back: the timer then finds nothing to end and is set anew. */
  #scheduleExpiry(): void {
    this.#expiry?.cancel();
    this.#expiry = undefined;
    this.#expiryMs = this.#state.nextExpiryMs() ?? Number.POSITIVE_INFINITY;
    if (this.#expiryMs === Number.POSITIVE_INFINITY) return;
    // At least 1 ms: a timer that fires a hair early must not spin.
    const delayMs = Math.max(1, this.#expiryMs - this.#clock.nowMs());
    this.#expiry = this.#clock.schedule(delayMs, () => this.#expireOnTimer());
  }

  #expireOnTimer(): void {
    if (this.#closed) return;
    if (this.#clock.nowMs() < this.#expiryMs) return this.#scheduleExpiry();
    try {
      this.#expireLeases();
    } catch (error) {
      // The journal failed: nobody waits for this timer, but every later call ends the leases first and so reports it.
      if (!(error instanceof MetaError)) throw error;
    }
  }
}
