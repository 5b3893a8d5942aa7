/**
 * Stopping a process for a while. SIGSTOP is only sent by kill(2): on a busy machine the threads of the process run on for
 * some milliseconds, and answer what should have met silence.
 */
import { readdirSync, readFileSync } from "node:fs";

const LOOK_MS = 1;
const STOPPED_MS_MAX = 10_000;

/** Stops the process and returns once none of its threads runs any more; throws when that does not happen. */
export function stopProcess(pid: number): void {
  process.kill(pid, "SIGSTOP");
  for (let waitedMs = 0; waitedMs < STOPPED_MS_MAX; waitedMs += LOOK_MS) {
    if (threadStates(pid).every((state) => state === "T" || state === "t" || state === "Z")) return;
    Bun.sleepSync(LOOK_MS);
  }
  throw new Error(`Process ${pid} was not stopped within ${STOPPED_MS_MAX} ms`);
}

/** One letter a thread, as proc(5) has them. */
function threadStates(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8");
      return [stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3)];
    } catch {
      // The thread has ended.
      return [];
    }
  });
}
