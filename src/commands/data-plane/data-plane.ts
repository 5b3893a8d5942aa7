/**
 * The main thread's hold on the data path: starts the sync thread and the data worker, connects the worker to the
 * metadata, and ends both in order.
 */
import { type Incarnation, type PeerId, TorusError } from "../../base";
import {
  libc,
  type LoopWorker,
  resolveStreamAddress,
  startLoopWorker,
  startSyncThread,
  type SyncThread,
} from "../../base/io";
import type { DeviceDescription, DeviceExtent } from "../../blockdev";
import type { BlockListing, VolumeRegistry } from "../../engine";
import type { VolumeOptions } from "../../engine/volume";
import { PAGE_BYTES } from "../../engine/block";
import type { UpkeepOrders } from "../../meta";
import type { UnaryResult } from "../../net/connect";
import { TlsDialer, type TlsIdentity, TlsUpgrader } from "../../net/tls";
import type { Metadata } from "../cli";
import { workerEntry } from "../executable";
import { RegistryServer } from "./registry-rpc";
import { StateFile } from "./state-file";
import { holderName, isDeadHolder } from "./holder";
import { type ExportDescription, parseExportName } from "./volume-directory";
import type {
  BenchFigures,
  BenchLoad,
  AccessDecider,
  AoeConfig,
  AoeOpened,
  AdoptedClient,
  DataPlaneStatus,
  DeviceDifference,
  DataWorkerEvents,
  DataWorkerMethods,
  ExportSockets,
  FrontEndConfig,
  HeldExport,
  MainEvents,
  MainMethods,
  OpenDeviceRequest,
  StorageConfig,
  StorageOpened,
  UpgradedConnection,
  UpkeepConfig,
} from "./worker-api";

/** A thread loads the whole program first: seconds on a busy or emulated machine. */
const START_TIMEOUT_MS = 90_000;
/** Reading back a large store, reserving its space. */
const STORAGE_TIMEOUT_MS = 600_000;
/** Opening volumes waits for locks and peers. */
const RESOLVE_TIMEOUT_MS = 5_000;
const FRONT_END_TIMEOUT_MS = 300_000;
/** A piece waits for peers, for space to come back, for a lease: longer than any of these. */
const DEVICE_CALL_TIMEOUT_MS = 600_000;
/** Longer than any client waits. */
const STORAGE_CALL_TIMEOUT_MS = 30_000;
const STATUS_TIMEOUT_MS = 5_000;
/** A page of a listing. */
const LIST_BLOCKS = 4096;
const LIST_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 60_000;

export interface DataPlaneOptions {
  readonly onLog: (event: DataWorkerEvents["log"]) => void;
  /** The data path can't go on: say so and end the process. */
  readonly onFatal: (error: TorusError) => void;
  /** With it peers are reached by TLS where their address asks for it. */
  readonly tls?: TlsIdentity | undefined;
  /** What a client may do with a volume of this process's store; asked about clients that came through TLS. */
  readonly decideAccess?: AccessDecider;
}

export interface ClientSettings {
  readonly blockSizeBytes: number;
  readonly readCacheBytes: number;
  readonly writeCacheBytes: number;
  readonly volume: Partial<VolumeOptions>;
  readonly waitForLockMs: number;
  readonly peerId?: PeerId;
}

/** What becomes of an export that is open for the kernel. */
export interface ExportListener {
  onResized(sizeBytes: number): void;
  /** It answers nothing any more, and its sockets are gone. */
  onFailed(reason: string): void;
  /** The last of its sockets ended. */
  onIdle(): void;
}

/** Differences asked for at once. */
const DIFFERENCES_AT_ONCE = 1024;

