/** The stored form of every record of volumes, peers and rings, and its checked reading (see fields.ts). */
import {
  asVolumeId,
  type ClusterId,
  type Incarnation,
  parseClusterId,
  parseIncarnation,
  parsePeerId,
  type PeerId,
  VOLUME_ID_MAX,
  type VolumeId,
} from "../../base";
import {
  type EpochRange,
  type Head,
  type LogMember,
  MINTED_RANGES_MAX,
  type MintedEpochs,
  type NodePointer,
  type SnapshotRecord,
  type VolumeRecord,
  type VolumeRequest,
} from "../../engine";
import type { RingMember, RingSpec, RingType } from "../../ring";
import type { KeyValue } from "../kv";
import { decodeRecord, encodeRecord, type Fields } from "./fields";
import { VOLUME_SIZE_BYTES_MAX } from "./names";

/** Members of one ring or log set. */
export const MEMBERS_MAX = 1_024;
/** Length of a snapshot's origin in UTF-16 units. */
export const SNAPSHOT_ORIGIN_LENGTH_MAX = 512;
/** Clones of clones of clones: how deep. */
export const ANCESTORS_MAX = 1_024;
const RING_TYPES: readonly RingType[] = ["empty", "single", "mod", "ketama", "union", "rendezvous", "table"];

export interface ClusterSettingsRecord {
  readonly clusterId: ClusterId;
  readonly blockSizeBytes: number;
  /** Layers of the blockset, outermost first, e.g. `crc,base`. */
  readonly blockSpec: string;
  readonly createdMs: number;
}

export interface StoredVolume extends VolumeRecord {
  readonly lineageId: VolumeId;
  readonly ancestorIds: readonly VolumeId[];
  /** Random; tells a creation whose answer was lost from another's volume of that name. */
  readonly token: string;
}

/** The last epoch minted, and what the metadata knows of those before it. */
export interface StoredEpoch extends MintedEpochs {
  readonly epoch: number;
}

export interface StoredLock {
  readonly holder: string;
  readonly token: string;
  readonly epoch: number;
  readonly ttlMs: number;
  readonly sinceMs: number;
}

export interface StoredSnapshot extends SnapshotRecord {
  /** The request or creation that made it. */
  readonly requestId: string;
}

export interface StoredRequest {
  readonly request: VolumeRequest;
  /** The snapshot is to be bound to this lease of the requester's. */
  readonly lease?: string;
  /** The snapshot is a copy; only the writer of this epoch, who made it so, may take it. */
  readonly copy?: { readonly origin: string; readonly epoch: number };
  /** Set when the writer could not meet it. */
  readonly failure?: string;
}

/** How far a disk had come as one incarnation, as far as the metadata know. */
export interface DiskLife {
  readonly incarnation: Incarnation;
  readonly bootCount: number;
  readonly progress: number;
}

export interface StoredPeer {
  readonly peerId: PeerId;
  readonly address: string;
  readonly incarnation: Incarnation;
  readonly bootCount: number;
  /** Of its store, when it reported last. */
  readonly progress: number;
  /** Earlier lives of this peer's disk and how far each had come, newest last. */
  readonly pastLives: readonly DiskLife[];
  /** Random per process: one that lost its lease may register again with the same boot count, another may not. */
  readonly token: string;
  readonly zone: string;
  readonly weight: number;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** Wall clock of the last report. */
  readonly updatedMs: number;
  /** What the peer reports of itself (rebalance progress and the like); meta does not look inside. */
  readonly statistics: unknown;
}

export const encodeSettings = (record: ClusterSettingsRecord) => encodeRecord(record);

export function decodeSettings(entry: KeyValue): ClusterSettingsRecord {
  const fields = decodeRecord(entry);
  return {
    clusterId: fields.parsed("clusterId", parseClusterId),
    blockSizeBytes: fields.integer("blockSizeBytes", 4096, 64 * 1024 * 1024),
    blockSpec: fields.string("blockSpec", 256),
    createdMs: fields.number("createdMs", 0),
  };
}

