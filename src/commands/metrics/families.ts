/**
 * Every counter and gauge there is: name, help, type, and its values out of one status. What a process does not have
 * (a client has no store, a daemon may have no NBD server) yields no value. Histograms are in exporter.ts.
 */
import type { LatencyFamily, DataPlaneStatus } from "../data-plane";

/** What the main thread knows beside the data path. */
export interface ClusterFigures {
  readonly version: string;
  readonly commit: string;
  readonly ready: boolean;
  readonly ringVersion: number | undefined;
  readonly replication: number | undefined;
  /** Counts by state: live, down (in the ring and not live), spare (live and not in the ring). */
  readonly peers: Readonly<Record<string, number>>;
  readonly certificateExpiresMs: number | undefined;
}

export interface MetricsSource {
  readonly plane: DataPlaneStatus;
  readonly cluster: ClusterFigures;
}

export type Labels = Readonly<Record<string, string>>;
export type Labelled = readonly [Labels, number];

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  readonly values: (source: MetricsSource) => readonly Labelled[];
}

type Volume = DataPlaneStatus["volumes"][number];
type Statistics = NonNullable<Volume["statistics"]>;
type Health = NonNullable<Volume["health"]>;
type Storage = NonNullable<DataPlaneStatus["storage"]>;
type Nbd = NonNullable<DataPlaneStatus["nbd"]>;
type Upkeep = NonNullable<DataPlaneStatus["upkeep"]>;
type Peer = DataPlaneStatus["peers"][number];

const one = (value: number | undefined): readonly Labelled[] => (value === undefined ? [] : [[{}, value]]);
const flag = (value: boolean) => (value ? 1 : 0);

function family(type: Family["type"], name: string, help: string, values: Family["values"]): Family {
  return { type, name: `torus_${name}`, help, values };
}

const single = (
  type: Family["type"],
  name: string,
  help: string,
  read: (source: MetricsSource) => number | undefined,
) => family(type, name, help, (source) => one(read(source)));

const stored = (type: Family["type"], name: string, help: string, read: (storage: Storage) => number) =>
  single(type, name, help, ({ plane }) => (plane.storage === undefined ? undefined : read(plane.storage)));

const kept = (type: Family["type"], name: string, help: string, read: (upkeep: Upkeep) => number | null) =>
  single(type, name, help, ({ plane }) =>
    plane.upkeep === undefined ? undefined : (read(plane.upkeep) ?? undefined),
  );

/** A moment that has not come yet is not 1970. */
const moment = (wallMs: number) => (wallMs > 0 ? wallMs / 1000 : null);

const served = (type: Family["type"], name: string, help: string, read: (nbd: Nbd) => number) =>
  single(type, name, help, ({ plane }) => (plane.nbd === undefined ? undefined : read(plane.nbd)));

const counted = (name: string, help: string, read: (statistics: Statistics) => number) =>
  family("counter", name, help, ({ plane }) =>
    plane.volumes.flatMap((volume) =>
      volume.statistics === undefined ? [] : [[{ volume: volume.name }, read(volume.statistics)] as const],
    ),
  );

const healthy = (name: string, help: string, read: (health: Health) => number) =>
  family("gauge", name, help, ({ plane }) =>
    plane.volumes.flatMap((volume) =>
      volume.health === undefined ? [] : [[{ volume: volume.name }, read(volume.health)] as const],
    ),
  );

const linked = (type: Family["type"], name: string, help: string, read: (peer: Peer) => number) =>
  family(type, name, help, ({ plane }) =>
    plane.peers.map((peer) => [{ peer: peer.peerId }, read(peer)] as const),
  );

function pageSources(plane: DataPlaneStatus): readonly Labelled[] {
  return plane.volumes.flatMap(({ name, statistics }) => {
    if (statistics === undefined) return [];
    const { pagesFromMemory, pagesFromCache, pagesFromPeers } = statistics;
    return Object.entries({ memory: pagesFromMemory, cache: pagesFromCache, peers: pagesFromPeers }).map(
      ([source, value]): Labelled => [{ volume: name, source }, value],
    );
  });
}

