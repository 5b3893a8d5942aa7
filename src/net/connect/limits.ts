/** Bounds of storage over Connect, shared by both sides. */
import { BLOCK_SIZE_MAX, HEADER_BYTES_MAX, PAGE_BYTES } from "../../engine/block";

/** Operations in one batch. */
export const BATCH_COUNT_MAX = 256;
/** A batch is closed when it holds this much, so that one call stays a matter of milliseconds. */
export const BATCH_BYTES = 4 * 1024 * 1024;
/** The largest request: a full batch and one more block of the largest kind. */
export const REQUEST_BYTES_MAX = BATCH_BYTES + BLOCK_SIZE_MAX + HEADER_BYTES_MAX + 64 * 1024;
/** The largest answer to a batch of reads. */
export const READ_REPLY_BYTES_MAX = BATCH_BYTES + BLOCK_SIZE_MAX + HEADER_BYTES_MAX + 64 * 1024;
/** Answers of the control calls: a fence lists a whole tail. */
export const CONTROL_REPLY_BYTES_MAX = 80 * 1024 * 1024;
export const LIST_COUNT_MAX = 65_536;
export const CONFIRM_COUNT_MAX = 16_384;

/** The most bytes that the answer to one read can hold. */
export function readBytesMax(slotCount: number): number {
  return slotCount === 0 ? HEADER_BYTES_MAX : slotCount * PAGE_BYTES;
}
