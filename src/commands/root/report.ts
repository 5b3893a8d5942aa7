/**
 * The one map from an error to what a person sees and the exit code: a TorusError is its message, on one line,
 * with the code it carries; an output that nobody reads any more or that has no room is no fault of ours; all else is a
 * bug and says so. A stack is shown only with --debug.
 */
import { AssertionError, TorusError } from "../../base";

export interface ErrorReport {
  readonly text: string;
  readonly exitCode: number;
}

const FAILED = 1;

function oneLine(text: string): string {
  return Bun.stripANSI(text)
    .replace(/\s*\n\s*/g, " ")
    .trim();
}

function describe(error: unknown): ErrorReport {
  if (error instanceof AssertionError)
    return {
      text: `Internal error: ${oneLine(error.message)}; please report it, with --debug`,
      exitCode: FAILED,
    };
  if (error instanceof TorusError) return { text: oneLine(error.message), exitCode: error.exitCode };
  if (error instanceof Error && "code" in error && error.code === "EPIPE")
    return { text: "Cannot write the output: whoever read it has closed it", exitCode: FAILED };
  if (error instanceof Error && "code" in error && error.code === "ENOSPC")
    return { text: "Cannot write the output: there is no space left where it goes", exitCode: FAILED };
  const message = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return { text: `Internal error: ${oneLine(message)}; please report it, with --debug`, exitCode: FAILED };
}

function stacks(error: unknown): string {
  const parts: string[] = [];
  const seen = new Set<unknown>();
  for (let cause = error; cause instanceof Error && !seen.has(cause); cause = cause.cause) {
    seen.add(cause);
    parts.push(cause.stack ?? `${cause.name}: ${cause.message}`);
  }
  return parts.join("\ncaused by: ");
}

/** What to print on stderr and how to end. */
export function reportError(error: unknown, debug: boolean): ErrorReport {
  const report = describe(error);
  const stack = debug ? stacks(error) : "";
  return stack === "" ? report : { ...report, text: `${report.text}\n${stack}` };
}
