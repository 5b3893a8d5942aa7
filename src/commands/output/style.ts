/**
 * How a command prints: the flags that every list shares (--json, --csv, --si) and what they mean. Data goes to
 * standard output and nothing else does, so that a pipe always gets clean rows.
 */
import { TorusError } from "../../base";

export type OutputFormat = "table" | "json" | "csv";

export interface OutputStyle {
  readonly format: OutputFormat;
  /** Sizes in powers of 1000. */
  readonly si: boolean;
  /** The output is a terminal that shows colours. */
  readonly color: boolean;
}

/** citty arguments that every list command spreads into its own. */
export const outputArgs = {
  json: { type: "boolean", description: "Print JSON", default: false },
  csv: { type: "boolean", description: "Print CSV", default: false },
  si: { type: "boolean", description: "Show sizes in powers of 1000", default: false },
} as const;

export interface OutputFlags {
  readonly json?: boolean | undefined;
  readonly csv?: boolean | undefined;
  readonly si?: boolean | undefined;
}

export class OutputError extends TorusError<"output-usage"> {
  constructor(message: string) {
    super("output-usage", message, { exitCode: 2 });
  }
}

/** Reads the shared flags; throws OutputError when both --json and --csv are given. */
export function outputStyle(flags: OutputFlags, color = supportsColor()): OutputStyle {
  if (flags.json && flags.csv)
    throw new OutputError("Cannot print JSON and CSV at once: give one of the two");
  const format: OutputFormat = flags.json ? "json" : flags.csv ? "csv" : "table";
  return { format, si: flags.si ?? false, color: color && format === "table" };
}

function supportsColor(): boolean {
  return process.stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}
