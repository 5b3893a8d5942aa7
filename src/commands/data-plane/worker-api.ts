/**
 * What the main thread and the data worker ask of each other. The worker holds the data path: a peer's store with its
 * listener, the open volumes, the NBD server, or all of them. Each part is opened by a call, in this order: storage
 * (which says who this peer is), registry (metadata is connected), front end.
 */
import type { ClusterId, Incarnation, PeerId, VolumeId } from "../../base";
import type { DeviceDescription, DeviceExtent, NbdLimits, ResumedHandshake } from "../../blockdev";
import type { ListReply, ListRequest, PeerStatistics } from "../../engine";
import type { CollectorStatus } from "../../engine/gc";
import type { AccessDecision, EVERY_VOLUME } from "../../engine/peer";
import type { RebalanceStatus } from "../../engine/rebalance";
import type { ScrubStatus } from "../../engine/scrub";
import type { StoreStatistics } from "../../engine/store";
import type { VolumeHealth, VolumeOptions, VolumeStatistics } from "../../engine/volume";
import type { UpkeepOrders } from "../../meta";
import type { AdpPeerStatistics, AdpServerStatistics } from "../../net/adp";
import type { UnaryResult } from "../../net/connect";
import type { LatencySnapshot } from "./latency";
import type { ExportDescription, VolumeWriter } from "./volume-directory";
import type { RegistryEvents, RegistryMethods, SharedRegistryState } from "./registry-rpc";

export interface StorageConfig {
  readonly directory: string;
  /** Keep blocks on this raw disk instead; `overwrite`: whatever it holds. */
  readonly device: { readonly path: string; readonly overwrite: boolean } | undefined;
  readonly sizeBytes: number;
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly blockSizeBytes: number;
  /** Numeric `host:port` or `unix:path`; several when the peer is reached in several ways. */
  readonly listen: readonly string[];
  /** Open a damaged store with what is intact, as a new incarnation. */
  readonly acceptLoss: boolean;
}

export interface StorageOpened {
  readonly incarnation: Incarnation;
  readonly bootCount: number;
  readonly progress: number;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** Where each of `listen` really listens. */
  readonly addresses: readonly string[];
  /** What was wrong with the store, when its loss was accepted. */
  readonly acceptedDamage: readonly string[];
}

export interface RegistryConfig {
  readonly registry: SharedRegistryState;
  readonly holder: string;
  readonly blockSizeBytes: number;
  /** Memory for pages read and for blocks on the way, shared by all volumes. */
  readonly readCacheBytes: number;
  readonly writeCacheBytes: number;
  readonly volume: Partial<VolumeOptions>;
  /** How long an open waits for another holder's lock to end. */
  readonly waitForLockMs: number;
}

/** Background work as this daemon was started. */
export interface UpkeepConfig {
  readonly rebalanceBytesPerSecond: number;
  readonly scrubBytesPerSecond: number;
  /** From the end of one scrub to the start of the next; 0: only when asked. */
  readonly scrubIntervalMs: number;
}

export interface UpkeepStatus {
  readonly rebalance: RebalanceStatus;
  readonly scrub: ScrubStatus;
  readonly gc: CollectorStatus;
}

export interface FrontEndConfig {
  readonly listen: readonly string[];
  /** Volumes that may be exported; undefined: all. */
  readonly only: readonly string[] | undefined;
  /** Opened now, and kept open. */
  readonly keepOpen: readonly string[];
  /** Whether clients may, or must, ask for TLS; undefined: there is none. */
  readonly tls?: "offered" | "required" | undefined;
  /** Bounds for clients that are not the server's defaults. */
  readonly limits?: Partial<NbdLimits> | undefined;
}

/** A volume (or volume@snapshot) as an AoE target of one interface. */
export interface AoeConfig {
  readonly volume: string;
  readonly interfaceName: string;
  readonly major: number;
  readonly minor: number;
  readonly writeCache: boolean;
  /** MACs that may use it, as numbers; empty: all. */
  readonly allowed: readonly number[];
  readonly firmware: string;
}

export interface AoeOpened {
  readonly interfaceName: string;
  readonly mtuBytes: number;
  readonly isUp: boolean;
  readonly sectorCountMax: number;
  readonly sizeBytes: number;
}

