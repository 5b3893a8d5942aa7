/** Wrong usage and a hostile environment: one clear line on stderr, the right exit code, and no harm done. */
import { beforeAll, describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { type CommandResult, Cluster, freePort, openScene } from "./harness";

const FAILED = 1;
const WRONG_USAGE = 2;

function expectOneLine(result: CommandResult, exitCode: number, ...words: string[]): void {
  expect(result.stdout).toBe("");
  expect(result.stderr).toMatch(/^[^\n]+\n$/);
  for (const word of words) expect(result.stderr).toContain(word);
  expect(result.stderr).not.toContain("    at ");
  expect(result.exitCode).toBe(exitCode);
}

describe("ctl and blk", () => {
  const scene = openScene("bad-input");
  let cluster: Cluster;

  beforeAll(async () => {
    cluster = await Cluster.embedded(scene, { size: "256MiB" });
    await cluster.createVolume("disk", "64MiB");
  }, 120_000);

  /** The metadata's flags come before the case's words that may end the flags. */
  const attempt = (...words: string[]) => {
    const end = words.indexOf("--");
    const [before, behind] = end < 0 ? [words, []] : [words.slice(0, end), words.slice(end)];
    return cluster.attempt([...before, ...cluster.metaFlags, ...behind]);
  };

  const cases: readonly (readonly [string, readonly string[], number, readonly string[]])[] = [
    ["info on an unknown volume", ["ctl", "volume", "info", "nosuch"], FAILED, ["nosuch"]],
    ["deleting an unknown volume", ["ctl", "volume", "delete", "nosuch"], FAILED, ["nosuch"]],
    [
      "serving an unknown volume",
      ["blk", "nbdserve", "--listen", "127.0.0.1:0", "nosuch"],
      FAILED,
      ["nosuch"],
    ],
    [
      "listening on a host that nobody knows",
      ["blk", "nbdserve", "--listen", "nowhere.invalid:0", "disk"],
      FAILED,
      ["nowhere.invalid"],
    ],
    [
      "listening on what is no address",
      ["blk", "nbdserve", "--listen", "nowhere", "disk"],
      WRONG_USAGE,
      ["nowhere", "host:port"],
    ],
    [
      "two lists of addresses",
      ["blk", "nbdserve", "--listen", "127.0.0.1:0", "--listen=127.0.0.1:0", "disk"],
      WRONG_USAGE,
      ["--listen", "once", "commas"],
    ],
    [
      "attaching with no connection",
      ["blk", "attach", "disk", "--connections", "0"],
      WRONG_USAGE,
      ["--connections", "1 to 16"],
    ],
    [
      "attaching with odd blocks",
      ["blk", "attach", "disk", "--block-size", "100"],
      WRONG_USAGE,
      ["--block-size", "512"],
    ],
    ["a name that is taken", ["ctl", "volume", "create-block", "disk", "1GiB"], FAILED, ["disk", "name"]],
    ["moving at no pace", ["ctl", "rebalance", "rate", "0"], WRONG_USAGE, ["1 byte", "rebalance pause"]],
    ["scrubbing at no pace", ["ctl", "scrub", "rate", "0"], WRONG_USAGE, ["1 byte", "scrub pause"]],
    ["a size of 0", ["ctl", "volume", "create-block", "a", "0"], WRONG_USAGE, ["size"]],
    ["a size over 64 TiB", ["ctl", "volume", "create-block", "a", "65TiB"], WRONG_USAGE, ["64 TiB"]],
    ["a size that is none", ["ctl", "volume", "create-block", "a", "many"], WRONG_USAGE, ["many"]],
    ["a negative size", ["ctl", "volume", "create-block", "a", "--", "-5"], WRONG_USAGE, ["-5"]],
    [
      "a control character in a name",
      ["ctl", "volume", "create-block", "a\u0007b", "1GiB"],
      WRONG_USAGE,
      ["name"],
    ],
    ["a line feed in a name", ["ctl", "volume", "create-block", "a\nb", "1GiB"], WRONG_USAGE, ["name"]],
    ["an empty name", ["ctl", "volume", "create-block", "", "1GiB"], WRONG_USAGE, ["name"]],
    ["no name", ["ctl", "volume", "create-block"], WRONG_USAGE, ["NAME"]],
    ["an unknown command", ["ctl", "volum"], WRONG_USAGE, ["volum"]],
    ["an unknown option", ["ctl", "status", "--jsno"], WRONG_USAGE, ["--jsno"]],
    ["a replication of 0", ["ctl", "ring", "set-replication", "0"], WRONG_USAGE, ["replication"]],
    ["more copies than peers", ["ctl", "ring", "set-replication", "5"], FAILED, ["5", "1"]],
  ];
  for (const [name, words, exitCode, expected] of cases)
    scene.test(name, async () => expectOneLine(await attempt(...words), exitCode, ...expected));

  scene.test("none of it has left a volume behind", async () => {
    const volumes = await cluster.ctlJson<{ name: string }[]>("volume", "list");
    expect(volumes.map((volume) => volume.name)).toEqual(["disk"]);
  });

  scene.test("an unreachable etcd is named, in bounded time", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const result = await cluster.attempt(["ctl", "status", "--etcd", address], { timeMsMax: 30_000 });
    expectOneLine(result, FAILED, address);
  });

  scene.test(
    "a mistyped path of SQLite metadata is named, and nothing is made there; init makes it",
    async () => {
      const file = scene.path("typo.db");
      const result = await cluster.attempt(["ctl", "status", "--meta", `sqlite:${file}`]);
      expectOneLine(result, FAILED, file, "no such file");
      expect(existsSync(file)).toBe(false);
      expect((await cluster.attempt(["ctl", "init", "--meta", `sqlite:${file}`])).exitCode).toBe(0);
      expect((await cluster.attempt(["ctl", "volume", "list", "--meta", `sqlite:${file}`])).exitCode).toBe(0);
    },
  );

  scene.test("where nothing keeps metadata, both usual places are named", async () => {
    // A network of its own: neither a daemon nor an etcd of this machine answers there.
    const alone = ["unshare", "--net", await cluster.binary(), "ctl", "status"];
    const result = await scene.attempt(alone, { env: { TORUS_CONFIG_DIR: scene.path("no-config") } });
    expectOneLine(result, FAILED, "http://127.0.0.1:4321", "127.0.0.1:2379", "start torus daemon");
  });

  scene.test("a profile keeps no place that is none, and a certificate takes its hosts once", async () => {
    const torus = await cluster.binary();
    const env = { TORUS_CONFIG_DIR: scene.path("new-config") };
    const kept = await scene.attempt([torus, "ctl", "config", "--meta", "nonsense"], { env });
    expectOneLine(kept, WRONG_USAGE, "nonsense", "etcd://");
    expect(existsSync(scene.path("new-config"))).toBe(false);
    const twice = ["--hosts", "10.0.0.1", "--hosts", "node-a", "--dir", scene.path("no-certs")];
    const issued = await scene.attempt([torus, "ctl", "cert", "issue", "a", "--role", "peer", ...twice]);
    expectOneLine(issued, WRONG_USAGE, "--hosts", "once");
  });

  scene.test("a profile that cannot be written is an error with its path", async () => {
    const file = scene.path("in-the-way");
    await Bun.write(file, "kept");
    const command = [await cluster.binary(), "ctl", "config", "--meta", "etcd://127.0.0.1:1"];
    const env = { TORUS_CONFIG_DIR: join(file, "below") };
    expectOneLine(await scene.attempt(command, { env }), FAILED, "Cannot write", file, "TORUS_CONFIG_DIR");
  });
});

