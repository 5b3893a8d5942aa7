/** The few programs of the system that attaching needs, run beside this process: the device they wait for is served by it. */
import { mkdirSync } from "node:fs";
import { KernelError } from "./errors";

const SHORT_MS_MAX = 60_000;
/** mkfs discards the whole device first. */
const MAKE_FILE_SYSTEM_MS_MAX = 30 * 60_000;
/** What blkid ends with when it finds nothing. */
const BLKID_NOTHING = 2;

interface Outcome {
  readonly exitCode: number;
  readonly output: string;
}

async function run(command: readonly string[], timeoutMs = SHORT_MS_MAX): Promise<Outcome> {
  const child = (() => {
    try {
      return Bun.spawn([...command], { stdin: "ignore", stdout: "pipe", stderr: "pipe", timeout: timeoutMs });
    } catch (error) {
      throw new KernelError("program-failed", `Cannot run ${command[0]}: it is not installed`, {
        cause: error,
      });
    }
  })();
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { exitCode: await child.exited, output: output.trim() === "" ? errors.trim() : output.trim() };
}

async function mustRun(action: string, command: readonly string[], timeoutMs?: number): Promise<string> {
  const { exitCode, output } = await run(command, timeoutMs);
  if (exitCode !== 0)
    throw new KernelError(
      "program-failed",
      `Cannot ${action}: ${command[0]} ended with ${exitCode}: ${output}`,
    );
  return output;
}

/** Whether the module could be loaded; false where there is none. */
export async function loadModule(name: string): Promise<boolean> {
  try {
    return (await run(["modprobe", name])).exitCode === 0;
  } catch (error) {
    if (error instanceof KernelError && error.code === "program-failed") return false;
    throw error;
  }
}

/** Writes what the kernel holds for the device, and waits for it. */
export async function flushDevice(path: string): Promise<void> {
  await mustRun(`flush ${path}`, ["blockdev", "--flushbufs", path]);
}

/** The type of the file system (or partition table) on a device; undefined for a blank one. */
export async function fileSystemOn(path: string): Promise<string | undefined> {
  const { exitCode, output } = await run(["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", path]);
  if (exitCode === BLKID_NOTHING) return undefined;
  if (exitCode !== 0)
    throw new KernelError(
      "program-failed",
      `Cannot look at ${path}: blkid ended with ${exitCode}: ${output}`,
    );
  return output.split("\n")[0];
}

/** Makes a file system on a blank device. What is on it already is kept: true only when it was made. */
export async function makeFileSystem(path: string, type: string): Promise<boolean> {
  if (!/^[a-z0-9]{1,16}$/.test(type))
    throw new KernelError("program-failed", `Cannot make a file system of type "${type}"`, { exitCode: 2 });
  const found = await fileSystemOn(path);
  if (found === type) return false;
  if (found !== undefined)
    throw new KernelError(
      "busy",
      `Cannot make ${type} on ${path}: it holds ${found}; wipe it first if it is not needed`,
    );
  await mustRun(`make ${type} on ${path}`, [`mkfs.${type}`, path], MAKE_FILE_SYSTEM_MS_MAX);
  return true;
}

/** What a read-only device of a volume in use needs, in the order of trying: a journal cannot be replayed on it. */
const READ_ONLY_OPTIONS: Readonly<Record<string, readonly string[]>> = {
  ext3: ["ro", "ro,noload"],
  ext4: ["ro", "ro,noload"],
  // The volume itself may be mounted too.
  xfs: ["ro,nouuid", "ro,nouuid,norecovery"],
};

export async function mountDevice(path: string, folder: string, readOnly: boolean): Promise<void> {
  mkdirSync(folder, { recursive: true });
  if (!readOnly) {
    await mustRun(`mount ${path}`, ["mount", path, folder]);
    return;
  }
  const [first = "ro", ...more] = READ_ONLY_OPTIONS[(await fileSystemOn(path)) ?? ""] ?? [];
  const mount = (options: string) => ["mount", "-o", options, path, folder];
  for (const [index, options] of [first, ...more].entries()) {
    if (index === more.length) await mustRun(`mount ${path}`, mount(options));
    else if ((await run(mount(options))).exitCode === 0) return;
  }
}

export async function unmount(folder: string): Promise<void> {
  await mustRun(`unmount ${folder}`, ["umount", folder]);
}
