export {
  BlockBuilder,
  blockBufferBytes,
  type BlockSealer,
  makeBlockSealer,
  sealInodeBlock,
  type SealedBlock,
} from "./builder";
export { blockSeed, clusterIdBytes, clusterSeed, readCheck, slotCrc, slotSeed } from "./crc";
export {
  BLOCK_HEADROOM_BYTES,
  BLOCK_MAGIC,
  BLOCK_SIZE_MAX,
  BLOCK_SIZE_MIN,
  EXTENT_COUNT_MAX,
  HEADER_BYTES_MAX,
  HEADER_FIXED_BYTES,
  HOLE_SLOT,
  PAGE_BYTES,
  VOLUME_PAGE_COUNT_MAX,
} from "./format";
export { BlockFault, BlockHeader, type BlockExtent, BlockVerifier, verifyBlock } from "./header";