/** A volume or snapshot in this process's hands. Pieces are at most 1 MiB; several may be under way. */
export interface CommandDevice {
  readonly sizeBytes: number;
  read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array>;
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>;
  trim(offsetBytes: number, lengthBytes: number): Promise<void>;
  flush(): Promise<void>;
  /** From the start of the range, merged, at most `countMax`. */
  extents(offsetBytes: number, lengthBytes: number, countMax: number): Promise<readonly DeviceExtent[]>;
  /**
   * Of snapshots: the ranges in which this one differs from `base` (from nothing when undefined), in order. Ranges
   * that cleaning moved count as different.
   */
  differences(base: CommandDevice | undefined): AsyncGenerator<DeviceDifference, void, undefined>;
  bench(load: BenchLoad): Promise<BenchFigures>;
  resize(sizeBytes: number, shrink: boolean): Promise<void>;
  /** Detaches cleanly, or throws. */
  close(): Promise<void>;
}

type Worker = LoopWorker<MainMethods, DataWorkerMethods, MainEvents, DataWorkerEvents>;

/** The worker's sockets take numbers only. */
function numericAddresses(addresses: readonly string[]): Promise<readonly string[]> {
  return Promise.all(addresses.map((address) => resolveStreamAddress(address, RESOLVE_TIMEOUT_MS)));
}

export class DataPlane {
  #registry: RegistryServer | undefined;
  #metadata: Metadata | undefined;
  #upgrader: TlsUpgrader | undefined;
  #scrubProgress: StateFile | undefined;
  readonly #dialer: TlsDialer | undefined;
  readonly #exports = new Map<string, ExportListener>();
  readonly #handles = new WeakMap<CommandDevice, number>();

  private constructor(
    private readonly options: DataPlaneOptions,
    private readonly syncThread: SyncThread,
  ) {
    this.#dialer = options.tls === undefined ? undefined : new TlsDialer(options.tls);
  }

  #worker!: Worker;

