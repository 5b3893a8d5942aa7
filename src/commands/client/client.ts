/** What every command that opens volumes stands on: metadata, data path and the volumes' shared settings. */
import type { ArgsDef } from "citty";
import { type TorusError, parseSize } from "../../base";
import { MetaRegistry } from "../../meta";
import { type Metadata, type MetaFlags, metadataOver, openStore, resolveMetaLocation } from "../cli";
import { DataPlane, VOLUME_LEASE_TIMES } from "../data-plane";
import { makeLogger } from "../log";

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
  "read-level": { type: "enum", options: ["block", "seq", "spread"], description: "Whom to ask first" },
  "write-level": {
    type: "enum",
    options: ["all", "quorum", "one"],
    description: "How many copies acknowledge",
  },
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

export interface VolumeFlags extends MetaFlags {
  readonly "read-cache-size"?: string | undefined;
  readonly "write-cache-size"?: string | undefined;
  readonly "read-level"?: string | undefined;
  readonly "write-level"?: string | undefined;
  readonly "accept-loss"?: boolean | undefined;
  readonly wait?: string | undefined;
  readonly debug?: boolean | undefined;
}

export interface Client {
  readonly plane: DataPlane;
  readonly metadata: Metadata;
  readonly logger: ReturnType<typeof makeLogger>;
  close(): Promise<void>;
}

const WAIT_MS_DEFAULT = 20_000;

/** Connects to metadata and starts the data path; `onFatal` runs when it can't go on. */
export async function startClient(
  flags: VolumeFlags,
  waitForLockMs: number = WAIT_MS_DEFAULT,
  onFatal: (error: TorusError) => void = () => {},
): Promise<Client> {
  const logger = makeLogger("text", flags.debug ? "debug" : "info");
  const store = await openStore(await resolveMetaLocation(flags));
  const metadata = metadataOver(store);
  let plane: DataPlane | undefined;
  let registry: MetaRegistry | undefined;
  const close = async () => {
    try {
      await plane?.stop();
    } finally {
      registry?.clusterWatch.close();
      await store.close();
    }
  };
  try {
    const settings = await metadata.settings.get();
    registry = await MetaRegistry.start(metadata.context, { leaseTimes: VOLUME_LEASE_TIMES });
    plane = await DataPlane.start({
      onLog: ({ level, message }) => logger.log(level, message),
      onFatal,
    });
    await plane.connectRegistry(registry, metadata, {
      blockSizeBytes: settings.blockSizeBytes,
      readCacheBytes: parseSize(flags["read-cache-size"] ?? "64MiB"),
      writeCacheBytes: parseSize(flags["write-cache-size"] ?? "32MiB"),
      volume: {
        ...(flags["read-level"] === undefined ? {} : { readLevel: flags["read-level"] as "block" }),
        ...(flags["write-level"] === undefined ? {} : { writeLevel: flags["write-level"] as "all" }),
        acceptLoss: flags["accept-loss"] === true,
      },
      waitForLockMs,
    });
    return { plane, metadata, logger, close };
  } catch (error) {
    await close().catch((closing: unknown) => logger.log("debug", String(closing)));
    throw error;
  }
}
