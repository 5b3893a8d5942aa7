/**
 * Where every record lives (README.md has the table). Everything of a volume lies under one prefix, and all volumes
 * under one, because a range is read at one revision: that is what the collector needs (R7) and what lets a volume
 * be deleted in one step. Numbers are padded so that keys sort by value; names are percent-encoded.
 */
import { asVolumeId, type PeerId, VOLUME_ID_MAX, type VolumeId } from "../../base";

export const ROOT = "torus/";

const VOLUME_DIGITS = 13;
const VERSION_DIGITS = 10;

function encodeName(name: string): string {
  return encodeURIComponent(name).replace(
    /[!'()*]/g,
    (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

export const keys = {
  settings: `${ROOT}cluster/settings`,
  clusterPrefix: `${ROOT}cluster/`,
  ring: `${ROOT}cluster/ring`,
  peersPrefix: `${ROOT}cluster/peers/`,
  peer: (peerId: PeerId) => `${ROOT}cluster/peers/${peerId}`,
  livePrefix: `${ROOT}cluster/live/`,
  live: (peerId: PeerId) => `${ROOT}cluster/live/${peerId}`,
  upkeep: `${ROOT}cluster/upkeep`,
  ringVersion: (version: number) => `${ROOT}rings/${String(version).padStart(VERSION_DIGITS, "0")}`,
  namesPrefix: `${ROOT}names/`,
  name: (name: string) => `${ROOT}names/${encodeName(name)}`,
  accessPrefix: `${ROOT}access/`,
  access: (id: VolumeId) => `${keys.accessPrefix}${String(id).padStart(VOLUME_DIGITS, "0")}`,
  volumesPrefix: `${ROOT}volumes/`,
  counter: `${ROOT}volumes/counter`,
  volumePrefix: (id: VolumeId) => `${ROOT}volumes/${String(id).padStart(VOLUME_DIGITS, "0")}/`,
  record: (id: VolumeId) => `${keys.volumePrefix(id)}record`,
  head: (id: VolumeId) => `${keys.volumePrefix(id)}head`,
  epoch: (id: VolumeId) => `${keys.volumePrefix(id)}epoch`,
  lock: (id: VolumeId) => `${keys.volumePrefix(id)}lock`,
  requestsPrefix: (id: VolumeId) => `${keys.volumePrefix(id)}requests/`,
  request: (id: VolumeId, requestId: string) => `${keys.requestsPrefix(id)}${requestId}`,
  snapshotsPrefix: (id: VolumeId) => `${keys.volumePrefix(id)}snapshots/`,
  snapshot: (id: VolumeId, name: string) => `${keys.snapshotsPrefix(id)}${encodeName(name)}`,
  pinsPrefix: (id: VolumeId, snapshotName: string) =>
    `${keys.volumePrefix(id)}pins/${encodeName(snapshotName)}/`,
  pin: (id: VolumeId, snapshotName: string, token: string) => `${keys.pinsPrefix(id, snapshotName)}${token}`,
};

/** Splits `torus/volumes/<id>/<rest>`; undefined for keys that belong to no volume. */
export function parseVolumeKey(
  key: string,
): { readonly volumeId: VolumeId; readonly rest: string } | undefined {
  if (!key.startsWith(keys.volumesPrefix)) return undefined;
  const tail = key.slice(keys.volumesPrefix.length);
  if (!/^\d{13}\//.test(tail)) return undefined;
  const volumeId = parseId(tail.slice(0, VOLUME_DIGITS));
  return volumeId === undefined ? undefined : { volumeId, rest: tail.slice(VOLUME_DIGITS + 1) };
}

/** The volume of `torus/access/<id>`; undefined for other keys. */
export function parseAccessKey(key: string): VolumeId | undefined {
  const tail = key.slice(keys.accessPrefix.length);
  return key.startsWith(keys.accessPrefix) && /^\d{13}$/.test(tail) ? parseId(tail) : undefined;
}

function parseId(digits: string): VolumeId | undefined {
  const id = Number(digits);
  return id < 1 || id > VOLUME_ID_MAX ? undefined : asVolumeId(id);
}
