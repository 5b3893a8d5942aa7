/** What volumes and snapshots may be called and how large a volume may be; the errors are what a user reads. */
import { usageError } from "../errors";

export const NAME_BYTES_MAX = 255;
export const VOLUME_SIZE_BYTES_MAX = 64 * 2 ** 40;
/** Block devices come in sectors. */
export const SECTOR_BYTES = 512;

const FORBIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}/@]/u;

/** Throws "bad-name"; `what` is "volume" or "snapshot". */
export function checkName(what: "volume" | "snapshot", name: string): void {
  const refuse = (reason: string) =>
    usageError("bad-name", `Cannot name a ${what} ${JSON.stringify(name.slice(0, 80))}: ${reason}`);
  if (name.length === 0) throw refuse("the name is empty");
  if (!name.isWellFormed()) throw refuse("it is not proper Unicode text");
  if (new TextEncoder().encode(name).length > NAME_BYTES_MAX)
    throw refuse(`it is longer than ${NAME_BYTES_MAX} bytes`);
  if (FORBIDDEN.test(name)) throw refuse('control characters, "/" and "@" are not allowed');
  if (name.trim() !== name) throw refuse("it begins or ends with a space");
}

/** Throws "bad-size". */
export function checkVolumeSize(name: string, sizeBytes: number): void {
  const refuse = (reason: string) =>
    usageError("bad-size", `Cannot give volume "${name}" a size of ${sizeBytes} B: ${reason}`);
  if (!Number.isFinite(sizeBytes) || sizeBytes <= 0) throw refuse("it must be more than 0");
  if (sizeBytes > VOLUME_SIZE_BYTES_MAX) throw refuse("the largest volume is 64 TiB");
  if (sizeBytes % SECTOR_BYTES !== 0)
    throw refuse(
      `it must be a multiple of ${SECTOR_BYTES} B, for example ${Math.ceil(sizeBytes / SECTOR_BYTES) * SECTOR_BYTES}`,
    );
}
