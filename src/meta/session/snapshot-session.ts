/**
 * A snapshot held open for reading. The pin is a key bound to a kept lease; putting it also puts the snapshot
 * anew (unchanged), so that a deletion that saw no pin fails its compare. A pin lost with its lease may be put
 * again while the very same snapshot still exists.
 */
import type { SnapshotRecord, SnapshotSession, VolumeRecord } from "../../engine";
import { MetaError } from "../errors";
import type { KeyValue, LeaseId } from "../kv";
import {
  LeaseKeeper,
  again,
  encodeRecord,
  keys,
  lookAtSnapshot,
  lookAtVolume,
  publicRecord,
  publicSnapshot,
  readAll,
  repeat,
  type KeyState,
  type LeaseTimes,
  type MetaContext,
  unchanged,
} from "../records";

interface Pin {
  readonly pinKey: string;
  readonly snapshotKey: string;
  /** Tells the snapshot from another of the same name. */
  readonly createRevision: number;
  readonly holder: string;
}

export class MetaSnapshotSession implements SnapshotSession {
  readonly volume: VolumeRecord;
  readonly snapshot: SnapshotRecord;
  readonly lease: LeaseKeeper;
  readonly #context: MetaContext;

  private constructor(
    context: MetaContext,
    volume: VolumeRecord,
    snapshot: SnapshotRecord,
    lease: LeaseKeeper,
  ) {
    this.#context = context;
    this.volume = volume;
    this.snapshot = snapshot;
    this.lease = lease;
  }

  /** Throws "no-such-volume", "no-such-snapshot". */
  static async open(
    context: MetaContext,
    volumeName: string,
    snapshotName: string,
    holder: string,
    times: LeaseTimes,
  ): Promise<MetaSnapshotSession> {
    const { store, clock, random } = context;
    const token = random.hex(8);
    const sentMs = clock.nowMs();
    const lease = await store.grantLease(times.ttlMs);
    try {
      const what = `open snapshot "${volumeName}@${snapshotName}"`;
      const opened = await repeat(context, { what }, async () => {
        const { volume } = await lookAtVolume(context, volumeName);
        const { snapshot, entry } = await lookAtSnapshot(context, volume, snapshotName);
        const pin: Pin = {
          pinKey: keys.pin(volume.volumeId, snapshotName, token),
          snapshotKey: entry.key,
          createRevision: entry.createRevision,
          holder,
        };
        const state = await putPin(context, pin, lease, false);
        return state.kind === "held" ? { volume, snapshot, pin } : again;
      });
      const keeper = new LeaseKeeper(
        context,
        times,
        {
          check: (current) => checkPin(context, opened.pin, current),
          retake: (next) => putPin(context, opened.pin, next, true),
        },
        lease,
        sentMs,
      );
      return new MetaSnapshotSession(
        context,
        publicRecord(opened.volume),
        publicSnapshot(opened.snapshot),
        keeper,
      );
    } catch (error) {
      await store.revokeLease(lease).catch(() => undefined);
      throw error;
    }
  }

  onLost(listener: (reason: string) => void): void {
    this.lease.onLost(listener);
  }

  async close(): Promise<void> {
    if (this.lease.lostReason !== undefined) return;
    await this.lease.stop();
    try {
      await this.#context.store.revokeLease(this.lease.lease);
    } catch (error) {
      // It ends by itself.
      if (!(error instanceof MetaError && error.retryable)) throw error;
    }
  }
}

function isSame(pin: Pin, snapshot: KeyValue | undefined): snapshot is KeyValue {
  return snapshot?.createRevision === pin.createRevision;
}

async function checkPin(context: MetaContext, pin: Pin, lease: LeaseId): Promise<KeyState> {
  const [entry, snapshot] = await readAll(context.store, [pin.pinKey, pin.snapshotKey]);
  if (!isSame(pin, snapshot)) return { kind: "lost", reason: "the snapshot was deleted" };
  return entry?.lease === lease ? { kind: "held" } : { kind: "missing" };
}

async function putPin(context: MetaContext, pin: Pin, lease: LeaseId, isRetake: boolean): Promise<KeyState> {
  const [entry, snapshot] = await readAll(context.store, [pin.pinKey, pin.snapshotKey]);
  if (!isSame(pin, snapshot))
    return isRetake ? { kind: "lost", reason: "the snapshot was deleted" } : { kind: "missing" };
  if (entry?.lease === lease) return { kind: "held" };
  const result = await context.store.transact({
    compares: [unchanged(pin.pinKey, entry), unchanged(pin.snapshotKey, snapshot)],
    operations: [
      { kind: "put", key: pin.pinKey, value: encodeRecord({ holder: pin.holder }), lease },
      {
        ...{ kind: "put" as const, key: pin.snapshotKey, value: snapshot.value },
        ...(snapshot.lease !== "" && { lease: snapshot.lease }),
      },
    ],
  });
  return result.committed ? { kind: "held" } : { kind: "missing" };
}
