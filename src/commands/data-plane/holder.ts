/**
 * Who holds a volume's lock, in words an administrator knows, with enough behind them to tell on the same machine
 * that the holder is dead: then nobody has to wait for its lease. A dead process answers no reads, and what it had
 * sent is fenced like any older writer's.
 *
 * `node-a (pid 4711; 1f6c0a9e-88213)`: the digest names this boot of this machine and the pid namespace, the last
 * number is when the process started, so that neither another machine of the same name, nor a container, nor a pid
 * used again is taken for the holder.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

const HOLDER = / \(pid (\d+); ([0-9a-f]{8})-(\d+)\)$/;
/** Field 22 of /proc/PID/stat, counted from the end of the name, which may hold anything. */
const START_FIELD = 22 - 3;

/** Undefined where /proc does not say (a sandbox): then no holder is ever judged. */
function placeDigest(): string | undefined {
  let boot: string;
  try {
    boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return undefined;
  }
  const digest = Bun.hash.crc32(`${boot} ${readlinkSync("/proc/self/ns/pid")}`);
  return digest.toString(16).padStart(8, "0");
}

/** Clock ticks after boot at which a process started; undefined when there is none of that number. */
function startTicks(processId: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${processId}/stat`, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
  return stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .at(START_FIELD);
}

/** Other users' processes may be hidden in /proc; a signal that only asks says whether there is one. */
function isGone(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

/** What this process writes into the locks it takes. */
export function holderName(): string {
  const place = placeDigest();
  if (place === undefined) return `${hostname()} (pid ${process.pid})`;
  return `${hostname()} (pid ${process.pid}; ${place}-${startTicks(process.pid)})`;
}

/** Whether the holder was a process of this machine that is provably gone. */
export function isDeadHolder(holder: string): boolean {
  const match = HOLDER.exec(holder);
  if (match === null || match[2] !== placeDigest()) return false;
  const processId = Number(match[1]);
  const started = startTicks(processId);
  return started === undefined ? isGone(processId) : started !== match[3];
}
