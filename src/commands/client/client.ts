/** What every command that opens volumes stands on: metadata, data path and the volumes' shared settings. */
import type { ArgsDef } from "citty";
import { type TorusError, parseDuration, parseSize } from "../../base";
import { systemClock } from "../../base/io";
import { MetaRegistry } from "../../meta";
import { loadTlsIdentity } from "../../net/tls";
import {
  type Metadata,
  type MetaFlags,
  metadataOver,
  levelArgs,
  openStore,
  parseWriteLevel,
  resolveMetaLocation,
  resolvePeerTls,
  UsageError,
} from "../cli";
import { DataPlane, type DataPlaneStatus, VOLUME_LEASE_TIMES } from "../data-plane";
import { type Logger, makeLogger } from "../log";
import { clusterFigures, MetricsExporter, startClientHttp } from "../metrics";

export const volumeArgs = {
  "read-cache-size": {
    type: "string",
    description: "Memory for pages read (default 64MiB)",
    valueHint: "SIZE",
  },
  "write-cache-size": {
    type: "string",
    description: "Memory for writes on the way (default 32MiB)",
    valueHint: "SIZE",
  },
  ...levelArgs,
  "accept-loss": {
    type: "boolean",
    description:
      "Open although peers that may hold the newest writes are gone for good: those writes are lost",
  },
  wait: {
    type: "string",
    description: "Wait this long for another holder's lock (default 20s)",
    valueHint: "T",
  },
} as const satisfies ArgsDef;

/** For commands that stay attached. */
export const httpArgs = {
  http: {
    type: "string",
    description: "Serve /metrics, /healthz and /readyz of this client here",
    valueHint: "HOST:PORT",
  },
} as const satisfies ArgsDef;

export interface VolumeFlags extends MetaFlags {
  readonly "read-cache-size"?: string | undefined;
  readonly "write-cache-size"?: string | undefined;
  readonly "read-level"?: string | undefined;
  readonly "write-level"?: string | undefined;
  readonly "accept-loss"?: boolean | undefined;
  readonly wait?: string | undefined;
  readonly http?: string | undefined;
  readonly debug?: boolean | undefined;
}

export interface Client {
  readonly plane: DataPlane;
  readonly metadata: Metadata;
  readonly logger: ReturnType<typeof makeLogger>;
  close(): Promise<void>;
}

const WAIT_MS_DEFAULT = 20_000;

/** Connects to metadata and starts the data path; `onFatal` runs when it can't go on. `--wait` wins over the default. */
export async function startClient(
  flags: VolumeFlags,
  waitDefaultMs: number = WAIT_MS_DEFAULT,
  onFatal: (error: TorusError) => void = () => {},
): Promise<Client> {
  const writeLevel = flags["write-level"] === undefined ? undefined : parseWriteLevel(flags["write-level"]);
  const waitForLockMs = flags.wait === undefined ? waitDefaultMs : parseDuration(flags.wait);
  const logger = makeLogger("text", flags.debug ? "debug" : "info");
  const store = await openStore(await resolveMetaLocation(flags));
  const metadata = metadataOver(store);
  let plane: DataPlane | undefined;
  let registry: MetaRegistry | undefined;
  let stopHttp = async () => {};
  let renewTls = () => {};
  const close = async () => {
    process.off("SIGHUP", renewTls);
    try {
      await stopHttp();
      await plane?.stop();
    } finally {
      registry?.clusterWatch.close();
      await store.close();
    }
  };
  try {
    const settings = await metadata.settings.get();
    const tlsFiles = await resolvePeerTls(flags);
    const tls = tlsFiles === undefined ? undefined : await loadTlsIdentity(tlsFiles, systemClock.wallMs());
    registry = await MetaRegistry.start(metadata.context, { leaseTimes: VOLUME_LEASE_TIMES });
    const secured = registry.cluster().peers.find(({ address }) => /^(adps|https):/.test(address));
    if (tls === undefined && secured !== undefined)
      throw new UsageError(
        `Cannot reach the peers: ${secured.address} asks for TLS; give --peer-cert-file, --peer-key-file and --peer-ca-file`,
      );
    plane = await DataPlane.start({
      onLog: ({ level, message }) => logger.log(level, message),
      onFatal,
      tls,
    });
    if (tlsFiles !== undefined) {
      renewTls = () => {
        loadTlsIdentity(tlsFiles, systemClock.wallMs()).then(
          (identity) => {
            plane?.renewTls(identity);
            logger.log("info", `Took the certificate of ${identity.subject}`);
          },
          (error: unknown) => logger.log("error", `Nothing was reloaded: ${messageOf(error)}`),
        );
      };
      process.on("SIGHUP", renewTls);
    }
    await plane.connectRegistry(registry, metadata, {
      blockSizeBytes: settings.blockSizeBytes,
      readCacheBytes: parseSize(flags["read-cache-size"] ?? "64MiB"),
      writeCacheBytes: parseSize(flags["write-cache-size"] ?? "32MiB"),
      volume: {
        ...(flags["read-level"] === undefined ? {} : { readLevel: flags["read-level"] as "block" }),
        ...(writeLevel === undefined ? {} : { writeLevel }),
        acceptLoss: flags["accept-loss"] === true,
      },
      waitForLockMs,
    });
    if (flags.http !== undefined) stopHttp = startHttp(flags.http, plane, registry, logger, tls?.expiresMs);
    return { plane, metadata, logger, close };
  } catch (error) {
    await close().catch((closing: unknown) => logger.log("debug", String(closing)));
    throw error;
  }
}

/** Connects, does the work, ends the data path again. */
export async function withClient<T>(flags: VolumeFlags, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await startClient(flags);
  try {
    return await work(client);
  } finally {
    await client.close();
  }
}

/** Returns what stops it. */
function startHttp(
  address: string,
  plane: DataPlane,
  registry: MetaRegistry,
  logger: Logger,
  certificateExpiresMs: number | undefined,
): () => Promise<void> {
  const metrics = new MetricsExporter({
    plane: () => plane.status(),
    cluster: () => ({ ...clusterFigures(registry.cluster()), ready: true, certificateExpiresMs }),
  });
  const server = startClientHttp({
    address,
    metrics: () => metrics.render(),
    contentType: metrics.contentType,
    problems: async () => problemsOf(await plane.status()),
  });
  logger.log("info", `Metrics on ${server.url}/metrics`);
  return async () => {
    metrics.close();
    await server.stop();
  };
}

/** What keeps volumes from being served; fewer copies than wanted do not. */
function problemsOf(status: DataPlaneStatus): string[] {
  return status.volumes.flatMap(({ name, health }) => {
    if (health?.reason !== undefined) return [`volume ${name}: ${health.reason}`];
    return health?.full === true ? [`volume ${name}: no peer has space for its writes`] : [];
  });
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
