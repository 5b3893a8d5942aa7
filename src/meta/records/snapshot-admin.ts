/**
 * Snapshots and clones (R9, R10). A snapshot of an attached volume is asked of its writer; of a detached one
 * without a tail it is one transaction here; one with a tail must be opened first, by whoever asks. Whatever makes
 * a snapshot also puts the head anew, and whatever pins one puts the snapshot anew: so a deletion that compares
 * them cannot overlook either.
 */
import { formatCount } from "../../base";
import type { SnapshotRecord, VolumeRecord } from "../../engine";
import { MetaError, usageError } from "../errors";
import type { LeaseId } from "../kv";
import { ANCESTORS_MAX, decodeSnapshot, encodeHead, encodeSnapshot, type StoredSnapshot } from "./codec";
import { again, type MetaContext, repeat, unchanged } from "./context";
import { keys } from "./layout";
import { checkName } from "./names";
import { requestOfWriter } from "./requests";
import { createVolume } from "./volume-admin";
import { hasTail, lookAtSnapshot, lookAtVolume, tailError, type VolumeLook } from "./volume-look";

export interface SnapshotInfo extends SnapshotRecord {
  /** Readers that have it open. */
  readonly pinCount: number;
  /** Bound to its maker's lease: it vanishes by itself. */
  readonly isTemporary: boolean;
}

export interface SnapshotCreateOptions {
  /** How long the writer of an attached volume may take. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Makes it temporary: it vanishes with this lease of the caller's. */
  readonly lease?: LeaseId;
  /**
   * It is a copy of the snapshot with fingerprint `origin`, made so by the writer of `epoch`: refused with
   * "request-failed" when another writer, or none, has the volume.
   */
  readonly copy?: { readonly origin: string; readonly epoch: number };
}

const REQUEST_TIMEOUT_MS = 30_000;

export function publicSnapshot(stored: StoredSnapshot): SnapshotRecord {
  const { volumeId, name, root, sizeBytes, createdMs, origin } = stored;
  return { volumeId, name, root, sizeBytes, createdMs, ...(origin !== undefined && { origin }) };
}

