/**
 * What a peer reports of its background work in its heartbeat, as `ctl` reads it back. Written by the daemon,
 * read from metadata, so every field is checked: another version may have written it.
 */
export interface BackgroundReport {
  readonly rebalance?: RebalanceReport;
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
  readonly bytesMoved: number;
  readonly bytesPerSecond: number;
  readonly ringVersion: number;
}

function numberOf(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

export function backgroundReport(peer: { readonly statistics: unknown }): BackgroundReport {
  return typeof peer.statistics === "object" && peer.statistics !== null ? peer.statistics : {};
}

export function peerProgress(peer: { readonly statistics: unknown }): RebalanceReport | undefined {
  const report = backgroundReport(peer).rebalance as Partial<RebalanceReport> | undefined;
  if (typeof report !== "object" || report === null) return undefined;
  return {
    state: typeof report.state === "string" ? report.state : "unknown",
    bytesLeft: numberOf(report.bytesLeft),
    blocksLeft: numberOf(report.blocksLeft),
    bytesMoved: numberOf(report.bytesMoved),
    bytesPerSecond: numberOf(report.bytesPerSecond),
    ringVersion: numberOf(report.ringVersion),
  };
}
