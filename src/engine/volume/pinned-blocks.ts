/**
 * Which of a volume's blocks its snapshots and clones may hold, so that cleaning does not copy from what stays
 * anyway. Errs towards "may hold": a mistake costs space, never data.
 */
import type { BlockRef, Clock } from "../../base";
import type { OpenGrant, VolumeRegistry } from "../ports";

/** Asked at most this often: it reads every volume's records. */
const REFRESH_MS = 120_000;

export class PinnedBlocks {
  readonly #clock: Clock;
  readonly #registry: VolumeRegistry;
  readonly #grant: OpenGrant;
  /** Newest lsn held by each snapshot taken since the open, by the index of its root. */
  readonly #taken = new Map<number, number>();
  #epochPinned = Number.POSITIVE_INFINITY;
  #lsnPinned = 0;
  #refreshedMs = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, registry: VolumeRegistry, grant: OpenGrant) {
    this.#clock = clock;
    this.#registry = registry;
    this.#grant = grant;
  }

  snapshotTaken(rootIndex: number, newestLsn: number): void {
    this.#taken.set(rootIndex, newestLsn);
    this.#lsnPinned = Math.max(this.#lsnPinned, newestLsn);
  }

  has(ref: BlockRef, lsn: number): boolean {
    const { volume, epoch } = this.#grant;
    if (ref.volumeId !== volume.volumeId) return true;
    return ref.epoch === epoch ? lsn <= this.#lsnPinned : ref.epoch <= this.#epochPinned;
  }

  /** Looks which snapshots and clones there are now. */
  async refresh(): Promise<void> {
    if (this.#clock.nowMs() - this.#refreshedMs < REFRESH_MS) return;
    const view = await this.#registry.collectionView();
    this.#refreshedMs = this.#clock.nowMs();
    const { volume, epoch } = this.#grant;
    const roots: (readonly [epoch: number, index: number])[] = [];
    let unknown = view.damage.length > 0;
    for (const one of view.volumes) {
      const isMine = one.volumeId === volume.volumeId;
      if (!isMine && !one.ancestorIds.includes(volume.volumeId)) continue;
      const held = isMine ? one.snapshots : [...one.snapshots, { root: one.head.root }];
      for (const { root } of held) {
        if (root === null) continue;
        if (root.volumeId === volume.volumeId) roots.push([root.epoch, root.index]);
        // A clone's own root does not say which of our epochs it began in.
        else unknown = true;
      }
    }
    const earlier = roots.filter(([rootEpoch]) => rootEpoch < epoch).map(([rootEpoch]) => rootEpoch);
    this.#epochPinned = unknown ? Number.POSITIVE_INFINITY : Math.max(0, ...earlier);
    this.#keepTaken(
      new Set(roots.filter(([rootEpoch]) => rootEpoch === epoch).map(([, index]) => index)),
      unknown,
    );
  }

  #keepTaken(present: ReadonlySet<number>, unknown: boolean): void {
    if (unknown) return;
    for (const index of this.#taken.keys()) if (!present.has(index)) this.#taken.delete(index);
    this.#lsnPinned = Math.max(0, ...this.#taken.values());
  }
}
