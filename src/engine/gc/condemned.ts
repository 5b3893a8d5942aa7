/**
 * INode blocks that are dead but stay readable for a while: other peers may still have to walk from the root that used
 * them to the one in force, and would have to walk the whole map without them. Two generations in turn: a block goes
 * when it was found dead in an earlier generation, so between one and two graces later.
 */
import type { BlockRef, Clock } from "../../base";
import { BlockSet } from "../upkeep";

export class Condemned {
  private older = new BlockSet();
  private newer = new BlockSet();
  private count = 0;
  private countOlder = 0;
  private turnedAtMs: number;

  constructor(private readonly clock: Clock) {
    this.turnedAtMs = clock.nowMs();
  }

  get memoryBytes(): number {
    return this.older.memoryBytes + this.newer.memoryBytes;
  }

  /** Something waits for its end: another collection is worth while. */
  get isWaiting(): boolean {
    return this.count + this.countOlder > 0;
  }

  /** Call once a collection, before any `mayGo`. */
  turn(graceMs: number): void {
    if (this.clock.nowMs() - this.turnedAtMs < graceMs) return;
    this.turnedAtMs = this.clock.nowMs();
    this.older = this.newer;
    this.countOlder = this.count;
    this.newer = new BlockSet();
    this.count = 0;
  }

  /** Whether it was found dead and waits here for its end. */
  has(ref: BlockRef): boolean {
    return this.older.has(ref) || this.newer.has(ref);
  }

  /** Whether a dead block waited long enough; if not, it waits from now on. */
  mayGo(ref: BlockRef): boolean {
    if (this.older.has(ref)) return true;
    if (!this.newer.has(ref)) {
      this.newer.add(ref);
      this.count++;
    }
    return false;
  }
}
