/**
 * What a peer reports of its background work in its heartbeat, as `ctl` reads it back. Written by the daemon,
 * read from metadata, so every field is checked: another version may have written it.
 */
export interface BackgroundReport {
  readonly rebalance?: unknown;
  readonly scrub?: unknown;
  readonly gc?: unknown;
  readonly blockCount?: number;
  readonly suspectCount?: number;
  readonly ringVersion?: number;
}

export interface RebalanceReport {
  readonly state: string;
  readonly bytesLeft: number;
  readonly blocksLeft: number;
  readonly blocksWaiting: number;
  readonly blocksSurplus: number;
  readonly blocksYoung: number;
  readonly bytesMoved: number;
  readonly blocksMoved: number;
  readonly blocksDropped: number;
  readonly bytesPerSecond: number;
  readonly rateBytesPerSecond: number;
  readonly secondsLeft: number | null;
  readonly ringVersion: number;
  readonly isSafeToRemove: boolean;
  readonly lastError: string | null;
}

export interface ScrubReport {
  readonly state: string;
  readonly blocksChecked: number;
  readonly bytesChecked: number;
  readonly blocksLeft: number | null;
  readonly secondsLeft: number | null;
  readonly blocksCorrupt: number;
  readonly blocksRepaired: number;
  readonly unrepaired: readonly string[];
  readonly startedWallMs: number;
  readonly finishedWallMs: number;
  readonly rateBytesPerSecond: number;
  readonly lastError: string | null;
}

export interface CollectionReport {
  readonly state: string;
  readonly runs: number;
  readonly finishedWallMs: number;
  readonly tookMs: number;
  readonly blocksListed: number;
  readonly blocksDeletedTotal: number;
  readonly bytesDeletedTotal: number;
  readonly nodesRead: number;
  readonly memoryBytes: number;
  readonly keptCount: number;
  readonly kept: readonly { readonly lineageId: number | null; readonly reason: string }[];
  readonly lastError: string | null;
}

interface Reporting {
  readonly statistics: unknown;
}

type Unchecked = Readonly<Record<string, unknown>>;

function numberOf(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

const numberOrNull = (value: unknown) => (typeof value === "number" ? numberOf(value) : null);
const textOrNull = (value: unknown) => (typeof value === "string" ? value : null);
const stateOf = (value: unknown) => (typeof value === "string" ? value : "unknown");

function objectOf(value: unknown): Unchecked | undefined {
  return typeof value === "object" && value !== null ? (value as Unchecked) : undefined;
}

export function backgroundReport(peer: Reporting): BackgroundReport {
  return objectOf(peer.statistics) ?? {};
}

export function peerProgress(peer: Reporting): RebalanceReport | undefined {
  const report = objectOf(backgroundReport(peer).rebalance);
  if (report === undefined) return undefined;
  return {
    state: stateOf(report.state),
    bytesLeft: numberOf(report.bytesLeft),
    blocksLeft: numberOf(report.blocksLeft),
    blocksWaiting: numberOf(report.blocksWaiting),
    blocksSurplus: numberOf(report.blocksSurplus),
    blocksYoung: numberOf(report.blocksYoung),
    bytesMoved: numberOf(report.bytesMoved),
    blocksMoved: numberOf(report.blocksMoved),
    blocksDropped: numberOf(report.blocksDropped),
    bytesPerSecond: numberOf(report.bytesPerSecond),
    rateBytesPerSecond: numberOf(report.rateBytesPerSecond),
    secondsLeft: numberOrNull(report.secondsLeft),
    ringVersion: numberOf(report.ringVersion),
    isSafeToRemove: report.isSafeToRemove === true,
    lastError: textOrNull(report.lastError),
  };
}

export function scrubProgress(peer: Reporting): ScrubReport | undefined {
  const report = objectOf(backgroundReport(peer).scrub);
  if (report === undefined) return undefined;
  return {
    state: stateOf(report.state),
    blocksChecked: numberOf(report.blocksChecked),
    bytesChecked: numberOf(report.bytesChecked),
    blocksLeft: numberOrNull(report.blocksLeft),
    secondsLeft: numberOrNull(report.secondsLeft),
    blocksCorrupt: numberOf(report.blocksCorrupt),
    blocksRepaired: numberOf(report.blocksRepaired),
    unrepaired: Array.isArray(report.unrepaired)
      ? report.unrepaired.filter((name) => typeof name === "string")
      : [],
    startedWallMs: numberOf(report.startedWallMs),
    finishedWallMs: numberOf(report.finishedWallMs),
    rateBytesPerSecond: numberOf(report.rateBytesPerSecond),
    lastError: textOrNull(report.lastError),
  };
}

export function collectionProgress(peer: Reporting): CollectionReport | undefined {
  const report = objectOf(backgroundReport(peer).gc);
  if (report === undefined) return undefined;
  const kept = (Array.isArray(report.kept) ? report.kept : []).flatMap((value) => {
    const entry = objectOf(value);
    if (entry === undefined) return [];
    return [{ lineageId: numberOrNull(entry.lineageId), reason: textOrNull(entry.reason) ?? "unknown" }];
  });
  return {
    state: stateOf(report.state),
    runs: numberOf(report.runs),
    finishedWallMs: numberOf(report.finishedWallMs),
    tookMs: numberOf(report.tookMs),
    blocksListed: numberOf(report.blocksListed),
    blocksDeletedTotal: numberOf(report.blocksDeletedTotal),
    bytesDeletedTotal: numberOf(report.bytesDeletedTotal),
    nodesRead: numberOf(report.nodesRead),
    memoryBytes: numberOf(report.memoryBytes),
    keptCount: Math.max(kept.length, numberOf(report.keptCount)),
    kept,
    lastError: textOrNull(report.lastError),
  };
}

/** The peer has no part in this ring any more, or no weight, and said by this very ring that it holds no block. */
export function isSafeToRemove(peer: Reporting, ringVersion: number): boolean {
  const progress = peerProgress(peer);
  return progress?.isSafeToRemove === true && progress.ringVersion === ringVersion;
}
