/** Making, listing, renaming, growing, deleting and force-unlocking volumes. */
import { asVolumeId, formatCount, formatSize, sleep, VOLUME_ID_MAX, type VolumeId } from "../../base";
import type { Head, VolumeRecord } from "../../engine";
import { MetaError, usageError } from "../errors";
import type { KeyValue, LeaseId } from "../kv";
import { notInitialised } from "./cluster-settings";
import {
  decodeCounter,
  decodeHead,
  decodeLock,
  decodeVolume,
  encodeCounter,
  encodeEpoch,
  encodeHead,
  encodeName,
  encodeVolume,
  type StoredLock,
  type StoredVolume,
} from "./codec";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { mintEpoch, NO_EPOCH } from "./epochs";
import { keys, parseVolumeKey } from "./layout";
import { checkName, checkVolumeSize } from "./names";
import { requestOfWriter } from "./requests";
import { attachedError, hasTail, lookAtVolume, tailError } from "./volume-look";

export interface VolumeInfo extends VolumeRecord {
  readonly lineageId: VolumeId;
  /** Undefined when its record is damaged (see `damage`). */
  readonly head: Head | undefined;
  readonly epoch: number;
  readonly attached: (StoredLock & { readonly lease: LeaseId }) | undefined;
  readonly snapshotCount: number;
}

export interface VolumeList {
  readonly volumes: VolumeInfo[];
  readonly damage: MetaError[];
}

/** How long a writer may take to meet a request. */
const REQUEST_TIMEOUT_MS = 30_000;
/** Snapshots deleted together with their volume: compares of one transaction. */
const SNAPSHOTS_WITH_VOLUME_MAX = 100;
const UNLOCK_POLL_MS = 500;

export const EMPTY_LOG: Head["log"] = { ringVersion: 0, members: [], width: 0 };

