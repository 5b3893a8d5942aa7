/**
 * The commands as a person meets them: JSON as docs/json.md says, profiles, wipe, sizes and odd names, completion in the
 * real shells, and what a terminal shows.
 */
import { describe, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandNode, readTree } from "../../src/commands/reference";
import { rootCommand } from "../../src/commands/root";
import {
  Cluster,
  type CommandResult,
  openScene,
  qemuIo,
  Terminal,
  waitFor,
  writeRandomFile,
} from "./harness";
import { differences, readJsonPage } from "./harness/json-page";

const leavesOf = (node: CommandNode): CommandNode[] =>
  node.children.length === 0 ? [node] : node.children.flatMap(leavesOf);

describe("sizes and names", () => {
  const scene = openScene("ctl-names");

  scene.test("are taken with every suffix, and with all that shells and tables trip over", async () => {
    const cluster = await Cluster.embedded(scene, { name: "sizes", size: "256MiB" });
    const sizes: readonly (readonly [string, number])[] = [
      ["512", 512],
      ["1000B", 1024],
      ["1K", 1024],
      ["4KB", 4096],
      ["4KiB", 4096],
      ["500M", 500_000_256],
      ["1MiB", 1_048_576],
      ["2G", 2_000_000_000],
      ["2GB", 2_000_000_000],
      ["1.5GiB", 1_610_612_736],
      ["1T", 1_000_000_000_000],
      ["64TiB", 64 * 2 ** 40],
    ];
    for (const [text, sizeBytes] of sizes) {
      const made = await cluster.ctlJson<{ sizeBytes: number }>("volume", "create-block", `v${text}`, text);
      expect(made.sizeBytes).toBe(sizeBytes);
    }
    for (const text of ["0", "65TiB", "1X", "-1", "1.0000000001K", "ten", ""]) {
      const refused = await cluster.attempt([
        "ctl",
        "volume",
        "create-block",
        "x",
        "--",
        text,
        ...cluster.metaFlags,
      ]);
      expect(refused.exitCode).not.toBe(0);
      expect(refused.stderr).toMatch(/^[^\n]+\n$/);
    }
    const names = ['comma, "quote"', "it's", "$(id) `id` ;|&", "\\n", "ünï 東京", "a".repeat(100), "=1+1"];
    for (const name of names) await cluster.createVolume(name, "1MiB");
    const listed = await cluster.ctlJson<{ name: string }[]>("volume", "list");
    expect(listed.map(({ name }) => name)).toEqual(expect.arrayContaining(names));
    const csv = await cluster.ctl("volume", "list", "--csv");
    expect(csv).toContain('\n"comma, ""quote""",1048576,,0,');
    for (const name of names) {
      await cluster.ctl("block", "snapshot", "create", `${name}@s`);
      await cluster.ctl("block", "clone", `${name}@s`, `${name} 2`);
      await cluster.ctl("volume", "delete", name, "--with-snapshots");
    }
    for (const name of ["", "a/b", "a@b", "two\nlines", "\u001b[31mred", "a".repeat(300)]) {
      const refused = await cluster.attempt([
        "ctl",
        "volume",
        "create-block",
        name,
        "1MiB",
        ...cluster.metaFlags,
      ]);
      expect(refused.exitCode).toBe(2);
      expect(refused.stderr).toMatch(/^Cannot name a volume [^\n]+\n$/);
    }
  });
});

