/** Errors of the command line itself: what was typed or configured is wrong. */
import { TorusError } from "../../base/index";

export type CommandErrorCode = "usage" | "config" | "daemon-failed" | "not-found" | "conflict" | "io";

/** Wrong usage: exit code 2. */
export class UsageError extends TorusError<CommandErrorCode> {
  constructor(message: string, cause?: unknown) {
    super("usage", message, { exitCode: 2, cause });
  }
}

/** Right usage, but it failed: exit code 1. */
export class CommandError extends TorusError<CommandErrorCode> {
  constructor(code: CommandErrorCode, message: string, cause?: unknown) {
    super(code, message, { cause });
  }
}
