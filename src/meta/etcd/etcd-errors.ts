/**
 * What an etcd or gRPC error says about the call: applied, not applied, or unknown. etcd3 hands on gRPC's text
 * (`14 UNAVAILABLE: details`) and drops its code, so the text is parsed. Only what provably never reached etcd's
 * log counts as not applied; everything else that is not a definite answer is unknown.
 */

export type EtcdFailure =
  /** Never sent, or refused by etcd before it was proposed: safe to repeat, on another endpoint. */
  | "not-applied"
  /** As above, but this endpoint is reachable and only without a leader or overloaded for now. */
  | "busy"
  | "unknown"
  | "deadline"
  | "lease-lost"
  | "lease-exists"
  | "compacted"
  | "unauthenticated"
  | "stale-token"
  | "out-of-space"
  /** etcd refuses the request as it is. */
  | "invalid";

const CODE_PATTERN = /(?:^|: )(\d+) [A-Z_]+: /;

const BY_TEXT: readonly (readonly [string, EtcdFailure])[] = [
  ["requested lease not found", "lease-lost"],
  ["lease already exists", "lease-exists"],
  ["required revision has been compacted", "compacted"],
  ["required revision is a future revision", "not-applied"],
  ["invalid auth token", "stale-token"],
  ["revision of auth store is old", "stale-token"],
  ["authentication failed", "unauthenticated"],
  ["authentication is not enabled", "unauthenticated"],
  ["user name is empty", "unauthenticated"],
  ["permission denied", "unauthenticated"],
  ["database space exceeded", "out-of-space"],
  ["no leader", "busy"],
  ["too many requests", "busy"],
  ["not capable", "busy"],
  ["No connection established", "not-applied"],
  ["Name resolution failed", "not-applied"],
  ["Waiting for LB pick", "not-applied"],
  ["waiting for name resolution", "not-applied"],
  ["Channel has been shut down", "not-applied"],
];

export function classifyEtcdError(error: unknown): EtcdFailure {
  const text = errorText(error);
  for (const [part, failure] of BY_TEXT) if (text.includes(part)) return failure;
  const code = Number(CODE_PATTERN.exec(text)?.[1] ?? 2);
  // 3 invalid argument, 5 not found, 6 exists, 9 failed precondition, 11 out of range, 12 unimplemented
  if ([3, 5, 6, 9, 11, 12].includes(code)) return "invalid";
  if (code === 7 || code === 16) return "unauthenticated";
  if (code === 4) return "deadline";
  return "unknown";
}

export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The part of gRPC's message that helps a person. */
export function shortReason(error: unknown): string {
  const text = errorText(error);
  if (text.includes("ECONNREFUSED")) return "connection refused";
  if (text.includes("ENOTFOUND") || text.includes("Name resolution failed")) return "unknown host name";
  if (/certificate|self.signed|SSL|TLS/i.test(text)) return `TLS failed: ${lastClause(text)}`;
  if (classifyEtcdError(error) === "deadline" || text.includes("LB pick")) return "no answer in time";
  return lastClause(text);
}

function lastClause(text: string): string {
  const clause = text.replace(/^.*?\d+ [A-Z_]+: /, "").replaceAll("\n", " ");
  return clause.length > 200 ? `${clause.slice(0, 200)}...` : clause;
}