describe("JSON", () => {
  const scene = openScene("ctl-json");
  const page = readJsonPage();

  scene.test(
    "of every command is what docs/json.md says",
    async () => {
      const leaves = leavesOf(await readTree(rootCommand, ["torus"]));
      const wanted = leaves.filter(({ args }) => args.some(([name]) => name === "json"));
      for (const { path } of wanted) expect([...page.keys()]).toContain(path.slice(1).join(" "));

      const cluster = await Cluster.withEtcd(scene, { peerCount: 2, replication: 2, size: "512MiB" });
      await (await cluster.addDaemon(2, { join: false })).start();
      const seen = new Set<string>();
      const look = async (command: string, ...args: string[]) => {
        const meta = /^(version|ctl version|ringtool|blk list)/.test(command) ? [] : cluster.metaFlags;
        const { stdout } = await cluster.torus([...command.split(" "), ...args, "--json", ...meta]);
        const fields = page.get(command);
        if (fields === undefined) throw new Error(`docs/json.md has no section for torus ${command}`);
        expect({ command, differences: differences(fields, JSON.parse(stdout)) }).toEqual({
          command,
          differences: [],
        });
        seen.add(command);
        return JSON.parse(stdout);
      };
      await look("ctl init", "--view");
      await look("ctl volume create-block", "data", "64MiB");
      await look("ctl block create", "other", "64MiB");
      await look("ctl volume info", "other");
      const server = await cluster.serve("blk", ["data"]);
      await qemuIo(scene, server.uri("data"), ["write -P 1 0 8M", "flush"]);
      const peers: { peerId: string; member: string }[] = await look("ctl peer list");
      const third = peers.find(({ member }) => member === "Avail")?.peerId ?? "";
      for (const command of ["ctl status", "ctl list-peers", "ctl peer blocks", "ctl ring get"])
        await look(command);
      await look("ctl ring plan", "--add", third, "--exact");
      await look("ctl ring check", "--wait", "1m");
      await look("ctl peer add", third);
      await look("ctl peer set-weight", third, "2");
      await look("ctl peer set-zone", third, "z");
      await look("ctl peer drain", third);
      await look("ctl peer undrain", third);
      for (const command of ["status", "pause", "resume", "recheck"]) await look(`ctl rebalance ${command}`);
      await look("ctl rebalance rate", "50MiB");
      for (const command of ["start", "pause", "resume", "status"]) await look(`ctl scrub ${command}`);
      await look("ctl scrub rate", "50MiB");
      for (const command of ["run", "status"]) await look(`ctl gc ${command}`);
      for (const command of ["ctl volume list", "ctl status", "ctl rebalance status"]) await look(command);
      await look("ctl volume info", "data");
      await look("ctl volume resize", "data", "128MiB");
      await look("ctl block snapshot create", "data@s");
      await qemuIo(scene, server.uri("data"), ["write -P 2 0 1M", "flush"]);
      await look("ctl block snapshot diff", "data@s");
      await look("ctl block clone", "data@s", "copy");
      await cluster.ctl("block", "export-diff", "data@s", scene.path("s.diff"));
      await look("ctl block import-diff", scene.path("s.diff"), "imported");
      for (const volume of ["data", "imported"]) await look("ctl block snapshot list", volume);
      await server.stop();
      await look("ctl block snapshot restore", "data@s");
      await look("ctl block snapshot delete", "data@s");
      await look("ctl volume rename", "copy", "copied");
      await look("ctl volume access", "copied");
      await look("ctl volume access", "copied", "--allow", "web-1,web-2");
      await look("ctl volume unlock", "copied", "--force");
      await look("ctl volume delete", "copied");
      await look("blk bench", "other", "--time", "100ms", "--span", "8MiB");
      for (const command of ["blk list", "version", "ctl version"]) await look(command);
      const doctor = await cluster.attempt(["ctl", "doctor", "--json", ...cluster.metaFlags]);
      expect(differences(page.get("ctl doctor")!, JSON.parse(doctor.stdout))).toEqual([]);
      await look("ringtool", "--nodes", "5", "--total-data", "10GiB");
      await look("ringtool --compare", "--nodes", "5", "--total-data", "10GiB");
      await look("ctl peer remove", "--force", third);
      await cluster.daemons[2]!.stop();
      await look("ctl peer forget", third);
      const two = peers.filter(({ peerId }) => peerId !== third).map(({ peerId }) => peerId);
      await look("ctl ring manual-change", "--type", "table", "--replication", "2", "--uuids", two.join(","));
      await look("ctl ring set-replication", "1");
      // The answer of doctor comes with exit code 1 where something is wrong with this machine.
      expect([...page.keys()].filter((command) => !seen.has(command))).toEqual(["ctl doctor"]);
    },
    400_000,
  );
});

