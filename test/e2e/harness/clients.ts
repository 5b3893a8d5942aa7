/**
 * The real NBD clients: libnbd's tools, QEMU's, fio and nbdfuse with a loop device. Each function runs one of
 * them to its end and throws with its words when it reports any error.
 */
import { accessSync, constants, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { type CommandResult, type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

const LONG_MS = 300_000;

export function unixUri(socketPath: string, exportName: string): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socketPath}`;
}

export function tcpUri(port: number, exportName: string): string {
  return `nbd://127.0.0.1:${port}/${encodeURIComponent(exportName)}`;
}

export interface NbdExport {
  readonly "export-name": string;
  readonly "export-size": number;
  readonly is_read_only?: boolean;
  readonly can_multi_conn?: boolean;
  readonly can_flush?: boolean;
  readonly can_fua?: boolean;
  readonly can_trim?: boolean;
  readonly can_zero?: boolean;
  readonly block_minimum?: number;
  readonly block_preferred?: number;
  readonly block_maximum?: number;
}

export async function nbdinfo(scene: Scene, uri: string): Promise<NbdExport> {
  const { stdout } = await scene.run(["nbdinfo", "--json", uri]);
  return (JSON.parse(stdout) as { exports: NbdExport[] }).exports[0]!;
}

/** Names of all exports of a server. */
export async function nbdlist(scene: Scene, uri: string): Promise<string[]> {
  const { stdout } = await scene.run(["nbdinfo", "--list", "--json", uri]);
  return (JSON.parse(stdout) as { exports: NbdExport[] }).exports.map((one) => one["export-name"]).sort();
}

/** Copies with 4 connections; one side is a URI, the other a file. */
export function nbdcopy(
  scene: Scene,
  from: string,
  to: string,
  options: string[] = [],
): Promise<CommandResult> {
  return scene.run(["nbdcopy", "--connections=4", ...options, from, to], { timeMsMax: LONG_MS });
}

export function qemuImg(scene: Scene, ...args: string[]): Promise<CommandResult> {
  return scene.run(["qemu-img", ...args], { timeMsMax: LONG_MS });
}

/** Runs qemu-io's commands in order; a failed pattern check or request throws. */
export async function qemuIo(scene: Scene, uri: string, commands: readonly string[]): Promise<string> {
  const args = commands.flatMap((command) => ["-c", command]);
  const { stdout, stderr } = await scene.run(["qemu-io", "-f", "raw", ...args, uri], { timeMsMax: LONG_MS });
  const said = stdout + stderr;
  if (/verification failed|failed:|error/i.test(said)) throw new Error(`qemu-io reports a failure: ${said}`);
  return said;
}

export interface FioDirection {
  readonly io_bytes: number;
  readonly bw_bytes: number;
  readonly iops: number;
  readonly total_ios: number;
  /** Milliseconds. */
  readonly runtime: number;
  readonly clat_ns: { readonly max: number; readonly percentile?: Readonly<Record<string, number>> };
}

export interface FioResult {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioDirection;
    readonly write: FioDirection;
  }[];
}

/** fio's arguments for one job on an export. The job is a thread: a process of its own would outlive a killed fio. */
export function fioCommand(
  uri: string,
  name: string,
  options: Readonly<Record<string, string | number>>,
): string[] {
  const args = Object.entries(options).map(([key, value]) => `--${key}=${value}`);
  return [
    "fio",
    "--thread",
    "--ioengine=nbd",
    `--uri=${uri}`,
    `--name=${name}`,
    "--output-format=json",
    ...args,
  ];
}

/** Runs one fio job; any I/O or verification error throws. */
export async function fio(
  scene: Scene,
  uri: string,
  name: string,
  options: Readonly<Record<string, string | number>>,
): Promise<FioResult> {
  const { stdout, stderr } = await scene.run(fioCommand(uri, name, options), { timeMsMax: LONG_MS });
  const result = JSON.parse(stdout.slice(stdout.indexOf("{"))) as FioResult;
  const bad = result.jobs.find((job) => job.error !== 0);
  if (bad || /verify:|error=/.test(stderr))
    throw new Error(`fio ${name} reports an error: ${stderr}${stdout}`);
  return result;
}

/**
 * A libnbd shell script in Python, with `h` connected to the export; returns what it prints. It runs on the
 * system's Python, for which Debian packages libnbd, whatever python3 comes first in PATH.
 */
export async function nbdsh(scene: Scene, uri: string, script: string): Promise<string> {
  const { stdout } = await scene.run(["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script], {
    timeMsMax: LONG_MS,
  });
  return stdout;
}

/** Why a file system cannot be mounted here, or undefined when it can. */
export function mountObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return "mounting needs root";
  for (const device of ["/dev/fuse", "/dev/loop-control"]) {
    if (!existsSync(device)) return `there is no ${device}`;
    try {
      accessSync(device, constants.R_OK | constants.W_OK);
    } catch {
      return `${device} cannot be opened`;
    }
  }
  return undefined;
}

/** An export as a loop device, by nbdfuse. `detach` takes all of it down again; the scene's end does so too. */
export async function attachLoop(
  scene: Scene,
  uri: string,
  name: string,
): Promise<{ device: string; detach: () => Promise<void> }> {
  const file = scene.path(`${name}.fuse`);
  writeFileSync(file, "");
  const fuse: ManagedProcess = await scene.start(`nbdfuse-${name}`, ["nbdfuse", file, uri]);
  await waitFor("nbdfuse to show the export", async () => {
    if (!fuse.running) throw new Error(fuse.output());
    return Bun.file(file).size > 0;
  });
  const { stdout } = await scene.run(["losetup", "--find", "--show", file]);
  const device = stdout.trim();
  let attached = true;
  const detach = async () => {
    if (!attached) return;
    attached = false;
    await scene.run(["losetup", "--detach", device]);
    await waitFor("the loop device to let go", async () => {
      const { stdout: users } = await scene.run(["losetup", "--associated", file]);
      return users.trim() === "";
    });
    await scene.run(["fusermount3", "-u", file]);
    await fuse.ended(20_000);
  };
  scene.defer(detach);
  return { device, detach };
}

/** Mounts a device under the scene's folder; `unmount` undoes it, the scene's end too. */
export async function mount(
  scene: Scene,
  device: string,
  name: string,
): Promise<{ folder: string; unmount: () => Promise<void> }> {
  const folder = scene.path(name);
  mkdirSync(folder, { recursive: true });
  await scene.run(["mount", device, folder]);
  let mounted = true;
  const unmount = async () => {
    if (!mounted) return;
    mounted = false;
    await scene.run(["umount", folder], { timeMsMax: LONG_MS });
  };
  scene.defer(unmount);
  return { folder, unmount };
}
