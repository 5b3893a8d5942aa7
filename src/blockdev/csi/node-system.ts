/** What the node service asks of the operating system: mounts, file systems and their figures, by its programs. */
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import { CsiError } from "./errors";

const PROGRAM_MS_MAX = 120_000;
const MAKE_FILE_SYSTEM_MS_MAX = 30 * 60_000;
const BLKID_NOTHING = 2;
const OUTPUT_CHARACTERS_MAX = 300;

export interface Mount {
  readonly path: string;
  readonly fileSystem: string;
  /** A device's path; for a bind of a device file the file system that holds it. */
  readonly source: string;
  readonly readOnly: boolean;
}

interface Outcome {
  readonly exitCode: number;
  readonly output: string;
}

async function run(command: readonly string[], timeoutMs = PROGRAM_MS_MAX): Promise<Outcome> {
  const child = (() => {
    try {
      return Bun.spawn([...command], { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: timeoutMs });
    } catch (error) {
      throw new CsiError("internal", `Cannot run ${command[0]}: it is not installed`, { cause: error });
    }
  })();
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { exitCode: await child.exited, output: `${output}${errors}`.trim() };
}

/** Throws "internal" with the program's words. */
export async function runProgram(
  action: string,
  command: readonly string[],
  timeoutMs?: number,
): Promise<string> {
  const { exitCode, output } = await run(command, timeoutMs);
  if (exitCode !== 0)
    throw new CsiError(
      "internal",
      `Cannot ${action}: ${command[0]} ended with ${exitCode}: ${shortened(output)}`,
    );
  return output;
}

/** The beginning of what a program said: some print their whole manual with an error. */
function shortened(output: string): string {
  return output.slice(0, OUTPUT_CHARACTERS_MAX);
}

/** The topmost mount at a path. */
export function findMount(path: string): Mount | undefined {
  return parseMounts(readFileSync("/proc/self/mountinfo", "utf8")).findLast((one) => one.path === path);
}

/** Lines of /proc/self/mountinfo: `id parent major:minor root path options [tags] - type source options`. */
/** Where device files are; others are not looked at, because a dead network file system would not answer. */
const DEVICE_FILE_SYSTEMS: ReadonlySet<string> = new Set(["devtmpfs", "tmpfs"]);

/** All mounts of a device, or of its file where that is mounted itself. */
export function mountsOf(device: string): Mount[] {
  return parseMounts(readFileSync("/proc/self/mountinfo", "utf8")).filter(
    (mount) =>
      mount.source === device || (DEVICE_FILE_SYSTEMS.has(mount.fileSystem) && isMountOf(mount, device)),
  );
}

export function parseMounts(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split("\n")) {
    const words = line.split(" ");
    const separator = words.indexOf("-", 6);
    const [path, options] = [words[4], words[5]];
    if (separator < 0 || path === undefined || options === undefined) continue;
    mounts.push({
      path: unescapeText(path),
      fileSystem: words[separator + 1] ?? "",
      source: unescapeText(words[separator + 2] ?? ""),
      readOnly: options.split(",").includes("ro"),
    });
  }
  return mounts;
}