describe("profiles and wipe", () => {
  const scene = openScene("ctl-config");

  scene.test("profiles name places; the default one serves, an unknown one is refused", async () => {
    const cluster = await Cluster.embedded(scene, { size: "256MiB" });
    const config = (...args: string[]) => cluster.attempt(["ctl", "config", ...args]);
    const list = (...args: string[]) => cluster.attempt(["ctl", "volume", "list", ...args]);
    const url = cluster.daemons[0]!.adminUrl;
    await cluster.createVolume("here", "1MiB");
    expect((await config("--meta", url)).exitCode).toBe(0);
    expect((await list()).stdout).toContain("here");
    const secret = { env: { ...cluster.environment, TORUS_ETCD_PASSWORD: "opensesame" } };
    await scene.run(
      [
        await cluster.binary(),
        "ctl",
        "config",
        "--profile",
        "lab",
        "-C",
        "127.0.0.1:1",
        "--etcd-user",
        "bob",
      ],
      secret,
    );
    const file = scene.path("config", "config.json");
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({
      default: "default",
      profiles: {
        default: { meta: url },
        lab: { meta: "etcd://127.0.0.1:1", etcdUser: "bob", etcdPassword: "opensesame" },
      },
    });
    const shown = await config("--profile", "lab", "--view");
    expect(JSON.parse(shown.stdout)).toEqual({
      meta: "etcd://127.0.0.1:1",
      etcdUser: "bob",
      etcdPassword: "***",
    });
    const inUrl = await config("--profile", "far", "--meta", "etcd://bob:opensesame@127.0.0.1:1");
    expect(inUrl.stdout).toContain("etcd://bob:***@127.0.0.1:1");
    expect((await config("--view")).stdout + inUrl.stdout).not.toContain("opensesame");
    expect((await config("--profile", "far", "--remove")).exitCode).toBe(0);
    expect(await list("--profile", "lab")).toMatchObject({ exitCode: 1 });
    expect((await config("--profile", "lab", "--use")).exitCode).toBe(0);
    expect(await list()).toMatchObject({ exitCode: 1 });
    expect((await list("--profile", "default")).stdout).toContain("here");
    expect((await config("--profile", "lab", "--remove")).exitCode).toBe(0);
    const refused: readonly (readonly [CommandResult, RegExp])[] = [
      [await list("--profile", "lab"), /^Unknown profile "lab": /],
      [await config("--profile", "lab", "--use"), /^Unknown profile "lab": /],
      [await config("--profile", "lab", "--view"), /^Unknown profile "lab": /],
      [await config(), /^Say what to keep/],
      [await config("--meta", url, "--view"), /^Say what to keep/],
    ];
    for (const [{ exitCode, stderr }, message] of refused) {
      expect(exitCode).toBe(2);
      expect(stderr).toMatch(message);
    }
    writeFileSync(file, "{");
    expect(await list()).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/^Cannot read .*config\.json: /),
    });
    rmSync(file);
  });

  scene.test("a daemon alone starts again while a profile names its own address", async () => {
    const cluster = await Cluster.embedded(scene, { name: "own", size: "256MiB" });
    await cluster.createVolume("kept", "1MiB");
    const { adminUrl } = cluster.daemons[0]!;
    await cluster.torus(["ctl", "config", "--meta", adminUrl]);
    await cluster.daemons[0]!.restart();
    expect((await cluster.torus(["ctl", "volume", "list"])).stdout).toContain("kept");
    rmSync(scene.path("config", "config.json"));
  });

  scene.test("wipe asks for the cluster's id, and refuses while anything runs", async () => {
    const cluster = await Cluster.embedded(scene, { name: "wiped", size: "256MiB" });
    await cluster.createVolume("lost", "1MiB");
    const running = await cluster.attempt(["ctl", "wipe", "--yes-i-am-sure", ...cluster.metaFlags]);
    expect(running).toMatchObject({ exitCode: 1, stdout: "" });
    expect(running.stderr).toMatch(/^Cannot wipe the cluster: .* 1 peer running/);
    const { clusterId } = await cluster.ctlJson<{ clusterId: string }>("status");
    await cluster.daemons[0]!.stop();
    const meta = ["--meta", `sqlite:${join(cluster.daemons[0]!.dataFolder, "meta.db")}`];
    const unasked = await cluster.attempt(["ctl", "wipe", ...meta]);
    expect(unasked).toMatchObject({ exitCode: 2, stderr: "Nobody to ask: give --yes-i-am-sure\n" });
    const answer = async (text: string) => {
      const terminal = new Terminal(
        scene,
        [await cluster.binary(), "ctl", "wipe", ...meta],
        cluster.environment,
      );
      await terminal.see(/Type the cluster's id to go on:/);
      terminal.press(`${text}\r`);
      return { exitCode: await terminal.ended(), text: terminal.text() };
    };
    const wrong = await answer("yes");
    expect(wrong.exitCode).toBe(2);
    expect(wrong.text).toContain("Not wiped: that is not the cluster's id");
    expect((await cluster.attempt(["ctl", "volume", "list", ...meta])).stdout).toContain("lost");
    expect((await answer(clusterId)).exitCode).toBe(0);
    expect((await cluster.attempt(["ctl", "status", ...meta])).exitCode).toBe(1);
  });
});

