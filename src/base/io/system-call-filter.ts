/** Whether system calls that change how a thread is scheduled may be made: a filter may end the process for them. */
import { readFileSync } from "node:fs";

/** `variable` in the environment: 1, the filter in force lets such calls through; 0, keep off in any case. */
export function maySchedule(variable: "TORUS_SET_SCHEDULER" | "TORUS_SET_AFFINITY"): boolean {
  const said = process.env[variable];
  return said === "1" || (said !== "0" && !isFiltered());
}

function isFiltered(): boolean {
  try {
    return !/^Seccomp:\s*0$/m.test(readFileSync("/proc/thread-self/status", "latin1"));
  } catch {
    return true;
  }
}
