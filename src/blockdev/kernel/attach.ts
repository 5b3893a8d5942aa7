/**
 * Attaches an export of this process to the kernel as /dev/nbdN. Pairs of sockets are made; our ends go to whoever
 * serves the export (an NbdServer, in transmission from the first byte: nothing is negotiated with ourselves), the
 * other ends to the kernel.
 *
 * By netlink a device outlives its process: when all its sockets die, requests wait `deadConnectionTimeoutS` for a
 * process that attaches the same identifier and so takes the device over, mounted file system and all. By ioctl (kernels
 * without that) the device ends with the process.
 */
import { C, libc, must, nativeBuffer } from "../../base/io";
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
  /**
   * New connections when the kernel closed all of them: it does so, several connections given, when requests took
   * longer than its timeout (30 s), and sends them again.
   */
  reconnect(): Promise<void>;
  /** Flushes and disconnects. Throws "busy" while it is mounted. */
  detach(): Promise<void>;
}

const ATTACH_BLOCK_SIZE_BYTES = 4096;
const ATTACH_CONNECTION_COUNT = 4;
/** Longer than a lease needs to end and a process to start again. */
const ATTACH_DEAD_CONNECTION_TIMEOUT_S = 120;
export const CONNECTION_COUNT_MAX = 16;
/** Logical blocks that the kernel's driver takes, in bytes. */
export const BLOCK_SIZES: readonly number[] = [512, 1024, 2048, 4096];
/** How long the kernel may take to see that the old sockets of a device are dead. */
const TAKE_OVER_MS_MAX = 10_000;
/** How long to wait for places beyond the first: a device may have fewer than we want. */
const TAKE_OVER_REST_MS_MAX = 2_000;
const DETACH_MS_MAX = 30_000;
const LOOK_AGAIN_MS = 50;

export async function attachToKernel(options: AttachOptions): Promise<KernelAttachment> {
  const { blockSizeBytes = ATTACH_BLOCK_SIZE_BYTES, connectionCount = ATTACH_CONNECTION_COUNT } = options;
  if (!BLOCK_SIZES.includes(blockSizeBytes))
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
  const plan = { ...options, blockSizeBytes, connectionCount };
  try {
    if (netlink !== undefined) return await attachByNetlink(netlink, plan);
    return await attachByIoctl(plan);
  } catch (error) {
    netlink?.close();
    throw error;
  }
}

interface Plan extends AttachOptions {
  readonly blockSizeBytes: number;
  readonly connectionCount: number;
}

/**
 * Disconnects a device that another process (or a dead one) attached. Without `flush` what its caches hold is thrown
 * away: for a device whose process died and that nobody may take over.
 */
export async function detachFromKernel(path: string, flush = true): Promise<void> {
  const device = deviceAt(parseNbdIndex(path));
  if (device === undefined || !device.connected)
    throw new KernelError("not-attached", `Cannot detach ${path}: it is not attached`);
  const netlink = await openNetlink();
  if (netlink === undefined) throw noDriver();
  try {
    await detach(device.index, () => netlink.disconnect(device.index), flush);
  } finally {
    netlink.close();
  }
}

async function openNetlink(): Promise<NbdNetlink | undefined> {
  return (await NbdNetlink.open()) ?? ((await loadModule("nbd")) ? await NbdNetlink.open() : undefined);
}

/** Throws "not-supported" where nothing could be attached; loads the driver where it can be. */
export async function requireNbdDriver(): Promise<void> {
  const netlink = await openNetlink();
  netlink?.close();
  if (netlink === undefined && listNbdDevices().length === 0) throw noDriver();
}

function noDriver(): KernelError {
  return new KernelError(
    "not-supported",
    "Cannot attach: this kernel has no nbd driver; load it (modprobe nbd), or reach the volume over NBD instead",
  );
}

/**
 * Makes pairs, has our ends served, offers the others to the kernel with `give`, and answers how many of them it kept:
 * a socket that nobody holds once we closed it shows as ended at our side.
 */
async function offerSockets(
  count: number,
  serve: AttachOptions["serve"],
  give: (sockets: readonly number[]) => Promise<void> | void,
): Promise<number> {
  const ours: number[] = [];
  const probes: number[] = [];
  const theirs: number[] = [];
  const pair = new Int32Array(2);
  let served = false;
  try {
    for (let index = 0; index < count; index++) {
      must("make a pair of sockets", libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, pair));
      ours.push(pair[0] as number);
      theirs.push(pair[1] as number);
      probes.push(must("copy a descriptor", libc.fcntl(pair[0] as number, F_DUPFD_CLOEXEC, 0)));
    }
    served = true;
    await serve(ours);
    await give(theirs);
  } catch (error) {
    for (const socket of probes.splice(0)) libc.close(socket);
    throw error;
  } finally {
    if (!served) for (const socket of ours) libc.close(socket);
    for (const socket of theirs) libc.close(socket);
  }
  return probes.filter((socket) => !hasEnded(socket)).length;
}

const F_DUPFD_CLOEXEC = 1030;
const MSG_PEEK = 2;
const peeked = nativeBuffer(8);