export class SnapshotAdmin {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  /** Throws "snapshot-exists", "request-failed", and "volume-has-tail" when the caller must open the volume first. */
  async create(
    volumeName: string,
    snapshotName: string,
    options: SnapshotCreateOptions = {},
  ): Promise<SnapshotRecord> {
    checkName("snapshot", snapshotName);
    const timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
    const requestId = this.#context.random.hex(8);
    const repeatOptions = {
      what: `snapshot volume "${volumeName}"`,
      deadlineMs: timeoutMs + 5_000,
      ...(options.signal && { signal: options.signal }),
    };
    return repeat(this.#context, repeatOptions, async () => {
      const look = await lookAtVolume(this.#context, volumeName);
      const key = keys.snapshot(look.volumeId, snapshotName);
      const existing = await this.#context.store.get(key);
      if (existing !== undefined) {
        const snapshot = decodeSnapshot(existing);
        if (snapshot.requestId === requestId) return publicSnapshot(snapshot);
        throw new MetaError(
          "snapshot-exists",
          `Cannot make snapshot "${volumeName}@${snapshotName}": there is one of that name`,
        );
      }
      if (look.lock !== undefined) {
        const request = {
          request: { kind: "snapshot", requestId, name: snapshotName },
          ...(options.lease !== undefined && { lease: options.lease }),
          ...(options.copy !== undefined && { copy: options.copy }),
        } as const;
        await requestOfWriter(this.#context, look, request, timeoutMs, options.signal);
        return again;
      }
      if (options.copy !== undefined)
        throw new MetaError(
          "request-failed",
          `Cannot make snapshot "${volumeName}@${snapshotName}": the writer that filled the volume is gone`,
        );
      if (hasTail(look.head)) throw tailError("snapshot", look);
      return this.#createDetached(look, snapshotName, requestId, options.lease);
    });
  }

  /** By name. */
  async list(volumeName: string): Promise<{ snapshots: SnapshotInfo[]; damage: MetaError[] }> {
    const look = await lookAtVolume(this.#context, volumeName);
    const { entries } = await this.#context.store.range(keys.volumePrefix(look.volumeId));
    const snapshots: SnapshotInfo[] = [];
    const damage: MetaError[] = [];
    for (const entry of entries) {
      if (!entry.key.startsWith(keys.snapshotsPrefix(look.volumeId))) continue;
      try {
        const snapshot = decodeSnapshot(entry);
        const pins = keys.pinsPrefix(look.volumeId, snapshot.name);
        snapshots.push({
          ...publicSnapshot(snapshot),
          pinCount: entries.filter((each) => each.key.startsWith(pins)).length,
          isTemporary: entry.lease !== "",
        });
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        damage.push(error);
      }
    }
    return { snapshots, damage };
  }

  async get(volumeName: string, snapshotName: string): Promise<SnapshotRecord> {
    const look = await lookAtVolume(this.#context, volumeName);
    return publicSnapshot((await lookAtSnapshot(this.#context, look.volume, snapshotName)).snapshot);
  }

  /** Clones of it live on. Throws "snapshot-in-use" while somebody reads it. */
  async delete(volumeName: string, snapshotName: string): Promise<void> {
    const { store } = this.#context;
    let createRevision: number | undefined;
    await repeat(this.#context, { what: `delete snapshot "${volumeName}@${snapshotName}"` }, async () => {
      const look = await lookAtVolume(this.#context, volumeName);
      const key = keys.snapshot(look.volumeId, snapshotName);
      const found = await store.get(key);
      // Gone (and perhaps made anew) after an attempt of ours whose answer was lost.
      if (createRevision !== undefined && found?.createRevision !== createRevision) return;
      const { entry } = await lookAtSnapshot(this.#context, look.volume, snapshotName);
      const pins = await store.range(keys.pinsPrefix(look.volumeId, snapshotName));
      if (pins.entries.length > 0)
        throw new MetaError(
          "snapshot-in-use",
          `Cannot delete snapshot "${volumeName}@${snapshotName}": it is read by ${formatCount(pins.entries.length, "client")}; close them first, or wait for their leases to end`,
        );
      createRevision = entry.createRevision;
      const result = await store.transact({
        compares: [unchanged(key, entry)],
        operations: [{ kind: "delete", key }],
      });
      return result.committed ? undefined : again;
    });
  }

  /** A new volume that starts as the snapshot is; costs nothing. Throws "no-such-snapshot", "volume-exists". */
  async clone(volumeName: string, snapshotName: string, newName: string): Promise<VolumeRecord> {
    checkName("volume", newName);
    return createVolume(this.#context, newName, async () => {
      const { volume, entries } = await lookAtVolume(this.#context, volumeName);
      const { snapshot, entry } = await lookAtSnapshot(this.#context, volume, snapshotName);
      if (volume.ancestorIds.length >= ANCESTORS_MAX)
        throw usageError(
          "bad-settings",
          `Cannot clone "${volumeName}@${snapshotName}": it is the ${volume.ancestorIds.length}th clone of a clone; dump and load it instead`,
        );
      return {
        sizeBytes: snapshot.sizeBytes,
        root: snapshot.root,
        origin: volume,
        compares: [unchanged(entry.key, entry), unchanged(keys.record(volume.volumeId), entries.record)],
      };
    });
  }

  async #createDetached(
    look: VolumeLook,
    name: string,
    requestId: string,
    lease: LeaseId | undefined,
  ): Promise<SnapshotRecord | typeof again> {
    const { store, clock, random } = this.#context;
    const { volumeId, head, entries } = look;
    const snapshot: StoredSnapshot = {
      ...{ volumeId, name, requestId },
      ...{ root: head.root, sizeBytes: head.sizeBytes },
      createdMs: clock.wallMs(),
    };
    const key = keys.snapshot(volumeId, name);
    const result = await store.transact({
      compares: [
        unchanged(key, undefined),
        unchanged(keys.lock(volumeId), undefined),
        unchanged(keys.head(volumeId), entries.head),
        unchanged(keys.epoch(volumeId), entries.epoch),
      ],
      operations: [
        {
          ...{ kind: "put" as const, key, value: encodeSnapshot(snapshot) },
          ...(lease !== undefined && { lease }),
        },
        { kind: "put", key: keys.head(volumeId), value: encodeHead(head, random.hex(8)) },
      ],
    });
    return result.committed ? publicSnapshot(snapshot) : again;
  }
}
