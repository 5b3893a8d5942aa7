export {
  LATENCY_BOUNDS_MS,
  LatencyHistogram,
  type LatencyFamily,
  type LatencySnapshot,
  measureLoopLag,
} from "./latency";
export { type CommandDevice, DataPlane, type DataPlaneOptions, type ExportListener } from "./data-plane";
export { VOLUME_LEASE_TIMES } from "./registry-rpc";
export { parseExportName } from "./volume-directory";
export type {
  BenchFigures,
  BenchLoad,
  DataPlaneStatus,
  DataWorkerEvents,
  DataWorkerMethods,
  DeviceDifference,
  FrontEndConfig,
  HeldExport,
  MainEvents,
  MainMethods,
  RegistryConfig,
  StorageConfig,
  StorageOpened,
  UpkeepConfig,
  UpkeepStatus,
} from "./worker-api";
export { PIECE_BYTES_MAX } from "./device-part";
export { DataWorkerParts } from "./worker-parts";
export { holderName, isDeadHolder } from "./holder";
