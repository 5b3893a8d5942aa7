/**
 * The executable alone, as on another machine: copied to an empty folder and run where the source tree and
 * node_modules are out of reach (an empty file system is mounted over the repository).
 */
import { describe, expect } from "bun:test";
import { copyFileSync, existsSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { freePort, nbdlist, openScene, qemuIo, torusBinary, unixUri, waitFor } from "./harness";

const repository = join(import.meta.dir, "../..");
const COMMANDS = ["daemon", "ctl", "blk", "ringtool", "version"];

describe("the executable copied to an empty folder", () => {
  const scene = openScene("executable");
  const env = { TORUS_CONFIG_DIR: scene.path("config") };

  /** A command line that runs without sight of the repository. */
  function alone(...command: string[]): string[] {
    const hide = `mount -t tmpfs none '${repository}' && [ -z "$(ls -A '${repository}')" ] && exec "$@"`;
    return ["unshare", "--mount", "sh", "-c", hide, "sh", ...command];
  }

  async function place(): Promise<string> {
    const copy = scene.path("torus");
    if (!existsSync(copy)) copyFileSync(await torusBinary(), copy);
    return copy;
  }

  scene.test("names its version and commit", async () => {
    const { stdout } = await scene.run(alone(await place(), "version"), { env });
    expect(stdout).toMatch(/^torus \d+\.\d+\.\d+ \(commit [0-9a-f]{40}(-dirty)?, linux-\w+, bun [\d.]+\)\n$/);
    const json = await scene.run(alone(await place(), "version", "--json"), { env });
    expect(JSON.parse(json.stdout)).toMatchObject({ version: packageJson.version });
  });

  scene.test("answers by the name it is called", async () => {
    const torus = await place();
    const help = (await scene.run(alone(torus, "--help"), { env })).stdout;
    for (const command of COMMANDS) expect(help).toContain(command);
    const names = { torusd: "daemon", torusctl: "ctl", torusblk: "blk", ringtool: "ringtool" };
    for (const [name, command] of Object.entries(names)) {
      symlinkSync(torus, scene.path(name));
      const called = await scene.run(alone(scene.path(name), "--help"), { env });
      const spelled = await scene.run(alone(torus, command, "--help"), { env });
      expect(called.stdout).toBe(spelled.stdout);
      expect(called.stdout).toContain(`torus ${command}`);
    }
  });

  scene.test("takes no settings from files that lie where it is started", async () => {
    await Bun.write(scene.path(".env"), "TORUS_META=memory:from-dotenv\n");
    await Bun.write(scene.path("bunfig.toml"), `preload = ["./absent.ts"]\n`);
    expect((await scene.run(alone(await place(), "version"), { env })).stderr).toBe("");
    await scene.run(["rm", ".env", "bunfig.toml"]);
  });

  scene.test("has its etcd client inside", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const result = await scene.attempt(alone(await place(), "ctl", "status", "--etcd", address), { env });
    expect(result.exitCode).toBe(1);
    expect(result.stderr).toContain(address);
    expect(result.stderr).not.toMatch(/ENOENT|proto|module|Internal error/);
  });

  scene.test("has its threads and system calls inside: a daemon serves a volume", async () => {
    const torus = await place();
    const [port, socket] = [await freePort(), scene.path("nbd.sock")];
    const flags = ["--port", String(port), "--size", "256MiB", "--nbd", `unix:${socket}`];
    const daemon = await scene.start("daemon", alone(torus, "daemon", ...flags), { env });
    const meta = ["--meta", `http://127.0.0.1:${port}`];
    await waitFor("the daemon to be ready", async () => {
      if (!daemon.running) throw new Error(daemon.output());
      return (await fetch(`http://127.0.0.1:${port}/readyz`)).ok;
    });
    await scene.run(alone(torus, "ctl", "volume", "create-block", "disk", "64MiB", ...meta), { env });
    await waitFor("the export", async () => (await nbdlist(scene, unixUri(socket, "disk"))).includes("disk"));
    await qemuIo(scene, unixUri(socket, "disk"), ["write -P 7 0 8M", "flush", "read -P 7 0 8M"]);
    expect(await daemon.stop()).toBe(0);
  });
});
