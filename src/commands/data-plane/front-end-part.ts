/** The NBD server inside the data worker, over the volumes of the client part. */
import { type EventLoop, nativeBuffer, type SocketNetwork } from "../../base/io";
import { NbdServer } from "../../blockdev";
import { forEachLimited } from "../../engine/upkeep";
import { Volume } from "../../engine/volume";
import type { ClientPart } from "./client-part";
import type { LatencyRecorder } from "./latency";
import { type ExportCatalog, VolumeDirectory } from "./volume-directory";
import type {
  DataPlaneStatus,
  DataWorkerEvents,
  FrontEndConfig,
  OpenVolumeStatus,
  UpgradedConnection,
} from "./worker-api";

/** How long clients may take to end their requests when the server stops. */
const DRAIN_MS_MAX = 10_000;

export interface FrontEndPartOptions {
  readonly loop: EventLoop;
  readonly network: SocketNetwork;
  readonly client: ClientPart;
  readonly catalog: ExportCatalog;
  readonly config: FrontEndConfig;
  readonly log: (event: DataWorkerEvents["log"]) => void;
  readonly latencies: LatencyRecorder;
  readonly onStartTls: (connection: UpgradedConnection) => void;
}

const OPENED_AT_ONCE = 8;

export class FrontEndPart {
  readonly directory: VolumeDirectory;
  readonly server: NbdServer;
  readonly #network: SocketNetwork;

  private constructor(options: FrontEndPartOptions) {
    const { log } = options;
    this.#network = options.network;
    this.directory = new VolumeDirectory({
      opener: options.client,
      catalog: options.catalog,
      only: options.config.only,
      onEvent: (level, message) => log({ level, message }),
    });
    this.server = new NbdServer({
      network: options.network,
      directory: this.directory,
      clock: options.loop,
      allocate: nativeBuffer,
      limits: options.config.limits ?? {},
      observe: (command, milliseconds) => options.latencies.observe("nbdRequest", command, milliseconds),
      onStartTls: (socket, remote, resumed) => options.onStartTls({ socket, remote, resumed }),
      onEvent: (event) => {
        const level = event.kind === "internal" ? "error" : "debug";
        const name = event.exportName === undefined ? "" : ` "${event.exportName}"`;
        log({ level, message: `NBD ${event.remote}${name} ${event.kind}: ${event.message}` });
      },
    });
  }

  /** Opens the volumes to be kept open, then listens: whoever can connect finds them there. */
  static async open(
    options: FrontEndPartOptions,
  ): Promise<{ readonly part: FrontEndPart; readonly addresses: readonly string[] }> {
    const part = new FrontEndPart(options);
    try {
      // An open is mostly waiting for metadata and peers, so a hundred volumes need not wait for one another.
      await forEachLimited(options.config.keepOpen, OPENED_AT_ONCE, async (name) => {
        await part.directory.keepOpen(name);
      });
      return {
        part,
        addresses: options.config.listen.map((address) => part.server.listen(address, options.config.tls)),
      };
    } catch (error) {
      await part.close().catch((closing: unknown) => {
        options.log({
          level: "error",
          message: closing instanceof Error ? closing.message : String(closing),
        });
      });
      throw error;
    }
  }

  /** Goes on with a client that asked for TLS and has it. */
  adoptUpgraded({ socket, remote, resumed }: UpgradedConnection): void {
    this.#network.adopt(socket, `${remote} (TLS)`, (connection) =>
      this.server.accept(connection, "established", resumed),
    );
  }

  volumes(): readonly OpenVolumeStatus[] {
    return this.directory.openDevices().map(({ name, open, users }) => {
      const volume = open.device instanceof Volume ? open.device : undefined;
      return {
        name,
        users,
        health: volume?.health,
        statistics: volume?.statistics,
        leaseRemainingMs: open.leaseRemainingMs?.(),
      };
    });
  }

  status(): NonNullable<DataPlaneStatus["nbd"]> {
    const { connectionsOpen, connectionsTotal, readBytes, writtenBytes, errorCount } = this.server.statistics;
    const requests = this.server.statistics.requests();
    return { connectionsOpen, connectionsTotal, requests, readBytes, writtenBytes, errorCount };
  }

  async close(): Promise<void> {
    await this.server.close(DRAIN_MS_MAX);
    await this.directory.close();
  }
}