export const FAMILIES: readonly Family[] = [
  family("gauge", "build_info", "Always 1; what runs is in the labels", ({ cluster }) => [
    [{ version: cluster.version, commit: cluster.commit }, 1],
  ]),
  single("gauge", "ready", "1 when this process serves, 0 while it starts or stops", ({ cluster }) =>
    flag(cluster.ready),
  ),
  single("gauge", "ring_version", "Version of the ring in force here", ({ cluster }) => cluster.ringVersion),
  single("gauge", "ring_replication", "Copies the ring asks for", ({ cluster }) => cluster.replication),
  family("gauge", "cluster_peers", "Registered peers and ring members, by state", ({ cluster }) =>
    Object.entries(cluster.peers).map(([state, count]): Labelled => [{ state }, count]),
  ),
  single(
    "gauge",
    "certificate_expiry_timestamp_seconds",
    "When this process's certificate ends",
    ({ cluster }) =>
      cluster.certificateExpiresMs === undefined ? undefined : cluster.certificateExpiresMs / 1000,
  ),
  single(
    "counter",
    "loop_turns_total",
    "Turns of the data path's event loop",
    ({ plane }) => plane.turnCount,
  ),

  stored("gauge", "store_capacity_bytes", "Bytes blocks can take", ({ peer }) => peer.capacityBytes),
  stored("gauge", "store_used_bytes", "Bytes blocks take", ({ peer }) => peer.usedBytes),
  stored("gauge", "store_blocks", "Blocks held", ({ peer }) => peer.blockCount),
  stored(
    "gauge",
    "store_suspect_blocks",
    "Blocks whose bytes failed their checksum",
    ({ peer }) => peer.suspectCount,
  ),
  stored("gauge", "store_index_bytes", "Memory of the store's index", ({ store }) => store.indexBytes),
  stored(
    "counter",
    "store_syncs_total",
    "Syncs of the disk that served puts, deletes or fences",
    ({ store }) => store.syncCount,
  ),
  stored(
    "gauge",
    "peer_connections",
    "Connections of clients and peers",
    ({ server }) => server.connectionCount,
  ),
  stored("counter", "peer_puts_total", "Blocks received", ({ server }) => server.putCount),
  stored("counter", "peer_received_bytes_total", "Bytes of blocks received", ({ server }) => server.putBytes),
  stored("counter", "peer_reads_total", "Reads served", ({ server }) => server.readCount),
  stored("counter", "peer_sent_bytes_total", "Bytes of blocks sent", ({ server }) => server.readBytes),
  stored(
    "counter",
    "peer_violations_total",
    "Connections closed for what they sent",
    ({ server }) => server.violationCount,
  ),
  stored(
    "counter",
    "peer_buffer_waits_total",
    "Times that receiving waited for a free buffer",
    ({ server }) => server.bufferWaitCount,
  ),

  kept(
    "gauge",
    "rebalance_left_bytes",
    "Bytes of blocks still to be looked at or moved, at most",
    ({ rebalance }) => rebalance.bytesLeft,
  ),
  kept(
    "gauge",
    "rebalance_left_blocks",
    "Blocks still to be looked at or moved, at most",
    ({ rebalance }) => rebalance.blocksLeft,
  ),
  kept(
    "gauge",
    "rebalance_waiting_blocks",
    "Blocks that the last pass could not finish",
    ({ rebalance }) => rebalance.blocksWaiting,
  ),
  kept(
    "counter",
    "rebalance_moved_bytes_total",
    "Bytes of blocks sent to where they belong",
    ({ rebalance }) => rebalance.bytesMoved,
  ),
  kept(
    "counter",
    "rebalance_moved_blocks_total",
    "Blocks sent to where they belong",
    ({ rebalance }) => rebalance.blocksMoved,
  ),
  kept(
    "counter",
    "rebalance_dropped_blocks_total",
    "Blocks given up because others were confirmed to hold them",
    ({ rebalance }) => rebalance.blocksDropped,
  ),
  kept("gauge", "scrub_running", "1 while a scrub reads the store", ({ scrub }) =>
    flag(scrub.state === "running"),
  ),
  kept(
    "gauge",
    "scrub_checked_bytes",
    "Bytes read and verified by the scrub that runs or ran last",
    ({ scrub }) => scrub.bytesChecked,
  ),
  kept(
    "gauge",
    "scrub_corrupt_blocks",
    "Bad copies found by the scrub that runs or ran last",
    ({ scrub }) => scrub.blocksCorrupt,
  ),
  kept(
    "gauge",
    "scrub_unrepaired_blocks",
    "Bad copies of which no good one was found",
    ({ scrub }) => scrub.unrepaired.length,
  ),
  kept("gauge", "scrub_finished_timestamp_seconds", "When the last whole scrub ended", ({ scrub }) =>
    moment(scrub.finishedWallMs),
  ),
  kept("counter", "gc_runs_total", "Collections of dead blocks", ({ gc }) => gc.runs),
  kept("counter", "gc_deleted_blocks_total", "Dead blocks deleted", ({ gc }) => gc.blocksDeletedTotal),
  kept("counter", "gc_deleted_bytes_total", "Bytes of dead blocks deleted", ({ gc }) => gc.bytesDeletedTotal),
  kept("gauge", "gc_duration_seconds", "How long the last collection took", ({ gc }) => gc.tookMs / 1000),
  kept(
    "gauge",
    "gc_kept_lineages",
    "Lineages of which nothing could be deleted because something could not be read",
    ({ gc }) => gc.kept.length,
  ),
  kept("gauge", "gc_finished_timestamp_seconds", "When the last whole collection ended", ({ gc }) =>
    moment(gc.finishedWallMs),
  ),

  served("gauge", "nbd_connections", "NBD connections open", (nbd) => nbd.connectionsOpen),
  served("counter", "nbd_connections_total", "NBD connections accepted", (nbd) => nbd.connectionsTotal),
  served("counter", "nbd_read_bytes_total", "Bytes read by NBD clients", (nbd) => nbd.readBytes),
  served("counter", "nbd_written_bytes_total", "Bytes written by NBD clients", (nbd) => nbd.writtenBytes),
  served("counter", "nbd_errors_total", "NBD requests answered with an error", (nbd) => nbd.errorCount),
  family("counter", "nbd_requests_total", "NBD requests, by command", ({ plane }) =>
    Object.entries(plane.nbd?.requests ?? {}).map(([command, count]): Labelled => [{ command }, count]),
  ),

  counted("volume_reads_total", "Read requests", (volume) => volume.readRequests),
  counted("volume_read_bytes_total", "Bytes read", (volume) => volume.readBytes),
  counted("volume_writes_total", "Write requests", (volume) => volume.writeRequests),
  counted("volume_written_bytes_total", "Bytes written", (volume) => volume.writeBytes),
  counted("volume_flushes_total", "Flush requests", (volume) => volume.flushRequests),
  counted("volume_trims_total", "Trim requests", (volume) => volume.trimRequests),
  counted("volume_trimmed_bytes_total", "Bytes trimmed", (volume) => volume.trimBytes),
  counted(
    "volume_failed_requests_total",
    "Requests that ended with an error",
    (volume) => volume.failedRequests,
  ),
  family("counter", "volume_pages_read_total", "Pages read, by where they came from", ({ plane }) =>
    pageSources(plane),
  ),
  counted(
    "volume_read_modify_writes_total",
    "Reads of parts of pages made to complete a write",
    (volume) => volume.readModifyWrites,
  ),
  counted(
    "volume_bad_copies_total",
    "Copies read whose bytes failed their check",
    (volume) => volume.badCopies,
  ),
  counted(
    "volume_hedged_reads_total",
    "Reads of blocks for which a second peer was asked because the first kept silent",
    (volume) => volume.hedgedReads,
  ),
  counted(
    "volume_hedges_won_total",
    "Hedged reads that the second peer answered",
    (volume) => volume.hedgesWon,
  ),
  counted(
    "volume_repaired_copies_total",
    "Bad copies rewritten from a good one",
    (volume) => volume.repairedCopies,
  ),
  counted("volume_blocks_sealed_total", "Blocks sealed and sent to peers", (volume) => volume.blocksSealed),
  counted(
    "volume_log_bytes_total",
    "Bytes of blocks sealed, once whatever the copies",
    (volume) => volume.logBytes,
  ),
  counted("volume_checkpoints_total", "Checkpoints committed", (volume) => volume.checkpoints),
  counted(
    "volume_checkpoint_bytes_total",
    "Bytes written by checkpoints",
    (volume) => volume.checkpointBytes,
  ),
  counted("volume_blocks_cleaned_total", "Mostly dead blocks emptied", (volume) => volume.blocksCleaned),
  healthy("volume_tail_bytes", "Log that an open after a crash would replay", (health) => health.tailBytes),
  healthy("volume_live_bytes", "Bytes of pages in use", (health) => health.liveBytes),
  healthy(
    "volume_space_ratio",
    "Bytes held by live blocks for each live byte",
    (health) => health.spaceRatio,
  ),
  healthy(
    "volume_pending_blocks",
    "Blocks sealed and not yet acknowledged",
    (health) => health.blocksPending,
  ),
  healthy("volume_degraded", "1 when new writes get fewer copies than the ring asks for", (health) =>
    flag(health.degraded),
  ),
  healthy("volume_full", "1 when no peer has space for a block", (health) => flag(health.full)),
  healthy("volume_failed", "1 when the volume can't go on", (health) => flag(health.reason !== undefined)),
  healthy("volume_write_copies", "Copies that acknowledge new writes", (health) => health.width),
  family(
    "gauge",
    "volume_lease_remaining_seconds",
    "Time the writer's lease is good for; it ends I/O below 0",
    ({ plane }) =>
      plane.volumes.flatMap(({ name, leaseRemainingMs }) =>
        leaseRemainingMs === undefined || !Number.isFinite(leaseRemainingMs)
          ? []
          : [[{ volume: name }, leaseRemainingMs / 1000] as const],
      ),
  ),

  single(
    "counter",
    "read_cache_hits_total",
    "Pages found in the read cache",
    ({ plane }) => plane.readCache?.hits,
  ),
  single(
    "counter",
    "read_cache_misses_total",
    "Pages not found in the read cache",
    ({ plane }) => plane.readCache?.misses,
  ),
  single("gauge", "read_cache_pages", "Pages in the read cache", ({ plane }) => plane.readCache?.pageCount),

  linked("gauge", "peer_link_up", "1 when the connection to this peer is open", (peer) =>
    flag(peer.state === "ready"),
  ),
  linked("counter", "peer_link_connects_total", "Connections made to this peer", (peer) => peer.connectCount),
  linked(
    "counter",
    "peer_link_failures_total",
    "Connections to this peer that failed",
    (peer) => peer.failureCount,
  ),
  linked(
    "counter",
    "peer_link_unanswered_total",
    "Requests to this peer that ended without an answer",
    (peer) => peer.unreachableCount,
  ),
  linked(
    "counter",
    "peer_link_sent_bytes_total",
    "Bytes sent to this peer",
    (peer) => peer.put.sentBytes + peer.read.sentBytes + peer.control.sentBytes,
  ),
  linked(
    "counter",
    "peer_link_received_bytes_total",
    "Bytes received from this peer",
    (peer) => peer.put.receivedBytes + peer.read.receivedBytes + peer.control.receivedBytes,
  ),
];

export const HISTOGRAMS: readonly {
  readonly name: string;
  readonly help: string;
  readonly label: string;
  readonly family: LatencyFamily;
}[] = [
  {
    name: "torus_nbd_request_duration_seconds",
    help: "From an NBD request to its reply",
    label: "command",
    family: "nbdRequest",
  },
  {
    name: "torus_volume_stage_duration_seconds",
    help: "Reads (all, and by the slowest source of their pages), writes, flushes, sealing of a block, its acknowledgement by peers, and checkpoints",
    label: "stage",
    family: "volumeStage",
  },
  {
    name: "torus_peer_request_duration_seconds",
    help: "From a put or read that reached this peer to its answer",
    label: "operation",
    family: "peerRequest",
  },
  {
    name: "torus_store_sync_duration_seconds",
    help: "fdatasync of the store",
    label: "file",
    family: "storeSync",
  },
  {
    name: "torus_loop_lag_duration_seconds",
    help: "How late timers run",
    label: "thread",
    family: "loopLag",
  },
];
