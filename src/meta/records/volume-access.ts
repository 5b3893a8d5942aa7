/**
 * Who may use which volume: the names in clients' certificates. A volume without a list is open to every client of
 * the cluster; an empty list leaves it to peers and administrators. A clone without a list of its own has that of the
 * volume it comes from. Lists lie beside the volumes, not under them, so that an etcd role may write volumes and not
 * lists; they stay when their volume goes, because a clone may stand on them (ids are never used again).
 */
import type { VolumeId } from "../../base";
import { MetaError, usageError } from "../errors";
import type { KeyValue } from "../kv";
import { decodeVolume, type StoredVolume } from "./codec";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { decodeRecord, encodeRecord } from "./fields";
import { keys, parseAccessKey, parseVolumeKey } from "./layout";
import { lookAtVolume } from "./volume-look";

/** Names of clients, sorted; undefined: there is no list, everybody may. */
export type AccessList = readonly string[] | undefined;

/** Clients of one list. */
const CLIENTS_MAX = 1_000;
/** As X.509 limits a common name. */
const CLIENT_NAME_LENGTH_MAX = 64;

export class VolumeAccess {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  /** The list that holds: the volume's own, else that of the nearest volume it comes from. Throws "no-such-volume". */
  async effective(name: string): Promise<AccessList> {
    const { volumeId } = await lookAtVolume(this.#context, name);
    const ancestorIds = (await this.lineages()).get(volumeId)?.ancestorIds ?? [];
    for (const each of [volumeId, ...ancestorIds.toReversed()]) {
      const entry = await this.#context.store.get(keys.access(each));
      if (entry !== undefined) return decodeAccess(entry);
    }
    return undefined;
  }

  /** The lists that cannot be read, with the volumes that they keep from everybody but peers and administrators. */
  async damage(): Promise<readonly { readonly volumeId: VolumeId; readonly error: MetaError }[]> {
    const { entries } = await this.#context.store.range(keys.accessPrefix);
    return entries.flatMap((entry) => {
      const volumeId = parseAccessKey(entry.key);
      if (volumeId === undefined) return [];
      try {
        decodeAccess(entry);
        return [];
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        return [{ volumeId, error }];
      }
    });
  }

  /**
   * Changes a list on top of whatever others changed meanwhile; undefined removes it. A change that does not ask for
   * the list before takes the place of a damaged one, too. Throws "no-such-volume".
   */
  async change(name: string, change: (before: () => AccessList) => AccessList): Promise<AccessList> {
    return repeat(this.#context, { what: `change who may use volume "${name}"` }, async () => {
      const { volumeId } = await lookAtVolume(this.#context, name);
      const key = keys.access(volumeId);
      const [entry] = await readAll(this.#context.store, [key]);
      const next = checkedList(
        name,
        change(() => (entry === undefined ? undefined : decodeAccess(entry))),
      );
      const result = await this.#context.store.transact({
        compares: [unchanged(key, entry)],
        operations: [
          next === undefined
            ? { kind: "delete", key }
            : { kind: "put", key, value: encodeRecord({ clients: next }) },
        ],
      });
      return result.committed ? next : again;
    });
  }

  /**
   * Calls back with all lists, now and after every change. A list that cannot be read is told and counts as empty:
   * its volume is left to peers and administrators.
   */
  follow(
    listener: (lists: ReadonlyMap<VolumeId, readonly string[]>) => void,
    onDamage: (error: MetaError) => void,
  ): () => void {
    let lists = new Map<VolumeId, readonly string[]>();
    const take = (entry: KeyValue) => {
      const volumeId = parseAccessKey(entry.key);
      if (volumeId === undefined) return;
      try {
        lists.set(volumeId, decodeAccess(entry));
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        lists.set(volumeId, []);
        onDamage(error);
      }
    };
    const watch = this.#context.store.watch(keys.accessPrefix, {
      onSnapshot: (entries) => {
        lists = new Map();
        for (const entry of entries) take(entry);
        listener(lists);
      },
      onEvents: (events) => {
        for (const event of events) {
          if (event.kind === "put") take(event.entry);
          else {
            const volumeId = parseAccessKey(event.key);
            if (volumeId !== undefined) lists.delete(volumeId);
          }
        }
        listener(lists);
      },
    });
    return () => watch.close();
  }

  /** Names and ancestors of all volumes; undefined for one whose record is damaged. */
  async lineages(): Promise<ReadonlyMap<VolumeId, StoredVolume | undefined>> {
    const { entries } = await this.#context.store.range(keys.volumesPrefix);
    const volumes = new Map<VolumeId, StoredVolume | undefined>();
    for (const entry of entries) {
      const parsed = parseVolumeKey(entry.key);
      if (parsed?.rest !== "record") continue;
      try {
        volumes.set(parsed.volumeId, decodeVolume(entry));
      } catch (error) {
        // `ctl volume list` and the collector name it.
        if (!(error instanceof MetaError)) throw error;
        volumes.set(parsed.volumeId, undefined);
      }
    }
    return volumes;
  }
}

function decodeAccess(entry: KeyValue): readonly string[] {
  return decodeRecord(entry).strings("clients", CLIENTS_MAX, CLIENT_NAME_LENGTH_MAX);
}

function checkedList(volume: string, list: AccessList): AccessList {
  if (list === undefined) return undefined;
  for (const client of list)
    if (client === "" || client.length > CLIENT_NAME_LENGTH_MAX)
      throw usageError(
        "bad-name",
        `Cannot let "${client}" use volume "${volume}": give the name in its certificate, of 1 to ${CLIENT_NAME_LENGTH_MAX} characters`,
      );
  const sorted = [...new Set(list)].sort();
  if (sorted.length > CLIENTS_MAX)
    throw usageError(
      "too-large",
      `Cannot let ${sorted.length} clients use volume "${volume}": at most ${CLIENTS_MAX} can be named`,
    );
  return sorted;
}
