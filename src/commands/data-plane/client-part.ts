/**
 * The client side inside the data worker: the way to all peers, what open volumes share, and how a volume or a
 * snapshot is opened.
 */
import { type PeerId, TorusError } from "../../base";
import { type EventLoop, nativeBuffer, type StreamNetwork, systemRandom } from "../../base/io";
import type { BlockDevice } from "../../blockdev";
import type { ClusterView, OpenOptions, PeerTransport, StorageService, VolumeRegistry } from "../../engine";
import { blockBufferBytes } from "../../engine/block";
import { ReadCache } from "../../engine/cache";
import {
  BlockPool,
  BufferPool,
  openSnapshotVolume,
  openVolume,
  type Volume,
  type VolumePorts,
} from "../../engine/volume";
import {
  ADP_CONNECT_TIMEOUT_MS,
  ADP_CONTROL_TIMEOUT_MS,
  ADP_REQUEST_TIMEOUT_MS,
  AdpClient,
  LocalTransport,
} from "../../net/adp";
import {
  CONNECT_CONNECT_TIMEOUT_MS,
  CONNECT_CONTROL_TIMEOUT_MS,
  CONNECT_REQUEST_TIMEOUT_MS,
  ConnectTransport,
} from "../../net/connect";
import { PeerRouter } from "../../net/routing";
import { TLS_PREFIX } from "../../net/tls";
import type { LatencyRecorder } from "./latency";
import type { DeviceOpener, OpenDevice } from "./volume-directory";
import type { DataWorkerEvents, RegistryConfig } from "./worker-api";

/** Block-sized buffers for checkpoints, adopted blocks, repairs and cleaning. */
const BACKGROUND_BUFFER_COUNT = 16;

export interface ClientPartOptions {
  readonly loop: EventLoop;
  /** Dials `tls:` addresses too, where this process has a certificate. */
  readonly network: StreamNetwork;
  readonly registry: VolumeRegistry;
  readonly config: RegistryConfig;
  /** The peer of this very process. */
  readonly local: StorageService | undefined;
  readonly log: (event: DataWorkerEvents["log"]) => void;
  readonly latencies: LatencyRecorder;
}

export class ClientPart implements DeviceOpener {
  readonly adp: AdpClient;
  readonly transport: PeerTransport;
  /** The way to other peers, without the shortcut to this one. */
  readonly remote: PeerTransport;
  readonly readCache: ReadCache;
  #addresses: ReadonlyMap<PeerId, string> = new Map();
  readonly #http: ConnectTransport;
  readonly #ports: VolumePorts;
  readonly #options: ClientPartOptions;
  readonly volumes = new Set<Volume>();

  constructor(options: ClientPartOptions) {
    this.#options = options;
    const { loop, registry, config, local } = options;
    this.#follow(registry.cluster());
    registry.onClusterChange((view) => this.#follow(view));
    const shared = {
      network: options.network,
      clock: loop,
      turns: loop,
      random: systemRandom,
      allocate: nativeBuffer,
      clusterId: registry.cluster().clusterId,
    };
    this.adp = new AdpClient({
      ...shared,
      blockBytesMax: blockBufferBytes(config.blockSizeBytes),
      locate: (peer) => this.#locate(peer, "adp"),
      requestTimeoutMs: ADP_REQUEST_TIMEOUT_MS,
      controlTimeoutMs: ADP_CONTROL_TIMEOUT_MS,
      connectTimeoutMs: ADP_CONNECT_TIMEOUT_MS,
    });
    this.#http = new ConnectTransport({
      ...shared,
      locate: (peer) => this.#locate(peer, "http"),
      requestTimeoutMs: CONNECT_REQUEST_TIMEOUT_MS,
      controlTimeoutMs: CONNECT_CONTROL_TIMEOUT_MS,
      connectTimeoutMs: CONNECT_CONNECT_TIMEOUT_MS,
    });
    this.remote = new PeerRouter({
      transports: new Map<string, PeerTransport>([
        ["adp", this.adp],
        ["adps", this.adp],
        ["http", this.#http],
        ["https", this.#http],
      ]),
      addressOf: (peer) => this.#addressOf(peer),
    });
    this.transport = local === undefined ? this.remote : new LocalTransport(local, loop, this.remote);
    this.readCache = new ReadCache(nativeBuffer, config.readCacheBytes);
    this.#ports = {
      clock: loop,
      turns: loop,
      transport: this.transport,
      registry,
      allocate: nativeBuffer,
      blockPool: new BlockPool(nativeBuffer, config.blockSizeBytes, config.writeCacheBytes),
      bufferPool: new BufferPool(nativeBuffer, config.blockSizeBytes, BACKGROUND_BUFFER_COUNT),
      makeCache: () => this.readCache.openSpace(),
      ...(local === undefined ? {} : { localPeerId: local.identity.peerId }),
      observe: (stage, milliseconds) => options.latencies.observe("volumeStage", stage, milliseconds),
      onEvent: ({ level, text }) =>
        options.log({ level: level === "warning" ? "warn" : level, message: text }),
    };
  }

  async openVolume(name: string, options: OpenOptions = {}): Promise<OpenDevice> {
    const { registry, config, log } = this.#options;
    const session = await registry.openVolume(name, config.holder, {
      waitForLockMs: config.waitForLockMs,
      ...options,
    });
    const volume = await openVolume(this.#ports, session, config.volume);
    this.volumes.add(volume);
    let failure: string | undefined;
    const failureListeners: (() => void)[] = [];
    const { epoch, head } = session.grant;
    volume.onFailed = (error) => {
      failure = error.message;
      for (const listener of failureListeners.splice(0)) listener();
      log({ level: "error", message: error.message });
    };
    return {
      device: volume satisfies BlockDevice,
      failure: () => failure,
      onFailure: (listener) => {
        if (failure === undefined) failureListeners.push(listener);
        else listener();
      },
      writer: { epoch, previousEpoch: head.epoch },
      leaseRemainingMs: () => session.lease.deadlineMs() - this.#options.loop.nowMs(),
      close: async () => {
        this.volumes.delete(volume);
        const outcome = await volume.close();
        if (!outcome.clean && failure === undefined)
          throw new TorusError("unclean-detach", `Cannot detach volume "${name}" cleanly: ${outcome.reason}`);
      },
    };
  }

  async openSnapshot(volumeName: string, snapshotName: string): Promise<OpenDevice> {
    const { registry, config } = this.#options;
    const session = await registry.openSnapshot(volumeName, snapshotName, config.holder);
    const volume = await openSnapshotVolume(this.#ports, session, config.volume);
    return { device: volume satisfies BlockDevice, failure: () => undefined, close: () => volume.close() };
  }

  close(): void {
    this.adp.close();
    this.#http.close();
  }

  /** Asked for every block sent or read, so it must not search. */
  #addressOf(peer: PeerId): string | undefined {
    return this.#addresses.get(peer);
  }

  #follow(view: ClusterView): void {
    this.#addresses = new Map(view.peers.map((peer) => [peer.peerId, peer.address]));
  }

  #locate(peer: PeerId, scheme: string): string | undefined {
    const address = this.#addressOf(peer);
    if (address === undefined) return undefined;
    const rest = (prefix: string) => (address.startsWith(prefix) ? address.slice(prefix.length) : undefined);
    const secured = rest(`${scheme}s://`);
    return secured === undefined ? rest(`${scheme}://`) : `${TLS_PREFIX}${secured}`;
  }
}
