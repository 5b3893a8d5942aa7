export type { AnyCommand } from "./any-command";
export { checkFlags, group, leaf, type LeafMeta } from "./command";
export { CommandError, type CommandErrorCode, UsageError } from "./errors";
export {
  type ConfigFile,
  configFilePath,
  type MetaFlags,
  type MetaLocation,
  metaArgs,
  type Profile,
  readConfigFile,
  resolveMetaLocation,
  resolvePeerTls,
} from "./meta-options";
export {
  levelArgs,
  parseVolumeSize,
  parseWriteLevel,
  type ReadLevel,
  type WriteLevel,
} from "./volume-options";
export {
  changePeer,
  changeRing,
  type PeerChanged,
  type Metadata,
  metadataOver,
  openStore,
  withMetadata,
} from "./metadata";
