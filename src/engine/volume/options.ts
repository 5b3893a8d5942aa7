/** What can be set for an open volume, with the values used when nothing is said. */
export type WriteLevel = "all" | "quorum" | "one";
export type ReadLevel = "block" | "seq" | "spread";

export interface VolumeOptions {
  readonly writeLevel: WriteLevel;
  readonly readLevel: ReadLevel;
  /** Refuse writes and trims. The volume is still opened as its writer; use a snapshot to read beside a writer. */
  readonly readOnly: boolean;
  /** R4: go on although peers that may hold acknowledged blocks do not answer. Says so in the outcome. */
  readonly acceptLoss: boolean;
  /** The open block is sealed when it is older than this, flush or not. */
  readonly writeBackMs: number;
  /** A block is sealed at this size while nothing is in flight; at the cluster's block size under load. */
  readonly sealEarlyBytes: number;
  /** A checkpoint starts when the log has grown by this much since the last, ... */
  readonly checkpointLogBytes: number;
  /** ... or when the last is this old and anything changed. */
  readonly checkpointIntervalMs: number;
  /** Clean nodes of the map are kept up to this. */
  readonly mapBytesMax: number;
  /** A member of the log set that is gone and keeps writes from being acknowledged is excluded after this, ... */
  readonly degradeAfterMs: number;
  /** ... one that is connected but does not answer after this. */
  readonly excludeSilentAfterMs: number;
  /** A change of peers that hurts nobody yet is followed after this: most that leave are back soon. */
  readonly followAfterMs: number;
  /** A new ring is followed after this: what is written by the old one has to be moved. Several at once cost one turn. */
  readonly followRingAfterMs: number;
  /** How long an opener waits for peers to answer its fence. */
  readonly fenceDeadlineMs: number;
  /** How long a read waits for the lease to be renewed before it fails (R13). */
  readonly leaseStallMs: number;
  /** How long a request goes on asking for what it must read while some peer that may have it does not answer. */
  readonly unansweredReadMs: number;
  /** How far ahead of a sequential reader pages are fetched; 0 turns it off. */
  readonly readAheadBytes: number;
  /** Cleaning copies at most this much a second; 0 turns it off. */
  readonly cleanBytesPerSecond: number;
  /** Cleaning works while the blocks take more than this many times the live bytes. */
  readonly cleanAboveRatio: number;
  /** Below this much dead space nothing is cleaned. */
  readonly cleanDeadBytesMin: number;
  /** So many bytes of new data a second are never slowed down because the pool fills. */
  readonly paceBytesPerSecondMin: number;
}

const MIB = 1024 * 1024;

export const VOLUME_DEFAULTS: VolumeOptions = {
  writeLevel: "all",
  readLevel: "block",
  readOnly: false,
  acceptLoss: false,
  writeBackMs: 1_000,
  sealEarlyBytes: 128 * 1024,
  checkpointLogBytes: 256 * MIB,
  checkpointIntervalMs: 30_000,
  mapBytesMax: 64 * MIB,
  degradeAfterMs: 800,
  excludeSilentAfterMs: 4_000,
  followAfterMs: 5_000,
  followRingAfterMs: 1_000,
  fenceDeadlineMs: 5_000,
  leaseStallMs: 600_000,
  unansweredReadMs: 120_000,
  readAheadBytes: MIB,
  cleanBytesPerSecond: 64 * MIB,
  cleanAboveRatio: 1.6,
  cleanDeadBytesMin: 2 * MIB,
  paceBytesPerSecondMin: 8 * MIB,
};

/** How many copies must be durable before a write is acknowledged, of `replication` wanted. */
export function widthOf(level: WriteLevel, replication: number): number {
  switch (level) {
    case "all":
      return replication;
    case "quorum":
      return Math.floor(replication / 2) + 1;
    case "one":
      return 1;
  }
}
