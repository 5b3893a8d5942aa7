/**
 * The gradual rewrite of the whole tree. An INode block stays as long as one node in it is referenced, so small
 * checkpoints leave ever more blocks that are mostly dead. Once the bytes written exceed max(64 MiB, twice the live
 * nodes), every leaf older than that moment is marked changed, a few before each checkpoint; the interiors follow
 * by copy-on-write. At the end all older INode blocks are dead. The progress is in the root, so it survives opens.
 */
import { StorageStatus } from "../ports";
import type { EpochTable } from "./epochs";
import type { AnyTree, NodeLoader } from "./loading";
import { type MapLeaf, Place, type UseLeaf } from "./nodes";
import type { RewriteState } from "./root";
import type { RadixTree } from "./tree";
import type { Loaded } from "./types";

export const REWRITE_BYTES_MIN = 64 * 1024 * 1024;
const REWRITE_LEAVES_PER_STEP = 256;
/** Leaves looked at in a step, rewritten or found to be new. */
const LOOKS_PER_STEP = 16 * 1024;

export class Rewrite {
  /** Bytes of nodes written since the last rewrite began. */
  writtenBytes = 0;
  private phase: 0 | 1 | 2 = 0;
  private nextLeaf = 0;
  private startVolumeId = 0;
  private startEpoch = 0;
  private startIndex = 0;
  private lastIndex = 0;
  private readonly place = new Place();

  constructor(
    private readonly map: RadixTree<MapLeaf>,
    private readonly use: RadixTree<UseLeaf>,
    private readonly loader: NodeLoader,
    private readonly bytesMin: number,
  ) {}

  get state(): RewriteState {
    const { phase, nextLeaf, startVolumeId, startEpoch, startIndex } = this;
    return { phase, nextLeaf, startVolumeId, startEpoch, startIndex };
  }

  resume(state: RewriteState, writtenBytes: number): void {
    this.writtenBytes = writtenBytes;
    this.phase = state.phase;
    this.nextLeaf = state.nextLeaf;
    this.startVolumeId = state.startVolumeId;
    this.startEpoch = state.startEpoch;
    this.startIndex = state.startIndex;
  }

  /** A checkpoint of the current epoch used INode blocks up to this one. */
  wrote(lastIndex: number): void {
    this.lastIndex = lastIndex;
  }

  step(epochs: EpochTable, done: Loaded): void {
    if (this.phase === 0) {
      const liveBytes = this.map.nodeBytes + this.use.nodeBytes;
      if (this.writtenBytes <= Math.max(this.bytesMin, 2 * liveBytes)) {
        done(StorageStatus.ok);
        return;
      }
      this.phase = 1;
      this.nextLeaf = 0;
      this.writtenBytes = 0;
      this.startVolumeId = epochs.currentVolumeId;
      this.startEpoch = epochs.currentEpoch;
      this.startIndex = this.lastIndex + 1;
    }
    this.touch(REWRITE_LEAVES_PER_STEP, LOOKS_PER_STEP, done);
  }

  private touch(leavesLeft: number, looksLeft: number, done: Loaded): void {
    let left = leavesLeft;
    for (let looks = looksLeft; left > 0 && looks > 0; looks -= 1) {
      const tree: AnyTree = this.phase === 1 ? this.map : this.use;
      const found = tree.seek(this.nextLeaf, 0);
      if (found === "end") {
        this.nextLeaf = 0;
        this.phase = this.phase === 1 ? 2 : 0;
        if (this.phase === 0) break;
        continue;
      }
      const key = found === "leaf" ? tree.seekKey : this.nextLeaf;
      if (found === "leaf" && !this.isOld(tree, key)) {
        this.nextLeaf = key + 1;
        continue;
      }
      const rest = left;
      const looksRest = looks;
      const resume = (status: StorageStatus) => {
        if (status === StorageStatus.ok) this.touch(rest, looksRest, done);
        else done(status);
      };
      if (!this.loader.request((want, usedAt) => this.walk(tree, key, want, usedAt), resume)) return;
      if (found === "missing") continue;
      tree.writable(key);
      this.nextLeaf = key + 1;
      left -= 1;
    }
    done(StorageStatus.ok);
  }

  /** What `touch` needs: the way to the next leaf, or the leaf itself. */
  private walk(tree: AnyTree, key: number, want: (tree: AnyTree) => boolean, usedAt: number): void {
    const found = tree.seek(key, usedAt);
    if (found === "missing") want(tree);
    else if (found === "leaf" && tree.missing(tree.seekKey, usedAt)) want(tree);
  }

  /** The leaf's bytes were written before the rewrite began. */
  private isOld(tree: AnyTree, key: number): boolean {
    const leaf = tree.find(key);
    if (leaf !== null && tree.isDirty(leaf)) return false;
    const place = tree.placeOf(key, this.place);
    if (place.volumeId === 0) return false;
    if (place.volumeId !== this.startVolumeId || place.epoch < this.startEpoch) return true;
    return place.epoch === this.startEpoch && place.index < this.startIndex;
  }
}
