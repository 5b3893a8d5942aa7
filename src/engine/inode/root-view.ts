/** One root opened for a walk: its record and what is needed to name the blocks that its map's locations mean. */
import type { BlockRef } from "../../base";
import type { NodePointer } from "../head";
import { badNode } from "./codec";
import { decodeChunk, EpochTable } from "./epochs";
import { Interior, Place, type TreeNode } from "./nodes";
import { readNode } from "./reading";
import { decodeRoot, type RootRecord } from "./root";
import type { NodeReader } from "./types";

export interface RootView {
  readonly record: RootRecord;
  readonly epochs: EpochTable;
}

/** Undefined for no root. Rejects with InodeError. */
export async function openRootView(
  reader: NodeReader,
  root: NodePointer | null,
): Promise<RootView | undefined> {
  if (root === null) return undefined;
  const record = await readNode(reader, root, (view, at) => decodeRoot(view, at, root.lengthBytes));
  const chunks = [];
  for (const [key, place] of record.epochChunks.entries())
    chunks.push(await readNode(reader, place.toPointer(), (view, at) => decodeChunk(place, key, view, at)));
  const epochs = new EpochTable({ current: 1, committed: 0 });
  epochs.load(chunks, record.nextLsn);
  return { record, epochs };
}

/** Throws InodeError "bad-node" for an lsn of no epoch. */
export function nameBlock(view: RootView | undefined, lsn: number): BlockRef {
  const ref = view?.epochs.refOf(lsn);
  if (ref === undefined) throw badNode(`lsn ${lsn} has live pages but belongs to no epoch`);
  return ref;
}

export function childPlace(node: TreeNode | undefined, slot: number): Place | undefined {
  if (!(node instanceof Interior) || !node.has(slot)) return undefined;
  return node.getPointer(slot, new Place());
}

type Position = Pick<NodePointer, "volumeId" | "epoch" | "index" | "offsetBytes"> | Place;

export function samePosition(a: Position, b: Position): boolean {
  return (
    a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index && a.offsetBytes === b.offsetBytes
  );
}

export function sameRef(a: BlockRef, b: BlockRef): boolean {
  return a.volumeId === b.volumeId && a.epoch === b.epoch && a.index === b.index;
}
