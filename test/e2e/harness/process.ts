/**
 * Child processes of a test. A long-running one writes both its streams to a log file, is ended by its pid, and
 * is killed by the kernel should the test runner die first, so that no run leaves anything behind. A command that
 * runs to its end has a deadline, and a failure shows what it said.
 */
import { closeSync, existsSync, openSync, readFileSync, statSync } from "node:fs";
import { stopProcess } from "../../support/stopped";

const STOP_MS_MAX = 20_000;
const COMMAND_MS_DEFAULT = 60_000;
const LOG_TAIL_CHARACTERS = 4_000;

/** Makes the kernel end the child when its parent dies. */
const WITH_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"];

export interface ProcessOptions {
  readonly name: string;
  readonly command: readonly string[];
  readonly logPath: string;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

export class ManagedProcess {
  readonly name: string;
  readonly logPath: string;
  private readonly child: Bun.Subprocess;
  private readonly logStartBytes: number;

  constructor(options: ProcessOptions) {
    this.name = options.name;
    this.logPath = options.logPath;
    this.logStartBytes = existsSync(options.logPath) ? statSync(options.logPath).size : 0;
    const log = openSync(options.logPath, "a");
    this.child = Bun.spawn([...WITH_PARENT, ...options.command], {
      cwd: options.cwd ?? process.cwd(),
      env: { ...process.env, ...options.env },
      stdin: "ignore",
      stdout: log,
      stderr: log,
    });
    closeSync(log);
  }

  get pid(): number {
    return this.child.pid;
  }

  /** Exit code; null when a signal ended it; undefined while it runs. */
  get exitCode(): number | null | undefined {
    if (this.child.signalCode !== null) return null;
    return this.child.exitCode ?? undefined;
  }

  get running(): boolean {
    return this.exitCode === undefined;
  }

  /** What this life of the process has written so far. */
  output(): string {
    return readFileSync(this.logPath).subarray(this.logStartBytes).toString();
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Takes the process off the processor, as a suspended machine is; everything of it stays. */
  pause(): void {
    stopProcess(this.child.pid);
  }

  /** Lets a paused process go on where it was. */
  resume(): void {
    this.child.kill("SIGCONT");
  }

  /** Sends a signal and waits for the end. Does nothing when it has ended already. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    if (this.running) this.child.kill(signal);
    const deadline = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS_MAX);
    await this.child.exited;
    clearTimeout(deadline);
    return this.exitCode ?? null;
  }

  /** Stops it without a warning, as a power cut would. */
  async kill(): Promise<void> {
    await this.end("SIGKILL");
  }

  /** Asks it to stop; returns the exit code, null when it had to be killed. */
  stop(): Promise<number | null> {
    return this.end("SIGTERM");
  }

  /** Waits for it to end by itself, within `timeMsMax`. */
  async ended(timeMsMax: number): Promise<number | null> {
    await waitFor(`${this.name} to end`, () => !this.running, timeMsMax);
    return this.exitCode ?? null;
  }

  logTail(): string {
    return readFileSync(this.logPath, "utf8").slice(-LOG_TAIL_CHARACTERS);
  }
}

export interface CommandOptions {
  /** Where it runs; by default on the machine of the test. */
  readonly host?: { readonly enter: readonly string[] };
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly timeMsMax?: number;
  readonly input?: Uint8Array | string;
}

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end, whatever its exit code; throws only when it does not end in time. */
export async function attempt(
  command: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const timeMsMax = options.timeMsMax ?? COMMAND_MS_DEFAULT;
  const input = typeof options.input === "string" ? new TextEncoder().encode(options.input) : options.input;
  const child = Bun.spawn([...WITH_PARENT, ...command], {
    cwd: options.cwd ?? process.cwd(),
    env: { ...process.env, ...options.env },
    stdin: input ?? "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  let late = false;
  const deadline = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, timeMsMax);
  const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
  const exitCode = await child.exited;
  clearTimeout(deadline);
  if (late)
    throw new Error(
      `\`${command.join(" ")}\` did not end within ${timeMsMax} ms; it said: ${stdout}${stderr}`,
    );
  return { exitCode, stdout, stderr };
}

/** Runs a command that must succeed. */
export async function run(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const result = await attempt(command, options);
  if (result.exitCode !== 0)
    throw new Error(
      `\`${command.join(" ")}\` ended with ${result.exitCode}; it said: ${result.stdout}${result.stderr}`,
    );
  return result;
}

const POLL_MS = 25;

/** Waits until `condition` holds; what it throws counts as "not yet" and is named when the time is over. */
export async function waitFor(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeMsMax = 30_000,
): Promise<void> {
  const endMs = performance.now() + timeMsMax;
  for (;;) {
    let reason = "";
    try {
      if (await condition()) return;
    } catch (error) {
      reason = `: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (performance.now() > endMs) throw new Error(`Waited ${timeMsMax} ms in vain for ${what}${reason}`);
    await Bun.sleep(POLL_MS);
  }
}
