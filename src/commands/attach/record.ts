/**
 * What a process leaves about each device that it attached, in a folder that lives as long as the kernel does (/run):
 * who serves it, and which writer's epoch the kernel's caches belong to. A successor may take a mounted device over
 * only when nobody else wrote the volume since; a device of which nothing is known is not taken over.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseNbdIndex } from "../../blockdev";

/** Where records are, unless told otherwise: gone after a reboot, like the devices. */
export const RECORD_DIRECTORY_DEFAULT = process.env.TORUS_RUN_DIR ?? "/run/torus-attach";

export interface AttachRecord {
  readonly format: 1;
  readonly identifier: string;
  /** `volume` or `volume@snapshot`. */
  readonly name: string;
  readonly path: string;
  readonly method: "netlink" | "ioctl";
  /** Of the writer whose data the kernel knows; 0 for snapshots. */
  readonly epoch: number;
  /** Answered writes may be lost with the process: nobody may take the device over. */
  readonly writeCache: boolean;
  readonly pid: number;
  /** Tells this process from a later one with its number; see `processStart`. */
  readonly processStart: string;
  /** Mounted by the command, which unmounts it too. */
  readonly mountPoint?: string;
}

function fileOf(directory: string, path: string): string {
  return join(directory, `nbd${parseNbdIndex(path)}.json`);
}

export function writeRecord(directory: string, record: AttachRecord): void {
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  const file = fileOf(directory, record.path);
  writeFileSync(`${file}.new`, `${JSON.stringify(record)}\n`);
  renameSync(`${file}.new`, file);
}

/** Undefined when there is none, or when it is not one that this program understands. */
export function readRecord(directory: string, path: string): AttachRecord | undefined {
  let text: string;
  try {
    text = readFileSync(fileOf(directory, path), "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const record: unknown = JSON.parse(text);
    return isRecord(record) ? record : undefined;
  } catch {
    return undefined;
  }
}

export function removeRecord(directory: string, path: string): void {
  rmSync(fileOf(directory, path), { force: true });
}

/** When the process started, in ticks since the boot; undefined when there is no such process. */
export function processStart(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The program's name is in parentheses and may hold spaces.
    return text.slice(text.lastIndexOf(")") + 2).split(" ")[19];
  } catch (error) {
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ESRCH"))
      return undefined;
    throw error;
  }
}

/** Whether the process that wrote the record still runs. */
export function isServed(record: AttachRecord): boolean {
  return processStart(record.pid) === record.processStart;
}

function isRecord(value: unknown): value is AttachRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Partial<Record<keyof AttachRecord, unknown>>;
  const texts = [record.identifier, record.name, record.path, record.processStart];
  return (
    record.format === 1 &&
    texts.every((text) => typeof text === "string") &&
    (record.method === "netlink" || record.method === "ioctl") &&
    typeof record.epoch === "number" &&
    typeof record.pid === "number" &&
    typeof record.writeCache === "boolean" &&
    (record.mountPoint === undefined || typeof record.mountPoint === "string")
  );
}
