/** `torus daemon`: a peer, and alone also the metadata. */
import { join } from "node:path";
import type { TorusError } from "../../base";
import { leaf, type MetaFlags, resolveMetaLocation } from "../cli";
import { Daemon } from "./daemon";
import { type Logger, makeLogger } from "../log";
import { type NotifyEnvironment, ServiceNotifier } from "./notify";
import {
  type DaemonFlags,
  daemonArgs,
  type DaemonOptions,
  parseDaemonOptions,
  readDaemonConfig,
} from "./options";

export { type NotifyEnvironment, ServiceNotifier } from "./notify";

export const daemonCommand = leaf({
  name: "daemon",
  description: "Store blocks for the cluster; alone, with no flags, also keep its metadata",
  examples: [
    "torus daemon",
    "torus daemon --meta etcd://10.0.0.1:2379 --data-dir /var/lib/torus --size 500GiB --peer-address adp://0.0.0.0:40000 --auto-join",
  ],
  args: daemonArgs,
  async run(args) {
    const options = await parseDaemonOptions(args as DaemonFlags);
    const embeddedUrl = `sqlite:${join(options.dataDirectory, "meta.db")}`;
    const file = args.config === undefined ? {} : await readDaemonConfig(args.config);
    const named = await resolveMetaLocation(merged(args as DaemonFlags, file) as MetaFlags, embeddedUrl);
    // Whoever keeps a lone daemon's own address in a profile means the metadata that this very daemon keeps.
    const location = isOwnAddress(named.url, options) ? { url: embeddedUrl } : named;
    const logger = makeLogger(options.logFormat, options.logLevel);
    let fail: (error: TorusError) => void = () => {};
    const ended = new Promise<void>((resolve, reject) => {
      fail = reject;
      for (const signal of ["SIGTERM", "SIGINT"] as const)
        process.once(signal, () => {
          logger.log("info", `Stopping on ${signal}`);
          resolve();
        });
    });
    const notifier = new ServiceNotifier({ ...process.env } as NotifyEnvironment, (message) =>
      logger.log("warn", message),
    );
    const daemon = new Daemon({
      notifier,
      options,
      location,
      embedded: location.url === embeddedUrl,
      logger,
      onFatal: fail,
    });
    const onHangup = () => {
      reload(daemon, args as DaemonFlags, logger, notifier).catch((error: unknown) =>
        logger.log(
          "error",
          `Nothing was reloaded: ${error instanceof Error ? error.message : String(error)}`,
        ),
      );
    };
    process.on("SIGHUP", onHangup);
    // Awaited from the beginning: a failure during the start must not go unseen.
    const outcome = ended.then(
      () => undefined,
      (error: TorusError) => error,
    );
    const starting = daemon.start().then(
      () => undefined,
      (error: unknown) => error,
    );
    const first = await Promise.race([outcome.then(() => "ended" as const), starting]);
    if (first !== undefined && first !== "ended") {
      await daemon.stop().catch(() => undefined);
      throw first;
    }
    const failure = await outcome;
    if (failure !== undefined) {
      logger.log("error", failure.message);
      throw failure;
    }
    await daemon.stop();
    logger.log("info", "Stopped");
    process.off("SIGHUP", onHangup);
    notifier.close();
  },
});

const LOOPBACK: readonly string[] = ["127.0.0.1", "localhost", "[::1]", "::1"];
const ANY: readonly string[] = ["0.0.0.0", "[::]", "::"];

/** Whether `url` is where this daemon's own admin server listens. */
export function isOwnAddress(url: string, own: Pick<DaemonOptions, "host" | "port">): boolean {
  // Not every location is a URL to the parser: etcd's names several hosts.
  if (!/^https?:/.test(url)) return false;
  const { hostname, port } = new URL(url);
  if (Number(port) !== own.port) return false;
  if (hostname === own.host) return true;
  return LOOPBACK.includes(hostname) && [...LOOPBACK, ...ANY].includes(own.host);
}

/** A flag wins over the file. */
function merged(flags: DaemonFlags, file: DaemonFlags): DaemonFlags {
  const given = Object.entries(flags).filter(([, value]) => value !== undefined);
  return { ...file, ...Object.fromEntries(given) };
}

/** SIGHUP: certificates, and the log level as the configuration file has it now. */
async function reload(
  daemon: Daemon,
  flags: DaemonFlags,
  logger: Logger,
  notifier: ServiceNotifier,
): Promise<void> {
  notifier.reloading();
  try {
    const { logLevel } = await parseDaemonOptions(flags);
    if (logLevel !== logger.level) logger.setLevel(logLevel);
    await daemon.reload();
  } finally {
    notifier.reloaded();
  }
}