export class VolumeAdmin {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  /** Throws "bad-name", "bad-size", "volume-exists". */
  async create(name: string, sizeBytes: number): Promise<VolumeRecord> {
    checkName("volume", name);
    checkVolumeSize(name, sizeBytes);
    return createVolume(this.#context, name, () => ({
      sizeBytes,
      root: null,
      origin: undefined,
      compares: [],
    }));
  }

  async list(): Promise<VolumeList> {
    const { entries } = await this.#context.store.range(keys.volumesPrefix);
    const byVolume = new Map<VolumeId, { rest: string; entry: KeyValue }[]>();
    for (const entry of entries) {
      const parsed = parseVolumeKey(entry.key);
      if (parsed === undefined) continue;
      const list = byVolume.get(parsed.volumeId) ?? [];
      list.push({ rest: parsed.rest, entry });
      byVolume.set(parsed.volumeId, list);
    }
    const volumes: VolumeInfo[] = [];
    const damage: MetaError[] = [];
    for (const records of byVolume.values()) {
      const info = volumeInfo(records, damage);
      if (info !== undefined) volumes.push(info);
    }
    volumes.sort((a, b) => (a.name < b.name ? -1 : 1));
    return { volumes, damage };
  }

  /** Throws "no-such-volume". */
  async info(name: string): Promise<VolumeInfo> {
    const look = await lookAtVolume(this.#context, name);
    const snapshots = await this.#context.store.range(keys.snapshotsPrefix(look.volumeId));
    const { lock, entries } = look;
    return {
      ...publicRecord(look.volume),
      lineageId: look.volume.lineageId,
      head: look.head,
      epoch: look.epochs.epoch,
      attached: lock && entries.lock ? { ...lock, lease: entries.lock.lease } : undefined,
      snapshotCount: snapshots.entries.length,
    };
  }

  /** Throws "volume-exists"; allowed while attached. */
  async rename(name: string, newName: string): Promise<VolumeRecord> {
    checkName("volume", newName);
    const { store } = this.#context;
    let volumeId: VolumeId | undefined;
    return repeat(this.#context, { what: `rename volume "${name}"` }, async () => {
      const [taken] = await readAll(store, [keys.name(newName)]);
      if (taken !== undefined) {
        const { volume } = await lookAtVolume(this.#context, newName);
        if (volume.volumeId === volumeId) return publicRecord(volume);
        throw new MetaError(
          "volume-exists",
          `Cannot rename volume "${name}" to "${newName}": there is a volume of that name`,
        );
      }
      const look = await lookAtVolume(this.#context, name);
      volumeId = look.volumeId;
      const next = { ...look.volume, name: newName };
      const result = await store.transact({
        compares: [
          unchanged(keys.name(newName), undefined),
          unchanged(keys.name(name), look.entries.name),
          unchanged(keys.record(volumeId), look.entries.record),
        ],
        operations: [
          { kind: "delete", key: keys.name(name) },
          { kind: "put", key: keys.name(newName), value: encodeName(volumeId) },
          { kind: "put", key: keys.record(volumeId), value: encodeVolume(next) },
        ],
      });
      return result.committed ? publicRecord(next) : again;
    });
  }

  /**
   * Grows a volume: through its writer when it is attached, else in metadata alone. Throws "volume-has-tail" when
   * it must be opened first (R10), and "bad-size" for a smaller size, which needs the engine (commitHead with a
   * smaller head.sizeBytes, after trimming).
   */
  async resize(
    name: string,
    sizeBytes: number,
    options: { readonly timeoutMs?: number; readonly signal?: AbortSignal } = {},
  ): Promise<VolumeRecord> {
    checkVolumeSize(name, sizeBytes);
    const timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
    const repeatOptions = {
      what: `resize volume "${name}"`,
      deadlineMs: timeoutMs + 5_000,
      ...(options.signal && { signal: options.signal }),
    };
    return repeat(this.#context, repeatOptions, async () => {
      const look = await lookAtVolume(this.#context, name);
      if (look.volume.sizeBytes === sizeBytes) return publicRecord(look.volume);
      if (sizeBytes < look.volume.sizeBytes)
        throw usageError(
          "bad-size",
          `Cannot resize volume "${name}" from ${formatSize(look.volume.sizeBytes)} to ${formatSize(sizeBytes)}: that is smaller; detach it and use --shrink`,
        );
      if (look.lock !== undefined) {
        const requestId = this.#context.random.hex(8);
        const request = { request: { kind: "resize", requestId, sizeBytes } } as const;
        await requestOfWriter(this.#context, look, request, timeoutMs, options.signal);
        // The next round's look says whether the writer did it; if it went away first, the volume is detached now.
        return again;
      }
      if (hasTail(look.head)) throw tailError("resize", look);
      const volume = { ...look.volume, sizeBytes };
      const head = { ...look.head, sizeBytes };
      const { entries, volumeId } = look;
      const result = await this.#context.store.transact({
        compares: [
          unchanged(keys.record(volumeId), entries.record),
          unchanged(keys.head(volumeId), entries.head),
          unchanged(keys.epoch(volumeId), entries.epoch),
          unchanged(keys.lock(volumeId), undefined),
        ],
        operations: [
          { kind: "put", key: keys.record(volumeId), value: encodeVolume(volume) },
          { kind: "put", key: keys.head(volumeId), value: encodeHead(head, this.#context.random.hex(8)) },
        ],
      });
      return result.committed ? publicRecord(volume) : again;
    });
  }

  /**
   * Deletes a volume; its blocks are collected later. Throws "volume-attached", "volume-has-snapshots" (unless they
   * may go too), "snapshot-in-use".
   */
  async delete(name: string, options: { readonly withSnapshots?: boolean } = {}): Promise<void> {
    const { store } = this.#context;
    let volumeId: VolumeId | undefined;
    await repeat(this.#context, { what: `delete volume "${name}"` }, async () => {
      let look: Awaited<ReturnType<typeof lookAtVolume>>;
      try {
        look = await lookAtVolume(this.#context, name);
      } catch (error) {
        // Gone after an attempt of ours whose answer was lost.
        if (error instanceof MetaError && error.code === "no-such-volume" && volumeId !== undefined) return;
        throw error;
      }
      if (volumeId !== undefined && look.volumeId !== volumeId) return;
      if (look.lock !== undefined) throw await attachedError(this.#context, "delete", look);
      const snapshots = await this.#deletableSnapshots(look.volumeId, name, options.withSnapshots === true);
      volumeId = look.volumeId;
      const result = await store.transact({
        compares: [
          unchanged(keys.name(name), look.entries.name),
          unchanged(keys.record(volumeId), look.entries.record),
          // Every way to make a snapshot changes the head, and every pin its snapshot.
          unchanged(keys.head(volumeId), look.entries.head),
          unchanged(keys.epoch(volumeId), look.entries.epoch),
          unchanged(keys.lock(volumeId), undefined),
          ...snapshots.map((entry) => unchanged(entry.key, entry)),
        ],
        operations: [
          { kind: "delete", key: keys.name(name) },
          { kind: "delete-prefix", prefix: keys.volumePrefix(volumeId) },
        ],
      });
      return result.committed ? undefined : again;
    });
  }

  /**
   * R13: takes a volume from a holder that will not let go: mints an epoch above its own, waits until no read of
   * its may be answered any more, and deletes the lock. Returns whether there was a lock.
   */
  async forceUnlock(name: string, options: { readonly signal?: AbortSignal } = {}): Promise<boolean> {
    const { store, clock } = this.#context;
    const what = `unlock volume "${name}"`;
    const bumped = await repeat(this.#context, { what }, async () => {
      const look = await lookAtVolume(this.#context, name);
      if (look.lock === undefined) return undefined;
      const epoch = mintEpoch(look.epochs, look.head.epoch, clock);
      const result = await store.transact({
        compares: [
          unchanged(keys.epoch(look.volumeId), look.entries.epoch),
          unchanged(keys.lock(look.volumeId), look.entries.lock),
        ],
        operations: [{ kind: "put", key: keys.epoch(look.volumeId), value: encodeEpoch(epoch) }],
      });
      return result.committed ? { volumeId: look.volumeId, lock: look.lock } : again;
    });
    if (bumped === undefined) return false;
    const { volumeId, lock } = bumped;
    const untilMs = clock.nowMs() + lock.ttlMs;
    for (;;) {
      // The holder may notice the epoch and give the lock up, or its lease may end: then nothing is left to wait for.
      const isOurs = await this.#isLockOf(volumeId, lock.token);
      if (!isOurs) return true;
      const remainingMs = untilMs - clock.nowMs();
      if (remainingMs <= 0) break;
      await sleep(clock, Math.min(remainingMs, UNLOCK_POLL_MS), options.signal);
    }
    await repeat(this.#context, { what }, async () => {
      const entry = await store.get(keys.lock(volumeId));
      if (entry === undefined || decodeLock(entry).token !== lock.token) return;
      const result = await store.transact({
        compares: [unchanged(keys.lock(volumeId), entry)],
        operations: [{ kind: "delete", key: keys.lock(volumeId) }],
      });
      return result.committed ? undefined : again;
    });
    return true;
  }

  /**
   * Deletes the lock of a holder that the caller knows to be dead, so that nobody waits for its lease: no read of its
   * can be answered any more, and its writes are fenced by the next open. Returns whether that lock was there.
   */
  async releaseDeadHolder(name: string, holder: string): Promise<boolean> {
    const { store } = this.#context;
    return repeat(this.#context, { what: `unlock volume "${name}"` }, async () => {
      const look = await lookAtVolume(this.#context, name);
      if (look.lock === undefined || look.lock.holder !== holder) return false;
      const result = await store.transact({
        compares: [unchanged(keys.lock(look.volumeId), look.entries.lock)],
        operations: [{ kind: "delete", key: keys.lock(look.volumeId) }],
      });
      return result.committed ? true : again;
    });
  }

  async #isLockOf(volumeId: VolumeId, token: string): Promise<boolean> {
    return repeat(this.#context, { what: "read a lock" }, async () => {
      const entry = await this.#context.store.get(keys.lock(volumeId));
      return entry !== undefined && decodeLock(entry).token === token;
    });
  }

  async #deletableSnapshots(
    volumeId: VolumeId,
    name: string,
    withSnapshots: boolean,
  ): Promise<readonly KeyValue[]> {
    const { entries } = await this.#context.store.range(keys.volumePrefix(volumeId));
    const under = (prefix: string) => entries.filter((entry) => entry.key.startsWith(prefix));
    const snapshots = under(keys.snapshotsPrefix(volumeId));
    const pins = under(`${keys.volumePrefix(volumeId)}pins/`);
    if (pins.length > 0)
      throw new MetaError(
        "snapshot-in-use",
        `Cannot delete volume "${name}": its snapshots are read by ${formatCount(pins.length, "client")}; close them first, or wait for their leases to end`,
      );
    if (snapshots.length > 0 && !withSnapshots)
      throw new MetaError(
        "volume-has-snapshots",
        `Cannot delete volume "${name}": it has ${formatCount(snapshots.length, "snapshot")}; delete them first, or use --with-snapshots`,
      );
    if (snapshots.length > SNAPSHOTS_WITH_VOLUME_MAX)
      throw new MetaError(
        "volume-has-snapshots",
        `Cannot delete volume "${name}" with its ${snapshots.length} snapshots at once: at most ${SNAPSHOTS_WITH_VOLUME_MAX} go together; delete some first`,
      );
    return snapshots;
  }
}

