export { deviceBytes, type DeviceDiskOptions, openDeviceDisk } from "./device-disk";
export { type DirectoryDiskOptions, openDirectoryDisk } from "./directory-disk";
export { IoError, type IoErrorCode } from "./errors";
export {
  createWakeHandle,
  EventLoop,
  type EventLoopOptions,
  type FdWatch,
  kickLoop,
  type TurnEndHook,
} from "./event-loop";
export { C, cPath, errnoName, libc, must, systemError } from "./libc";
export {
  type LoopWorker,
  type LoopWorkerContext,
  type LoopWorkerParts,
  runLoopWorker,
  startLoopWorker,
  type StartLoopWorkerOptions,
  workerUrl,
} from "./loop-worker";
export { BufferPool, bufferAt, copyBuffer, nativeBuffer, populatedBuffer } from "./memory";
export {
  formatStreamAddress,
  type ParsedAddress,
  parseStreamAddress,
  resolveStreamAddress,
} from "./socket-address";
export { SocketNetwork, type SocketNetworkOptions, type SocketStatistics } from "./socket-network";
export type {
  StreamAddress,
  StreamConnection,
  StreamHandler,
  StreamListener,
  StreamNetwork,
} from "./stream";
export { bootTimeMs, systemClock, systemRandom } from "./system";
export { type MessageChannelEnd, RpcEndpoint, type RpcEndpointOptions, type RpcMethods } from "./worker-rpc";
export {
  InlineSyncer,
  type SyncChannel,
  type Syncer,
  WorkerSyncer,
} from "./sync-channel";
export { runSyncWorker, startSyncThread, type SyncThread } from "./sync-thread";
