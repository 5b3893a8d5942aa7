/**
 * The one base class of every error that torus throws on purpose. Each folder declares its own closed set of
 * codes in an `errors.ts` and subclasses TorusError; the edges (NBD, Connect, exit codes) map codes, never texts.
 * A message says the action first, then values, then what to do, and has no trailing period.
 */

/** How an error leaves a command: 1 failed, 2 wrong usage. */
export type ExitCode = 1 | 2;

export interface TorusErrorOptions {
  /** Whether the same call may succeed later without anybody changing anything. */
  readonly retryable?: boolean;
  readonly cause?: unknown;
  readonly exitCode?: ExitCode;
}

export class TorusError<Code extends string = string> extends Error {
  readonly code: Code;
  readonly retryable: boolean;
  readonly exitCode: ExitCode;

  constructor(code: Code, message: string, options: TorusErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.exitCode = options.exitCode ?? 1;
  }
}

/** A bug of ours, not of the user or the world: thrown in production too, never caught to go on. */
export class AssertionError extends TorusError<"assertion"> {
  constructor(message: string) {
    super("assertion", message);
  }
}

/**
 * The message is made before the call. Where that happens for every request, and the message holds values, write
 * `if (...) assert(false, ...)`: a text of two numbers takes as long as the work around it.
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}
