/**
 * What the CSI driver needs of the rest of torus. Volumes and snapshots are known by name: a volume's id is its name, a
 * snapshot's is `volume@snapshot`, so that an administrator can write either into a manifest. Implementations throw
 * CsiError.
 */

export interface CsiVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Whoever has it attached; undefined: nobody. */
  readonly holder: string | undefined;
  readonly snapshotCount: number;
}

export interface CsiSnapshot {
  readonly volumeName: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdMs: number;
}

/** Of the controller: volumes as metadata knows them. */
export interface VolumeService {
  /** By name, ascending. */
  listVolumes(): Promise<readonly CsiVolume[]>;
  findVolume(name: string): Promise<CsiVolume | undefined>;
  /** Throws "already-exists". */
  createVolume(name: string, sizeBytes: number): Promise<CsiVolume>;
  /** Throws "already-exists", "not-found". */
  cloneSnapshot(volumeName: string, snapshotName: string, newName: string): Promise<CsiVolume>;
  /** Whether the volume was made from this snapshot, or from none at all; true while nobody can tell any more. */
  isMadeFrom(
    volumeName: string,
    snapshot: { readonly volumeName: string; readonly name: string } | undefined,
  ): Promise<boolean>;
  /** Grows; also while attached. */
  resizeVolume(name: string, sizeBytes: number): Promise<CsiVolume>;
  /** Throws "not-found", "failed-precondition" while it is attached or has snapshots. */
  deleteVolume(name: string): Promise<void>;
  /** Of one volume; empty when there is no such volume. */
  listSnapshots(volumeName: string): Promise<readonly CsiSnapshot[]>;
  /** Throws "already-exists", "not-found". */
  createSnapshot(volumeName: string, snapshotName: string): Promise<CsiSnapshot>;
  /** Throws "not-found", "failed-precondition" while somebody reads it. */
  deleteSnapshot(volumeName: string, snapshotName: string): Promise<void>;
  /** What new data may take, after replication. */
  availableBytes(): Promise<number>;
  /** Resolves when metadata answers. */
  probe(): Promise<void>;
}

/** Of the node: volumes as block devices of this machine. */
export interface DeviceAttacher {
  /** The device's path. Throws "failed-precondition" while another node has the volume. */
  attach(volumeName: string): Promise<string>;
  /** Takes a device over that an earlier process of this node left attached; undefined when there is none. */
  recover(volumeName: string): Promise<string | undefined>;
  /** Flushes, and gives the volume up. Does nothing when it is not attached. */
  detach(volumeName: string): Promise<void>;
  /** Resolves when the attached device shows the volume's present size. */
  refreshSize(volumeName: string): Promise<void>;
}

export const VOLUME_BYTES_MAX = 64 * 2 ** 40;
export const VOLUME_BYTES_MIN = 2 ** 20;
export const VOLUME_BYTES_DEFAULT = 2 ** 30;
/** Volumes are made in whole pages. */
export const VOLUME_UNIT_BYTES = 4096;
