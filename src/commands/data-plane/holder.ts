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

function placeDigest(): string {
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
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

/** What this process writes into the locks it takes. */
export function holderName(): string {
  return `${hostname()} (pid ${process.pid}; ${placeDigest()}-${startTicks(process.pid)})`;
}

/** Whether the holder was a process of this machine that is provably gone. */
export function isDeadHolder(holder: string): boolean {
  const match = HOLDER.exec(holder);
  if (match === null || match[2] !== placeDigest()) return false;
  return startTicks(Number(match[1])) !== match[3];
}
