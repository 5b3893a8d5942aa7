export type { AnyCommand } from "./any-command";
export { group, leaf } from "./command";
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
export { changeRing, type Metadata, metadataOver, openStore, withMetadata } from "./metadata";
