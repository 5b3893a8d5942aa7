/**
 * The named limits of metadata. They hold for every store, so that what works on the embedded one works on etcd,
 * whose own limits (128 steps a transaction, 1.5 MiB a request) are the narrowest.
 */

/** Compares in one transaction; and operations plus reads in one transaction. */
export const TRANSACTION_STEPS_MAX = 128;
/** Keys and values of one transaction together. */
export const TRANSACTION_BYTES_MAX = 1024 * 1024;
/** Keys are printable ASCII without spaces, so that every store sorts them alike. */
export const KEY_LENGTH_MAX = 1024;
export const LEASE_TTL_MS_MIN = 1_000;
export const LEASE_TTL_MS_MAX = 24 * 3600 * 1000;
/** Deadline of a call that names none. */
export const CALL_DEADLINE_MS = 5_000;
/** Revisions of history that the memory and SQLite stores keep for watches to resume from. */
export const HISTORY_REVISIONS_MAX = 10_000;
/** Bytes of values in that history. */
export const HISTORY_BYTES_MAX = 32 * 1024 * 1024;
