/** Which devices of this machine's kernel are volumes of torus, as the kernel and the records tell. */
import { listNbdDevices, type NbdDevice, parseNbdIndex } from "../../blockdev";
import { type AttachRecord, exportNameOf, isServed, readRecord, RECORD_DIRECTORY_DEFAULT } from "../attach";
import { CommandError } from "../cli";

export interface AttachedDevice {
  readonly device: NbdDevice;
  /** The volume or snapshot; undefined for a device that is not torus's. */
  readonly name: string | undefined;
  readonly record: AttachRecord | undefined;
  /** The process that serves it lives. */
  readonly served: boolean;
}

/** All nbd devices that are attached to something. */
export function attachedDevices(): AttachedDevice[] {
  return listNbdDevices()
    .filter((device) => device.connected)
    .map((device) => {
      const record = readRecord(RECORD_DIRECTORY_DEFAULT, device.path);
      // By ioctl the kernel knows no identifier: only a living process can still be the one of the record.
      const isOurs =
        record !== undefined &&
        (device.identifier === "" ? isServed(record) : device.identifier === record.identifier);
      return {
        device,
        name: isOurs ? record.name : exportNameOf(device.identifier),
        record: isOurs ? record : undefined,
        served: isOurs && isServed(record),
      };
    });
}

/** By device (`/dev/nbd0`, `nbd0`) or by volume. Throws "not-found". */
export function findAttached(word: string): AttachedDevice {
  const devices = attachedDevices();
  const byName = word.startsWith("/dev/") ? [] : devices.filter(({ name }) => name === word);
  if (byName.length > 1)
    throw new CommandError(
      "conflict",
      `Cannot tell which device of "${word}" is meant: give one of ${byName.map(({ device }) => device.path).join(", ")}`,
    );
  const found =
    byName[0] ??
    (/^(\/dev\/)?nbd\d+$/.test(word)
      ? devices.find(({ device }) => device.index === parseNbdIndex(word))
      : undefined);
  if (found === undefined)
    throw new CommandError("not-found", `Cannot find "${word}": it is not attached to this machine`);
  return found;
}