export function publicRecord(volume: StoredVolume): VolumeRecord {
  const { volumeId, name, sizeBytes, createdMs } = volume;
  return { volumeId, name, sizeBytes, createdMs };
}

export interface NewVolume {
  readonly sizeBytes: number;
  readonly root: Head["root"];
  /** The volume it is a clone of. */
  readonly origin: StoredVolume | undefined;
  readonly compares: readonly { readonly key: string; readonly modRevision: number }[];
}

/** Creation and cloning; `prepare` runs in every round and says what the volume starts from. */
export async function createVolume(
  context: MetaContext,
  name: string,
  prepare: () => NewVolume | Promise<NewVolume>,
): Promise<VolumeRecord> {
  const { store, clock, random } = context;
  const token = random.hex(8);
  return repeat(context, { what: `create volume "${name}"` }, async () => {
    const [taken, counter] = await readAll(store, [keys.name(name), keys.counter]);
    if (counter === undefined) throw notInitialised(store.description);
    if (taken !== undefined) {
      const { volume } = await lookAtVolume(context, name);
      if (volume.token === token) return publicRecord(volume);
      throw new MetaError("volume-exists", `Cannot create volume "${name}": there is a volume of that name`);
    }
    const { sizeBytes, root, origin, compares } = await prepare();
    const last = decodeCounter(counter);
    if (last >= VOLUME_ID_MAX)
      throw new MetaError("bad-record", `Cannot create volume "${name}": all volume ids were given out`);
    const volumeId = asVolumeId(last + 1);
    const volume: StoredVolume = {
      ...{ volumeId, name, sizeBytes, token },
      createdMs: clock.wallMs(),
      lineageId: origin?.lineageId ?? volumeId,
      ancestorIds: origin === undefined ? [] : [...origin.ancestorIds, origin.volumeId],
    };
    const head: Head = { root, epoch: 0, dataIndex: 0, inodeIndex: 0, sizeBytes, log: EMPTY_LOG };
    const result = await store.transact({
      compares: [unchanged(keys.name(name), undefined), unchanged(keys.counter, counter), ...compares],
      operations: [
        { kind: "put", key: keys.counter, value: encodeCounter(volumeId) },
        { kind: "put", key: keys.name(name), value: encodeName(volumeId) },
        { kind: "put", key: keys.record(volumeId), value: encodeVolume(volume) },
        { kind: "put", key: keys.head(volumeId), value: encodeHead(head, token) },
        { kind: "put", key: keys.epoch(volumeId), value: encodeEpoch(NO_EPOCH) },
      ],
    });
    return result.committed ? publicRecord(volume) : again;
  });
}

function volumeInfo(
  records: readonly { readonly rest: string; readonly entry: KeyValue }[],
  damage: MetaError[],
): VolumeInfo | undefined {
  const read = <T>(rest: string, decode: (entry: KeyValue) => T): T | undefined => {
    const entry = records.find((each) => each.rest === rest)?.entry;
    if (entry === undefined) return undefined;
    try {
      return decode(entry);
    } catch (error) {
      if (!(error instanceof MetaError)) throw error;
      damage.push(error);
      return undefined;
    }
  };
  const volume = read("record", decodeVolume);
  if (volume === undefined) return undefined;
  const head = read("head", (entry) => decodeHead(entry).head);
  return {
    ...publicRecord(volume),
    lineageId: volume.lineageId,
    head,
    epoch: head?.epoch ?? 0,
    attached: read("lock", (entry) => ({ ...decodeLock(entry), lease: entry.lease })),
    snapshotCount: records.filter((each) => each.rest.startsWith("snapshots/")).length,
  };
}
