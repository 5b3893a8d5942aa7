/** The Kubernetes (CSI) driver: see README.md. */
export { ControllerService } from "./controller";
export { CsiError, type CsiErrorCode } from "./errors";
export { DRIVER_NAME, identityService } from "./identity";
export { NodeService, type NodeServiceOptions } from "./node";
export { findMount, runProgram } from "./node-system";
export type { CsiSnapshot, CsiVolume, DeviceAttacher, VolumeService } from "./ports";
export { CsiServer, type CsiServerOptions, parseEndpoint } from "./server";
