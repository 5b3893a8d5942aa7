/** The data worker's parts, opened as the main thread asks, closed in the reverse order. */
import type { Incarnation } from "../../base";
import type { LoopWorkerContext, SyncChannel } from "../../base/io";
import { TorusError } from "../../base";
import { StorageStatus } from "../../engine";
import { TlsNetwork } from "../../net/tls";
import { AoePart } from "./aoe-part";
import { ClientPart } from "./client-part";
import { DevicePart } from "./device-part";
import { FrontEndPart } from "./front-end-part";
import { KernelPart } from "./kernel-part";
import { LatencyRecorder, measureLoopLag } from "./latency";
import { type RegistryCaller, RemoteRegistry } from "./registry-rpc";
import { StoragePart } from "./storage-part";
import { UpkeepPart } from "./upkeep-part";
import type {
  AoeConfig,
  DataPlaneStatus,
  DataWorkerEvents,
  DataWorkerMethods,
  FrontEndConfig,
  MainEvents,
  MainMethods,
  RegistryConfig,
  StorageConfig,
  UpkeepConfig,
} from "./worker-api";

const CATALOG_TIMEOUT_MS = 15_000;
/** A small file, on a disk that may be busy. */
const PROGRESS_TIMEOUT_MS = 30_000;
/** Metadata is read for it at most once; a caller waits this long before it is told to come back. */
const ACCESS_TIMEOUT_MS = 10_000;
/** The dialer keeps its own deadline; this is for the way there and back. */
const DIAL_SLACK_MS = 1_000;

type Context = LoopWorkerContext<DataWorkerMethods, MainMethods, DataWorkerEvents, MainEvents>;

export class DataWorkerParts {
  readonly #context: Context;
  readonly #syncChannel: SyncChannel;
  readonly #latencies = new LatencyRecorder();
  readonly #stopLag: () => void;
  #storage: StoragePart | undefined;
  #client: ClientPart | undefined;
  #registry: RemoteRegistry | undefined;
  #upkeep: UpkeepPart | undefined;
  #frontEnd: FrontEndPart | undefined;
  #devices: DevicePart | undefined;
  #kernel: Promise<KernelPart> | undefined;
  readonly #aoe: AoePart[] = [];

  constructor(context: Context, syncChannel: SyncChannel) {
    this.#context = context;
    this.#syncChannel = syncChannel;
    this.#stopLag = measureLoopLag(context.loop, this.#latencies.histogram("loopLag", "data"));
  }

