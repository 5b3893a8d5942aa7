/** A peer's storage inside the data worker: the store on its disk, the peer service over it, and the adp listener. */
import {
  openDeviceDisk,
  openDirectoryDisk,
  systemRandom,
  nativeBuffer,
  type SyncChannel,
  WorkerSyncer,
} from "../../base/io";
import type { EventLoop, SocketNetwork } from "../../base/io";
import { blockBufferBytes } from "../../engine/block";
import type { WireStorageService } from "../../engine";
import { AccessGuard, GuardedService, PeerService } from "../../engine/peer";
import { openSegmentStore, type SegmentStore } from "../../engine/store";
import { AdpServer } from "../../net/adp";
import { StorageUnary } from "../../net/connect";
import { type LatencyRecorder, measureSyncs } from "./latency";
import type { AccessDecider, DataPlaneStatus, StorageConfig, StorageOpened } from "./worker-api";

export interface StoragePartOptions {
  readonly loop: EventLoop;
  readonly network: SocketNetwork;
  readonly syncChannel: SyncChannel;
  readonly config: StorageConfig;
  readonly onPoison: (reason: string) => void;
  readonly onError: (message: string) => void;
  readonly onRefused: (message: string) => void;
  readonly latencies: LatencyRecorder;
  readonly decideAccess: AccessDecider;
}

export class StoragePart {
  private constructor(
    readonly store: SegmentStore,
    readonly service: PeerService,
    readonly server: AdpServer,
    readonly unary: StorageUnary,
    readonly guard: AccessGuard,
    readonly opened: StorageOpened,
  ) {}

  /** What a client gets to see of the store; undefined stands for whoever may use every volume. */
  serviceFor(client: string | undefined): WireStorageService {
    return client === undefined ? this.service : new GuardedService(this.service, this.guard, client);
  }

  static async open(options: StoragePartOptions): Promise<StoragePart> {
    const { loop, network, config } = options;
    loop.serveOthers();
    const syncer = measureSyncs(
      new WorkerSyncer(loop, options.syncChannel),
      loop,
      options.latencies.histogram("storeSync", "data"),
    );
    const store = await openSegmentStore({
      disk:
        config.device === undefined
          ? openDirectoryDisk({ path: config.directory, syncer })
          : openDeviceDisk({ path: config.device.path, syncer, overwriteForeign: config.device.overwrite }),
      clusterId: config.clusterId,
      peerId: config.peerId,
      sizeBytes: config.sizeBytes,
      acceptLoss: config.acceptLoss,
      allocate: nativeBuffer,
      clock: loop,
      random: systemRandom,
      turns: loop,
      onPoison: options.onPoison,
    });
    const service = new PeerService({ store, clock: loop });
    const operations = {
      put: options.latencies.histogram("peerRequest", "put"),
      read: options.latencies.histogram("peerRequest", "read"),
    };
    const server = new AdpServer({
      service,
      network,
      clock: loop,
      allocate: nativeBuffer,
      blockBytesMax: blockBufferBytes(config.blockSizeBytes),
      onServiceError: (error) => options.onError(error instanceof Error ? error.message : String(error)),
      onRefused: (remote, reason) => options.onRefused(`Turned ${hostOf(remote)} away: ${reason}`),
      observe: (operation, milliseconds) => operations[operation].observe(milliseconds),
    });
    const unary = new StorageUnary({
      service,
      allocate: nativeBuffer,
      blockBytesMax: blockBufferBytes(config.blockSizeBytes),
    });
    try {
      const addresses = config.listen.map((address) => server.listen(address).address);
      const { capacityBytes, usedBytes } = store.statistics();
      const { incarnation, bootCount, progress, acceptedDamage } = store;
      const guard = new AccessGuard({
        clock: loop,
        decide: options.decideAccess,
        onDenied: (client, volumeName) =>
          options.onRefused(
            `Refused the certificate "${client}" volume "${volumeName}": its access list does not name it`,
          ),
      });
      return new StoragePart(store, service, server, unary, guard, {
        incarnation,
        bootCount,
        progress,
        capacityBytes,
        usedBytes,
        addresses,
        acceptedDamage,
      });
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  async status(): Promise<NonNullable<DataPlaneStatus["storage"]>> {
    return {
      peer: await this.service.statistics(),
      store: this.store.statistics(),
      server: this.server.statistics,
    };
  }

  async close(): Promise<void> {
    this.server.close();
    await this.store.close();
  }
}

/** Without the port, so that a log can fold what one host does again and again. */
function hostOf(remote: string): string {
  return remote.startsWith("unix:") ? remote : remote.slice(0, remote.lastIndexOf(":"));
}