/** Looks, and closes this copy of the descriptor. */
function hasEnded(socket: number): boolean {
  const ended = libc.recv(socket, peeked.address, 1, MSG_PEEK | C.MSG_DONTWAIT) === 0;
  libc.close(socket);
  return ended;
}

function deviceAt(index: number): NbdDevice | undefined {
  return listNbdDevices().find((device) => device.index === index);
}

async function attachByNetlink(netlink: NbdNetlink, plan: Plan): Promise<KernelAttachment> {
  const wanted = plan.device === undefined ? undefined : parseNbdIndex(plan.device);
  const { identifier } = plan;
  const orphan = listNbdDevices().find(
    (device) =>
      device.connected &&
      device.identifier === identifier &&
      (wanted === undefined || device.index === wanted),
  );
  let index: number;
  let { sizeBytes } = plan;
  if (orphan === undefined) index = await connect(netlink, plan, wanted);
  else {
    index = orphan.index;
    await takeOver(netlink, index, plan);
  }
  return {
    path: `/dev/nbd${index}`,
    index,
    method: "netlink",
    tookOver: orphan !== undefined,
    resize: async (newSizeBytes) => {
      await netlink.resize(index, newSizeBytes, identifier);
      sizeBytes = newSizeBytes;
    },
    reconnect: () => takeOver(netlink, index, { ...plan, sizeBytes }),
    detach: async () => {
      await detach(index, () => netlink.disconnect(index));
      netlink.close();
    },
  };
}

async function connect(netlink: NbdNetlink, plan: Plan, wanted: number | undefined): Promise<number> {
  let index = -1;
  await offerSockets(plan.connectionCount, plan.serve, async (sockets) => {
    index = await netlink.connect({
      index: wanted,
      sizeBytes: plan.sizeBytes,
      blockSizeBytes: plan.blockSizeBytes,
      serverFlags: plan.serverFlags,
      sockets,
      requestTimeoutS: plan.requestTimeoutS ?? 0,
      deadConnectionTimeoutS: plan.deadConnectionTimeoutS ?? ATTACH_DEAD_CONNECTION_TIMEOUT_S,
      identifier: plan.identifier,
    });
  });
  return index;
}

/**
 * Gives new sockets until the device has as many as we want, or as many as it has places: the kernel puts one only in
 * the place of a dead one, notices death in its own time, and answers "done" either way.
 */
async function takeOver(netlink: NbdNetlink, index: number, plan: Plan): Promise<void> {
  const startMs = performance.now();
  let kept = 0;
  for (;;) {
    kept += await offerSockets(plan.connectionCount - kept, plan.serve, (sockets) =>
      netlink.reconfigure(index, sockets, plan.sizeBytes, plan.identifier),
    );
    const waitedMs = performance.now() - startMs;
    if (kept === plan.connectionCount || (kept > 0 && waitedMs > TAKE_OVER_REST_MS_MAX)) return;
    if (waitedMs > TAKE_OVER_MS_MAX)
      throw new KernelError(
        "busy",
        `Cannot take over /dev/nbd${index}: the process that attached it is alive; detach it there first`,
      );
    await Bun.sleep(LOOK_AGAIN_MS);
  }
}

async function attachByIoctl(plan: Plan): Promise<KernelAttachment> {
  const { startIoctlWorker, sizeBytes, blockSizeBytes, serverFlags } = plan;
  if (startIoctlWorker === undefined) throw noDriver();
  const index = plan.device === undefined ? firstFree() : parseNbdIndex(plan.device);
  const requestTimeoutS = plan.requestTimeoutS ?? 0;
  let connection: NbdIoctlDevice | undefined;
  await offerSockets(plan.connectionCount, plan.serve, (sockets) => {
    connection = connectByIoctl(
      { index, sizeBytes, blockSizeBytes, serverFlags, sockets, requestTimeoutS },
      startIoctlWorker,
    );
  });
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
    reconnect: () =>
      Promise.reject(
        new KernelError("not-supported", `Cannot connect /dev/nbd${index} again: attach it again`),
      ),
    detach: async () => {
      await detach(index, async () => connection?.disconnect());
      await connection?.ended;
    },
  };
}

function firstFree(): number {
  const free = listNbdDevices().find((device) => !device.connected);
  if (free === undefined) throw new KernelError("busy", "Cannot attach: no nbd device is free");
  return free.index;
}

async function detach(index: number, disconnect: () => Promise<void>, flush = true): Promise<void> {
  const path = `/dev/nbd${index}`;
  const mountPoints = deviceAt(index)?.mountPoints ?? [];
  if (mountPoints.length > 0)
    throw new KernelError(
      "busy",
      `Cannot detach ${path}: it is mounted at ${mountPoints.join(", ")}; unmount it first`,
    );
  if (flush) await flushDevice(path);
  await disconnect();
  await until(`detach ${path}`, () => deviceAt(index)?.connected !== true);
}

async function until(action: string, condition: () => boolean): Promise<void> {
  for (const deadlineMs = performance.now() + DETACH_MS_MAX; !condition(); await Bun.sleep(LOOK_AGAIN_MS))
    if (performance.now() > deadlineMs)
      throw new KernelError("timed-out", `Cannot ${action}: not done after ${DETACH_MS_MAX} ms`);
}
