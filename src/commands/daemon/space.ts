/** Where a store lies, and how much of a file system or a disk it takes. */
import { mkdirSync, readdirSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { formatSize, type SizeOrShare } from "../../base";
import { deviceBytes } from "../../base/io";
import { CommandError } from "../cli";

const SIZE_DEFAULT_MAX = 20 * 2 ** 30;
const SIZE_MIN = 64 * 2 ** 20;

/** Blocks are volumes' data: nobody else on this machine reads them. Throws CommandError when it cannot be made. */
export function makeDataDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    throw new CommandError(
      "io",
      `Cannot make data directory ${path}: ${code === "EEXIST" ? "a file is in its place" : code}; name another with --data-dir`,
      error,
    );
  }
}

/** Bytes that files in the store's directory take already: a restart must not count them as taken by others. */
function storedBytes(directory: string): number {
  return readdirSync(directory).reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
}

/** Bytes for the store in `directory`, which is made. Throws CommandError when the file system can't give them. */
export function chooseStoreSize(directory: string, size: SizeOrShare | undefined): number {
  makeDataDirectory(directory);
  const { bsize, blocks, bavail } = statfsSync(directory);
  const have = storedBytes(directory);
  const available = bavail * bsize + have;
  if (size?.kind === "bytes") {
    if (size.bytes > available)
      throw new CommandError(
        "io",
        `Cannot use ${formatSize(size.bytes)} in ${directory}: its file system has ${formatSize(available)} free; give a smaller --size`,
      );
    return size.bytes;
  }
  if (size?.kind === "share") return Math.min(available, Math.floor((blocks * bsize * size.percent) / 100));
  if (have >= SIZE_MIN) return have;
  const chosen = Math.min(SIZE_DEFAULT_MAX, Math.floor(available / 2));
  if (chosen < SIZE_MIN)
    throw new CommandError(
      "io",
      `Cannot keep blocks in ${directory}: its file system has only ${formatSize(available)} free`,
    );
  return chosen;
}

/** Bytes for the store on a raw disk: all of it unless told otherwise. */
export function chooseDeviceSize(path: string, size: SizeOrShare | undefined): number {
  const available = deviceBytes(path);
  if (size === undefined) return available;
  const wanted = size.kind === "bytes" ? size.bytes : Math.floor((available * size.percent) / 100);
  if (wanted > available)
    throw new CommandError(
      "io",
      `Cannot use ${formatSize(wanted)} of ${path}: it has ${formatSize(available)}; give a smaller --size`,
    );
  return wanted;
}
