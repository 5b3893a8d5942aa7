/**
 * What the metadata says of a block's volume: gone, covered by the head's map, or young. A young block may be part of
 * a log's tail that only its writer (or the next opener) decides about: it may be copied, never dropped or collected.
 */
import { BlockKind, type BlockRef } from "../../base";
import type { Head } from "../head";
import type { CollectionView } from "../ports";

export class BlockAges {
  private readonly heads = new Map<number, Head>();

  constructor(readonly view: CollectionView) {
    for (const volume of view.volumes) this.heads.set(volume.volumeId, volume.head);
  }

  /** The volume was deleted: its id was given out and nothing is left of it (ids are never reused). */
  isDeleted(volumeId: number): boolean {
    return volumeId <= this.view.volumeIdLast && !this.heads.has(volumeId) && this.view.damage.length === 0;
  }

  isYoung(ref: BlockRef): boolean {
    const youngFrom = this.youngFromIndex(ref.kind, ref.volumeId, ref.epoch);
    return ref.index >= youngFrom;
  }

  /** In this epoch, blocks of the kind from this index on are young; 1: all of them, Infinity: none. */
  youngFromIndex(kind: BlockKind, volumeId: number, epoch: number): number {
    const head = this.heads.get(volumeId);
    if (head === undefined) return this.isDeleted(volumeId) ? Number.POSITIVE_INFINITY : 1;
    if (epoch > head.epoch) return 1;
    if (epoch < head.epoch) return Number.POSITIVE_INFINITY;
    return (kind === BlockKind.data ? head.dataIndex : head.inodeIndex) + 1;
  }
}
