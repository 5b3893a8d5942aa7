/** Volumes as block devices of this machine's kernel: see README.md. */
export {
  type AttachDependencies,
  attachVolume,
  type AttachVolumeOptions,
  type VolumeAttachment,
} from "./attach";
export { exportNameOf } from "./identity";
export { type AttachRecord, isServed, readRecord, RECORD_DIRECTORY_DEFAULT } from "./record";
