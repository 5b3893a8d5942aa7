/**
 * The bytes of a sealed block, the same in memory, on the wire and on disk. Header and payload are contiguous;
 * the payload is a sequence of 4 KiB slots (the last slot of an INode block may be short). Every slot has a CRC in
 * the header, seeded with cluster, BlockRef and slot number, so that rot, a misdirected write and a block of
 * another cluster all fail alike; the header's own CRC covers the slot CRCs and so names the content of the whole.
 *
 *   | offset       | size | field (little-endian)                                             |
 *   |--------------|------|-------------------------------------------------------------------|
 *   | 0            | 4    | magic "TBLK"                                                      |
 *   | 4            | 2    | format version, 1                                                 |
 *   | 6            | 2    | flags, 0                                                          |
 *   | 8            | 16   | cluster id                                                        |
 *   | 24           | 24   | BlockRef                                                          |
 *   | 48           | 4    | header length H: 72 + 16 x extents + 4 x slots, a multiple of 4   |
 *   | 52           | 4    | payload length in bytes                                           |
 *   | 56           | 4    | extent count                                                      |
 *   | 60           | 4    | slot count: payload length / 4096, rounded up                     |
 *   | 64           | 4    | CRC32 of bytes [0, H) with this field zero                        |
 *   | 68           | 4    | data: its index less the head's dataIndex when it was sealed; 0: not told          |
 *   | 72           | 16 e | extents: first page u64, page count u32, first slot u32 (0xffffffff: a hole made by TRIM) |
 *   | 72 + 16 e    | 4 s  | CRC32 of each slot                                                |
 *   | H            |      | payload                                                           |
 *
 * By the head's dataIndex that its newest block tells, a log shows that its volume's head was put back to an older one.
 * Replaying a block: first all its holes, then its data extents; a page stands in at most one data extent.
 * A data slot that no extent names is dead (its page was trimmed before the block was sealed).
 */
export const PAGE_BYTES = 4096;
export const BLOCK_MAGIC = 0x4b4c4254;
export const BLOCK_FORMAT_VERSION = 1;
export const HEADER_FIXED_BYTES = 72;
/** Offsets in the header. */
export const HEADER_CRC_OFFSET = 64;
export const AHEAD_OF_HEAD_OFFSET = 68;
export const EXTENT_BYTES = 16;
export const SLOT_CRC_BYTES = 4;
export const HOLE_SLOT = 0xffffffff;
/** Extents are bounded so that the header of a block of any size we make fits in front of the payload. */
export const EXTENT_COUNT_MAX = 1024;
export const BLOCK_SIZE_MAX = 4 * 1024 * 1024;
/** 72 + 16 x 1024 + 4 x 1024 = 20,552, rounded up to a whole number of pages. */
export const HEADER_BYTES_MAX = 24 * 1024;
/** A volume has at most 64 TiB. */
export const VOLUME_PAGE_COUNT_MAX = 2 ** 34;
/**
 * Room in front of the payload in a block buffer: the header is written directly before the payload, and a wire
 * frame's header directly before that. A whole number of pages, so that the payload's slots are page-aligned.
 */
export const BLOCK_HEADROOM_BYTES = HEADER_BYTES_MAX + PAGE_BYTES;
