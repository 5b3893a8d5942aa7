/**
 * What names a snapshot's state for good. Roots of maps are never written over and epochs never come back, so cluster,
 * root and size name one state; a snapshot made by an import carries the name of the one it was copied from.
 */
import type { ClusterId } from "../../base";
import type { SnapshotRecord } from "../../engine";

export function snapshotFingerprint(clusterId: ClusterId, snapshot: SnapshotRecord): string {
  const { origin, root, sizeBytes } = snapshot;
  if (origin !== undefined) return origin;
  const place = root === null ? "empty" : `${root.volumeId}/${root.epoch}/${root.index}/${root.offsetBytes}`;
  return `${clusterId}/${place}/${sizeBytes}`;
}
