export { DataPlane, type DataPlaneOptions } from "./data-plane";
export { RegistryServer } from "./registry-rpc";
export { holderName, parseExportName } from "./volume-directory";
export type {
  DataPlaneStatus,
  DataWorkerEvents,
  DataWorkerMethods,
  FrontEndConfig,
  MainEvents,
  MainMethods,
  RegistryConfig,
  StorageConfig,
  StorageOpened,
} from "./worker-api";
export { DataWorkerParts } from "./worker-parts";