export interface OpenVolumeStatus {
  readonly name: string;
  readonly users: number;
  readonly health: VolumeHealth | undefined;
  readonly statistics: VolumeStatistics | undefined;
  /** Undefined for snapshots. */
  readonly leaseRemainingMs: number | undefined;
}

/** Figures of everything the worker holds; what is not there is undefined. */
export interface DataPlaneStatus {
  readonly storage:
    | { readonly peer: PeerStatistics; readonly store: StoreStatistics; readonly server: AdpServerStatistics }
    | undefined;
  readonly volumes: readonly OpenVolumeStatus[];
  readonly peers: readonly AdpPeerStatistics[];
  readonly nbd:
    | {
        readonly connectionsOpen: number;
        readonly connectionsTotal: number;
        readonly requests: Readonly<Record<string, number>>;
        readonly readBytes: number;
        readonly writtenBytes: number;
        readonly errorCount: number;
      }
    | undefined;
  readonly readCache:
    | { readonly hits: number; readonly misses: number; readonly pageCount: number }
    | undefined;
  /** Background work, where this process is a peer. */
  readonly upkeep: UpkeepStatus | undefined;
  readonly turnCount: number;
  readonly latencies: readonly LatencySnapshot[];
}

export interface OpenDeviceRequest {
  readonly volume: string;
  /** Read this snapshot of it; otherwise the volume is opened as its writer. */
  readonly snapshot?: string;
  /** R10: the open puts the volume back to this snapshot. */
  readonly restoreSnapshot?: string;
}

/** A range that one snapshot holds otherwise than another, in whole pages but for the end of the volume. */
export interface DeviceDifference {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Nothing is there any more. */
  readonly hole: boolean;
}

/** A volume or snapshot that is open for the kernel. */
export interface HeldExport {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Undefined for snapshots. */
  readonly writer: VolumeWriter | undefined;
}

export interface ExportSockets {
  readonly name: string;
  /** They belong to the worker from here. */
  readonly sockets: readonly number[];
  /** Nothing is answered before it is durable. */
  readonly writeThrough: boolean;
}

/** Exports for the kernel, by name (`volume` or `volume@snapshot`). */
export interface KernelMethods {
  holdExport(name: string): Promise<HeldExport>;
  adoptExport(argument: ExportSockets): Promise<void>;
  /** Throws when it could not be detached cleanly. */
  releaseExport(name: string): Promise<void>;
}

export interface KernelEvents {
  exportResized: { readonly name: string; readonly sizeBytes: number };
  /** It answers nothing any more. */
  exportFailed: { readonly name: string; readonly reason: string };
  /** The last of its sockets ended. */
  exportIdle: { readonly name: string };
}

/** What a measurement asks of a volume. */
export interface BenchLoad {
  readonly kind: "read" | "write";
  readonly requestBytes: number;
  /** Requests under way at once. */
  readonly depth: number;
  readonly isRandom: boolean;
  /** Each write is followed by a flush, which counts with it. */
  readonly flushEach: boolean;
  /** From the volume's start. */
  readonly spanBytes: number;
  readonly durationMs: number;
  readonly bytesMax: number;
}

export interface BenchFigures {
  readonly requestCount: number;
  /** Until everything written is durable. */
  readonly elapsedMs: number;
  readonly latencyMsMedian: number;
  readonly latencyMsP99: number;
  readonly latencyMsMax: number;
}

/** Volumes opened for a command, by handle. */
export interface DeviceMethods {
  openDevice(request: OpenDeviceRequest): Promise<{ readonly handle: number; readonly sizeBytes: number }>;
  readDevice(argument: { handle: number; offsetBytes: number; lengthBytes: number }): Promise<Uint8Array>;
  writeDevice(argument: { handle: number; offsetBytes: number; bytes: Uint8Array }): Promise<void>;
  trimDevice(argument: { handle: number; offsetBytes: number; lengthBytes: number }): Promise<void>;
  flushDevice(handle: number): Promise<void>;
  deviceExtents(argument: {
    handle: number;
    offsetBytes: number;
    lengthBytes: number;
    countMax: number;
  }): Promise<readonly DeviceExtent[]>;
  /** Starts listing what a snapshot holds otherwise than `base`, another open one; all of it when undefined. */
  startDiff(argument: { handle: number; base: number | undefined }): Promise<{ readonly diff: number }>;
  /** The next differences, in order; none: that was all, and the listing has ended. */
  nextDiff(argument: { diff: number; countMax: number }): Promise<readonly DeviceDifference[]>;
  endDiff(diff: number): Promise<void>;
  benchDevice(argument: { readonly handle: number; readonly load: BenchLoad }): Promise<BenchFigures>;
  resizeDevice(argument: { handle: number; sizeBytes: number; shrink: boolean }): Promise<void>;
  /** Detaches cleanly, or throws. */
  closeDevice(handle: number): Promise<void>;
}

