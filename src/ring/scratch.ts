/**
 * Working memory of one ring's permutation(): made once when the ring is built, so that a call allocates nothing.
 * Rings are used by one thread and permutation() never calls out, so one set is enough.
 */
export class PermutationScratch {
  /** Scores of members; smaller comes first. */
  readonly scores: Float64Array;
  private readonly stamps: Uint32Array;
  private stamp = 0;

  constructor(memberCount: number) {
    this.scores = new Float64Array(memberCount);
    this.stamps = new Uint32Array(memberCount);
  }

  /** Forgets which members were taken. */
  begin(): void {
    if (++this.stamp === 2 ** 32) {
      this.stamps.fill(0);
      this.stamp = 1;
    }
  }

  /** True the first time since begin() for this index. */
  take(index: number): boolean {
    if (this.stamps[index] === this.stamp) return false;
    this.stamps[index] = this.stamp;
    return true;
  }

  isTaken(index: number): boolean {
    return this.stamps[index] === this.stamp;
  }
}
