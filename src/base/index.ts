export { AssertionError, assert, type ExitCode, TorusError, type TorusErrorOptions } from "./errors";
export { type AllocateBuffer, heapBuffer, type NativeBuffer } from "./buffer";
export { type Clock, type Random, sleep, type Timer, type TurnScheduler, within } from "./clock";
export {
  type Disk,
  type DiskEntry,
  DiskError,
  type DiskErrorCode,
  type DiskFile,
  type DiskOperation,
  DiskStatus,
  SECTOR_BYTES,
} from "./disk";
export {
  asEpoch,
  asVolumeId,
  BLOCK_REF_BYTES,
  BlockKind,
  type BlockRef,
  type ClusterId,
  decodeBlockRef,
  type Epoch,
  encodeBlockRef,
  formatBlockRef,
  type Incarnation,
  parseClusterId,
  parseIncarnation,
  parsePeerId,
  type PeerId,
  VOLUME_ID_MAX,
  type VolumeId,
} from "./ids";
export {
  DURATION_MS_MAX,
  formatCount,
  formatDuration,
  formatRate,
  formatSize,
  parseDuration,
  parseRate,
  parseSize,
  parseSizeOrShare,
  type SizeFormat,
  type SizeOrShare,
  UnitError,
  type UnitErrorCode,
} from "./sizes";
