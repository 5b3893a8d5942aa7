/** Volumes as /dev/nbdN of this machine's kernel: see README.md. */
export {
  ATTACH_BLOCK_SIZE_BYTES,
  ATTACH_CONNECTION_COUNT,
  ATTACH_DEAD_CONNECTION_TIMEOUT_S,
  type AttachOptions,
  attachToKernel,
  detachFromKernel,
  type KernelAttachment,
} from "./attach";
export { listNbdDevices, type NbdDevice, parseNbdIndex } from "./devices";
export { KernelError, type KernelErrorCode } from "./errors";
export { runNbdIoctlWorker } from "./nbd-ioctl";
export { fileSystemOn, flushDevice, makeFileSystem, mountDevice, unmount } from "./programs";
