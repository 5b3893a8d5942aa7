/**
 * Who may do what with the metadata that this daemon keeps. The organization in a client's certificate names its
 * role; a plain connection (loopback by default) is an administrator's. Roles only narrow what is written: whoever
 * has a certificate at all may read, since placing blocks needs the whole cluster record.
 *
 *   organization   may write
 *   torus-admin    everything
 *   torus-peer     volumes, its registration; not settings and ring
 *   any other      volumes; not settings, ring and registrations
 */
import { type KeyValueStore, MetaError, type Operation, type Transaction } from "../../meta";

export type Role = "admin" | "peer" | "client";

export const ROLE_ORGANIZATIONS: Readonly<Record<Role, string>> = {
  admin: "torus-admin",
  peer: "torus-peer",
  client: "torus-client",
};

export function roleOf(organization: string): Role {
  if (organization === ROLE_ORGANIZATIONS.admin) return "admin";
  return organization === ROLE_ORGANIZATIONS.peer ? "peer" : "client";
}

const ADMIN_PREFIXES = ["torus/cluster/settings", "torus/cluster/ring", "torus/rings/"];
const REGISTRATION_PREFIXES = ["torus/cluster/peers/", "torus/cluster/live/"];
/** Nothing outside this is torus's. */
const ROOT = "torus/";

const CLOSED: Readonly<Record<Role, readonly string[]>> = {
  admin: [],
  peer: ADMIN_PREFIXES,
  client: [...ADMIN_PREFIXES, ...REGISTRATION_PREFIXES],
};

function touches(operation: Operation, prefix: string): boolean {
  if (operation.kind !== "delete-prefix") return operation.key.startsWith(prefix);
  return operation.prefix.startsWith(prefix) || prefix.startsWith(operation.prefix);
}

/** Why a role may not do this; undefined when it may. */
export function refusalOf(role: Role, transaction: Transaction): string | undefined {
  if (role === "admin") return undefined;
  for (const operation of transaction.operations) {
    const where = operation.kind === "delete-prefix" ? operation.prefix : operation.key;
    if (!where.startsWith(ROOT)) return `write ${where}, which is not of torus`;
    const closed = CLOSED[role].find((prefix) => touches(operation, prefix));
    if (closed === undefined) continue;
    return REGISTRATION_PREFIXES.includes(closed) ? "register or change peers" : "change ring or settings";
  }
  return undefined;
}

/** The store as a role sees it. */
export function storeForRole(
  store: KeyValueStore,
  role: Role,
  onRefused: (reason: string) => void,
): KeyValueStore {
  if (role === "admin") return store;
  return {
    description: store.description,
    get: (key, options) => store.get(key, options),
    range: (prefix, options) => store.range(prefix, options),
    watch: (prefix, listener, options) => store.watch(prefix, listener, options),
    grantLease: (ttlMs, options) => store.grantLease(ttlMs, options),
    keepLeaseAlive: (lease, options) => store.keepLeaseAlive(lease, options),
    leaseRemainingMs: (lease, options) => store.leaseRemainingMs(lease, options),
    revokeLease: (lease, options) => store.revokeLease(lease, options),
    transact: async (transaction, options) => {
      const refusal = refusalOf(role, transaction);
      if (refusal === undefined) return store.transact(transaction, options);
      onRefused(`A certificate of role ${role} tried to ${refusal}`);
      throw new MetaError(
        "unauthenticated",
        `Cannot ${refusal} with a certificate of role ${role}: use one whose organization is ${ROLE_ORGANIZATIONS.admin}`,
      );
    },
    close: () => store.close(),
  };
}
