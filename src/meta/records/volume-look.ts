/**
 * One look at a volume: all its singular records at one revision, found by name. Everything that changes a volume
 * starts with it and compares what it has seen.
 */
import type { VolumeId } from "../../base";
import type { Head } from "../../engine";
import { MetaError } from "../errors";
import type { KeyValue } from "../kv";
import {
  decodeEpoch,
  decodeHead,
  decodeLock,
  decodeName,
  decodeSnapshot,
  decodeVolume,
  type StoredEpoch,
  type StoredLock,
  type StoredSnapshot,
  type StoredVolume,
} from "./codec";
import { type MetaContext, readAll } from "./context";
import { badRecord } from "./fields";
import { keys } from "./layout";

export interface VolumeLook {
  readonly volumeId: VolumeId;
  readonly volume: StoredVolume;
  readonly head: Head;
  readonly epochs: StoredEpoch;
  readonly lock: StoredLock | undefined;
  readonly entries: {
    readonly name: KeyValue;
    readonly record: KeyValue;
    readonly head: KeyValue;
    readonly epoch: KeyValue;
    readonly lock: KeyValue | undefined;
  };
}

export function noSuchVolume(name: string): MetaError {
  return new MetaError("no-such-volume", `Cannot find volume "${name}": there is none of that name`);
}

/** Throws "no-such-volume", or "bad-record" when one of its records is damaged. */
export async function lookAtVolume(context: MetaContext, name: string): Promise<VolumeLook> {
  const pointer = await context.store.get(keys.name(name));
  if (pointer === undefined) throw noSuchVolume(name);
  const id = decodeName(pointer);
  const [nameEntry, record, head, epoch, lock] = await readAll(context.store, [
    keys.name(name),
    keys.record(id),
    keys.head(id),
    keys.epoch(id),
    keys.lock(id),
  ]);
  // Deleted or renamed between the two reads.
  if (nameEntry === undefined || nameEntry.modRevision !== pointer.modRevision) throw noSuchVolume(name);
  for (const [key, entry] of [
    [keys.record(id), record],
    [keys.head(id), head],
    [keys.epoch(id), epoch],
  ] as const)
    if (entry === undefined) throw badRecord(key, "it is missing");
  const entries = {
    name: nameEntry,
    record: record as KeyValue,
    head: head as KeyValue,
    epoch: epoch as KeyValue,
    lock,
  };
  return {
    volumeId: id,
    volume: decodeVolume(entries.record),
    head: decodeHead(entries.head).head,
    epochs: decodeEpoch(entries.epoch),
    lock: lock === undefined ? undefined : decodeLock(lock),
    entries,
  };
}

export interface SnapshotLook {
  readonly snapshot: StoredSnapshot;
  readonly entry: KeyValue;
}

/** Throws "no-such-snapshot". */
export async function lookAtSnapshot(
  context: MetaContext,
  volume: { readonly volumeId: VolumeId; readonly name: string },
  snapshotName: string,
): Promise<SnapshotLook> {
  const entry = await context.store.get(keys.snapshot(volume.volumeId, snapshotName));
  if (entry === undefined)
    throw new MetaError(
      "no-such-snapshot",
      `Cannot find snapshot "${volume.name}@${snapshotName}": volume "${volume.name}" has none of that name`,
    );
  return { snapshot: decodeSnapshot(entry), entry };
}

/** Says who has it and for how long at most. */
export async function attachedError(
  context: MetaContext,
  action: string,
  look: VolumeLook,
): Promise<MetaError> {
  const { lock, entries } = look;
  const remainingMs = entries.lock
    ? await context.store.leaseRemainingMs(entries.lock.lease).catch(() => undefined)
    : undefined;
  const lease =
    remainingMs === undefined ? "" : ` (lease ends in ${Math.ceil(remainingMs / 1000)} s unless renewed)`;
  return new MetaError(
    "volume-attached",
    `Cannot ${action} volume "${look.volume.name}": it is attached by ${lock?.holder ?? "somebody"}${lease}; detach it there first`,
  );
}

export function tailError(action: string, look: VolumeLook): MetaError {
  return new MetaError(
    "volume-has-tail",
    `Cannot ${action} volume "${look.volume.name}" in metadata alone: its last writer left a log tail; it has to be opened first`,
  );
}

/** A detached volume whose map says everything: no log tail on any peer. */
export function hasTail(head: Head): boolean {
  return head.log.members.length > 0;
}
