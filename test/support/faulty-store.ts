/**
 * A key-value store that misbehaves as a network and a metadata cluster may: calls are late, lost before they are
 * applied, applied without an answer, applied long after the caller gave up; and one side may be cut off. Watches
 * lag. What it never does is break the port's promises: a plain failure was not applied.
 */
import type { Clock } from "../../src/base";
import {
  type CallOptions,
  type KeyValue,
  type KeyValueStore,
  type LeaseId,
  MetaError,
  type RangeResult,
  type Transaction,
  type TransactionResult,
  type Watch,
  type WatchListener,
  type WatchOptions,
} from "../../src/meta";
import type { SeededRandom } from "./virtual-time";

export interface FaultRates {
  /** Percent of calls. */
  readonly lost: number;
  readonly unanswered: number;
  readonly late: number;
  /** Milliseconds a call takes each way at most, most of the time ... */
  readonly delayMsMax: number;
  /** ... and ten times that in this percentage of calls. */
  readonly slow: number;
  /** How long after its caller gave up a call may still be applied. */
  readonly lateMsMax: number;
}

export const NO_FAULTS: FaultRates = {
  lost: 0,
  unanswered: 0,
  late: 0,
  delayMsMax: 0,
  slow: 0,
  lateMsMax: 0,
};

export class FaultyStore implements KeyValueStore {
  readonly description = "faulty:";
  isCutOff = false;
  rates: FaultRates;
  readonly counts = { lost: 0, unanswered: 0, late: 0 };
  readonly #store: KeyValueStore;
  readonly #clock: Clock;
  readonly #random: SeededRandom;

  constructor(store: KeyValueStore, clock: Clock, random: SeededRandom, rates: FaultRates) {
    this.#store = store;
    this.#clock = clock;
    this.#random = random;
    this.rates = rates;
  }

  get(key: string, options?: CallOptions): Promise<KeyValue | undefined> {
    return this.#call(false, () => this.#store.get(key, options));
  }

  range(prefix: string, options?: CallOptions): Promise<RangeResult> {
    return this.#call(false, () => this.#store.range(prefix, options));
  }

  transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult> {
    return this.#call(transaction.operations.length > 0, () => this.#store.transact(transaction, options));
  }

  grantLease(ttlMs: number): Promise<LeaseId> {
    return this.#call(false, () => this.#store.grantLease(ttlMs));
  }

  keepLeaseAlive(lease: LeaseId): Promise<void> {
    return this.#call(false, () => this.#store.keepLeaseAlive(lease));
  }

  leaseRemainingMs(lease: LeaseId): Promise<number> {
    return this.#call(false, () => this.#store.leaseRemainingMs(lease));
  }

  revokeLease(lease: LeaseId): Promise<void> {
    return this.#call(false, () => this.#store.revokeLease(lease));
  }

  watch(prefix: string, listener: WatchListener, options?: WatchOptions): Watch {
    let isClosed = false;
    let readyMs = 0;
    const later = (deliver: () => void) => {
      // Late, but in order.
      readyMs = Math.max(readyMs, this.#clock.nowMs() + this.#delayMs());
      this.#clock.schedule(readyMs - this.#clock.nowMs(), () => {
        if (!isClosed) deliver();
      });
    };
    const watch = this.#store.watch(
      prefix,
      {
        onEvents: (events, revision) => later(() => listener.onEvents(events, revision)),
        onSnapshot: (entries, revision) => later(() => listener.onSnapshot(entries, revision)),
      },
      options,
    );
    return {
      close: () => {
        isClosed = true;
        watch.close();
      },
    };
  }

  async close(): Promise<void> {}

  #delayMs(): number {
    const { delayMsMax, slow } = this.rates;
    if (delayMsMax === 0) return 0;
    return this.#random.below(this.#random.chance(slow) ? delayMsMax * 10 : delayMsMax);
  }

  async #call<T>(changes: boolean, body: () => Promise<T>): Promise<T> {
    await this.#sleep(this.#delayMs());
    if (this.isCutOff || this.#random.chance(this.rates.lost)) {
      this.counts.lost++;
      throw new MetaError("unreachable", "lost", { retryable: true });
    }
    if (this.#random.chance(this.rates.late)) {
      this.counts.late++;
      this.#clock.schedule(this.#random.below(this.rates.lateMsMax + 1), () => {
        body().catch(() => undefined);
      });
      throw this.#noAnswer(changes);
    }
    const result = await body();
    await this.#sleep(this.#delayMs());
    if (this.isCutOff || this.#random.chance(this.rates.unanswered)) {
      this.counts.unanswered++;
      throw this.#noAnswer(changes);
    }
    return result;
  }

  #noAnswer(changes: boolean): MetaError {
    return new MetaError(changes ? "unknown-outcome" : "deadline", "no answer", { retryable: true });
  }

  #sleep(ms: number): Promise<void> {
    if (ms === 0) return Promise.resolve();
    return new Promise((resolve) => this.#clock.schedule(ms, resolve));
  }
}
