/**
 * Which pages of the volume are used: few enough to be written again and again, and placed where the map has its
 * edges (leaves of 1024 pages, interiors of 512 leaves).
 */
import type { Prng } from "../world/prng";

export interface PageRange {
  readonly firstPage: number;
  readonly pageCount: number;
}

export class Regions {
  readonly ranges: readonly PageRange[] = [
    { firstPage: 0, pageCount: 40 },
    { firstPage: 1010, pageCount: 40 },
    { firstPage: 1024 * 512 - 12, pageCount: 24 },
  ];
  readonly sizeBytes = (1024 * 512 + 4096) * 4096;
  /** The volume is cut off here at times, in the middle of the last range. */
  readonly smallSizeBytes = 1024 * 512 * 4096;

  pages(): number[] {
    return this.ranges.flatMap(({ firstPage, pageCount }) =>
      Array.from({ length: pageCount }, (_, index) => firstPage + index),
    );
  }

  pick(random: Prng, pageCountMax: number): PageRange {
    const range = random.pick(this.ranges);
    const start = random.below(range.pageCount);
    const pageCount = Math.min(range.pageCount - start, 1 + Math.floor(random.delayMs(2)), pageCountMax);
    return { firstPage: range.firstPage + start, pageCount };
  }
}
