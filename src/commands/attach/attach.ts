/**
 * A volume or snapshot as a block device of this machine's kernel, served by this process: for `blk attach` and for
 * the CSI node. The volume is opened first, then the kernel gets its sockets, so that a device never waits for a lock.
 *
 * By netlink a device outlives its process. Its successor takes it over, mounted file system and all, if nothing that
 * was answered can be missing: writes were answered only when durable (`DurableDevice`), and no other writer had the
 * volume in between (the epochs in the record, see record.ts). Otherwise a mounted device is refused, because the file
 * system's caches would overwrite what is newer, and one that is not mounted is detached and attached afresh.
 */
import { sleep, TorusError } from "../../base";
import { systemClock } from "../../base/io";
import {
  attachToKernel,
  detachFromKernel,
  type KernelAttachment,
  KernelError,
  kernelFlags,
  listNbdDevices,
  type NbdDevice,
} from "../../blockdev";
import { CommandError, type Metadata } from "../cli";
import type { DataPlane, HeldExport } from "../data-plane";
import { workerEntry } from "../executable";
import { exportIdentity } from "./identity";
import {
  type AttachRecord,
  processStart,
  readRecord,
  RECORD_DIRECTORY_DEFAULT,
  removeRecord,
  writeRecord,
} from "./record";

export interface AttachVolumeOptions {
  /** `volume` or `volume@snapshot`. */
  readonly name: string;
  /** `/dev/nbd3`; undefined: the first free one. */
  readonly device?: string | undefined;
  readonly method?: "auto" | "netlink" | "ioctl" | undefined;
  readonly readOnly?: boolean | undefined;
  readonly connectionCount?: number | undefined;
  /** 512 to 4096. */
  readonly blockSizeBytes?: number | undefined;
  /** Answer writes before they are durable: faster, but nobody can take the device over. Always so by ioctl. */
  readonly writeCache?: boolean | undefined;
  /** How long the kernel's requests wait for a successor of this process. */
  readonly deadConnectionTimeoutS?: number | undefined;
  /** Where the records are; it must outlive this process and a container around it, but not a reboot. */
  readonly recordDirectory?: string | undefined;
}

export interface AttachDependencies {
  readonly plane: DataPlane;
  readonly metadata: Metadata;
  readonly log: (level: "info" | "warn" | "error", message: string) => void;
}

export interface VolumeAttachment {
  readonly name: string;
  readonly path: string;
  readonly method: "netlink" | "ioctl";
  readonly tookOver: boolean;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /**
   * Resolves when the device is served no more: without an error when it was detached, here or by somebody else, and
   * the volume given back; with one when the volume failed: end this process, the device waits for the next.
   */
  readonly ended: Promise<TorusError | undefined>;
  /** Notes in the record that the command mounted it. */
  noteMount(mountPoint: string): void;
  /** Flushes, takes the device from the kernel, gives the volume back. Throws "busy" while it is mounted. */
  detach(): Promise<void>;
}

/** How long a device may take to be gone after its last socket ended. */
const GONE_MS_MAX = 2_000;
const LOOK_AGAIN_MS = 50;

/** Throws what opening the volume throws, or KernelError; then nothing is attached and the volume is given back. */
export async function attachVolume(
  { plane, metadata, log }: AttachDependencies,
  options: AttachVolumeOptions,
): Promise<VolumeAttachment> {
  const { name } = options;
  const directory = options.recordDirectory ?? RECORD_DIRECTORY_DEFAULT;
  const identity = await exportIdentity(metadata, name);
  let attachment: KernelAttachment | undefined;
  let detaching = false;
  const { promise: ended, resolve: end } = Promise.withResolvers<TorusError | undefined>();
  const giveBack = async (path: string) => {
    removeRecord(directory, path);
    await plane.releaseExport(name);
  };
  const onGone = async () => {
    const path = attachment?.path;
    // While attaching, a socket that the kernel did not want ends too.
    if (path === undefined || detaching) return;
    if (!(await isGone(path))) {
      if (detaching) return;
      log("warn", `The kernel closed the connections of ${path}, as requests took long: connecting again`);
      await attachment?.reconnect().catch((error: unknown) => end(asError(error)));
      return;
    }
    if (detaching) return;
    detaching = true;
    log("info", `${path} was detached by somebody else`);
    await giveBack(path).then(
      () => end(undefined),
      (error: unknown) => end(asError(error)),
    );
  };
  const held = await plane.holdExport(name, {
    onResized: (sizeBytes) => {
      attachment?.resize(sizeBytes).then(
        () => log("info", `${attachment?.path} has ${sizeBytes} bytes now`),
        (error: unknown) => log("error", messageOf(error)),
      );
    },
    onFailed: (reason) => end(new TorusError("volume-failed", reason)),
    onIdle: () => void onGone(),
  });
  try {
    attachment = await connect(plane, held, identity, directory, options, log);
  } catch (error) {
    await plane.releaseExport(name).catch((closing: unknown) => log("error", messageOf(closing)));
    throw error;
  }
  const { path, method, tookOver } = attachment;
  const record = recordOf(options, held, identity, path, method);
  writeRecord(directory, record);
  const kernel = attachment;
  return {
    name,
    path,
    method,
    tookOver,
    sizeBytes: held.sizeBytes,
    readOnly: held.readOnly || options.readOnly === true,
    ended,
    noteMount: (mountPoint) => writeRecord(directory, { ...record, mountPoint }),
    detach: async () => {
      if (detaching) return;
      detaching = true;
      try {
        await kernel.detach();
      } catch (error) {
        detaching = false;
        throw error;
      }
      await giveBack(path);
      end(undefined);
    },
  };
}