  static async start(options: DataPlaneOptions): Promise<DataPlane> {
    const syncThread = startSyncThread(workerEntry("sync-worker"), (error) => options.onFatal(error));
    const plane = new DataPlane(options, syncThread);
    try {
      plane.#worker = await startLoopWorker({
        url: workerEntry("data-worker"),
        name: "data worker",
        data: { syncChannel: syncThread.channel },
        methods: plane.#methods(),
        startTimeoutMs: START_TIMEOUT_MS,
        onFailure: options.onFatal,
      });
    } catch (error) {
      await syncThread.stop();
      throw error;
    }
    plane.#worker.endpoint.on("log", options.onLog);
    plane.#worker.endpoint.on("storePoisoned", ({ reason }) =>
      options.onFatal(new TorusError("store-failed", reason)),
    );
    plane.#worker.endpoint.on("frontEndFailed", ({ reason }) =>
      options.onFatal(new TorusError("front-end-failed", reason)),
    );
    const { endpoint } = plane.#worker;
    endpoint.on("startTls", (connection) => plane.#upgrade(connection, options.onLog));
    const heard = (name: string) => plane.#exports.get(name);
    endpoint.on("exportResized", ({ name, sizeBytes }) => heard(name)?.onResized(sizeBytes));
    endpoint.on("exportFailed", ({ name, reason }) => heard(name)?.onFailed(reason));
    endpoint.on("exportIdle", ({ name }) => heard(name)?.onIdle());
    return plane;
  }

  async openStorage(config: StorageConfig): Promise<StorageOpened> {
    const listen = await numericAddresses(config.listen);
    return this.#worker.endpoint.call("openStorage", { ...config, listen }, STORAGE_TIMEOUT_MS);
  }

  /** One call of the storage service over Connect, answered by the store's thread; see AdoptedClient for `client`. */
  storageCall(procedure: string, body: Uint8Array, client: string | undefined): Promise<UnaryResult> {
    return this.#worker.endpoint.call("storageCall", { procedure, body, client }, STORAGE_CALL_TIMEOUT_MS);
  }

  /** Whose access to volumes is limited is asked about anew from here on. */
  forgetAccess(): void {
    this.#worker.endpoint.emit("accessChanged", {});
  }

  /** Serves a client that came through TLS; the descriptor belongs to the data path from here. */
  adoptClient(client: AdoptedClient): Promise<void> {
    return this.#worker.endpoint.call("adoptClient", client);
  }

  /** New connections to peers are made with this certificate. */
  renewTls(identity: TlsIdentity): void {
    this.#dialer?.renew(identity);
  }

  renewIncarnation(incarnation: Incarnation): Promise<void> {
    return this.#worker.endpoint.call("renewIncarnation", incarnation);
  }

  /** Returns the store's progress, raised if anything became durable since. */
  advanceStore(): Promise<number> {
    return this.#worker.endpoint.call("advanceStore", undefined);
  }

  /** Lets the worker open volumes. */
  async connectRegistry(
    registry: VolumeRegistry,
    metadata: Metadata,
    settings: ClientSettings,
  ): Promise<void> {
    const server = new RegistryServer(registry);
    this.#registry = server;
    this.#metadata = metadata;
    await server.ready();
    await this.#worker.endpoint.call("connectRegistry", {
      registry: server.state(),
      holder: holderName(),
      blockSizeBytes: settings.blockSizeBytes,
      readCacheBytes: settings.readCacheBytes,
      writeCacheBytes: settings.writeCacheBytes,
      volume: settings.volume,
      waitForLockMs: settings.waitForLockMs,
    });
    server.connect((name, payload) => this.#worker.endpoint.emit(name, payload as never));
  }

  /** Starts collection, rebalance and scrub of this peer; how far a scrub is is kept in the file. */
  openUpkeep(config: UpkeepConfig, scrubProgressPath: string): Promise<void> {
    this.#scrubProgress = new StateFile(scrubProgressPath);
    return this.#worker.endpoint.call("openUpkeep", config);
  }

  orderUpkeep(orders: UpkeepOrders): Promise<void> {
    return this.#worker.endpoint.call("orderUpkeep", orders);
  }

  /** The blocks that a peer holds, page by page. Throws when it does not answer. */
  async *peerBlocks(peerId: PeerId): AsyncGenerator<readonly BlockListing[], void, undefined> {
    let cursor: string | undefined;
    do {
      const request = cursor === undefined ? { limit: LIST_BLOCKS } : { limit: LIST_BLOCKS, cursor };
      const reply = await this.#worker.endpoint.call("listBlocks", { peerId, request }, LIST_TIMEOUT_MS);
      yield reply.blocks;
      cursor = reply.cursor;
    } while (cursor !== undefined);
  }

  openAoe(config: AoeConfig): Promise<AoeOpened> {
    return this.#worker.endpoint.call("openAoe", config, FRONT_END_TIMEOUT_MS);
  }

  /** Opens a volume or snapshot (`volume@snapshot`) for the kernel; `listener` hears of it until it is released. */
  async holdExport(name: string, listener: ExportListener): Promise<HeldExport> {
    if (this.#exports.has(name))
      throw new TorusError("busy", `Cannot attach "${name}": this process has it attached`);
    this.#exports.set(name, listener);
    try {
      return await this.#worker.endpoint.call("holdExport", name, FRONT_END_TIMEOUT_MS);
    } catch (error) {
      this.#exports.delete(name);
      throw error;
    }
  }

  /** Serves a held export on sockets that are in transmission already; they belong to the data path from here. */
  adoptExport(sockets: ExportSockets): Promise<void> {
    return this.#worker.endpoint.call("adoptExport", sockets);
  }

  /** Throws when it could not be detached cleanly. */
  async releaseExport(name: string): Promise<void> {
    this.#exports.delete(name);
    await this.#worker.endpoint.call("releaseExport", name, FRONT_END_TIMEOUT_MS);
  }

  /** `tls`: the certificate for clients that ask for TLS, where the configuration lets them. */
  async openFrontEnd(
    config: FrontEndConfig,
    tls?: TlsIdentity,
  ): Promise<{ readonly addresses: readonly string[] }> {
    if (tls !== undefined) this.#upgrader = new TlsUpgrader(tls);
    const listen = await numericAddresses(config.listen);
    return this.#worker.endpoint.call("openFrontEnd", { ...config, listen }, FRONT_END_TIMEOUT_MS);
  }

  /**
   * Opens a volume as its writer, or a snapshot for reading, for this process's own use; whoever opened it closes it.
   */
  async openDevice(request: OpenDeviceRequest): Promise<CommandDevice> {
    const { endpoint } = this.#worker;
    const { handle, sizeBytes } = await endpoint.call("openDevice", request, FRONT_END_TIMEOUT_MS);
    const piece = DEVICE_CALL_TIMEOUT_MS;
    const device: CommandDevice = {
      sizeBytes,
      read: (offsetBytes, lengthBytes) =>
        endpoint.call("readDevice", { handle, offsetBytes, lengthBytes }, piece),
      write: (offsetBytes, bytes) => endpoint.call("writeDevice", { handle, offsetBytes, bytes }, piece),
      trim: (offsetBytes, lengthBytes) =>
        endpoint.call("trimDevice", { handle, offsetBytes, lengthBytes }, piece),
      flush: () => endpoint.call("flushDevice", handle, piece),
      extents: (offsetBytes, lengthBytes, countMax) =>
        endpoint.call("deviceExtents", { handle, offsetBytes, lengthBytes, countMax }, piece),
      differences: (base) => this.#differences(handle, base),
      bench: (load) =>
        endpoint.call("benchDevice", { handle, load }, load.durationMs + DEVICE_CALL_TIMEOUT_MS),
      resize: (newSizeBytes, shrink) =>
        endpoint.call("resizeDevice", { handle, sizeBytes: newSizeBytes, shrink }, FRONT_END_TIMEOUT_MS),
      close: () => endpoint.call("closeDevice", handle, FRONT_END_TIMEOUT_MS),
    };
    this.#handles.set(device, handle);
    return device;
  }

  async *#differences(
    handle: number,
    base: CommandDevice | undefined,
  ): AsyncGenerator<DeviceDifference, void, undefined> {
    const { endpoint } = this.#worker;
    const before = base === undefined ? undefined : this.#handles.get(base);
    const { diff } = await endpoint.call("startDiff", { handle, base: before }, DEVICE_CALL_TIMEOUT_MS);
    try {
      for (;;) {
        const found = await endpoint.call(
          "nextDiff",
          { diff, countMax: DIFFERENCES_AT_ONCE },
          DEVICE_CALL_TIMEOUT_MS,
        );
        if (found.length === 0) return;
        yield* found;
      }
    } finally {
      await endpoint.call("endDiff", diff, DEVICE_CALL_TIMEOUT_MS);
    }
  }

  /** New NBD clients are shown this certificate. */
  renewFrontEndTls(identity: TlsIdentity): void {
    this.#upgrader?.renew(identity);
  }

  #upgrade({ socket, remote, resumed }: UpgradedConnection, log: DataPlaneOptions["onLog"]): void {
    const refused = (reason: string) =>
      log({ level: "warn", message: `NBD ${remote} got no TLS: ${reason}` });
    if (this.#upgrader === undefined) {
      libc.close(socket);
      return refused("there is no certificate");
    }
    const adopt = (plain: number) => {
      const connection = { socket: plain, remote, resumed };
      this.#worker.endpoint.call("adoptUpgraded", connection).catch((error: unknown) => {
        libc.close(plain);
        refused(error instanceof Error ? error.message : String(error));
      });
    };
    this.#upgrader.upgrade(socket, (client) => adopt(client.socket), refused);
  }

  status(): Promise<DataPlaneStatus> {
    return this.#worker.endpoint.call("status", undefined, STATUS_TIMEOUT_MS);
  }

  /** Drains requests, detaches volumes, syncs, ends the threads. Throws when a volume could not be detached. */
  async stop(): Promise<void> {
    try {
      await this.#worker.stop(STOP_TIMEOUT_MS);
    } finally {
      this.#registry?.close();
      await this.syncThread.stop();
    }
  }

  #methods(): MainMethods {
    const registry = () => {
      if (this.#registry === undefined)
        throw new TorusError("not-open", "Cannot reach the metadata: it is not connected");
      return this.#registry.methods;
    };
    return {
      openVolume: async (argument) => {
        await this.#freeFromDeadHolder(argument.name);
        return registry().openVolume(argument);
      },
      openSnapshot: (argument) => registry().openSnapshot(argument),
      closeSnapshot: (session) => registry().closeSnapshot(session),
      commitHead: (argument) => registry().commitHead(argument),
      commitDetach: (argument) => registry().commitDetach(argument),
      commitSnapshot: (argument) => registry().commitSnapshot(argument),
      rejectRequest: (argument) => registry().rejectRequest(argument),
      followSession: (session) => registry().followSession(session),
      abandon: (session) => registry().abandon(session),
      claimSession: (session) => registry().claimSession(session),
      collectionView: (argument) => registry().collectionView(argument),
      ringAt: (version) => registry().ringAt(version),
      dialTls: ({ address, timeoutMs }) => {
        if (this.#dialer === undefined)
          throw new TorusError(
            "not-open",
            `Cannot reach ${address}: it asks for TLS; give --peer-cert-file, --peer-key-file and --peer-ca-file`,
          );
        return this.#dialer.dial(address, timeoutMs);
      },
      decideAccess: ({ client, volumeId }) => this.#decider(client, volumeId),
      loadScrubProgress: () => this.#progressFile().load(),
      saveScrubProgress: (text) => this.#progressFile().save(text),
      listExports: () => this.#listExports(),
      describeExport: (name) => this.#describeExport(name),
    };
  }

  get #decider(): AccessDecider {
    if (this.options.decideAccess === undefined)
      throw new TorusError("not-open", "Cannot tell who may use a volume: this process keeps no store");
    return this.options.decideAccess;
  }

  #progressFile(): StateFile {
    if (this.#scrubProgress === undefined)
      throw new TorusError("not-open", "Cannot reach the scrub's progress: background work was not started");
    return this.#scrubProgress;
  }

  /** A writer that was killed on this machine keeps nobody waiting for its lease. */
  async #freeFromDeadHolder(name: string): Promise<void> {
    const { volumes } = this.#required();
    const holder = (await volumes.info(name)).attached?.holder;
    if (holder === undefined || !isDeadHolder(holder)) return;
    if (await volumes.releaseDeadHolder(name, holder))
      this.options.onLog({ level: "info", message: `Volume "${name}" was held by ${holder}, which is dead` });
  }

  #required(): Metadata {
    if (this.#metadata === undefined)
      throw new TorusError("not-open", "Cannot reach the metadata: it is not connected");
    return this.#metadata;
  }

  async #listExports(): Promise<DeviceDescription[]> {
    const metadata = this.#required();
    const { volumes } = await metadata.volumes.list();
    const exports: DeviceDescription[] = [];
    for (const volume of volumes) {
      exports.push(describe(volume.name, volume.sizeBytes, false));
      if (volume.snapshotCount === 0) continue;
      const { snapshots } = await metadata.snapshots.list(volume.name);
      for (const snapshot of snapshots)
        exports.push(describe(`${volume.name}@${snapshot.name}`, snapshot.sizeBytes, true));
    }
    return exports;
  }

  async #describeExport(name: string): Promise<ExportDescription | undefined> {
    const metadata = this.#required();
    const { volume, snapshot } = parseExportName(name);
    try {
      if (snapshot === undefined) {
        const { volumeId, sizeBytes } = await metadata.volumes.info(volume);
        return { ...describe(name, sizeBytes, false), identity: String(volumeId) };
      }
      const { volumeId, sizeBytes } = await metadata.snapshots.get(volume, snapshot);
      return { ...describe(name, sizeBytes, true), identity: `${volumeId}@${snapshot}` };
    } catch (error) {
      if (
        error instanceof TorusError &&
        ["no-such-volume", "no-such-snapshot", "bad-name"].includes(error.code)
      )
        return undefined;
      throw error;
    }
  }
}

function describe(name: string, sizeBytes: number, readOnly: boolean): DeviceDescription {
  const description = readOnly ? "torus snapshot" : "torus volume";
  return { name, description, sizeBytes, readOnly, preferredBlockBytes: PAGE_BYTES };
}
