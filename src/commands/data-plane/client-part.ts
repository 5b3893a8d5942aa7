/**
 * The client side inside the data worker: the way to all peers, what open volumes share, and how a volume or a
 * snapshot is opened.
 */
import { type PeerId, TorusError } from "../../base";
import { type EventLoop, nativeBuffer, type SocketNetwork, systemRandom } from "../../base/io";
import type { BlockDevice } from "../../blockdev";
import type { PeerTransport, StorageService, VolumeRegistry } from "../../engine";
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
import type { DeviceOpener, OpenDevice } from "./volume-directory";
import type { DataWorkerEvents, RegistryConfig } from "./worker-api";

/** Block-sized buffers for checkpoints, adopted blocks, repairs and cleaning. */
const BACKGROUND_BUFFER_COUNT = 16;

export interface ClientPartOptions {
  readonly loop: EventLoop;
  readonly network: SocketNetwork;
  readonly registry: VolumeRegistry;
  readonly config: RegistryConfig;
  /** The peer of this very process. */
  readonly local: StorageService | undefined;
  readonly log: (event: DataWorkerEvents["log"]) => void;
}

export class ClientPart implements DeviceOpener {
  readonly adp: AdpClient;
  readonly transport: PeerTransport;
  readonly readCache: ReadCache;
  readonly #ports: VolumePorts;
  readonly #options: ClientPartOptions;
  readonly volumes = new Set<Volume>();

  constructor(options: ClientPartOptions) {
    this.#options = options;
    const { loop, registry, config, local } = options;
    this.adp = new AdpClient({
      network: options.network,
      clock: loop,
      turns: loop,
      random: systemRandom,
      allocate: nativeBuffer,
      clusterId: registry.cluster().clusterId,
      blockBytesMax: blockBufferBytes(config.blockSizeBytes),
      locate: (peer) => this.#locate(peer),
      requestTimeoutMs: ADP_REQUEST_TIMEOUT_MS,
      controlTimeoutMs: ADP_CONTROL_TIMEOUT_MS,
      connectTimeoutMs: ADP_CONNECT_TIMEOUT_MS,
    });
    this.transport = local === undefined ? this.adp : new LocalTransport(local, loop, this.adp);
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
      onEvent: ({ level, text }) =>
        options.log({ level: level === "warning" ? "warn" : level, message: text }),
    };
  }

  async openVolume(name: string): Promise<OpenDevice> {
    const { registry, config, log } = this.#options;
    const session = await registry.openVolume(name, config.holder, { waitForLockMs: config.waitForLockMs });
    const volume = await openVolume(this.#ports, session, config.volume);
    this.volumes.add(volume);
    let failure: string | undefined;
    volume.onFailed = (error) => {
      failure = error.message;
      log({ level: "error", message: error.message });
    };
    return {
      device: volume satisfies BlockDevice,
      failure: () => failure,
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
  }

  #locate(peer: PeerId): string | undefined {
    const record = this.#options.registry.cluster().peers.find((one) => one.peerId === peer);
    return record?.address.startsWith("adp://") ? record.address.slice("adp://".length) : undefined;
  }
}
