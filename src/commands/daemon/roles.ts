/**
 * Who may do what with the metadata that this daemon keeps. The organization in a client's certificate names its
 * role, its common name is looked for in volumes' access lists; a plain connection (loopback by default) is an
 * administrator's. Only writes are narrowed: whoever has a certificate at all may read, since placing blocks needs
 * the whole cluster record.
 *
 *   organization   may write
 *   torus-admin    everything
 *   torus-peer     volumes, its registration
 *   any other      volumes whose access list names it, or that have none
 */
import type { VolumeId } from "../../base";
import {
  decodeCounter,
  decodeName,
  decodeVolume,
  type KeyValue,
  type KeyValueStore,
  keys,
  type LeaseId,
  MetaError,
  type Operation,
  parseVolumeKey,
  type Transaction,
} from "../../meta";
import type { AccessPolicy } from "./access";

export type Role = "admin" | "peer" | "client";

/** Who is on the other end. */
export interface Caller {
  readonly role: Role;
  /** The certificate's common name. */
  readonly name: string;
}

const ROLE_ORGANIZATIONS: Readonly<Record<Role, string>> = {
  admin: "torus-admin",
  peer: "torus-peer",
  client: "torus-client",
};

export function roleOf(organization: string): Role {
  if (organization === ROLE_ORGANIZATIONS.admin) return "admin";
  return organization === ROLE_ORGANIZATIONS.peer ? "peer" : "client";
}

/** Nothing outside this is torus's. */
const ROOT = "torus/";
const REGISTRATION_PREFIXES = [keys.peersPrefix, keys.livePrefix];
const VOLUME_PREFIXES = [keys.namesPrefix, keys.volumesPrefix];

const OPEN: Readonly<Record<Exclude<Role, "admin">, readonly string[]>> = {
  peer: [...VOLUME_PREFIXES, ...REGISTRATION_PREFIXES],
  client: VOLUME_PREFIXES,
};

/** Why a role may not do this, whatever volume it is about; undefined when it may. */
export function refusalOf(role: Role, transaction: Transaction): string | undefined {
  if (role === "admin") return undefined;
  for (const operation of transaction.operations) {
    const where = operation.kind === "delete-prefix" ? operation.prefix : operation.key;
    if (!where.startsWith(ROOT)) return `write ${where}, which is not of torus`;
    if (OPEN[role].some((prefix) => where.startsWith(prefix))) {
      // What is deleted by a prefix is what one volume has.
      if (operation.kind !== "delete-prefix" || parseVolumeKey(where) !== undefined) continue;
      return "delete what many volumes have";
    }
    if (REGISTRATION_PREFIXES.some((prefix) => where.startsWith(prefix))) return "register or change peers";
    if (where.startsWith(keys.accessPrefix)) return "change access lists";
    return "change ring or settings";
  }
  return undefined;
}

/** What volumes' records say about a transaction: who may, and whether it keeps to the rules of new volumes. */
class VolumeRules {
  constructor(
    private readonly store: KeyValueStore,
    private readonly policy: AccessPolicy,
    private readonly caller: Caller,
  ) {}

  async refusal({ operations }: Transaction): Promise<string | undefined> {
    for (const operation of operations) {
      const refusal = await this.#refusalOf(operation);
      if (refusal !== undefined) return refusal;
    }
    return undefined;
  }

  /** A lease's end deletes the keys that are bound to it. */
  async refusalOfRevoking(lease: LeaseId): Promise<string | undefined> {
    const { entries } = await this.store.range(ROOT);
    const operations = entries
      .filter((entry) => entry.lease === lease)
      .map(({ key }): Operation => ({ kind: "delete", key }));
    const transaction = { compares: [], operations };
    return refusalOf(this.caller.role, transaction) ?? (await this.refusal(transaction));
  }

