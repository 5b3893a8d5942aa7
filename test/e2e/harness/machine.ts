/**
 * A machine with a real systemd as PID 1, for units and packages: see machine.sh. Commands run inside it; a folder of
 * the scene is at /srv in it.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandOptions, type CommandResult, type ManagedProcess, run, waitFor } from "./process";
import type { Scene } from "./scene";

const BOOT_MS_MAX = 60_000;

/** Why no machine can be booted here; undefined when one can. */
export function machineObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return "it needs root";
  for (const file of ["/lib/systemd/systemd", "/usr/bin/systemctl"])
    if (!existsSync(file)) return `there is no ${file}`;
  const tried = Bun.spawnSync(
    ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--net", "mount", "-t", "cgroup2", "none", "/mnt"],
    { stdout: "pipe", stderr: "pipe" },
  );
  return tried.exitCode === 0 ? undefined : `no namespaces here: ${tried.stderr.toString().trim()}`;
}

export class Machine {
  private constructor(
    private readonly scene: Scene,
    private readonly boot: ManagedProcess,
    private readonly systemdPid: number,
    /** Is /srv in the machine. */
    readonly sharedFolder: string,
  ) {}

  static async start(scene: Scene): Promise<Machine> {
    const [layers, shared] = [scene.path("machine"), scene.path("machine-shared")];
    mkdirSync(layers);
    mkdirSync(shared);
    const script = join(import.meta.dir, "machine.sh");
    const boot = await scene.start("machine", [script, layers, shared]);
    // It takes its control groups with it when it is asked to stop.
    scene.defer(async () => {
      await boot.stop();
    });
    let systemdPid: number | undefined;
    await waitFor("systemd to be PID 1 of the machine", () => {
      if (!boot.running) return true;
      systemdPid = systemdBelow(boot.pid);
      return systemdPid !== undefined;
    });
    if (systemdPid === undefined) throw new Error(`The machine did not boot: ${boot.output()}`);
    const machine = new Machine(scene, boot, systemdPid, shared);
    await waitFor(
      "the machine to be up",
      async () => {
        const { stdout } = await machine.attempt(["systemctl", "is-system-running"]);
        return ["running", "degraded"].includes(stdout.trim());
      },
      BOOT_MS_MAX,
    );
    return machine;
  }

  /** A command in the machine that must succeed. */
  run(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return run([...this.#enter(), ...command], { ...options, cwd: "/" });
  }

  attempt(command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return this.scene.attempt([...this.#enter(), ...command], { ...options, cwd: "/" });
  }

  /** Properties of a unit as systemd has them. */
  async unit(name: string, ...properties: string[]): Promise<Record<string, string>> {
    const { stdout } = await this.run(["systemctl", "show", name, `--property=${properties.join(",")}`]);
    return Object.fromEntries(
      stdout
        .trim()
        .split("\n")
        .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    );
  }

  /** What the unit logged, as journald has it. */
  async journal(unit: string): Promise<string> {
    return (await this.run(["journalctl", "--no-pager", "--output=cat", "--unit", unit])).stdout;
  }

  get running(): boolean {
    return this.boot.running;
  }

  #enter(): readonly string[] {
    return [
      ...["nsenter", "--target", String(this.systemdPid), "--all", "--"],
      ...["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"],
    ];
  }
}

/** The process of that name below another; undefined while there is none. */
function systemdBelow(pid: number): number | undefined {
  const parents = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      // pid (name) state parent ...; the name may hold anything.
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      parents.set(parent, [...(parents.get(parent) ?? []), Number(name)]);
    } catch {
      // It has ended meanwhile.
    }
  }
  const below = [...(parents.get(pid) ?? [])];
  for (const each of below) {
    const command = existsSync(`/proc/${each}/comm`) ? readFileSync(`/proc/${each}/comm`, "utf8").trim() : "";
    if (command === "systemd") return each;
    below.push(...(parents.get(each) ?? []));
  }
  return undefined;
}