function unescapeText(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** Makes the file system on a blank device; one that holds the same type is kept as it is. */
export async function ensureFileSystem(device: string, type: string): Promise<void> {
  const { exitCode, output } = await run([
    "blkid",
    "-p",
    "-o",
    "value",
    "-s",
    "TYPE",
    "-s",
    "PTTYPE",
    device,
  ]);
  if (exitCode !== 0 && exitCode !== BLKID_NOTHING)
    throw new CsiError(
      "internal",
      `Cannot look at ${device}: blkid ended with ${exitCode}: ${shortened(output)}`,
    );
  const found = exitCode === BLKID_NOTHING ? "" : (output.split("\n")[0] ?? "");
  if (found === type) return;
  if (found !== "")
    throw new CsiError(
      "failed-precondition",
      `Cannot make ${type} on ${device}: it holds ${found}; ask for that file system, or for another volume`,
    );
  await runProgram(`make ${type} on ${device}`, [`mkfs.${type}`, device], MAKE_FILE_SYSTEM_MS_MAX);
}

export async function mountDevice(
  device: string,
  folder: string,
  fileSystem: string,
  flags: readonly string[],
): Promise<void> {
  mkdirSync(folder, { recursive: true });
  // A clone has the UUID of what it was cloned from, and XFS mounts a UUID once.
  const options = [...flags, ...(fileSystem === "xfs" ? ["nouuid"] : [])];
  const words = options.length === 0 ? [] : ["-o", options.join(",")];
  await runProgram(`mount ${device} at ${folder}`, ["mount", "-t", fileSystem, ...words, device, folder]);
}

/** Shows a folder or a device file at another path too. */
export async function bindMount(source: string, target: string, readOnly: boolean): Promise<void> {
  if (statSync(source).isDirectory()) mkdirSync(target, { recursive: true });
  else {
    mkdirSync(dirname(target), { recursive: true });
    closeSync(openSync(target, "a"));
  }
  await runProgram(`mount ${source} at ${target}`, ["mount", "--bind", source, target]);
  if (!readOnly) return;
  try {
    await runProgram(`make ${target} read-only`, ["mount", "-o", "remount,bind,ro", target]);
  } catch (error) {
    await runProgram(`unmount ${target}`, ["umount", target]);
    throw error;
  }
}

/** Unmounts whatever is mounted there, and removes the mount point. Does nothing when there is none. */
export async function unmountAndRemove(path: string): Promise<void> {
  while (findMount(path) !== undefined) await runProgram(`unmount ${path}`, ["umount", path]);
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  // Only an empty folder: what is in it would be somebody's.
  if (found.isDirectory()) rmdirSync(path);
  else rmSync(path);
}

const isExt = (fileSystem: string) => /^ext[234]$/.test(fileSystem);

/**
 * Lets a file system fill its device before it is mounted, where that is possible (ext): growing it while mounted asks
 * for more rights. Checks it first, as resize2fs demands.
 */
export async function growBeforeMount(fileSystem: string, device: string): Promise<void> {
  if (!isExt(fileSystem)) return;
  const header = await runProgram(`look at ${device}`, ["dumpe2fs", "-h", device]);
  const field = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+)$`, "m").exec(header)?.[1] ?? 0);
  const blockBytes = field("Block size");
  if (blockBytes === 0) throw new CsiError("internal", `Cannot grow ${device}: its size was not told`);
  const filledBytes = field("Block count") * blockBytes;
  if (filledBytes + blockBytes > (await deviceSizeBytes(device))) return;
  const { exitCode, output } = await run(["e2fsck", "-f", "-p", device], MAKE_FILE_SYSTEM_MS_MAX);
  // 1: it mended something.
  if (exitCode > 1)
    throw new CsiError(
      "internal",
      `Cannot grow ${device}: e2fsck ended with ${exitCode}: ${shortened(output)}`,
    );
  await runProgram(`grow ${device}`, ["resize2fs", device], MAKE_FILE_SYSTEM_MS_MAX);
}

/** Lets a mounted file system fill its device. Where there is nothing to do it is done at once. */
export async function growMounted(fileSystem: string, device: string, folder: string): Promise<void> {
  if (fileSystem === "xfs") await runProgram(`grow ${folder}`, ["xfs_growfs", folder]);
  else if (fileSystem === "btrfs")
    await runProgram(`grow ${folder}`, ["btrfs", "filesystem", "resize", "max", folder]);
  else await runProgram(`grow ${folder}`, ["resize2fs", device]);
}

/** Whether what is mounted at a path is this device, as a file system or (a bind) as the device's file. */
export function isMountOf(mount: Mount, device: string): boolean {
  if (mount.source === device) return true;
  const [shown, own] = [mount.path, device].map((path) => statSync(path, { throwIfNoEntry: false }));
  return shown?.isBlockDevice() === true && shown.rdev === own?.rdev;
}

export async function deviceSizeBytes(device: string): Promise<number> {
  return Number(await runProgram(`look at ${device}`, ["blockdev", "--getsize64", device]));
}

export interface FileSystemFigures {
  readonly totalBytes: number;
  readonly availableBytes: number;
  readonly usedBytes: number;
  readonly totalInodes: number;
  readonly freeInodes: number;
}

export function fileSystemFigures(path: string): FileSystemFigures {
  const { bsize, blocks, bfree, bavail, files, ffree } = statfsSync(path);
  return {
    totalBytes: blocks * bsize,
    availableBytes: bavail * bsize,
    usedBytes: (blocks - bfree) * bsize,
    totalInodes: files,
    freeInodes: ffree,
  };
}
