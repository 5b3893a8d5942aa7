/**
 * How many cores' worth of time this process may use: the CPU quota of its control group or of one above, as a container's
 * limit or systemd's CPUQuota= sets it. A process that has used it up stands still until its period, 0.1 s as a rule, is over;
 * so time must not be spent on asking for events that sleeping would have brought as well.
 *
 * Source: the kernel's cgroup-v2 (`cpu.max`: quota and period in us, or "max") and, for the older kind,
 * sched-bwc (`cpu.cfs_quota_us`, -1 for none, and `cpu.cfs_period_us`).
 */
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** From so many cores on, what one thread that asks all the time takes is left over; several under one quota are not known. */
const ASKING_QUOTA_MIN = 2;

export interface CgroupFiles {
  /** Where the groups' file systems are. */
  readonly root: string;
  /** Which groups the process is in. */
  readonly own: string;
}

const CGROUP_FILES: CgroupFiles = { root: "/sys/fs/cgroup", own: "/proc/self/cgroup" };

/** Whether a loop may ask for events before it sleeps; TORUS_BUSY_POLL in the environment says so in any case, by 1 or 0. */
export function mayBusyPoll(environment = process.env, files = CGROUP_FILES): boolean {
  const said = environment.TORUS_BUSY_POLL;
  return said === "1" || (said !== "0" && cpuQuota(files) >= ASKING_QUOTA_MIN);
}

/** In cores; infinity when there is no limit, or none that can be read. */
export function cpuQuota(files: CgroupFiles = CGROUP_FILES): number {
  let least = Number.POSITIVE_INFINITY;
  for (const line of read(files.own).split("\n")) {
    const [, controllers, path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (controllers === undefined || path === undefined) continue;
    const isUnified = controllers === "";
    if (!isUnified && !controllers.split(",").includes("cpu")) continue;
    // In a container the path may be one that only the machine knows; the top is then its own group.
    for (let group = normalize(path); ; group = dirname(group)) {
      // Beside the older kind the unified groups have a folder of their own.
      if (isUnified)
        least = Math.min(
          least,
          quotaOf(join(files.root, group)),
          quotaOf(join(files.root, "unified", group)),
        );
      else least = Math.min(least, olderQuotaOf(join(files.root, "cpu", group)));
      if (group === "/") break;
    }
  }
  return least;
}

function quotaOf(folder: string): number {
  const [quota, period] = read(join(folder, "cpu.max")).trim().split(" ");
  return share(Number(quota), Number(period));
}

function olderQuotaOf(folder: string): number {
  return share(
    Number.parseInt(read(join(folder, "cpu.cfs_quota_us")), 10),
    Number.parseInt(read(join(folder, "cpu.cfs_period_us")), 10),
  );
}

/** Anything that is no quota ("max", -1, a file that is not there) limits nothing. */
function share(quotaUs: number, periodUs: number): number {
  return quotaUs > 0 && periodUs > 0 ? quotaUs / periodUs : Number.POSITIVE_INFINITY;
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