export const encodeCounter = (last: number) => encodeRecord({ last });
export const decodeCounter = (entry: KeyValue) => decodeRecord(entry).integer("last", 0, VOLUME_ID_MAX);

export const encodeName = (volumeId: VolumeId) => encodeRecord({ volumeId });
export const decodeName = (entry: KeyValue) => volumeIdField(decodeRecord(entry), "volumeId");

function volumeIdField(fields: Fields, name: string): VolumeId {
  return asVolumeId(fields.integer(name, 1, VOLUME_ID_MAX));
}

export const encodeVolume = (record: StoredVolume) => encodeRecord(record);

export function decodeVolume(entry: KeyValue): StoredVolume {
  const fields = decodeRecord(entry);
  return {
    volumeId: volumeIdField(fields, "volumeId"),
    name: fields.string("name"),
    sizeBytes: fields.integer("sizeBytes", 1, VOLUME_SIZE_BYTES_MAX),
    createdMs: fields.number("createdMs", 0),
    lineageId: volumeIdField(fields, "lineageId"),
    ancestorIds: fields.integers("ancestorIds", ANCESTORS_MAX, 1, VOLUME_ID_MAX).map(asVolumeId),
    token: fields.string("token", 64),
  };
}

export function encodeEpoch({ epoch, completeAbove, minted }: StoredEpoch): Uint8Array {
  return encodeRecord({ epoch, completeAbove, minted: minted.flatMap(({ from, to }) => [from, to]) });
}

/** One that was written before the epochs minted were kept tells nothing of those up to its own. */
export function decodeEpoch(entry: KeyValue): StoredEpoch {
  const fields = decodeRecord(entry);
  const epoch = fields.integer("epoch", 0);
  if (!fields.has("minted")) return { epoch, completeAbove: epoch, minted: [] };
  const ends = fields.integers("minted", 2 * MINTED_RANGES_MAX, 1, Number.MAX_SAFE_INTEGER);
  const minted: EpochRange[] = [];
  for (let at = 0; at < ends.length; at += 2) {
    const [from, to] = [ends[at] as number, ends[at + 1] ?? 0];
    if (to < from) throw fields.fail("its epochs minted are not in order");
    minted.push({ from, to });
  }
  return { epoch, completeAbove: fields.integer("completeAbove", 0), minted };
}

export const encodeLock = (lock: StoredLock) => encodeRecord(lock);

export function decodeLock(entry: KeyValue): StoredLock {
  const fields = decodeRecord(entry);
  return {
    holder: fields.string("holder", 256),
    token: fields.string("token", 64),
    epoch: fields.integer("epoch", 1),
    ttlMs: fields.integer("ttlMs", 1),
    sinceMs: fields.number("sinceMs", 0),
  };
}

function decodePointer(fields: Fields): NodePointer {
  return {
    volumeId: volumeIdField(fields, "volumeId"),
    epoch: fields.integer("epoch", 1) as NodePointer["epoch"],
    index: fields.integer("index", 1),
    offsetBytes: fields.integer("offsetBytes", 0),
    lengthBytes: fields.integer("lengthBytes", 1),
  };
}

function decodeMember(fields: Fields): LogMember {
  return {
    peerId: fields.parsed("peerId", parsePeerId),
    incarnation: fields.parsed("incarnation", parseIncarnation),
  };
}

/** `commit` is random per checkpoint: by it a writer knows its own head again after an unknown outcome. */
export const encodeHead = (head: Head, commit: string) => encodeRecord({ commit, ...head });

export function decodeHead(entry: KeyValue): { readonly head: Head; readonly commit: string } {
  const fields = decodeRecord(entry);
  const log = fields.object("log");
  const members = log.objects("members", MEMBERS_MAX, decodeMember);
  const head: Head = {
    root: fields.objectOrNull("root", decodePointer),
    epoch: fields.integer("epoch", 0),
    dataIndex: fields.integer("dataIndex", 0),
    inodeIndex: fields.integer("inodeIndex", 0),
    sizeBytes: fields.integer("sizeBytes", 1, VOLUME_SIZE_BYTES_MAX),
    log: {
      ringVersion: log.integer("ringVersion", 0),
      members,
      width: log.integer("width", members.length === 0 ? 0 : 1, members.length),
    },
  };
  return { head, commit: fields.string("commit", 64) };
}

