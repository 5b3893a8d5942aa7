export {
  BlockBuilder,
  blockBufferBytes,
  type BlockSealer,
  makeBlockSealer,
  sealInodeBlock,
  type SealedBlock,
} from "./builder";
export { blockSeed, clusterIdBytes, clusterSeed, readCheck } from "./crc";
export {
  BLOCK_HEADROOM_BYTES,
  BLOCK_SIZE_MAX,
  EXTENT_COUNT_MAX,
  HEADER_BYTES_MAX,
  HOLE_SLOT,
  PAGE_BYTES,
  VOLUME_PAGE_COUNT_MAX,
} from "./format";
export { BlockFault, BlockHeader, BlockVerifier, blockVolumeId, verifyBlock } from "./header";
