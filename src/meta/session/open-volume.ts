/**
 * R3(a): one transaction mints the epoch, puts the lock and returns the head. The lock carries a random token, so
 * that an opener whose answer was lost knows its own lock again; a head read at or after the mint stays as it is,
 * because from then on every older writer's commit fails its compare on the epoch.
 */
import { asEpoch, sleep } from "../../base";
import type { OpenGrant, OpenOptions } from "../../engine";
import { isMetaError } from "../errors";
import type { KeyValue, LeaseId } from "../kv";
import {
  again,
  attachedError,
  decodeHead,
  encodeEpoch,
  encodeLock,
  keys,
  lookAtSnapshot,
  lookAtVolume,
  mintEpoch,
  publicRecord,
  publicSnapshot,
  repeat,
  type LeaseTimes,
  type MetaContext,
  type SnapshotLook,
  type StoredLock,
  type VolumeLook,
  unchanged,
} from "../records";
import { MetaVolumeSession, type TakenLock } from "./volume-session";

const LOCK_POLL_MS = 500;
const OPEN_DEADLINE_MS = 15_000;
export const HOLDER_LENGTH_MAX = 200;

/** Throws "no-such-volume", "volume-attached", "no-such-snapshot". */
export async function openVolume(
  context: MetaContext,
  name: string,
  holder: string,
  options: OpenOptions,
  times: LeaseTimes,
): Promise<MetaVolumeSession> {
  const { clock } = context;
  const opener = new Opener(context, name, holder.slice(0, HOLDER_LENGTH_MAX), options, times);
  const untilMs = clock.nowMs() + (options.waitForLockMs ?? 0);
  try {
    for (;;)
      try {
        return await repeat(context, { what: `open volume "${name}"`, deadlineMs: OPEN_DEADLINE_MS }, () =>
          opener.attempt(),
        );
      } catch (error) {
        if (!isMetaError(error, "volume-attached") || clock.nowMs() + LOCK_POLL_MS > untilMs) throw error;
        await sleep(clock, LOCK_POLL_MS);
      }
  } catch (error) {
    await opener.giveUp();
    throw error;
  }
}

class Opener {
  readonly #context: MetaContext;
  readonly #name: string;
  readonly #holder: string;
  readonly #options: OpenOptions;
  readonly #times: LeaseTimes;
  readonly #token: string;
  #lease: { readonly id: LeaseId; readonly sentMs: number } | undefined;

  constructor(context: MetaContext, name: string, holder: string, options: OpenOptions, times: LeaseTimes) {
    this.#context = context;
    this.#name = name;
    this.#holder = holder;
    this.#options = options;
    this.#times = times;
    this.#token = context.random.hex(16);
  }

  async attempt(): Promise<MetaVolumeSession | typeof again> {
    const { store, clock } = this.#context;
    const look = await lookAtVolume(this.#context, this.#name);
    const restore =
      this.#options.restoreSnapshot === undefined
        ? undefined
        : await lookAtSnapshot(this.#context, look.volume, this.#options.restoreSnapshot);
    if (look.lock !== undefined) {
      if (look.lock.token !== this.#token || look.lock.epoch !== look.epochs.epoch)
        throw await attachedError(this.#context, "open", look);
      return this.#adoptOwn(look, look.lock, restore);
    }
    const lease = await this.#freshLease();
    const epochs = mintEpoch(look.epochs, look.head.epoch, clock);
    const { epoch } = epochs;
    const lock: StoredLock = {
      ...{ holder: this.#holder, token: this.#token, epoch },
      ...{ ttlMs: this.#times.ttlMs, sinceMs: clock.wallMs() },
    };
    const { volumeId, entries } = look;
    const headKey = keys.head(volumeId);
    const result = await store.transact({
      compares: [
        unchanged(keys.name(this.#name), entries.name),
        unchanged(keys.record(volumeId), entries.record),
        unchanged(keys.epoch(volumeId), entries.epoch),
        unchanged(keys.lock(volumeId), undefined),
        ...(restore === undefined ? [] : [unchanged(restore.entry.key, restore.entry)]),
      ],
      operations: [
        { kind: "put", key: keys.lock(volumeId), value: encodeLock(lock), lease },
        { kind: "put", key: keys.epoch(volumeId), value: encodeEpoch(epochs) },
      ],
      reads: [headKey],
    });
    const head = result.reads[0];
    if (!result.committed || head === undefined) return again;
    const revisions = { epoch: result.revision, lock: result.revision };
    return this.#session({ ...look, epochs }, lock, head, revisions, restore);
  }

  /**
   * The lock of an attempt whose answer was lost. It counts only under the lease that is kept from now on: an
   * earlier one may be revoked by a call of ours that is still under way.
   */
  async #adoptOwn(
    look: VolumeLook,
    lock: StoredLock,
    restore: SnapshotLook | undefined,
  ): Promise<MetaVolumeSession | typeof again> {
    const lease = await this.#freshLease();
    const { volumeId, entries } = look;
    const revisions = { epoch: entries.epoch.modRevision, lock: entries.lock?.modRevision ?? 0 };
    if (entries.lock?.lease === lease) return this.#session(look, lock, entries.head, revisions, restore);
    const lockKey = keys.lock(volumeId);
    const result = await this.#context.store.transact({
      compares: [unchanged(keys.epoch(volumeId), entries.epoch), unchanged(lockKey, entries.lock)],
      operations: [{ kind: "put", key: lockKey, value: encodeLock(lock), lease }],
    });
    if (!result.committed) return again;
    return this.#session(look, lock, entries.head, { ...revisions, lock: result.revision }, restore);
  }

  async giveUp(): Promise<void> {
    if (this.#lease !== undefined)
      await this.#context.store.revokeLease(this.#lease.id).catch(() => undefined);
  }

  #session(
    look: VolumeLook,
    lock: StoredLock,
    head: KeyValue,
    revisions: { readonly epoch: number; readonly lock: number },
    restore: SnapshotLook | undefined,
  ): MetaVolumeSession {
    const grant: OpenGrant = {
      volume: publicRecord(look.volume),
      epoch: asEpoch(lock.epoch),
      minted: look.epochs,
      head: decodeHead(head).head,
      headRevision: head.modRevision,
      ...(restore && { restoreFrom: publicSnapshot(restore.snapshot) }),
    };
    const taken: TakenLock = {
      lock,
      lockRevision: revisions.lock,
      epochRevision: revisions.epoch,
      lease: this.#lease?.id ?? "",
      leaseSentMs: this.#lease?.sentMs ?? Number.NEGATIVE_INFINITY,
      ...(restore && { restoreEntry: restore.entry }),
    };
    return new MetaVolumeSession(this.#context, grant, taken, this.#times);
  }

  /** A lease that was granted long ago, while waiting, is replaced: much of its time is over. */
  async #freshLease(): Promise<LeaseId> {
    const { store, clock } = this.#context;
    if (this.#lease !== undefined && clock.nowMs() - this.#lease.sentMs < this.#times.ttlMs / 3)
      return this.#lease.id;
    await this.giveUp();
    const sentMs = clock.nowMs();
    this.#lease = { id: await store.grantLease(this.#times.ttlMs), sentMs };
    return this.#lease.id;
  }
}
