/** How a request to a volume ends. The same numbers as blockdev's DeviceStatus, which the engine does not import. */
export const VolumeStatus = {
  ok: 0,
  ioError: 1,
  noSpace: 2,
  invalid: 3,
  readOnly: 4,
  shutdown: 5,
} as const;
export type VolumeStatus = (typeof VolumeStatus)[keyof typeof VolumeStatus];
export type VolumeDone = (status: VolumeStatus) => void;
