/**
 * The stage of one test file: a temporary folder, the processes started on it, and their end. Everything is ended
 * by pid and removed in afterAll, also after a failure; a failed test prints the tail of every log first, and
 * with TORUS_E2E_KEEP=1 the folder stays.
 */
import { afterAll, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CommandOptions, type CommandResult, attempt, ManagedProcess, run } from "./process";

const TEST_MS_DEFAULT = 180_000;

export interface SceneOptions {
  /** Gives the scene a network of its own, in which every port is free. Needs root. */
  readonly ownNetwork?: boolean;
  /** Where the folder is made; the system's temporary folder by default. */
  readonly parentFolder?: string;
}

export class Scene {
  readonly folder: string;
  private readonly processes: ManagedProcess[] = [];
  private readonly cleanups: (() => Promise<void>)[] = [];
  private network: ManagedProcess | undefined;

  constructor(
    readonly name: string,
    private readonly options: SceneOptions,
  ) {
    this.folder = mkdtempSync(join(options.parentFolder ?? tmpdir(), `torus-e2e-${name}-`));
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  /** Starts a long-running process in the scene; logs of equal names are one file. */
  async start(
    name: string,
    command: readonly string[],
    options: { cwd?: string; env?: Record<string, string>; host?: CommandOptions["host"] } = {},
  ): Promise<ManagedProcess> {
    const managed = new ManagedProcess({
      name,
      command: [...(options.host?.enter ?? (await this.inNetwork())), ...command],
      logPath: this.path(`${name}.log`),
      cwd: options.cwd ?? this.folder,
      ...(options.env === undefined ? {} : { env: options.env }),
    });
    this.processes.push(managed);
    return managed;
  }

  /** Runs a command that must succeed, in the scene's folder and network, or on a host. */
  async run(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return run([...(options.host?.enter ?? (await this.inNetwork())), ...command], {
      cwd: this.folder,
      ...options,
    });
  }

  /** Runs a command to its end, whatever its exit code. */
  async attempt(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return attempt([...(options.host?.enter ?? (await this.inNetwork())), ...command], {
      cwd: this.folder,
      ...options,
    });
  }

  /** Registers what must be undone before processes end (an unmount, say); the last is undone first. */
  defer(cleanup: () => Promise<void>): void {
    this.cleanups.push(cleanup);
  }

  /** Declares a test of the scene: a failure prints the logs. */
  test(name: string, body: () => Promise<void>, timeMsMax = TEST_MS_DEFAULT): void {
    test(
      name,
      async () => {
        try {
          await body();
        } catch (error) {
          this.printLogs();
          throw error;
        }
      },
      timeMsMax,
    );
  }

  async end(): Promise<void> {
    const problems: unknown[] = [];
    for (const cleanup of this.cleanups.reverse()) await cleanup().catch((error) => problems.push(error));
    for (const managed of this.processes.reverse()) await managed.kill();
    await this.network?.kill();
    if (process.env.TORUS_E2E_KEEP === "1") console.error(`kept ${this.folder}`);
    else rmSync(this.folder, { recursive: true, force: true });
    if (problems.length > 0) throw new AggregateError(problems, `Cannot clean up after ${this.name}`);
  }

  /** The end of every log, for a failure. */
  printLogs(): void {
    for (const path of new Set(this.processes.map((one) => one.logPath))) {
      const managed = this.processes.findLast((one) => one.logPath === path)!;
      const state = managed.running ? "running" : `ended with ${managed.exitCode}`;
      console.error(
        `\n--- ${managed.name} (pid ${managed.pid}, ${state}), end of its log:\n${managed.logTail()}`,
      );
    }
  }

  private async inNetwork(): Promise<readonly string[]> {
    if (this.options.ownNetwork !== true) return [];
    if (this.network === undefined) {
      this.network = new ManagedProcess({
        name: "network",
        command: ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
        logPath: this.path("network.log"),
      });
      const network = this.network;
      while (!network.output().includes("up")) {
        if (!network.running) throw new Error(`Cannot make a network namespace: ${network.output()}`);
        await Bun.sleep(5);
      }
    }
    return ["nsenter", "--net", "--target", String(this.network.pid)];
  }
}

/** Opens the scene of a test file and ends it after the file's last test. */
export function openScene(name: string, options: SceneOptions = {}): Scene {
  const scene = new Scene(name, options);
  afterAll(() => scene.end(), 120_000);
  return scene;
}
