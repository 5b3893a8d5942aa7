/**
 * The whole state of an embedded store as a synchronous machine without I/O: keys in order, a revision that grows
 * by one with every transaction that changes something, a bounded history for watches to resume from, and leases.
 * A transaction is first planned (nothing changes), so that the SQLite store can make the plan durable, and then
 * applied. Semantics follow etcd's: deletes of missing keys change nothing, a put of equal bytes does.
 */
import { assert } from "../../base";
import type { KeyValue, LeaseId, RangeResult, Transaction, WatchEvent } from "../kv";
import { MetaError } from "../errors";
import { HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX } from "../limits";

export interface TransactionPlan {
  readonly committed: boolean;
  /** Empty when nothing changes; then `revision` is the present one. */
  readonly events: readonly WatchEvent[];
  readonly revision: number;
}

interface Lease {
  readonly ttlMs: number;
  expiresMs: number;
  readonly keys: Set<string>;
}

interface HistoryRecord {
  readonly revision: number;
  readonly events: readonly WatchEvent[];
  readonly bytes: number;
}

/** Index of the first key at or above `key` in code unit order, which for ASCII keys is byte order. */
function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] as string) < key) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class RevisionState {
  #revision: number;
  readonly #entries = new Map<string, KeyValue>();
  #keys: string[] = [];
  readonly #leases = new Map<LeaseId, Lease>();
  readonly #history: HistoryRecord[] = [];
  #historyBytes = 0;

  /** `entries` and `leases` are what a durable store found on disk; the leases start anew at `nowMs`. */
  constructor(
    revision = 1,
    entries: readonly KeyValue[] = [],
    leases: readonly { readonly id: LeaseId; readonly ttlMs: number }[] = [],
    nowMs = 0,
  ) {
    this.#revision = revision;
    for (const lease of leases) this.grantLease(lease.id, lease.ttlMs, nowMs);
    for (const entry of entries) {
      this.#entries.set(entry.key, entry);
      if (entry.lease !== "") this.#leases.get(entry.lease)?.keys.add(entry.key);
    }
    this.#keys = [...this.#entries.keys()].sort((a, b) => (a < b ? -1 : 1));
  }

  get revision(): number {
    return this.#revision;
  }

  get(key: string): KeyValue | undefined {
    return this.#entries.get(key);
  }

  range(prefix: string): RangeResult {
    const entries: KeyValue[] = [];
    for (let at = lowerBound(this.#keys, prefix); at < this.#keys.length; at++) {
      const key = this.#keys[at] as string;
      if (!key.startsWith(prefix)) break;
      entries.push(this.#entries.get(key) as KeyValue);
    }
    return { revision: this.#revision, entries };
  }

  plan(transaction: Transaction): TransactionPlan {
    const committed = transaction.compares.every(
      ({ key, modRevision }) => (this.#entries.get(key)?.modRevision ?? 0) === modRevision,
    );
    const revision = this.#revision + 1;
    const events: WatchEvent[] = [];
    if (committed)
      for (const operation of transaction.operations) {
        if (operation.kind === "put") {
          const lease = operation.lease ?? "";
          if (lease !== "" && !this.#leases.has(lease))
            throw new MetaError("lease-lost", `Cannot put "${operation.key}": lease ${lease} has ended`);
          const createRevision = this.#entries.get(operation.key)?.createRevision ?? revision;
          const value = operation.value.slice();
          const entry = { key: operation.key, value, createRevision, modRevision: revision, lease };
          events.push({ kind: "put", entry });
        } else if (operation.kind === "delete") {
          if (this.#entries.has(operation.key))
            events.push({ kind: "delete", key: operation.key, modRevision: revision });
        } else
          for (const { key } of this.range(operation.prefix).entries)
            if (!events.some((event) => event.kind === "delete" && event.key === key))
              events.push({ kind: "delete", key, modRevision: revision });
      }
    return { committed, events, revision: events.length === 0 ? this.#revision : revision };
  }

  apply(plan: TransactionPlan): void {
    if (plan.events.length === 0) return;
    assert(
      plan.revision === this.#revision + 1,
      `plan for revision ${plan.revision} after ${this.#revision}`,
    );
    this.#revision = plan.revision;
    let bytes = 0;
    for (const event of plan.events) {
      const key = event.kind === "put" ? event.entry.key : event.key;
      const before = this.#entries.get(key);
      if (before !== undefined && before.lease !== "") this.#leases.get(before.lease)?.keys.delete(key);
      if (event.kind === "put") {
        if (before === undefined) this.#keys.splice(lowerBound(this.#keys, key), 0, key);
        this.#entries.set(key, event.entry);
        if (event.entry.lease !== "") this.#leases.get(event.entry.lease)?.keys.add(key);
        bytes += event.entry.value.length;
      } else {
        this.#keys.splice(lowerBound(this.#keys, key), 1);
        this.#entries.delete(key);
      }
      bytes += key.length;
    }
    this.#history.push({ revision: plan.revision, events: plan.events, bytes });
    this.#historyBytes += bytes;
    if (this.#history.length > HISTORY_REVISIONS_MAX || this.#historyBytes > HISTORY_BYTES_MAX)
      this.compact(this.#history[this.#history.length >>> 1]?.revision ?? this.#revision);
  }

  /** Forgets the history up to and including `revision`. */
  compact(revision: number): void {
    let count = 0;
    while (count < this.#history.length && (this.#history[count] as HistoryRecord).revision <= revision)
      this.#historyBytes -= (this.#history[count++] as HistoryRecord).bytes;
    this.#history.splice(0, count);
  }

  /** What changed under `prefix` after `revision`, by revision; undefined when history does not reach back. */
  eventsAfter(
    revision: number,
    prefix: string,
  ): readonly { readonly revision: number; readonly events: readonly WatchEvent[] }[] | undefined {
    if (revision > this.#revision) return undefined;
    if (revision === this.#revision) return [];
    const first = this.#history[0];
    if (first === undefined || first.revision > revision + 1) return undefined;
    return this.#history
      .slice(revision + 1 - first.revision)
      .map((record) => ({ revision: record.revision, events: eventsUnder(record.events, prefix) }))
      .filter((record) => record.events.length > 0);
  }

  grantLease(id: LeaseId, ttlMs: number, nowMs: number): void {
    assert(!this.#leases.has(id), `lease ${id} exists`);
    this.#leases.set(id, { ttlMs, expiresMs: nowMs + ttlMs, keys: new Set() });
  }

  /** False when the lease is gone. */
  keepLeaseAlive(id: LeaseId, nowMs: number): boolean {
    const lease = this.#leases.get(id);
    if (lease === undefined) return false;
    lease.expiresMs = nowMs + lease.ttlMs;
    return true;
  }

  leaseRemainingMs(id: LeaseId, nowMs: number): number {
    return Math.max(0, (this.#leases.get(id)?.expiresMs ?? nowMs) - nowMs);
  }

  expiredLeases(nowMs: number): LeaseId[] {
    return [...this.#leases].filter(([, lease]) => lease.expiresMs <= nowMs).map(([id]) => id);
  }

  /** When the next lease ends, or undefined without leases. */
  nextExpiryMs(): number | undefined {
    let next: number | undefined;
    for (const lease of this.#leases.values())
      if (next === undefined || lease.expiresMs < next) next = lease.expiresMs;
    return next;
  }

  hasLease(id: LeaseId): boolean {
    return this.#leases.has(id);
  }

  /** The transaction that ending the lease amounts to. */
  planLeaseEnd(id: LeaseId): TransactionPlan {
    const keys = [...(this.#leases.get(id)?.keys ?? [])].sort((a, b) => (a < b ? -1 : 1));
    return this.plan({ compares: [], operations: keys.map((key) => ({ kind: "delete", key })) });
  }

  forgetLease(id: LeaseId): void {
    this.#leases.delete(id);
  }
}

export function eventsUnder(events: readonly WatchEvent[], prefix: string): readonly WatchEvent[] {
  return events.filter((event) => (event.kind === "put" ? event.entry.key : event.key).startsWith(prefix));
}
