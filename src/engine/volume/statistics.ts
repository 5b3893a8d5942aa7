/** Counters of one open volume, read by the metrics; and where latencies go. Counters only grow. */
export interface VolumeStatistics {
  readRequests: number;
  readBytes: number;
  writeRequests: number;
  writeBytes: number;
  flushRequests: number;
  trimRequests: number;
  trimBytes: number;
  /** Requests that ended with an error. */
  failedRequests: number;
  /** Pages served from the open block and blocks still in memory. */
  pagesFromMemory: number;
  pagesFromCache: number;
  pagesFromPeers: number;
  /** Reads of parts of pages made to complete a write. */
  readModifyWrites: number;
  /** Copies whose bytes failed their check. */
  badCopies: number;
  /** Reads for which a second peer was asked because the first kept silent, ... */
  hedgedReads: number;
  /** ... and those that the second answered. */
  hedgesWon: number;
  /** Bad copies rewritten from a good one. */
  repairedCopies: number;
  blocksSealed: number;
  logBytes: number;
  checkpoints: number;
  checkpointBytes: number;
  pagesCleaned: number;
  blocksCleaned: number;
}

export function newVolumeStatistics(): VolumeStatistics {
  return {
    readRequests: 0,
    readBytes: 0,
    writeRequests: 0,
    writeBytes: 0,
    flushRequests: 0,
    trimRequests: 0,
    trimBytes: 0,
    failedRequests: 0,
    pagesFromMemory: 0,
    pagesFromCache: 0,
    pagesFromPeers: 0,
    readModifyWrites: 0,
    badCopies: 0,
    hedgedReads: 0,
    hedgesWon: 0,
    repairedCopies: 0,
    blocksSealed: 0,
    logBytes: 0,
    checkpoints: 0,
    checkpointBytes: 0,
    pagesCleaned: 0,
    blocksCleaned: 0,
  };
}

/** Stages whose latency is observed; a read also by the slowest source of its pages. */
export type LatencyStage =
  | "read"
  | "readFromMemory"
  | "readFromCache"
  | "readFromPeers"
  | "write"
  | "flush"
  | "seal"
  | "blockAcknowledged"
  | "checkpoint";

/** Feeds a histogram; called once per event, must not keep anything or throw. */
export type ObserveLatency = (stage: LatencyStage, milliseconds: number) => void;
