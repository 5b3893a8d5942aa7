/** Where the bytes of an index row lie on the disk, and reading, checking and rewriting them whole. */
import { type ClusterId, type NativeBuffer, DiskStatus } from "../../base";
import { BlockFault, BlockVerifier } from "../block";
import type { BlockIndex } from "./block-index";
import type { Segment } from "./segment";

export class RowBytes {
  readonly verifier: BlockVerifier;

  constructor(
    private readonly index: BlockIndex,
    /** Start, count pairs of the rows in several extents. */
    private readonly extents: Map<number, Uint32Array>,
    private readonly segments: readonly Segment[],
    private readonly unitBytes: number,
    clusterId: ClusterId,
  ) {
    this.verifier = new BlockVerifier(clusterId);
  }

  unitsOf(slot: number): number {
    return Math.ceil(this.index.lengthOf(slot) / this.unitBytes);
  }

  forEachRun(slot: number, visit: (startUnit: number, unitCount: number) => void): void {
    const extents = this.extents.get(slot);
    if (extents === undefined) return visit(this.index.unitOf(slot), this.unitsOf(slot));
    for (let word = 0; word < extents.length; word += 2)
      visit(extents[word] as number, extents[word + 1] as number);
  }

  /** Copies a whole block from the disk (never through a mapping); false when it cannot be read. */
  gather(slot: number, destination: NativeBuffer): boolean {
    return this.gatherRange(slot, 0, this.index.lengthOf(slot), destination);
  }

  /** Copies bytes [from, to) of a block to the same offsets of `destination`. */
  gatherRange(slot: number, from: number, to: number, destination: NativeBuffer): boolean {
    let isReadable = true;
    this.#forEachPiece(slot, (segment, at, offset, length) => {
      const start = Math.max(from, offset);
      const end = Math.min(to, offset + length);
      if (start >= end) return;
      const status = segment.file.read("data.read", at + start - offset, destination, start, end - start);
      if (status !== DiskStatus.ok) isReadable = false;
    });
    return isReadable;
  }

  /** Writes a whole block back to its own place. */
  rewrite(slot: number, source: NativeBuffer): DiskStatus {
    let status: DiskStatus = DiskStatus.ok;
    this.#forEachPiece(slot, (segment, at, offset, length) => {
      if (status === DiskStatus.ok) status = segment.file.write("data.write", at, source, offset, length);
    });
    return status;
  }

  /** Reads a copy into `scratch` and checks all of it. */
  isIntact(slot: number, scratch: NativeBuffer): boolean {
    if (!this.gather(slot, scratch)) return false;
    if (this.verifier.verify(scratch, 0, this.index.lengthOf(slot)) !== BlockFault.none) return false;
    const { header } = this.verifier;
    const ref = this.index.refOf(slot);
    return (
      header.headerCrc === this.index.headerCrcOf(slot) &&
      header.ref.kind === ref.kind &&
      header.ref.volumeId === ref.volumeId &&
      header.ref.epoch === ref.epoch &&
      header.ref.index === ref.index
    );
  }

  #forEachPiece(
    slot: number,
    visit: (segment: Segment, fileOffset: number, blockOffset: number, lengthBytes: number) => void,
  ): void {
    const segment = this.segments[this.index.segmentOf(slot)] as Segment;
    const lengthBytes = this.index.lengthOf(slot);
    let offset = 0;
    this.forEachRun(slot, (start, count) => {
      const length = Math.min(count * this.unitBytes, lengthBytes - offset);
      visit(segment, segment.fileOffsetOf(start), offset, length);
      offset += length;
    });
  }
}