  readonly methods: DataWorkerMethods = {
    openStorage: async (config: StorageConfig) => {
      const { loop, network, endpoint } = this.#context;
      this.#storage = await StoragePart.open({
        loop,
        network,
        syncChannel: this.#syncChannel,
        config,
        onPoison: (reason) => endpoint.emit("storePoisoned", { reason }),
        onError: (message) => this.#log({ level: "error", message }),
        onRefused: (message) => this.#log({ level: "warn", message }),
        latencies: this.#latencies,
        decideAccess: (client, volumeId) =>
          endpoint.call("decideAccess", { client, volumeId }, ACCESS_TIMEOUT_MS),
      });
      endpoint.on("accessChanged", () => this.#storage?.guard.forget());
      return this.#storage.opened;
    },
    storageCall: ({ procedure, body, client }) => {
      const storage = this.#required(this.#storage, "storage");
      return storage.unary.handle(procedure, body, storage.serviceFor(client));
    },
    renewIncarnation: (incarnation: Incarnation) =>
      new Promise<void>((resolve, reject) => {
        this.#required(this.#storage, "storage").store.renewIncarnation(incarnation, (status) => {
          if (status === StorageStatus.ok) resolve();
          else
            reject(new TorusError("store-failed", "Cannot renew the store's incarnation: it does not write"));
        });
      }),
    advanceStore: () =>
      new Promise<number>((resolve, reject) => {
        const { store } = this.#required(this.#storage, "storage");
        store.advance((status) => {
          if (status === StorageStatus.ok) resolve(store.progress);
          else reject(new TorusError("store-failed", "Cannot note the store's progress: it does not write"));
        });
      }),
    adoptClient: ({ socket, remote, client }) => {
      const storage = this.#required(this.#storage, "storage");
      const service = storage.serviceFor(client);
      this.#context.network.adopt(socket, remote, (connection) => storage.server.accept(connection, service));
    },
    connectRegistry: (config: RegistryConfig) => {
      const { loop, endpoint } = this.#context;
      const network = new TlsNetwork(this.#context.network, (address, timeoutMs) =>
        endpoint.call("dialTls", { address, timeoutMs }, timeoutMs + DIAL_SLACK_MS),
      );
      const registry = new RemoteRegistry(endpoint as unknown as RegistryCaller, config.registry);
      this.#registry = registry;
      // A peer works for others than the programs beside it.
      if (this.#storage === undefined) loop.keepToSenders();
      this.#client = new ClientPart({
        loop,
        network,
        registry,
        config,
        local: this.#storage?.service,
        log: (event) => this.#log(event),
        latencies: this.#latencies,
      });
    },
    listBlocks: ({ peerId, request }) =>
      this.#required(this.#client, "registry").transport.list(peerId, request),
    openUpkeep: (config: UpkeepConfig) => {
      const { loop, endpoint } = this.#context;
      this.#upkeep = new UpkeepPart({
        loop,
        storage: this.#required(this.#storage, "storage"),
        client: this.#required(this.#client, "registry"),
        registry: this.#required(this.#registry, "registry"),
        config,
        loadScrubProgress: () => endpoint.call("loadScrubProgress", undefined, PROGRESS_TIMEOUT_MS),
        saveScrubProgress: (text) => endpoint.call("saveScrubProgress", text, PROGRESS_TIMEOUT_MS),
        log: (event) => this.#log(event),
      });
    },
    orderUpkeep: (orders) => this.#required(this.#upkeep, "background work").order(orders),
    openFrontEnd: (config: FrontEndConfig) => this.#openFrontEnd(config),
    adoptUpgraded: (connection) => this.#required(this.#frontEnd, "front end").adoptUpgraded(connection),
    openAoe: async (config: AoeConfig) => {
      const part = await AoePart.open({
        loop: this.#context.loop,
        client: this.#required(this.#client, "registry"),
        config,
        onFailed: (error) => this.#context.endpoint.emit("frontEndFailed", { reason: error.message }),
      });
      this.#aoe.push(part);
      return part.opened;
    },
    holdExport: async (name) => (await this.#kernelPart()).holdExport(name),
    adoptExport: async (argument) => (await this.#kernelPart()).adoptExport(argument),
    releaseExport: async (name) => (await this.#kernelPart()).releaseExport(name),
    openDevice: (request) => this.#devicePart().openDevice(request),
    readDevice: (argument) => this.#devicePart().readDevice(argument),
    writeDevice: (argument) => this.#devicePart().writeDevice(argument),
    trimDevice: (argument) => this.#devicePart().trimDevice(argument),
    flushDevice: (handle) => this.#devicePart().flushDevice(handle),
    deviceExtents: (argument) => this.#devicePart().deviceExtents(argument),
    startDiff: (argument) => this.#devicePart().startDiff(argument),
    nextDiff: (argument) => this.#devicePart().nextDiff(argument),
    endDiff: (diff) => this.#devicePart().endDiff(diff),
    benchDevice: (argument) => this.#devicePart().benchDevice(argument),
    resizeDevice: (argument) => this.#devicePart().resizeDevice(argument),
    closeDevice: (handle) => this.#devicePart().closeDevice(handle),
    status: () => this.#status(),
  };

  async close(): Promise<void> {
    try {
      await this.#upkeep?.close();
      await this.#frontEnd?.close();
      for (const part of this.#aoe) await part.close();
      await this.#devices?.close();
    } finally {
      this.#client?.close();
      await this.#storage?.close();
      this.#stopLag();
    }
  }

  async #status(): Promise<DataPlaneStatus> {
    const cache = this.#client?.readCache.statistics();
    return {
      storage: await this.#storage?.status(),
      volumes: this.#frontEnd?.volumes() ?? [],
      peers: this.#client?.adp.peerStatistics ?? [],
      nbd: this.#frontEnd?.status(),
      readCache:
        cache === undefined
          ? undefined
          : { hits: cache.hits, misses: cache.misses, pageCount: cache.pageCount },
      upkeep: this.#upkeep?.status(),
      turnCount: this.#context.loop.turnCount,
      latencies: this.#latencies.snapshots(),
    };
  }

  async #openFrontEnd(config: FrontEndConfig): Promise<{ readonly addresses: readonly string[] }> {
    const { loop, network, endpoint } = this.#context;
    const { part, addresses } = await FrontEndPart.open({
      loop,
      network,
      client: this.#required(this.#client, "registry"),
      catalog: {
        list: () => endpoint.call("listExports", undefined, CATALOG_TIMEOUT_MS),
        describe: (name) => endpoint.call("describeExport", name, CATALOG_TIMEOUT_MS),
      },
      config,
      log: (event) => this.#log(event),
      latencies: this.#latencies,
      onStartTls: (connection) => endpoint.emit("startTls", connection),
    });
    this.#frontEnd = part;
    return { addresses };
  }

  /** The kernel is one more client of the front end, which then may listen nowhere else. */
  #kernelPart(): Promise<KernelPart> {
    this.#kernel ??= (async () => {
      if (this.#frontEnd === undefined)
        await this.#openFrontEnd({ listen: [], only: undefined, keepOpen: [] });
      const { server, directory } = this.#required(this.#frontEnd, "front end");
      const { network, endpoint } = this.#context;
      return new KernelPart({
        network,
        server,
        directory,
        emit: (name, payload) => endpoint.emit(name, payload as never),
      });
    })();
    return this.#kernel;
  }

  #devicePart(): DevicePart {
    this.#devices ??= new DevicePart(this.#required(this.#client, "registry"), this.#context.loop);
    return this.#devices;
  }

  #log(event: DataWorkerEvents["log"]): void {
    this.#context.endpoint.emit("log", event);
  }

  #required<Part>(part: Part | undefined, name: string): Part {
    if (part === undefined) throw new TorusError("not-open", `Cannot use the ${name}: it is not open`);
    return part;
  }
}
