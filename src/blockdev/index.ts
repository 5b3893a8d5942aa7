/** Block front ends: how volumes leave torus as disks. See README.md. */
export {
  type BlockDevice,
  type DeviceDescription,
  type DeviceDirectory,
  type DeviceExtent,
  DeviceStatus,
  type Done,
  type WriteZeroesOptions,
} from "./device";
export {
  type AttachOptions,
  attachToKernel,
  detachFromKernel,
  type KernelAttachment,
  KernelError,
  type KernelErrorCode,
  listNbdDevices,
  makeFileSystem,
  mountDevice,
  type NbdDevice,
  parseNbdIndex,
  runNbdIoctlWorker,
  unmount,
} from "./kernel";
export {
  kernelFlags,
  type NbdEvent,
  type NbdLimits,
  NbdServer,
  type NbdServerOptions,
  type NbdStatistics,
  type OpenExport,
  type TlsState,
} from "./nbd";
