/**
 * Attaches an export of this process to the kernel as /dev/nbdN. Pairs of sockets are made; our ends go to whoever
 * serves the export (an NbdServer, in transmission from the first byte: nothing is negotiated with ourselves), the
 * other ends to the kernel.
 *
 * By netlink a device outlives its process: when all its sockets die, requests wait `deadConnectionTimeoutS` for a
 * process that attaches the same identifier and so takes the device over, mounted file system and all. By ioctl (kernels
 * without that) the device ends with the process.
 */
import { C, libc, must } from "../../base/io";
import { listNbdDevices, type NbdDevice, parseNbdIndex } from "./devices";
import { KernelError } from "./errors";
import { connectByIoctl, type NbdIoctlDevice } from "./nbd-ioctl";
import { NbdNetlink } from "./nbd-netlink";
import { flushDevice, loadModule } from "./programs";

export interface AttachOptions {
  /** Undefined: the first free one. */
  readonly device: string | undefined;
  readonly sizeBytes: number;
  /** What the kernel may assume: see `kernelFlags` of the NBD server. */
  readonly serverFlags: number;
  /** 512 to 4096: the device's logical block. */
  readonly blockSizeBytes?: number;
  readonly connectionCount?: number;
  /** 0: requests wait for as long as the process lives. */
  readonly requestTimeoutS?: number;
  readonly deadConnectionTimeoutS?: number;
  /** Names cluster and volume; whoever attaches it again takes over a device whose process died. */
  readonly identifier: string;
  readonly method?: "auto" | "netlink" | "ioctl";
  /** Gives our ends to whoever serves them, and owns them from then on, also when it throws. */
  readonly serve: (sockets: readonly number[]) => Promise<void>;
  /** Starts a thread that runs `runNbdIoctlWorker`; without it only netlink is tried. */
  readonly startIoctlWorker?: () => Worker;
}

export interface KernelAttachment {
  /** `/dev/nbd3`. */
  readonly path: string;
  readonly index: number;
  readonly method: "netlink" | "ioctl";
  /** The device was attached before by a process that died. */
  readonly tookOver: boolean;
  /** Tells the kernel that the volume has another size. */
  resize(sizeBytes: number): Promise<void>;
  /** Flushes and disconnects. Throws "busy" while it is mounted. */
  detach(): Promise<void>;
}

export const ATTACH_BLOCK_SIZE_BYTES = 4096;
export const ATTACH_CONNECTION_COUNT = 4;
/** Longer than a lease needs to end and a process to start again. */
export const ATTACH_DEAD_CONNECTION_TIMEOUT_S = 120;
const CONNECTION_COUNT_MAX = 16;
/** How long the kernel may take to see that the old sockets of a device are dead. */
const TAKE_OVER_MS_MAX = 10_000;
const DETACH_MS_MAX = 30_000;
const LOOK_AGAIN_MS = 50;

export async function attachToKernel(options: AttachOptions): Promise<KernelAttachment> {
  const { blockSizeBytes = ATTACH_BLOCK_SIZE_BYTES, connectionCount = ATTACH_CONNECTION_COUNT } = options;
  if (![512, 1024, 2048, 4096].includes(blockSizeBytes))
    throw new KernelError(
      "refused",
      `Cannot attach with blocks of ${blockSizeBytes} bytes: 512 to 4096 are possible`,
    );
  if (!Number.isInteger(connectionCount) || connectionCount < 1 || connectionCount > CONNECTION_COUNT_MAX)
    throw new KernelError(
      "refused",
      `Cannot attach with ${connectionCount} connections: 1 to ${CONNECTION_COUNT_MAX} are possible`,
    );
  const netlink = options.method === "ioctl" ? undefined : await openNetlink();
  if (netlink === undefined && (options.method === "netlink" || options.startIoctlWorker === undefined))
    throw noDriver();
  const pairs = makePairs(connectionCount);
  try {
    await options.serve(pairs.map(([ours]) => ours));
    const theirs = pairs.map(([, kernels]) => kernels);
    if (netlink !== undefined) return await attachByNetlink(netlink, options, blockSizeBytes, theirs);
    return await attachByIoctl(options, blockSizeBytes, theirs);
  } catch (error) {
    netlink?.close();
    throw error;
  } finally {
    // The kernel holds its ends by itself now; where it does not, closing them tells our server.
    for (const [, kernels] of pairs) libc.close(kernels);
  }
}

/** Disconnects a device that another process (or a dead one) attached. */
export async function detachFromKernel(path: string): Promise<void> {
  const device = deviceAt(parseNbdIndex(path));
  if (device === undefined || !device.connected)
    throw new KernelError("not-attached", `Cannot detach ${path}: it is not attached`);
  const netlink = await openNetlink();
  if (netlink === undefined) throw noDriver();
  try {
    await detach(device.index, () => netlink.disconnect(device.index));
  } finally {
    netlink.close();
  }
}

async function openNetlink(): Promise<NbdNetlink | undefined> {
  return (await NbdNetlink.open()) ?? ((await loadModule("nbd")) ? await NbdNetlink.open() : undefined);
}

