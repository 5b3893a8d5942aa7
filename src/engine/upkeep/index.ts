export { BlockAges } from "./age";
export {
  BlockAccess,
  type LocalPeer,
  type UpkeepPorts,
  type UpkeepRegistry,
  type WholeBlock,
} from "./block-access";
export { BlockSet, isSameLog, type LogKey, logName } from "./block-set";
export { forEachLimited } from "./concurrency";
export { UpkeepError, type UpkeepErrorCode } from "./errors";
export { walkLocalBlocks } from "./listing";
export { Pacer } from "./pacer";
export { WorkerLoop } from "./worker-loop";
