/** The procedures by name, and where they are found over HTTP. */
import { StorageService } from "../gen/storage_pb";

export const SERVICE_PATH = `/${StorageService.typeName}/`;
/** Where peers of any version call each other. */
export const SERVICE_PATH_PATTERN = /^\/torus\.storage\.v\d+\.StorageService\//;

export const Procedure = {
  putBlocks: "PutBlocks",
  readBlocks: "ReadBlocks",
  fence: "Fence",
  listBlocks: "ListBlocks",
  confirmBlocks: "ConfirmBlocks",
  getStatistics: "GetStatistics",
} as const;
export type Procedure = (typeof Procedure)[keyof typeof Procedure];