async function connect(
  plane: DataPlane,
  held: HeldExport,
  identity: string,
  directory: string,
  options: AttachVolumeOptions,
  log: AttachDependencies["log"],
): Promise<KernelAttachment> {
  const { name, method = "auto" } = options;
  const readOnly = held.readOnly || options.readOnly === true;
  const attach = async (way: "netlink" | "ioctl", device: string | undefined, identifier: string) => {
    const writeThrough = !readOnly && way === "netlink" && options.writeCache !== true;
    return attachToKernel({
      device,
      method: way,
      sizeBytes: held.sizeBytes,
      serverFlags: kernelFlags({ readOnly }, !writeThrough),
      identifier,
      ...defined("blockSizeBytes", options.blockSizeBytes),
      ...defined("connectionCount", options.connectionCount),
      ...defined("deadConnectionTimeoutS", options.writeCache === true ? 0 : options.deadConnectionTimeoutS),
      serve: (sockets) => plane.adoptExport({ name, sockets, writeThrough }),
      startIoctlWorker: () => new Worker(workerEntry("nbd-ioctl-worker")),
    });
  };
  if (method === "ioctl") return attach("ioctl", options.device, identity);
  const orphan = listNbdDevices().find(
    (device) => device.connected && device.identifier.startsWith(`${identity}:`),
  );
  const successor = orphan && (await inherit(orphan, held, directory, name, log));
  const identifier = successor?.identifier ?? `${identity}:${name}`;
  // Before the first request of it comes: from then on the kernel's caches are those of this epoch.
  if (successor !== undefined)
    writeRecord(directory, recordOf(options, held, identity, successor.path, "netlink"));
  try {
    return await attach("netlink", successor?.path ?? options.device, identifier);
  } catch (error) {
    const hasDevices = listNbdDevices().length > 0;
    const isMissing = error instanceof KernelError && error.code === "not-supported";
    if (method === "netlink" || !isMissing || !hasDevices) throw error;
    log("warn", "This kernel's nbd driver has no netlink: the device ends with this process");
    return attach("ioctl", options.device, identity);
  }
}

/** The device, if this process may go on with it; undefined when it was detached, to be attached afresh. */
async function inherit(
  orphan: NbdDevice,
  held: HeldExport,
  directory: string,
  name: string,
  log: AttachDependencies["log"],
): Promise<NbdDevice | undefined> {
  // Snapshots never change.
  if (held.writer === undefined) return orphan;
  const record = readRecord(directory, orphan.path);
  const isOurs = record !== undefined && record.identifier === orphan.identifier;
  if (isOurs && !record.writeCache && record.epoch === held.writer.previousEpoch) return orphan;
  const reason = !isOurs
    ? `nothing in ${directory} says who wrote it`
    : record.writeCache
      ? "it had a write cache, which was lost with its process"
      : "another writer had the volume meanwhile";
  if (orphan.mountPoints.length > 0)
    throw new CommandError(
      "conflict",
      `Cannot take ${orphan.path} over for volume "${name}": ${reason}; unmount ${orphan.mountPoints.join(", ")} first`,
    );
  log("warn", `Detaching ${orphan.path}, left by a process that died: ${reason}`);
  await detachFromKernel(orphan.path, false);
  return undefined;
}

function recordOf(
  options: AttachVolumeOptions,
  held: HeldExport,
  identity: string,
  path: string,
  method: "netlink" | "ioctl",
): AttachRecord {
  const device = listNbdDevices().find((one) => one.path === path);
  return {
    format: 1,
    identifier: device?.identifier || `${identity}:${options.name}`,
    name: options.name,
    path,
    method,
    epoch: held.writer?.epoch ?? 0,
    writeCache: options.writeCache === true || method === "ioctl",
    pid: process.pid,
    processStart: processStart(process.pid) ?? "",
  };
}

/** Whether the kernel has let go of the device, or does so soon. */
async function isGone(path: string): Promise<boolean> {
  for (const deadlineMs = systemClock.nowMs() + GONE_MS_MAX; ; await sleep(systemClock, LOOK_AGAIN_MS)) {
    if (!listNbdDevices().some((device) => device.path === path && device.connected)) return true;
    if (systemClock.nowMs() > deadlineMs) return false;
  }
}

function defined<Name extends string, Value>(
  name: Name,
  value: Value | undefined,
): { [Key in Name]?: Value } | Record<never, never> {
  return value === undefined ? {} : { [name]: value };
}

function asError(error: unknown): TorusError {
  return error instanceof TorusError ? error : new TorusError("volume-failed", messageOf(error));
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
