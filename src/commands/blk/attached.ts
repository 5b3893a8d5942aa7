/**
 * The life of a process that serves an attached volume: attach, make a file system, mount, say that it is ready, serve
 * until a signal or until somebody detaches the device, then unmount what it mounted, flush, detach, give the volume
 * back. A device that somebody else mounted is not torn away: the process says so and goes on serving.
 */
import { formatSize, type TorusError } from "../../base";
import { systemClock } from "../../base/io";
import { listNbdDevices, makeFileSystem, mountDevice, requireNbdDriver, unmount } from "../../blockdev";
import { attachVolume, type AttachVolumeOptions, type VolumeAttachment } from "../attach";
import { CommandError } from "../cli";
import { type Client, startClient, type VolumeFlags } from "../client";
import { ServiceNotifier } from "../daemon";

export interface ServeAttached {
  readonly options: AttachVolumeOptions;
  /** Made before, when there is no such volume. */
  readonly createSizeBytes?: number | undefined;
  readonly fileSystem?: string | undefined;
  readonly mountPoint?: string | undefined;
  /** At the end unmount whatever is mounted from the device, by whomever. */
  readonly detachOnExit: boolean;
  readonly waitForLockMs?: number | undefined;
}

/** Returns when the volume was detached in order; throws otherwise. */
export async function serveAttached(flags: VolumeFlags, serve: ServeAttached): Promise<void> {
  const { promise: failed, resolve: fail } = Promise.withResolvers<TorusError>();
  const client = await startClient(flags, serve.waitForLockMs, fail);
  const { logger } = client;
  const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID } = process.env;
  const notifier = new ServiceNotifier({ NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID }, (message) =>
    logger.log("warn", message),
  );
  const signals = watchSignals();
  try {
    // Before anything is made that would be left behind.
    await requireNbdDriver();
    if (serve.fileSystem !== undefined) requireMaker(serve.fileSystem);
    if (serve.createSizeBytes !== undefined)
      await createIfMissing(client, serve.options.name, serve.createSizeBytes);
    const attachment = await attachVolume(
      {
        plane: client.plane,
        metadata: client.metadata,
        log: (level, message) => logger.log(level, message),
      },
      serve.options,
    );
    try {
      await prepare(attachment, serve);
    } catch (error) {
      await attachment.detach();
      throw error;
    }
    const where = serve.mountPoint === undefined ? "" : `, mounted at ${serve.mountPoint}`;
    const how = attachment.tookOver ? "Took over" : "Attached";
    const size = formatSize(attachment.sizeBytes);
    logger.log("info", `${how} ${attachment.name} as ${attachment.path} (${size})${where}`);
    notifier.ready(`${attachment.name} is ${attachment.path}${where}`);
    notifier.startWatchdog(systemClock, () => client.plane.status());
    const failure = await untilEnded(attachment, serve, client, signals, failed, () => notifier.stopping());
    if (failure !== undefined) throw failure;
    logger.log("info", `Detached ${attachment.name}`);
  } finally {
    signals.stop();
    notifier.close();
    await client.close();
  }
}

function requireMaker(fileSystem: string): void {
  if (
    !/^[a-z0-9]{1,16}$/.test(fileSystem) ||
    Bun.which(`mkfs.${fileSystem}`, { PATH: `${process.env.PATH}:/usr/sbin:/sbin` }) === null
  )
    throw new CommandError(
      "usage",
      `Cannot make a file system of type "${fileSystem}": this machine has no mkfs.${fileSystem}`,
    );
}

async function createIfMissing({ metadata, logger }: Client, name: string, sizeBytes: number): Promise<void> {
  const { volumes } = await metadata.volumes.list();
  const found = volumes.find((volume) => volume.name === name);
  if (found !== undefined) {
    if (found.sizeBytes !== sizeBytes)
      logger.log("warn", `Volume ${name} exists and keeps its ${formatSize(found.sizeBytes)}`);
    return;
  }
  await metadata.volumes.create(name, sizeBytes);
  logger.log("info", `Created volume ${name} of ${formatSize(sizeBytes)}`);
}

async function prepare(attachment: VolumeAttachment, serve: ServeAttached): Promise<void> {
  if (serve.fileSystem !== undefined && !attachment.readOnly)
    await makeFileSystem(attachment.path, serve.fileSystem);
  if (serve.mountPoint === undefined) return;
  if (!mountPointsOf(attachment.path).includes(serve.mountPoint))
    await mountDevice(attachment.path, serve.mountPoint, attachment.readOnly);
  attachment.noteMount(serve.mountPoint);
}

function mountPointsOf(path: string): readonly string[] {
  return listNbdDevices().find((device) => device.path === path)?.mountPoints ?? [];
}

/** SIGTERM and SIGINT, which may come again when the first could not be met. */
function watchSignals() {
  let onSignal: (name: string) => void = () => {};
  let early: string | undefined;
  const listener = (name: string) => {
    early = name;
    onSignal(name);
  };
  const names = ["SIGTERM", "SIGINT"] as const;
  for (const name of names) process.on(name, listener);
  return {
    /** Runs `handle` for each, also for one that came before. */
    handle(handle: (name: string) => void) {
      onSignal = handle;
      if (early !== undefined) handle(early);
    },
    stop() {
      for (const name of names) process.off(name, listener);
    },
  };
}

function untilEnded(
  attachment: VolumeAttachment,
  serve: ServeAttached,
  client: Client,
  signals: ReturnType<typeof watchSignals>,
  failed: Promise<TorusError>,
  onStopping: () => void,
): Promise<TorusError | undefined> {
  let stopping = false;
  const stop = async () => {
    const mounted = mountPointsOf(attachment.path);
    // The last mounted goes first: one may lie in another.
    for (const point of [...mounted].reverse())
      if (serve.detachOnExit || point === serve.mountPoint) await unmount(point);
    await attachment.detach();
  };
  signals.handle((name) => {
    if (stopping) return;
    stopping = true;
    client.logger.log("info", `Stopping on ${name}: detaching ${attachment.path}`);
    onStopping();
    stop().catch((error: unknown) => {
      stopping = false;
      client.logger.log(
        "error",
        `${error instanceof Error ? error.message : String(error)}; still serving it`,
      );
    });
  });
  return Promise.race([attachment.ended, failed]);
}