describe("daemon", () => {
  const scene = openScene("bad-daemon");
  const otherScene = openScene("bad-daemon-other");
  let cluster: Cluster;

  beforeAll(async () => {
    cluster = await Cluster.withEtcd(scene, { peerCount: 1, size: "256MiB" });
  }, 120_000);

  async function daemon(dataFolder: string, flags: readonly string[]): Promise<CommandResult> {
    const common = [
      "daemon",
      "--log-level",
      "warn",
      "--data-dir",
      scene.path(dataFolder),
      "--size",
      "256MiB",
      "--host",
      "127.0.0.1",
    ];
    return cluster.attempt([...common, ...flags], { timeMsMax: 40_000 });
  }

  async function freeFlags(): Promise<string[]> {
    return ["--port", String(await freePort()), "--peer-address", `adp://127.0.0.1:${await freePort()}`];
  }

  scene.test("refuses a data directory that another daemon uses", async () => {
    const result = await daemon("daemon-1-data", [...(await freeFlags()), ...cluster.metaFlags]);
    expectOneLine(result, FAILED, scene.path("daemon-1-data"), "use");
    expect(cluster.daemons[0]!.running).toBe(true);
  });

  scene.test("refuses a data directory of another cluster", async () => {
    const other = await Cluster.embedded(otherScene, { size: "256MiB" });
    await other.daemons[0]!.stop();
    const folder = other.scene.path("daemon-1-data");
    const flags = [...(await freeFlags()), ...cluster.metaFlags, "--data-dir", folder];
    expectOneLine(await daemon("unused", flags), FAILED, "cluster");
  });

  scene.test("refuses a data directory that cannot be made, and names it", async () => {
    const file = scene.path("a-file");
    await Bun.write(file, "kept");
    for (const folder of [file, join(file, "below"), "/proc/torus-data"]) {
      const flags = [...(await freeFlags()), ...cluster.metaFlags, "--data-dir", folder];
      expectOneLine(
        await daemon("unused", flags),
        FAILED,
        "Cannot make data directory",
        folder,
        "--data-dir",
      );
    }
    const inPlaceOfBlocks = scene.path("no-blocks");
    await Bun.write(join(inPlaceOfBlocks, "blocks"), "kept");
    const flags = [...(await freeFlags()), ...cluster.metaFlags, "--data-dir", inPlaceOfBlocks];
    expectOneLine(await daemon("unused", flags), FAILED, "Cannot make data directory", inPlaceOfBlocks);
    expect(await Bun.file(file).text()).toBe("kept");
  });

  scene.test("refuses a port in use, and names it", async () => {
    const port = await freePort();
    const blocker: Server = createServer().listen(port, "127.0.0.1");
    await new Promise((resolve) => blocker.once("listening", resolve));
    try {
      const peer = ["--peer-address", `adp://127.0.0.1:${port}`, "--port", String(await freePort())];
      expectOneLine(await daemon("port-1", [...peer, ...cluster.metaFlags]), FAILED, String(port), "in use");
      const admin = ["--peer-address", `adp://127.0.0.1:${await freePort()}`, "--port", String(port)];
      expectOneLine(await daemon("port-2", [...admin, ...cluster.metaFlags]), FAILED, String(port), "in use");
    } finally {
      await new Promise((resolve) => blocker.close(resolve));
    }
  });

  scene.test("refuses an address that this machine does not have, and names it", async () => {
    const flags = [...(await freeFlags()), ...cluster.metaFlags, "--host", "192.0.2.1"];
    expectOneLine(await daemon("no-host", flags), FAILED, "192.0.2.1", "no such address", "--host");
  });

  scene.test("refuses an etcd that does not answer", async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const result = await daemon("no-etcd", [...(await freeFlags()), "--etcd", address]);
    expectOneLine(result, FAILED, address);
  });

  scene.test("refuses sizes and addresses that make no sense", async () => {
    const meta = cluster.metaFlags;
    expectOneLine(await daemon("a", ["--size", "0", ...meta]), WRONG_USAGE, "size");
    expectOneLine(await daemon("a", ["--size", "120%", ...meta]), WRONG_USAGE, "120%");
    expectOneLine(await daemon("a", ["--peer-address", "gopher://x:1", ...meta]), WRONG_USAGE, "gopher");
    expectOneLine(await daemon("a", ["--port", "70000", ...meta]), WRONG_USAGE, "70000");
  });
});
