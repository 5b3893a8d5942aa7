/** The daemon's log: text for people, JSON for collectors, to stderr, with a level that can change while it runs. */
import { createConsola, type ConsolaInstance, type LogObject } from "consola";

export type LogLevel = "debug" | "info" | "warn" | "error";
const LEVELS: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 3, debug: 4 };

export interface Logger {
  log(level: LogLevel, message: string): void;
  setLevel(level: LogLevel): void;
  readonly level: LogLevel;
}

/** The same line at most this often; the number left out is said with the next. */
const REPEAT_MS = 10_000;
const REMEMBERED_MAX = 256;

export function makeLogger(format: "text" | "json", level: LogLevel): Logger {
  const consola: ConsolaInstance = createConsola({
    level: LEVELS[level],
    // consola folds repeated lines by itself, without saying how many; see REPEAT_MS instead.
    throttle: 0,
    formatOptions: { colors: process.stderr.isTTY === true, date: true },
    reporters: [{ log: (entry) => process.stderr.write(`${render(entry, format)}\n`) }],
  });
  let current = level;
  const seen = new Map<string, { untilMs: number; left: number }>();
  return {
    get level() {
      return current;
    },
    log(at, message) {
      const nowMs = performance.now();
      const key = `${at}${message}`;
      const before = seen.get(key);
      if (before !== undefined && nowMs < before.untilMs) {
        before.left++;
        return;
      }
      if (seen.size >= REMEMBERED_MAX) seen.clear();
      seen.set(key, { untilMs: nowMs + REPEAT_MS, left: 0 });
      const repeated = before !== undefined && before.left > 0 ? ` (and ${before.left} times before)` : "";
      consola[at](`${message}${repeated}`);
    },
    setLevel(next) {
      current = next;
      consola.level = LEVELS[next];
    },
  };
}

function render(entry: LogObject, format: "text" | "json"): string {
  const message = entry.args.map(String).join(" ");
  const time = entry.date.toISOString();
  return format === "json"
    ? JSON.stringify({ time, level: entry.type, message })
    : `${time} ${entry.type.padEnd(5)} ${message}`;
}
