/**
 * The names of things: peers, volumes, epochs and blocks, as branded types so that one cannot stand for another,
 * with their one binary form.
 *
 * BlockRef, 24 bytes, three little-endian u64:
 *
 *   | offset | size | field                                              |
 *   |--------|------|----------------------------------------------------|
 *   | 0      | 8    | kind in the top 24 bits, volume id in the lower 40 |
 *   | 8      | 8    | epoch (the INode id minted for the writer)         |
 *   | 16     | 8    | index within the epoch and kind, from 1            |
 *
 * Epochs and indexes stay below 2^53, so that a JavaScript number holds them exactly.
 */
import { assert, TorusError } from "./errors";

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** UUID of a peer, lower case, kept in its data directory. */
export type PeerId = Branded<string, "PeerId">;
/** Random identity of one life of a store, 16 hexadecimal digits. */
export type Incarnation = Branded<string, "Incarnation">;
/** UUID of a cluster, lower case, made at init. */
export type ClusterId = Branded<string, "ClusterId">;
/** 1 .. 2^40-1, never reused. */
export type VolumeId = Branded<number, "VolumeId">;
/** 1 .. 2^53-1; grows with every open of a volume. */
export type Epoch = Branded<number, "Epoch">;

export const BlockKind = { data: 1, inode: 2 } as const;
export type BlockKind = (typeof BlockKind)[keyof typeof BlockKind];

export interface BlockRef {
  readonly kind: BlockKind;
  readonly volumeId: VolumeId;
  readonly epoch: Epoch;
  readonly index: number;
}

export const VOLUME_ID_MAX = 2 ** 40 - 1;
export const BLOCK_REF_BYTES = 24;
const UUID_PATTERN = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

function parseUuid(kind: string, text: string): string {
  const lower = text.toLowerCase();
  if (!UUID_PATTERN.test(lower))
    throw new TorusError("bad-id", `Cannot read ${kind} id "${text}": it is not a UUID`, { exitCode: 2 });
  return lower;
}

export function parsePeerId(text: string): PeerId {
  return parseUuid("peer", text) as PeerId;
}

export function parseClusterId(text: string): ClusterId {
  return parseUuid("cluster", text) as ClusterId;
}

export function parseIncarnation(text: string): Incarnation {
  if (!/^[0-9a-f]{16}$/.test(text))
    throw new TorusError("bad-id", `Cannot read incarnation "${text}": it is not 16 hexadecimal digits`);
  return text as Incarnation;
}

export function asVolumeId(value: number): VolumeId {
  assert(
    Number.isInteger(value) && value >= 1 && value <= VOLUME_ID_MAX,
    `volume id ${value} is out of range`,
  );
  return value as VolumeId;
}

export function asEpoch(value: number): Epoch {
  assert(Number.isSafeInteger(value) && value >= 1, `epoch ${value} is out of range`);
  return value as Epoch;
}

const TWO_32 = 2 ** 32;

export function encodeBlockRef(view: DataView, offset: number, ref: BlockRef): void {
  view.setUint32(offset, ref.volumeId % TWO_32, true);
  view.setUint32(offset + 4, (Math.floor(ref.volumeId / TWO_32) | (ref.kind << 8)) >>> 0, true);
  view.setUint32(offset + 8, ref.epoch % TWO_32, true);
  view.setUint32(offset + 12, Math.floor(ref.epoch / TWO_32), true);
  view.setUint32(offset + 16, ref.index % TWO_32, true);
  view.setUint32(offset + 20, Math.floor(ref.index / TWO_32), true);
}

/** Decodes 24 bytes from anywhere (wire, disk); undefined when they name no block that can exist. */
export function decodeBlockRef(view: DataView, offset: number): BlockRef | undefined {
  const high = view.getUint32(offset + 4, true);
  const kind = high >>> 8;
  const volumeId = (high & 0xff) * TWO_32 + view.getUint32(offset, true);
  const epoch = view.getUint32(offset + 12, true) * TWO_32 + view.getUint32(offset + 8, true);
  const index = view.getUint32(offset + 20, true) * TWO_32 + view.getUint32(offset + 16, true);
  if (kind !== BlockKind.data && kind !== BlockKind.inode) return undefined;
  if (volumeId < 1 || !Number.isSafeInteger(epoch) || epoch < 1 || !Number.isSafeInteger(index) || index < 1)
    return undefined;
  return { kind, volumeId: volumeId as VolumeId, epoch: epoch as Epoch, index };
}

/** A short name for messages and logs: `data 7/1700000000000/12`. */
export function formatBlockRef(ref: BlockRef): string {
  return `${ref.kind === BlockKind.data ? "data" : "inode"} ${ref.volumeId}/${ref.epoch}/${ref.index}`;
}