/** A connection of the front end whose client asked for TLS: encrypted on the way to the main thread, plain on the way back. */
export interface UpgradedConnection {
  /** It belongs to the receiver. */
  readonly socket: number;
  readonly remote: string;
  readonly resumed: ResumedHandshake;
}

/** Decides what a client may do with a volume. */
export type AccessDecider = (
  client: string,
  volumeId: VolumeId | typeof EVERY_VOLUME,
) => Promise<AccessDecision>;

/** A client of the store. */
export interface AdoptedClient {
  readonly socket: number;
  readonly remote: string;
  /** The name by which access lists know it; undefined: a peer or an administrator, who may use every volume. */
  readonly client: string | undefined;
}

/** Offered by the worker. */
export interface DataWorkerMethods extends DeviceMethods, KernelMethods {
  openStorage(config: StorageConfig): Promise<StorageOpened>;
  /** One call of the storage service over Connect; bytes in, bytes out. */
  storageCall(argument: {
    readonly procedure: string;
    readonly body: Uint8Array;
    readonly client: string | undefined;
  }): Promise<UnaryResult>;
  renewIncarnation(incarnation: Incarnation): Promise<void>;
  /** Returns the store's progress, which is durable. */
  advanceStore(): Promise<number>;
  /** A client that came through TLS: the plain end of its connection, which then belongs to the worker. */
  adoptClient(argument: AdoptedClient): void;
  connectRegistry(config: RegistryConfig): void;
  /** A page of the blocks that a peer holds. */
  listBlocks(argument: { readonly peerId: PeerId; readonly request: ListRequest }): Promise<ListReply>;
  /** Starts the background work of a peer; after storage and registry. */
  openUpkeep(config: UpkeepConfig): void;
  orderUpkeep(orders: UpkeepOrders): void;
  openFrontEnd(config: FrontEndConfig): Promise<{ readonly addresses: readonly string[] }>;
  /** What came out of the TLS that a client of the front end had asked for. */
  adoptUpgraded(argument: UpgradedConnection): void;
  openAoe(config: AoeConfig): Promise<AoeOpened>;
  status(argument: undefined): Promise<DataPlaneStatus>;
}

/** Offered by the main thread. */
export interface MainMethods extends RegistryMethods {
  /** Connects with TLS; the descriptor of the plain end then belongs to the worker. */
  dialTls(argument: { readonly address: string; readonly timeoutMs: number }): Promise<number>;
  decideAccess(argument: {
    readonly client: string;
    readonly volumeId: VolumeId | typeof EVERY_VOLUME;
  }): Promise<AccessDecision>;
  /** How far the scrub was when this daemon ran last. */
  loadScrubProgress(argument: undefined): Promise<string | undefined>;
  saveScrubProgress(text: string): Promise<void>;
  listExports(argument: undefined): Promise<readonly DeviceDescription[]>;
  describeExport(name: string): Promise<ExportDescription | undefined>;
}

export interface MainEvents extends RegistryEvents {
  /** Access lists changed: decisions about clients are asked for anew. */
  accessChanged: Record<string, never>;
}

export interface DataWorkerEvents extends KernelEvents {
  startTls: UpgradedConnection;
  log: { readonly level: "debug" | "info" | "warn" | "error"; readonly message: string };
  /** The store can't be trusted to keep anything any more: end the process. */
  storePoisoned: { readonly reason: string };
  /** A front end can't go on: end the process. */
  frontEndFailed: { readonly reason: string };
}
