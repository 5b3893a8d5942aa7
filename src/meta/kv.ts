/**
 * The small key-value port that all metadata stands on: get, range, transaction with compares, a watch that
 * resumes without a gap, and leases. Implemented over etcd, SQLite, memory and another daemon; one contract suite
 * (test/contract) holds all four to the same behaviour. Keys are slash-separated text, values are bytes.
 */
export interface KeyValue {
  readonly key: string;
  readonly value: Uint8Array;
  /** Revision of the transaction that made the key; 0 stands for "does not exist" in compares. */
  readonly createRevision: number;
  /** Revision of the last transaction that changed it. */
  readonly modRevision: number;
  /** Lease the key is bound to, or "". */
  readonly lease: LeaseId;
}

export type LeaseId = string;

/** True while the key's mod revision equals `modRevision`; 0 means the key must not exist. */
export interface Compare {
  readonly key: string;
  readonly modRevision: number;
}

export type Operation =
  | { readonly kind: "put"; readonly key: string; readonly value: Uint8Array; readonly lease?: LeaseId }
  | { readonly kind: "delete"; readonly key: string }
  | { readonly kind: "delete-prefix"; readonly prefix: string };

/**
 * No key is put twice, or put and deleted, in one transaction. At most `TRANSACTION_STEPS_MAX` compares, and as many
 * operations and reads together; the bytes of all values together stay within `TRANSACTION_BYTES_MAX` (limits.ts).
 * A transaction that changes nothing makes no revision.
 */
export interface Transaction {
  readonly compares: readonly Compare[];
  readonly operations: readonly Operation[];
  /** Keys read in the same transaction, whether or not the compares held. */
  readonly reads?: readonly string[];
}

export interface TransactionResult {
  /** Whether all compares held, and so the operations were applied. */
  readonly committed: boolean;
  readonly revision: number;
  /** One entry per `reads`, as seen after the operations. */
  readonly reads: readonly (KeyValue | undefined)[];
}

export interface RangeResult {
  readonly revision: number;
  readonly entries: readonly KeyValue[];
}

export type WatchEvent =
  | { readonly kind: "put"; readonly entry: KeyValue }
  | { readonly kind: "delete"; readonly key: string; readonly modRevision: number };

export interface WatchListener {
  /** Events of one revision, in order; every revision that touched the prefix is delivered exactly once. */
  onEvents(events: readonly WatchEvent[], revision: number): void;
  /** History was compacted or the connection lost for too long: this is the whole state now; go on from it. */
  onSnapshot(entries: readonly KeyValue[], revision: number): void;
  /** Watching goes on by itself after a loss; this only tells that it is (not) current. */
  onConnection?(connected: boolean): void;
}

export interface Watch {
  close(): void;
}

export interface WatchOptions {
  /**
   * Go on after this revision, which the caller has seen the whole of, instead of starting with a snapshot.
   * When history does not reach back to it (or the store is younger than it), onSnapshot comes first after all.
   */
  readonly afterRevision?: number;
}

export interface CallOptions {
  /** The call fails with code "deadline" after this long; every call has one (default 5 s). */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
}

export interface KeyValueStore {
  /** What to tell a person: `etcd://10.0.0.1:2379`, `sqlite:/var/lib/torus/meta.db`. Never holds secrets. */
  readonly description: string;
  /** Linearizable. */
  get(key: string, options?: CallOptions): Promise<KeyValue | undefined>;
  /** All keys that start with `prefix`, in key order, at one revision; linearizable. */
  range(prefix: string, options?: CallOptions): Promise<RangeResult>;
  /**
   * All or nothing. Throws code "unknown-outcome" when it may or may not have been applied (connection lost,
   * deadline passed): the caller re-reads. Never retried by the implementation unless provably not applied.
   */
  transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult>;
  /** Starts with onSnapshot of the prefix's state (see WatchOptions), then follows without a gap. */
  watch(prefix: string, listener: WatchListener, options?: WatchOptions): Watch;
  /** Grants a lease; keys bound to it vanish when it is not kept alive for `ttlMs` (rounded up to seconds). */
  grantLease(ttlMs: number, options?: CallOptions): Promise<LeaseId>;
  /** One keepalive round trip; throws code "lease-lost" when the lease is gone. */
  keepLeaseAlive(lease: LeaseId, options?: CallOptions): Promise<void>;
  /** Milliseconds until the lease ends when nobody keeps it alive; 0 when it is gone. Only for telling people. */
  leaseRemainingMs(lease: LeaseId, options?: CallOptions): Promise<number>;
  /** Ends the lease and its keys; a lease that is gone already is no error. */
  revokeLease(lease: LeaseId, options?: CallOptions): Promise<void>;
  close(): Promise<void>;
}
