/**
 * What the put path reads of a sealed block's bytes without making an object: its name and its header's CRC, at the
 * offsets that block/format.ts gives. Whoever calls a store has verified the bytes.
 */
import type { BlockKind, BlockRef, Epoch, NativeBuffer, VolumeId } from "../../base";

const TWO_32 = 2 ** 32;
const REF_OFFSET = 24;
export const HEADER_LENGTH_OFFSET = 48;
const HEADER_CRC_OFFSET = 64;

/** A BlockRef that is filled again and again, so that the put path allocates none. */
export class MutableRef implements BlockRef {
  kind = 1 as BlockKind;
  volumeId = 1 as VolumeId;
  epoch = 1 as Epoch;
  index = 1;

  /** Reads 24 bytes; false when they name no block that can exist. */
  load(view: DataView, offset: number): boolean {
    const high = view.getUint32(offset + 4, true);
    const kind = high >>> 8;
    this.kind = kind as BlockKind;
    this.volumeId = ((high & 0xff) * TWO_32 + view.getUint32(offset, true)) as VolumeId;
    this.epoch = (view.getUint32(offset + 12, true) * TWO_32 + view.getUint32(offset + 8, true)) as Epoch;
    this.index = view.getUint32(offset + 20, true) * TWO_32 + view.getUint32(offset + 16, true);
    return (
      (kind === 1 || kind === 2) &&
      this.volumeId >= 1 &&
      this.epoch >= 1 &&
      this.epoch <= Number.MAX_SAFE_INTEGER &&
      this.index >= 1 &&
      this.index <= Number.MAX_SAFE_INTEGER
    );
  }

  loadFromHeader(buffer: NativeBuffer, offset: number): boolean {
    return this.load(buffer.view, offset + REF_OFFSET);
  }
}

export function headerCrcAt(buffer: NativeBuffer, offset: number): number {
  return buffer.view.getUint32(offset + HEADER_CRC_OFFSET, true);
}
