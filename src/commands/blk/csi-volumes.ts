/** Volumes and snapshots as the CSI controller sees them, over the metadata; metadata's errors in CSI's words. */
import { TorusError } from "../../base";
import {
  CsiError,
  type CsiErrorCode,
  type CsiSnapshot,
  type CsiVolume,
  type VolumeService,
} from "../../blockdev/csi";
import { isMetaError, MetaError, type MetaErrorCode, type SnapshotInfo, type VolumeInfo } from "../../meta";
import type { Client } from "../client";

/** What is not here is "internal". */
const CODES: Partial<Record<MetaErrorCode, CsiErrorCode>> = {
  deadline: "unavailable",
  "unknown-outcome": "unavailable",
  unreachable: "unavailable",
  closed: "unavailable",
  conflict: "aborted",
  "out-of-space": "resource-exhausted",
  "too-large": "resource-exhausted",
  "bad-name": "invalid-argument",
  "bad-size": "out-of-range",
  "bad-settings": "failed-precondition",
  "no-such-volume": "not-found",
  "no-such-snapshot": "not-found",
  "volume-exists": "already-exists",
  "snapshot-exists": "already-exists",
  "volume-attached": "failed-precondition",
  "volume-detached": "aborted",
  "volume-has-tail": "failed-precondition",
  "volume-has-snapshots": "failed-precondition",
  "snapshot-in-use": "failed-precondition",
  "request-failed": "unavailable",
  "not-initialised": "failed-precondition",
};

/** An error of the metadata or of opening a volume, as the driver answers it. */
export function toCsiError(error: unknown): unknown {
  if (error instanceof CsiError || !(error instanceof TorusError)) return error;
  const code = error instanceof MetaError ? CODES[error.code] : undefined;
  // What may pass is told so: an internal error says that waiting does not help.
  const other = error.retryable ? "unavailable" : "internal";
  return new CsiError(code ?? other, error.message, { cause: error, retryable: error.retryable });
}

async function told<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw toCsiError(error);
  }
}

function volumeOf(info: VolumeInfo): CsiVolume {
  const { name, sizeBytes, snapshotCount, attached } = info;
  return { name, sizeBytes, snapshotCount, holder: attached?.holder };
}

export class MetadataVolumes implements VolumeService {
  constructor(private readonly client: Client) {}

  async listVolumes(): Promise<readonly CsiVolume[]> {
    const { volumes } = await told(this.#volumes.list());
    return volumes.map(volumeOf).sort((one, other) => (one.name < other.name ? -1 : 1));
  }

  async findVolume(name: string): Promise<CsiVolume | undefined> {
    return volumeOrNone(this.#volumes.info(name));
  }

  async createVolume(name: string, sizeBytes: number): Promise<CsiVolume> {
    await told(this.#volumes.create(name, sizeBytes));
    return volumeOf(await told(this.#volumes.info(name)));
  }

  async cloneSnapshot(volumeName: string, snapshotName: string, newName: string): Promise<CsiVolume> {
    await told(this.#snapshots.clone(volumeName, snapshotName, newName));
    return volumeOf(await told(this.#volumes.info(newName)));
  }

  async isMadeFrom(
    volumeName: string,
    snapshot: { readonly volumeName: string; readonly name: string } | undefined,
  ): Promise<boolean> {
    const volume = await told(this.#volumes.info(volumeName));
    if (snapshot === undefined) return volume.lineageId === volume.volumeId;
    const source = await told(this.#volumes.info(snapshot.volumeName));
    if (volume.lineageId !== source.lineageId || volume.volumeId === source.volumeId) return false;
    // A volume that was opened has a root of its own.
    if (volume.epoch !== 0 || volume.head === undefined) return true;
    const { root } = await told(this.#snapshots.get(snapshot.volumeName, snapshot.name));
    return Bun.deepEquals(volume.head.root, root);
  }

  async resizeVolume(name: string, sizeBytes: number): Promise<CsiVolume> {
    await told(this.#opened(name, () => this.#volumes.resize(name, sizeBytes)));
    return volumeOf(await told(this.#volumes.info(name)));
  }

  async deleteVolume(name: string): Promise<void> {
    await told(this.#volumes.delete(name));
  }

  async listSnapshots(volumeName: string): Promise<readonly CsiSnapshot[]> {
    const found = await told(this.#snapshots.list(volumeName)).catch((error: unknown) => {
      if (error instanceof CsiError && error.code === "not-found") return { snapshots: [] as SnapshotInfo[] };
      throw error;
    });
    return found.snapshots
      .filter((one) => !one.isTemporary)
      .map(({ name, sizeBytes, createdMs }) => ({ volumeName, name, sizeBytes, createdMs }));
  }

  async createSnapshot(volumeName: string, snapshotName: string): Promise<CsiSnapshot> {
    const { name, sizeBytes, createdMs } = await told(
      this.#opened(volumeName, () => this.#snapshots.create(volumeName, snapshotName)),
    );
    return { volumeName, name, sizeBytes, createdMs };
  }

  async deleteSnapshot(volumeName: string, snapshotName: string): Promise<void> {
    await told(this.#snapshots.delete(volumeName, snapshotName));
  }

  async availableBytes(): Promise<number> {
    const { metadata } = this.client;
    const [{ peers }, ring] = await told(Promise.all([metadata.peers.list(), metadata.ring.current()]));
    const free = peers
      .filter((peer) => peer.live && ring.members.some((member) => member.peerId === peer.peerId))
      .reduce((sum, peer) => sum + Math.max(0, peer.capacityBytes - peer.usedBytes), 0);
    return free / Math.max(1, ring.replication);
  }

  async probe(): Promise<void> {
    await told(this.client.metadata.settings.get());
  }

  get #volumes(): Client["metadata"]["volumes"] {
    return this.client.metadata.volumes;
  }

  get #snapshots(): Client["metadata"]["snapshots"] {
    return this.client.metadata.snapshots;
  }

  /** Of a detached volume whose writer crashed the log's tail is read in first. */
  async #opened<T>(name: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!isMetaError(error, "volume-has-tail")) throw error;
    }
    await (await this.client.plane.openDevice({ volume: name })).close();
    return work();
  }
}

async function volumeOrNone(info: Promise<VolumeInfo>): Promise<CsiVolume | undefined> {
  try {
    return volumeOf(await info);
  } catch (error) {
    if (isMetaError(error, "no-such-volume", "bad-name")) return undefined;
    throw toCsiError(error);
  }
}
