/**
 * The package and its units on a machine that a real systemd runs: installed by dpkg, started, found healthy, hung,
 * killed, reloaded, upgraded with a volume in use, stopped and removed. Only with TORUS_TEST_SYSTEMD=1: it builds a
 * package and unpacks it twice, which takes minutes where the machine is busy.
 */
import { beforeAll, expect } from "bun:test";
import { copyFileSync, cpSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Machine, machineObstacle, openScene, torusBinary, waitFor } from "./harness";

const repository = join(import.meta.dir, "../..");
const obstacle =
  process.env.TORUS_TEST_SYSTEMD === undefined ? "TORUS_TEST_SYSTEMD is not set" : machineObstacle();
if (obstacle !== undefined) console.log(`skipped: the units under systemd (${obstacle})`);
else {
  const scene = openScene("systemd");
  let machine: Machine;
  let packageFile: string;
  const state = () => machine.unit("torus", "ActiveState", "SubState", "MainPID", "NRestarts", "StatusText");
  const torus = (...args: string[]) => machine.run(["torus", ...args]);
  const untilReady = (what: string) =>
    waitFor(
      what,
      async () => {
        const answer = await machine.attempt(["curl", "-sf", "http://127.0.0.1:4321/readyz"]);
        return answer.stdout.trim() === "ready";
      },
      60_000,
    );

  beforeAll(async () => {
    const [binary] = await Promise.all([
      torusBinary(),
      Machine.start(scene).then((started) => {
        machine = started;
      }),
    ]);
    const outdir = machine.sharedFolder;
    await scene.run(
      [
        ...[process.execPath, join(repository, "scripts/package.ts"), "--binary", binary],
        ...["--outdir", outdir, "--compression", "gzip"],
      ],
      { timeMsMax: 180_000 },
    );
    const built = readdirSync(outdir).find((name) => name.endsWith(".deb"));
    packageFile = `/srv/${built}`;
  }, 300_000);

  scene.test("dpkg installs it, and the unit starts when the administrator says so", async () => {
    const { stdout } = await machine.run(["dpkg", "--install", packageFile], { timeMsMax: 120_000 });
    expect(stdout).toContain("edit /etc/torus/daemon.toml, then: systemctl enable --now torus");
    expect((await state()).ActiveState).toBe("inactive");
    // Returns when the daemon has said READY.
    await machine.run(["systemctl", "enable", "--now", "torus"]);
    const { ActiveState, SubState, StatusText } = await state();
    expect([ActiveState, SubState]).toEqual(["active", "running"]);
    expect(StatusText).toContain("Serving as peer");
    expect((await machine.run(["curl", "-sf", "http://127.0.0.1:4321/readyz"])).stdout).toBe("ready\n");
    expect((await torus("ctl", "status")).stdout).toMatch(/^Health +OK$/m);
    await torus("ctl", "volume", "create-block", "data", "64MiB");
  });

  scene.test("it runs as its own user, without rights, and its files are its own", async () => {
    const { MainPID } = await state();
    const status = (await machine.run(["cat", `/proc/${MainPID}/status`])).stdout;
    const uid = (await machine.run(["id", "-u", "torus"])).stdout.trim();
    expect(status).toMatch(new RegExp(`^Uid:\\s+${uid}\\s+${uid}`, "m"));
    for (const name of ["CapPrm", "CapEff", "CapBnd", "CapAmb"])
      expect(status).toMatch(new RegExp(`^${name}:\\s+0+$`, "m"));
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
    expect(status).toMatch(/^Seccomp:\s+2$/m);
    const mode = async (path: string) => (await machine.run(["stat", "-c", "%A %U:%G", path])).stdout.trim();
    expect(await mode("/var/lib/torus")).toBe("drwx------ torus:torus");
    expect(await mode("/etc/torus/torus.env")).toBe("-rw-r----- root:torus");
    const open = await machine.run(["find", "/var/lib/torus", "/etc/torus", "-type", "f", "-perm", "/o+rwx"]);
    expect(open.stdout).toBe("");
  });

  scene.test(
    "a killed daemon is started again, and one that hangs is ended by the watchdog first",
    async () => {
      const before = await state();
      await machine.run(["systemctl", "kill", "--kill-who=main", "--signal=KILL", "torus"]);
      await waitFor("another process", async () => {
        const now = await state();
        return now.ActiveState === "active" && now.MainPID !== before.MainPID && now.NRestarts === "1";
      });
      await untilReady("the daemon to serve again");
      expect((await torus("ctl", "volume", "list")).stdout).toContain("data");
      // A minute is long here.
      await machine.run(["mkdir", "-p", "/run/systemd/system/torus.service.d"]);
      const setting = "[Service]\nWatchdogSec=3\n";
      await machine.run(["tee", "/run/systemd/system/torus.service.d/watchdog.conf"], { input: setting });
      await machine.run(["systemctl", "daemon-reload"]);
      await machine.run(["systemctl", "restart", "torus"]);
      const { MainPID } = await state();
      await machine.run(["kill", "-STOP", MainPID as string]);
      await waitFor(
        "the watchdog",
        async () => {
          const now = await state();
          return now.ActiveState === "active" && now.MainPID !== MainPID;
        },
        60_000,
      );
      await untilReady("the daemon to serve after the watchdog");
      const events = await machine.run(["journalctl", "--no-pager", "--output=cat", "--unit=torus"]);
      expect(events.stdout).toContain("Watchdog timeout");
    },
  );

  scene.test("a reload takes the log level anew", async () => {
    const { MainPID } = await state();
    await machine.run(["sed", "-i", 's/^log-level = .*/log-level = "debug"/', "/etc/torus/daemon.toml"]);
    await machine.run(["systemctl", "reload", "torus"]);
    await waitFor("the new level", async () => {
      const { stdout } = await machine.run(["curl", "-sf", "http://127.0.0.1:4321/log-level"]);
      return stdout === "debug\n";
    });
    expect((await state()).MainPID).toBe(MainPID);
  });

  scene.test("an upgrade restarts it, keeps what was configured, and a client at work goes on", async () => {
    const { MainPID } = await state();
    await machine.run([
      ...[
        "systemd-run",
        "--unit=client",
        "--property=Type=exec",
        "/usr/bin/torus",
        "blk",
        "nbdserve",
        "data",
      ],
      ...["--listen", "unix:/run/data.sock", "--meta", "http://127.0.0.1:4321"],
    ]);
    const uri = "nbd+unix:///data?socket=/run/data.sock";
    const io = (...commands: string[]) =>
      machine.run(["qemu-io", "-f", "raw", ...commands.flatMap((command) => ["-c", command]), uri]);
    await waitFor("the client", async () => {
      const { exitCode } = await machine.attempt(["nbdinfo", "--size", uri]);
      return exitCode === 0;
    });
    await io("write -P 0x31 0 1M", "flush");
    const upgrade = machine.run(["dpkg", "--install", packageFile], { timeMsMax: 120_000 });
    for (let count = 0; count < 5; count++)
      await io(`write -P 0x3${count} ${count}M 1M`, "flush", `read -P 0x3${count} ${count}M 1M`);
    const { stdout } = await upgrade;
    expect(stdout).not.toContain("systemctl enable --now torus");
    await untilReady("the upgraded daemon to serve");
    expect((await state()).MainPID).not.toBe(MainPID);
    await io("read -P 0x30 0 1M", "write -P 0x32 8M 1M", "flush", "read -P 0x32 8M 1M");
    const config = (await machine.run(["cat", "/etc/torus/daemon.toml"])).stdout;
    expect(config).toContain('log-level = "debug"');
    await machine.run(["systemctl", "stop", "client"]);
    expect((await machine.unit("client", "Result")).Result).toBe("success");
  });

  scene.test("it stops cleanly, and its removal leaves configuration and data", async () => {
    await machine.run(["systemctl", "stop", "torus"]);
    const stopped = await machine.unit("torus", "ActiveState", "Result", "ExecMainStatus");
    expect(stopped).toEqual({ ActiveState: "inactive", Result: "success", ExecMainStatus: "0" });
    await machine.run(["systemctl", "start", "torus"]);
    // A volume that is attached, as far as systemd is concerned: there is no nbd in this kernel.
    const unit = "torus-attach@data.service";
    await machine.run(["mkdir", "-p", `/run/systemd/system/${unit}.d`]);
    await machine.run(["tee", `/run/systemd/system/${unit}.d/stand-in.conf`], {
      input: "[Service]\nType=exec\nExecStart=\nExecStart=/bin/sleep 1000\n",
    });
    await machine.run(["systemctl", "daemon-reload"]);
    await machine.run(["systemctl", "enable", "--now", unit]);
    await machine.run(["dpkg", "--remove", "torus"], { timeMsMax: 120_000 });
    expect((await machine.attempt(["systemctl", "is-active", unit])).stdout.trim()).not.toBe("active");
    const wanted = "/etc/systemd/system/multi-user.target.wants";
    expect((await machine.attempt(["ls", wanted])).stdout).toBe("");
    expect((await machine.attempt(["systemctl", "is-active", "torus"])).stdout.trim()).not.toBe("active");
    expect((await machine.attempt(["pgrep", "-u", "torus"])).stdout).toBe("");
    const there = async (path: string) => (await machine.attempt(["test", "-e", path])).exitCode === 0;
    expect(await there("/usr/bin/torus")).toBe(false);
    expect(await there("/lib/systemd/system/torus.service")).toBe(false);
    expect(await there("/etc/torus/daemon.toml")).toBe(true);
    expect(await there("/var/lib/torus/blocks")).toBe(true);
    const { stdout } = await machine.run(["dpkg", "--purge", "torus"]);
    expect(stdout).toContain("/var/lib/torus still holds data");
    expect(await there("/etc/torus")).toBe(false);
    expect(await there("/var/lib/torus/blocks")).toBe(true);
  });

  scene.test("scripts/install does the same without a package, and takes it away again", async () => {
    cpSync(join(repository, "scripts/systemd"), join(machine.sharedFolder, "systemd"), { recursive: true });
    copyFileSync(join(repository, "scripts/install"), join(machine.sharedFolder, "install"));
    copyFileSync(await torusBinary(), join(machine.sharedFolder, "torus"));
    const script = "/srv/install";
    const installed = await machine.run([script, "--binary", "/srv/torus"], { timeMsMax: 120_000 });
    expect(installed.stdout).toContain("torus is installed and runs");
    await untilReady("the installed daemon to serve");
    // Data of before is there again.
    expect((await torus("ctl", "volume", "list")).stdout).toContain("data");
    const removed = await machine.run([script, "--remove", "--purge"], { timeMsMax: 120_000 });
    expect(removed.stdout).toContain("torus is removed");
    expect((await machine.attempt(["systemctl", "is-active", "torus"])).stdout.trim()).not.toBe("active");
    expect((await machine.attempt(["test", "-e", "/var/lib/torus"])).exitCode).not.toBe(0);
    expect((await machine.attempt(["id", "torus"])).exitCode).not.toBe(0);
  });
}
