/** The nbd devices of this machine as /sys shows them, and what uses them as /proc shows it. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { KernelError } from "./errors";

export interface NbdDevice {
  readonly index: number;
  readonly path: string;
  /** Attached to something, alive or waiting for new connections. */
  readonly connected: boolean;
  /** The process that attached it, if attached. */
  readonly pid: number | undefined;
  /** What the process that attached it named its backend; "" when it named none. */
  readonly identifier: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly mountPoints: readonly string[];
}

const SECTOR_BYTES = 512;

/** `root` is "/" but in tests. */
export function listNbdDevices(root = "/"): NbdDevice[] {
  const blocks = join(root, "sys/block");
  if (!existsSync(blocks)) return [];
  const mounts = readMounts(root);
  return readdirSync(blocks)
    .map((name) => /^nbd(\d+)$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map((digits) => readDevice(join(blocks, `nbd${digits}`), Number(digits), mounts))
    .sort((one, other) => one.index - other.index);
}

/** `/dev/nbd3`, `nbd3` or `3`. Throws "not-attached" for anything else. */
export function parseNbdIndex(device: string): number {
  const digits = /^(?:\/dev\/)?(?:nbd)?(\d{1,4})$/.exec(device)?.[1];
  if (digits === undefined)
    throw new KernelError("not-attached", `Cannot use device "${device}": write it as /dev/nbd0`, {
      exitCode: 2,
    });
  return Number(digits);
}

function readDevice(folder: string, index: number, mounts: ReadonlyMap<string, string[]>): NbdDevice {
  const path = `/dev/nbd${index}`;
  const pid = readText(join(folder, "pid"));
  return {
    index,
    path,
    connected: pid !== undefined,
    pid: pid === undefined ? undefined : Number(pid),
    identifier: readText(join(folder, "backend")) ?? "",
    sizeBytes: Number(readText(join(folder, "size")) ?? 0) * SECTOR_BYTES,
    readOnly: readText(join(folder, "ro")) === "1",
    mountPoints: [...mounts].filter(([source]) => isPartOf(source, path)).flatMap(([, points]) => points),
  };
}

/** The device itself or one of its partitions. */
function isPartOf(source: string, path: string): boolean {
  return source === path || (source.startsWith(`${path}p`) && /^\d+$/.test(source.slice(path.length + 1)));
}

function readMounts(root: string): Map<string, string[]> {
  const mounts = new Map<string, string[]>();
  for (const line of (readText(join(root, "proc/self/mounts")) ?? "").split("\n")) {
    const [source, point] = line.split(" ");
    if (source === undefined || point === undefined) continue;
    mounts.set(source, [...(mounts.get(source) ?? []), unescapeMount(point)]);
  }
  return mounts;
}

/** The kernel writes spaces and the like in mount points as \040. */
function unescapeMount(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** Undefined when the file is not there (any more). */
function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** ENODEV, ENXIO: the device went away between the look and the read. */
function isGone(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "ENOENT" || code === "ENODEV" || code === "ENXIO" || code === "EINVAL";
}
