/**
 * The checks of keys, transactions and lease times that every store makes before anything else, so that all of
 * them refuse the same calls with the same words.
 */
import type { Transaction } from "./kv";
import { MetaError } from "./errors";
import {
  KEY_LENGTH_MAX,
  LEASE_TTL_MS_MAX,
  LEASE_TTL_MS_MIN,
  TRANSACTION_BYTES_MAX,
  TRANSACTION_STEPS_MAX,
} from "./limits";

const KEY_PATTERN = /^[\x21-\x7e]+$/;

function badRequest(message: string): MetaError {
  return new MetaError("bad-request", message);
}

export function checkKey(key: string): void {
  if (key.length > KEY_LENGTH_MAX || !KEY_PATTERN.test(key))
    throw badRequest(
      `Cannot use metadata key ${JSON.stringify(key.slice(0, 64))}: keys are 1 to ${KEY_LENGTH_MAX} printable ASCII characters without spaces`,
    );
}

export function checkLeaseTtl(ttlMs: number): void {
  if (!(ttlMs >= LEASE_TTL_MS_MIN && ttlMs <= LEASE_TTL_MS_MAX))
    throw badRequest(
      `Cannot grant a lease of ${ttlMs} ms: it must be ${LEASE_TTL_MS_MIN} to ${LEASE_TTL_MS_MAX} ms`,
    );
}

export function checkTransaction(transaction: Transaction): void {
  const reads = transaction.reads ?? [];
  const steps = Math.max(transaction.compares.length, transaction.operations.length + reads.length);
  if (steps > TRANSACTION_STEPS_MAX)
    throw new MetaError(
      "too-large",
      `Cannot run a metadata transaction of ${steps} steps: at most ${TRANSACTION_STEPS_MAX} are allowed`,
    );
  let bytes = 0;
  for (const compare of transaction.compares) {
    checkKey(compare.key);
    bytes += compare.key.length;
  }
  for (const key of reads) {
    checkKey(key);
    bytes += key.length;
  }
  bytes += checkOperations(transaction);
  if (bytes > TRANSACTION_BYTES_MAX)
    throw new MetaError(
      "too-large",
      `Cannot run a metadata transaction of ${bytes} bytes: at most ${TRANSACTION_BYTES_MAX} are allowed`,
    );
}

function checkOperations(transaction: Transaction): number {
  let bytes = 0;
  const touched = new Set<string>();
  for (const operation of transaction.operations) {
    const key = operation.kind === "delete-prefix" ? operation.prefix : operation.key;
    checkKey(key);
    bytes += key.length + (operation.kind === "put" ? operation.value.length : 0);
    if (operation.kind === "delete-prefix") continue;
    if (touched.has(key)) throw badRequest(`Cannot change metadata key "${key}" twice in one transaction`);
    touched.add(key);
  }
  for (const operation of transaction.operations) {
    if (operation.kind !== "delete-prefix") continue;
    for (const key of touched)
      if (key.startsWith(operation.prefix))
        throw badRequest(
          `Cannot change metadata key "${key}" and delete its prefix "${operation.prefix}" in one transaction`,
        );
  }
  return bytes;
}
