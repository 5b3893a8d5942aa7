/**
 * The references of one lineage: a volume, its clones and their clones, which may share blocks. For each volume the
 * exact set of its head's root, and the chain of its snapshots; brought up to date by walking differences.
 */
import type { NodePointer } from "../head";
import type { NodeReader } from "../inode";
import type { CollectionVolume } from "../ports";
import type { BlockSet } from "../upkeep";
import { RootSet, sameRoot } from "./root-set";

interface VolumeSets {
  head: RootSet;
  /** One per snapshot root, in the order of their making; equal roots once. */
  snapshots: RootSet[];
}

export class Lineage {
  private readonly volumes = new Map<number, VolumeSets>();
  get memoryBytes(): number {
    let bytes = 0;
    for (const { head, snapshots } of this.volumes.values())
      bytes += head.memoryBytes + snapshots.reduce((sum, set) => sum + set.memoryBytes, 0);
    return bytes;
  }

  /** Brings everything to what the view says. Throws InodeError: then the lineage must be forgotten. */
  async update(volumes: readonly CollectionVolume[], reader: NodeReader): Promise<void> {
    const present = new Set(volumes.map((volume) => volume.volumeId));
    for (const volumeId of this.volumes.keys())
      if (!present.has(volumeId as never)) this.volumes.delete(volumeId);
    for (const volume of volumes) await this.updateVolume(volume, reader);
  }

  /** All sets; a block in any of them is referenced. */
  sets(): BlockSet[] {
    return [...this.volumes.values()].flatMap(({ head, snapshots }) => [
      head.blocks,
      ...snapshots.map((set) => set.blocks),
    ]);
  }

  private async updateVolume(volume: CollectionVolume, reader: NodeReader): Promise<void> {
    const { volumeId, head, snapshots } = volume;
    const known = this.volumes.get(volumeId);
    const sets: VolumeSets = known ?? {
      head: await this.exactSet(head.root, undefined, reader),
      snapshots: [],
    };
    this.volumes.set(volumeId, sets);
    // The chain first: what the head was until now is nearest to a new snapshot.
    await this.updateChain(sets, chainOf(snapshots), reader);
    if (!sameRoot(sets.head.root, head.root)) await sets.head.moveTo(head.root, reader);
  }

  /** Makes the chain that of `roots`, with sets kept where root and predecessor are the same as before. */
  private async updateChain(
    sets: VolumeSets,
    roots: readonly NodePointer[],
    reader: NodeReader,
  ): Promise<void> {
    const old = sets.snapshots;
    const chain: RootSet[] = [];
    let beyond: NodePointer | null = null;
    for (const root of roots) {
      const kept = old.find((set) => sameRoot(set.root, root) && sameRoot(set.beyond, beyond));
      const link =
        kept ??
        (beyond === null
          ? await this.exactSet(root, old[0] ?? sets.head, reader)
          : await RootSet.walk(root, beyond, reader));
      chain.push(link);
      beyond = root;
    }
    sets.snapshots = chain;
  }

  /** An exact set made from one that is known, if any is the same or near; else by walking the whole map. */
  private async exactSet(
    root: NodePointer | null,
    near: RootSet | undefined,
    reader: NodeReader,
  ): Promise<RootSet> {
    for (const { head, snapshots } of this.volumes.values())
      for (const set of [head, ...snapshots]) if (set.isExact && sameRoot(set.root, root)) return set.copy();
    if (near === undefined) return await RootSet.walk(root, null, reader);
    const moved = near.copy();
    await moved.moveTo(root, reader);
    return moved;
  }
}

/** The snapshots' roots in the order of their making, without empty and repeated ones. */
function chainOf(snapshots: CollectionVolume["snapshots"]): NodePointer[] {
  const ordered = snapshots.toSorted((a, b) => a.createdMs - b.createdMs || (a.name < b.name ? -1 : 1));
  const roots: NodePointer[] = [];
  for (const { root } of ordered)
    if (root !== null && !roots.some((known) => sameRoot(known, root))) roots.push(root);
  return roots;
}
