/** Volumes as /dev/nbdN of this machine's kernel: see README.md. */
export {
  type AttachOptions,
  attachToKernel,
  BLOCK_SIZES,
  CONNECTION_COUNT_MAX,
  detachFromKernel,
  type KernelAttachment,
  requireNbdDriver,
} from "./attach";
export { listNbdDevices, type NbdDevice, parseNbdIndex } from "./devices";
export { DurableDevice } from "./durable-device";
export { KernelError, type KernelErrorCode } from "./errors";
export { runNbdIoctlWorker } from "./nbd-ioctl";
export { makeFileSystem, mountDevice, unmount } from "./programs";
