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
  NBD_LIMITS_DEFAULT,
  type NbdEvent,
  type NbdLimits,
  NbdServer,
  type NbdServerOptions,
  type NbdStatistics,
  type TlsState,
} from "./nbd";
