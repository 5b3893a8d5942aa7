/** The procedures by name, and where they are found over HTTP. */
export const SERVICE_PATH = "/torus.storage.v1.StorageService/";

export const Procedure = {
  putBlocks: "PutBlocks",
  readBlocks: "ReadBlocks",
  fence: "Fence",
  listBlocks: "ListBlocks",
  confirmBlocks: "ConfirmBlocks",
  getStatistics: "GetStatistics",
} as const;
export type Procedure = (typeof Procedure)[keyof typeof Procedure];