describe("completion", () => {
  const scene = openScene("ctl-completion");
  const SHELLS = {
    bash: { path: "/usr/bin/bash", words: ["--norc", "-i"], load: "source <(torus ctl completion bash)" },
    zsh: {
      path: "/usr/bin/zsh",
      words: ["-f", "-i"],
      load: "autoload -U compinit; compinit -u; source <(torus ctl completion zsh)",
    },
    fish: { path: "/usr/bin/fish", words: ["--no-config", "-i"], load: "torus ctl completion fish | source" },
  } as const;
  let cluster: Cluster;

  for (const [name, { path, words, load }] of Object.entries(SHELLS)) {
    if (!existsSync(path)) {
      console.log(`skipped: completion in ${name} (not installed)`);
      continue;
    }
    scene.test(`in ${name}, by the tab key: commands, options, volumes, snapshots and peers`, async () => {
      if (cluster === undefined) {
        cluster = await Cluster.embedded(scene, { size: "256MiB" });
        await cluster.createVolume("database", "1MiB");
        await cluster.createVolume("logs", "1MiB");
        await cluster.createVolume("it's (mine)", "1MiB");
        await cluster.ctl("block", "snapshot", "create", "database@monday");
      }
      const home = scene.path(`home-${name}`);
      mkdirSync(home);
      const folder = join(await cluster.binary(), "..");
      const terminal = new Terminal(scene, [path, ...words], {
        ...cluster.environment,
        HOME: home,
        TORUS_META: cluster.metaFlags[1] as string,
        PATH: `${folder}:${process.env.PATH}`,
      });
      let round = 0;
      /** Presses tab after `line`, then enter; what the completed command prints must match. */
      const complete = async (line: string, printed: RegExp, rest = "") => {
        const mark = `done-${++round}`;
        const from = terminal.raw().length;
        terminal.press(`${line}\t`);
        // The shell redraws the line when the answer is there; what is typed ahead would be read before it.
        await waitFor("the completed word", () => terminal.raw().length > from + line.length);
        terminal.press(`${rest}; echo done-''${round}\r`);
        await terminal.see(new RegExp(`^${mark}`, "m"), from);
        expect(Bun.stripANSI(terminal.raw().slice(from))).toMatch(printed);
      };
      terminal.press(`${load}; echo read''y\r`);
      await terminal.see(/^ready/m);
      await complete("torus vers", /torus \d+\.\d+\.\d+ \(commit/);
      await complete("torus ctl volume info data", /NAME: +database/);
      await complete("torus ctl volume list --js", /"name": "logs"/);
      await complete("torus ctl block clone database@m", /Created volume copy-/, ` copy-${name}`);
      await complete("torus ctl volume info it", /NAME: +it's \(mine\)/);
      const { peerId } = (await cluster.peers())[0]!;
      await complete(`torus ctl peer set-zone ${peerId.slice(0, 6)}`, /zone/i, " rack");
      terminal.press("exit\r");
      await terminal.ended();
    });
  }
});

describe("a terminal", () => {
  const scene = openScene("ctl-terminal");

  scene.test(
    "shows progress with share, rate and time left, and the cluster anew with status --watch",
    async () => {
      const cluster = await Cluster.embedded(scene, { size: "1GiB" });
      const [image, torus] = [scene.path("image"), await cluster.binary()];
      writeRandomFile(image, 160);
      const run = async (...words: string[]) => {
        const terminal = new Terminal(scene, [torus, ...words, ...cluster.metaFlags], cluster.environment);
        expect(await terminal.ended()).toBe(0);
        return terminal;
      };
      const bar = /\[[^\]]+\] \d+ % +[\d.]+ \w+ of 160 MiB +[\d.]+ \w+\/s +\S+ left/;
      const load = await run("ctl", "block", "load", image, "disk");
      expect(load.text()).toMatch(bar);
      expect(load.text()).toContain("100 %");
      // One line, drawn over itself.
      expect(load.raw().split("\r\u001b[K").length).toBeGreaterThan(1);
      const dump = await run("ctl", "block", "dump", "disk", scene.path("back"));
      expect(dump.text()).toMatch(bar);
      await scene.run(["cmp", image, scene.path("back")]);
      // In a pipe or a log nothing of it shows, unless asked for.
      const silent = await cluster.torus([
        "ctl",
        "block",
        "dump",
        "disk",
        scene.path("back"),
        ...cluster.metaFlags,
      ]);
      expect(silent).toMatchObject({ stdout: "", stderr: "" });
      const asked = await cluster.torus([
        "ctl",
        "block",
        "dump",
        "disk",
        scene.path("back"),
        "--progress",
        ...cluster.metaFlags,
      ]);
      expect(asked.stderr).toMatch(bar);
      expect(asked.stderr).not.toContain("\u001b");

      const watch = new Terminal(
        scene,
        [torus, "ctl", "status", "--watch", ...cluster.metaFlags],
        cluster.environment,
      );
      await watch.see(/Volumes +1, 0 attached/);
      const from = watch.raw().length;
      await cluster.createVolume("second", "1MiB");
      await watch.see(/Volumes +2, 0 attached/, from);
      watch.press("\u0003");
      await watch.ended();
    },
  );
});
