/** The one map from what a device answers to what NBD says on the wire, and the texts that go with an error chunk. */
import { DeviceStatus } from "../device";
import { NbdError } from "./protocol";

const ERRORS: Readonly<Record<DeviceStatus, NbdError>> = {
  [DeviceStatus.ok]: NbdError.none,
  [DeviceStatus.ioError]: NbdError.io,
  [DeviceStatus.noSpace]: NbdError.noSpace,
  [DeviceStatus.invalid]: NbdError.invalid,
  [DeviceStatus.readOnly]: NbdError.notPermitted,
  [DeviceStatus.shutdown]: NbdError.shutdown,
  [DeviceStatus.notSupported]: NbdError.notSupported,
};

export function nbdErrorOf(status: DeviceStatus): NbdError {
  return ERRORS[status];
}