  async #refusalOf(operation: Operation): Promise<string | undefined> {
    if (operation.kind === "delete-prefix") {
      const volume = parseVolumeKey(operation.prefix);
      return volume === undefined ? undefined : this.#refusalToUse(volume.volumeId);
    }
    const { key } = operation;
    if (key === keys.counter) return this.#refusalToCount(operation);
    if (key.startsWith(keys.namesPrefix)) {
      const named = await this.store.get(key);
      const before = named === undefined ? undefined : await this.#refusalToUse(decodeName(named));
      if (before !== undefined || operation.kind === "delete") return before;
      return this.#refusalToUse(decodeName(asEntry(operation)));
    }
    const volume = parseVolumeKey(key);
    if (volume === undefined) return undefined;
    if (operation.kind === "put" && volume.rest === "record") {
      const refusal = await this.#refusalToDescend(asEntry(operation), volume.volumeId);
      if (refusal !== undefined) return refusal;
    }
    return this.#refusalToUse(volume.volumeId);
  }

  /** A volume that is not there yet has no list. */
  async #refusalToUse(volumeId: VolumeId): Promise<string | undefined> {
    if (this.policy.isOpen || this.caller.role !== "client") return undefined;
    if ((await this.store.get(keys.record(volumeId))) === undefined) return undefined;
    const { access, volumeName } = await this.policy.decide(this.caller.name, volumeId);
    return access === "use" ? undefined : `use volume "${volumeName}"`;
  }

  /** Whoever has a volume may read what it comes from: nobody makes himself an heir. */
  async #refusalToDescend(entry: KeyValue, volumeId: VolumeId): Promise<string | undefined> {
    const record = decodeVolume(entry);
    if (record.volumeId !== volumeId) return "write one volume's record in another's place";
    if (this.policy.isOpen || this.caller.role !== "client") return undefined;
    for (const ancestorId of record.ancestorIds) {
      const { access, volumeName } = await this.policy.decide(this.caller.name, ancestorId);
      if (access === "none") return `use volume "${volumeName}"`;
    }
    return undefined;
  }

  /** Ids are given out one by one: one given out twice would mix two volumes' blocks. */
  async #refusalToCount(
    operation: Exclude<Operation, { kind: "delete-prefix" }>,
  ): Promise<string | undefined> {
    const counter = await this.store.get(keys.counter);
    const next = counter === undefined ? 0 : decodeCounter(counter) + 1;
    return operation.kind === "put" && decodeCounter(asEntry(operation)) === next
      ? undefined
      : "change how volumes are counted";
  }
}

function asEntry({ key, value }: Extract<Operation, { kind: "put" }>): KeyValue {
  return { key, value, createRevision: 0, modRevision: 0, lease: "" };
}

/** The store as a caller sees it. */
export function storeForCaller(
  store: KeyValueStore,
  caller: Caller,
  policy: AccessPolicy,
  onRefused: (reason: string) => void,
): KeyValueStore {
  const { role, name } = caller;
  if (role === "admin") return store;
  const rules = new VolumeRules(store, policy, caller);
  const refuse = (refusal: string): never => {
    onRefused(`A certificate of role ${role}, "${name}", tried to ${refusal}`);
    const remedy = refusal.startsWith("use volume")
      ? "its access list does not name it; an administrator adds it with torus ctl volume access"
      : `use one whose organization is ${ROLE_ORGANIZATIONS.admin}`;
    throw new MetaError(
      "unauthenticated",
      `Cannot ${refusal} with the certificate "${name}" of role ${role}: ${remedy}`,
    );
  };
  return {
    description: store.description,
    get: (key, options) => store.get(key, options),
    range: (prefix, options) => store.range(prefix, options),
    watch: (prefix, listener, options) => store.watch(prefix, listener, options),
    grantLease: (ttlMs, options) => store.grantLease(ttlMs, options),
    keepLeaseAlive: (lease, options) => store.keepLeaseAlive(lease, options),
    leaseRemainingMs: (lease, options) => store.leaseRemainingMs(lease, options),
    revokeLease: async (lease, options) => {
      const refusal = await rules.refusalOfRevoking(lease);
      return refusal === undefined ? store.revokeLease(lease, options) : refuse(refusal);
    },
    transact: async (transaction, options) => {
      const refusal = refusalOf(role, transaction) ?? (await rules.refusal(transaction));
      return refusal === undefined ? store.transact(transaction, options) : refuse(refusal);
    },
    close: () => store.close(),
  };
}
