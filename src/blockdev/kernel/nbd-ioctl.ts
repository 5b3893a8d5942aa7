/**
 * The kernel's nbd driver by ioctl (linux/nbd.h), for kernels without its netlink. NBD_DO_IT returns only when the
 * device is disconnected, so it runs in a thread of its own: `runNbdIoctlWorker` is that thread's whole program.
 * A device attached this way ends with its process: nobody can take it over.
 */
import { C, libc, must } from "../../base/io";
import { KernelError } from "./errors";

const Request = {
  setSocket: 0xab00,
  setBlockSize: 0xab01,
  doIt: 0xab03,
  clearSocket: 0xab04,
  setSizeBlocks: 0xab07,
  disconnect: 0xab08,
  setTimeout: 0xab09,
  setFlags: 0xab0a,
} as const;

export interface NbdIoctlConnect {
  readonly index: number;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  readonly serverFlags: number;
  readonly sockets: readonly number[];
  readonly requestTimeoutS: number;
}

const EBUSY = 16;

/** What the worker tells: connected (it is in NBD_DO_IT now), and over. */
export type NbdIoctlMessage =
  | { readonly kind: "connecting" }
  | { readonly kind: "ended"; readonly errno: number };

/** The part of a worker's `self` that is used. */
interface WorkerSelf {
  onmessage: ((event: MessageEvent<number>) => void) | null;
  postMessage(message: NbdIoctlMessage): void;
}

/** The program of the thread: gets the device's descriptor once, and blocks in the kernel until the device is gone. */
export function runNbdIoctlWorker(worker: WorkerSelf): void {
  worker.onmessage = ({ data: device }) => {
    worker.postMessage({ kind: "connecting" });
    const result = libc.ioctl(device, Request.doIt, 0);
    libc.ioctl(device, Request.clearSocket, 0);
    worker.postMessage({ kind: "ended", errno: result < 0 ? -result : 0 });
  };
}

export interface NbdIoctlDevice {
  /** Resolves when the device is disconnected, by whomever. */
  readonly ended: Promise<void>;
  disconnect(): void;
}

/** Connects a chosen device; `startWorker` starts a thread that runs `runNbdIoctlWorker`. */
export function connectByIoctl(connect: NbdIoctlConnect, startWorker: () => Worker): NbdIoctlDevice {
  const path = `/dev/nbd${connect.index}`;
  const device = must(`open ${path}`, libc.open(path, C.O_RDWR | C.O_CLOEXEC, 0));
  try {
    const set = (what: string, request: number, argument: number) =>
      must(`set the ${what} of ${path}`, libc.ioctl(device, request, argument));
    set("block size", Request.setBlockSize, connect.blockSizeBytes);
    set("size", Request.setSizeBlocks, Math.floor(connect.sizeBytes / connect.blockSizeBytes));
    set("flags", Request.setFlags, connect.serverFlags);
    if (connect.requestTimeoutS > 0) set("timeout", Request.setTimeout, connect.requestTimeoutS);
    for (const socket of connect.sockets) {
      const result = libc.ioctl(device, Request.setSocket, socket);
      if (result === -EBUSY)
        throw new KernelError("busy", `Cannot attach ${path}: it is attached to something else`);
      must(`give ${path} a socket`, result);
    }
  } catch (error) {
    libc.ioctl(device, Request.clearSocket, 0);
    libc.close(device);
    throw error;
  }
  // One descriptor for both threads: opening the device again now could wait for a partition table nobody serves yet.
  const worker = startWorker();
  const ended = new Promise<void>((resolve, reject) => {
    const over = (failure?: KernelError) => {
      libc.close(device);
      worker.terminate();
      if (failure === undefined) resolve();
      else reject(failure);
    };
    worker.onmessage = ({ data }: MessageEvent<NbdIoctlMessage>) => {
      if (data.kind === "ended") over();
    };
    worker.onerror = (event) => over(new KernelError("refused", `Cannot serve ${path}: ${event.message}`));
  });
  worker.postMessage(device);
  return {
    ended,
    disconnect: () => {
      must(`disconnect ${path}`, libc.ioctl(device, Request.disconnect, 0));
    },
  };
}