export const encodeSnapshot = (snapshot: StoredSnapshot) => encodeRecord(snapshot);

export function decodeSnapshot(entry: KeyValue): StoredSnapshot {
  const fields = decodeRecord(entry);
  return {
    volumeId: volumeIdField(fields, "volumeId"),
    name: fields.string("name"),
    root: fields.objectOrNull("root", decodePointer),
    sizeBytes: fields.integer("sizeBytes", 1, VOLUME_SIZE_BYTES_MAX),
    createdMs: fields.number("createdMs", 0),
    requestId: fields.string("requestId", 64),
    ...(fields.has("origin") && { origin: fields.string("origin", SNAPSHOT_ORIGIN_LENGTH_MAX) }),
  };
}

function decodeCopy(fields: Fields): NonNullable<StoredRequest["copy"]> {
  return {
    origin: fields.string("origin", SNAPSHOT_ORIGIN_LENGTH_MAX),
    epoch: fields.integer("epoch", 1),
  };
}

export const encodeRequest = (stored: StoredRequest) => encodeRecord(stored);

export function decodeRequest(entry: KeyValue): StoredRequest {
  const fields = decodeRecord(entry);
  const request = fields.object("request");
  const requestId = request.string("requestId", 64);
  const kind = request.oneOf("kind", ["snapshot", "resize"]);
  return {
    request:
      kind === "snapshot"
        ? { kind, requestId, name: request.string("name") }
        : { kind, requestId, sizeBytes: request.integer("sizeBytes", 1, VOLUME_SIZE_BYTES_MAX) },
    ...(fields.has("lease") && { lease: fields.string("lease", 64) }),
    ...(fields.has("copy") && { copy: decodeCopy(fields.object("copy")) }),
    ...(fields.has("failure") && { failure: fields.string("failure") }),
  };
}

function decodeLife(fields: Fields): DiskLife {
  return {
    incarnation: fields.parsed("incarnation", parseIncarnation),
    bootCount: fields.integer("bootCount", 0),
    // Records of before there was one have none.
    progress: fields.has("progress") ? fields.integer("progress", 0) : 0,
  };
}

export const encodePeer = (peer: StoredPeer) => encodeRecord(peer);

export function decodePeer(entry: KeyValue): StoredPeer {
  const fields = decodeRecord(entry);
  return {
    peerId: fields.parsed("peerId", parsePeerId),
    address: fields.string("address", 1024),
    ...decodeLife(fields),
    pastLives: fields.objects("pastLives", MEMBERS_MAX, decodeLife),
    token: fields.string("token", 64),
    zone: fields.string("zone", 256),
    weight: fields.number("weight", 0),
    capacityBytes: fields.number("capacityBytes", 0),
    usedBytes: fields.number("usedBytes", 0),
    updatedMs: fields.number("updatedMs", 0),
    statistics: fields.raw("statistics") ?? null,
  };
}

/** `token` is random per change, for changes whose answer was lost. */
export const encodeRing = (spec: RingSpec, token: string) => encodeRecord({ token, ...spec });

export function decodeRing(entry: KeyValue): { readonly spec: RingSpec; readonly token: string } {
  const fields = decodeRecord(entry);
  const members = fields.objects(
    "members",
    MEMBERS_MAX,
    (member): RingMember => ({
      peerId: member.parsed("peerId", parsePeerId),
      weight: member.number("weight", 0),
      zone: member.string("zone", 256),
    }),
  );
  if (new Set(members.map((member) => member.peerId)).size !== members.length)
    throw fields.fail("a peer is a member twice");
  const payload = fields.raw("payload");
  const spec: RingSpec = {
    version: fields.integer("version", 1),
    type: fields.oneOf("type", RING_TYPES),
    replication: fields.integer("replication", 0, 255),
    members,
    ...(payload !== undefined && { payload }),
  };
  return { spec, token: fields.string("token", 64) };
}
