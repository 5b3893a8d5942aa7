/** Installation into a directory, its removal, and the units as systemd's own tools judge them. */
import { expect } from "bun:test";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openScene, torusBinary } from "./harness";

const repository = join(import.meta.dir, "../..");
const scene = openScene("install");
const root = scene.path("root");
const install = async (...args: string[]) =>
  scene.run([join(repository, "scripts/install"), "--root", root, "--binary", await torusBinary(), ...args]);

scene.test(
  "install puts everything in place, keeps what was configured, and removes what it put",
  async () => {
    await install();
    const { stdout } = await scene.run([join(root, "usr/bin/torus"), "version"]);
    expect(stdout).toContain("torus ");
    const config = join(root, "etc/torus/daemon.toml");
    expect(statSync(config).mode & 0o777).toBe(0o640);
    writeFileSync(config, 'log-level = "debug"\n');
    await install();
    expect(readFileSync(config, "utf8")).toBe('log-level = "debug"\n');
    await install("--remove");
    expect(existsSync(join(root, "usr/bin/torus"))).toBe(false);
    expect(existsSync(join(root, "lib/systemd/system/torus.service"))).toBe(false);
    expect(existsSync(config)).toBe(true);
    await install("--remove", "--purge");
    expect(existsSync(config)).toBe(false);
    const refused = await scene.attempt([join(repository, "scripts/install"), "--nonsense"]);
    expect([refused.exitCode, refused.stderr]).toEqual([
      1,
      "install: unknown argument --nonsense; see the head of this file\n",
    ]);
  },
);

scene.test("the units pass systemd-analyze, and the daemon's exposes little", async () => {
  const binary = await torusBinary();
  for (const [source, name] of [
    ["torus.service", "torus.service"],
    ["torus-attach@.service", "torus-attach@disk.service"],
  ] as const) {
    const text = readFileSync(join(repository, "scripts/systemd", source), "utf8")
      .replaceAll("/usr/bin/torus", binary)
      .replaceAll("/sbin/modprobe", "/bin/true");
    writeFileSync(scene.path(name), text);
    const { stdout, stderr } = await scene.run(["systemd-analyze", "verify", "--man=no", scene.path(name)]);
    expect(stdout + stderr).toBe("");
  }
  const { stdout } = await scene.run([
    ...["systemd-analyze", "security", "--offline=yes", "--no-pager", scene.path("torus.service")],
  ]);
  const exposure = Number(/Overall exposure level for torus\.service: ([\d.]+)/.exec(stdout)?.[1]);
  expect(exposure).toBeLessThan(2);
});

scene.test("the default configuration is one that a daemon takes", async () => {
  const { stdout } = await scene.run([await torusBinary(), "daemon", "--help"]);
  const text = readFileSync(join(repository, "scripts/systemd/daemon.toml"), "utf8");
  const names = [...text.matchAll(/^#?([a-z-]+) = /gm)].map((match) => match[1] as string);
  expect(names.length).toBeGreaterThan(8);
  for (const name of names) expect(stdout).toContain(`--${name}`);
});