function noDriver(): KernelError {
  return new KernelError(
    "not-supported",
    "Cannot attach: this kernel has no nbd driver; load it (modprobe nbd), or reach the volume over NBD instead",
  );
}

function makePairs(count: number): [number, number][] {
  const pairs: [number, number][] = [];
  const pair = new Int32Array(2);
  try {
    for (let index = 0; index < count; index++) {
      must("make a pair of sockets", libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, pair));
      pairs.push([pair[0] as number, pair[1] as number]);
    }
  } catch (error) {
    for (const socket of pairs.flat()) libc.close(socket);
    throw error;
  }
  return pairs;
}

function deviceAt(index: number): NbdDevice | undefined {
  return listNbdDevices().find((device) => device.index === index);
}

async function attachByNetlink(
  netlink: NbdNetlink,
  options: AttachOptions,
  blockSizeBytes: number,
  sockets: readonly number[],
): Promise<KernelAttachment> {
  const wanted = options.device === undefined ? undefined : parseNbdIndex(options.device);
  const { identifier, sizeBytes } = options;
  const orphan = listNbdDevices().find(
    (device) =>
      device.connected &&
      device.identifier === identifier &&
      (wanted === undefined || device.index === wanted),
  );
  let index: number;
  if (orphan === undefined)
    index = await netlink.connect({
      index: wanted,
      sizeBytes,
      blockSizeBytes,
      serverFlags: options.serverFlags,
      sockets,
      requestTimeoutS: options.requestTimeoutS ?? 0,
      deadConnectionTimeoutS: options.deadConnectionTimeoutS ?? ATTACH_DEAD_CONNECTION_TIMEOUT_S,
      identifier,
    });
  else {
    index = orphan.index;
    await takeOver(netlink, orphan, sockets, options);
  }
  return {
    path: `/dev/nbd${index}`,
    index,
    method: "netlink",
    tookOver: orphan !== undefined,
    resize: (newSizeBytes) => netlink.resize(index, newSizeBytes, identifier),
    detach: async () => {
      await detach(index, () => netlink.disconnect(index));
      netlink.close();
    },
  };
}

/** The kernel notices a dead socket when it next uses or hears of it: until then it has no place for a new one. */
async function takeOver(
  netlink: NbdNetlink,
  device: NbdDevice,
  sockets: readonly number[],
  options: AttachOptions,
): Promise<void> {
  for (const deadlineMs = performance.now() + TAKE_OVER_MS_MAX; ; ) {
    try {
      await netlink.reconfigure(device.index, sockets, options.sizeBytes, options.identifier);
      return;
    } catch (error) {
      const mayPass = error instanceof KernelError && error.retryable && performance.now() < deadlineMs;
      if (!mayPass) throw error;
      await Bun.sleep(LOOK_AGAIN_MS);
    }
  }
}

async function attachByIoctl(
  options: AttachOptions,
  blockSizeBytes: number,
  sockets: readonly number[],
): Promise<KernelAttachment> {
  const { startIoctlWorker } = options;
  if (startIoctlWorker === undefined) throw noDriver();
  const index = options.device === undefined ? firstFree() : parseNbdIndex(options.device);
  const { sizeBytes, serverFlags } = options;
  const requestTimeoutS = options.requestTimeoutS ?? 0;
  const connection: NbdIoctlDevice = connectByIoctl(
    { index, sizeBytes, blockSizeBytes, serverFlags, sockets, requestTimeoutS },
    startIoctlWorker,
  );
  await until(`attach /dev/nbd${index}`, () => deviceAt(index)?.connected === true);
  return {
    path: `/dev/nbd${index}`,
    index,
    method: "ioctl",
    tookOver: false,
    resize: () =>
      Promise.reject(
        new KernelError("not-supported", `Cannot resize /dev/nbd${index} while attached: attach it again`),
      ),
    detach: async () => {
      await detach(index, async () => connection.disconnect());
      await connection.ended;
    },
  };
}

function firstFree(): number {
  const free = listNbdDevices().find((device) => !device.connected);
  if (free === undefined) throw new KernelError("busy", "Cannot attach: no nbd device is free");
  return free.index;
}

async function detach(index: number, disconnect: () => Promise<void>): Promise<void> {
  const path = `/dev/nbd${index}`;
  const mountPoints = deviceAt(index)?.mountPoints ?? [];
  if (mountPoints.length > 0)
    throw new KernelError(
      "busy",
      `Cannot detach ${path}: it is mounted at ${mountPoints.join(", ")}; unmount it first`,
    );
  await flushDevice(path);
  await disconnect();
  await until(`detach ${path}`, () => deviceAt(index)?.connected !== true);
}

async function until(action: string, condition: () => boolean): Promise<void> {
  for (const deadlineMs = performance.now() + DETACH_MS_MAX; !condition(); await Bun.sleep(LOOK_AGAIN_MS))
    if (performance.now() > deadlineMs)
      throw new KernelError("timed-out", `Cannot ${action}: not done after ${DETACH_MS_MAX} ms`);
}
