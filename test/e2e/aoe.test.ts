/**
 * `torus blk aoe` in the compiled executable, over a pair of virtual Ethernet interfaces in a network of their own, at
 * the usual and at a jumbo MTU, with an initiator that loses answers and sends frames twice. Linux's own aoe driver
 * is not in every kernel: test/vm is the place for it.
 */
import { beforeAll, describe, expect } from "bun:test";
import { join } from "node:path";
import { openScene, torusBinary, waitFor } from "./harness";

const MEBIBYTE = 1024 * 1024;
const client = join(import.meta.dir, "../support/workers/aoe-client.ts");

interface ClientReport {
  readonly sectorCountMax: number;
  readonly sizeBytes: number;
  readonly frameCount: number;
  readonly wrong: number;
  readonly resentCount: number;
  readonly thrownAwayCount: number;
}

describe("a volume served by blk aoe", () => {
  const scene = openScene("aoe", { ownNetwork: true });
  const env = { TORUS_CONFIG_DIR: scene.path("config") };

  /** Runs torus in the scene's network, where a daemon without flags is found without flags. */
  async function torus(...words: string[]): Promise<string> {
    return (await scene.run([await torusBinary(), ...words], { env })).stdout;
  }

  function createVolume(name: string): Promise<string> {
    return torus("ctl", "volume", "create-block", name, "64MiB");
  }

  beforeAll(async () => {
    const binary = await torusBinary();
    const daemon = await scene.start("daemon", [binary, "daemon", "--size", "2GiB"], { env });
    await waitFor("the daemon to answer", async () => {
      if (!daemon.running) throw new Error(daemon.output());
      return (await scene.attempt([binary, "ctl", "status"], { env })).exitCode === 0;
    });
    await scene.run(["ip", "link", "add", "aoe0", "type", "veth", "peer", "name", "aoe1"]);
    await scene.run(["ip", "link", "set", "aoe0", "up"]);
    await scene.run(["ip", "link", "set", "aoe1", "up"]);
  }, 120_000);

  async function serve(volume: string, minor: number, flags: readonly string[] = []) {
    const started = await scene.start(
      `aoe-${volume}`,
      [await torusBinary(), "blk", "aoe", volume, "aoe0", "1", String(minor), ...flags],
      { env },
    );
    await waitFor("the target to serve", () => {
      if (!started.running) throw new Error(started.output());
      return started.output().includes(`Serving e1.${minor}`);
    });
    return started;
  }

  async function initiate(
    minor: number,
    mode: string,
    lengthBytes: number,
    seed: number,
  ): Promise<ClientReport> {
    const words = [
      process.execPath,
      client,
      "aoe1",
      "1",
      String(minor),
      mode,
      String(lengthBytes),
      String(seed),
    ];
    return JSON.parse((await scene.run(words, { timeMsMax: 150_000 })).stdout) as ClientReport;
  }

  for (const [mtu, sectors, minor] of [
    [1500, 2, 1],
    [9000, 16, 2],
  ] as const)
    scene.test(`at MTU ${mtu}: found, filled, read back, and the same after kill -9`, async () => {
      const volume = `mtu${mtu}`;
      for (const end of ["aoe0", "aoe1"]) await scene.run(["ip", "link", "set", end, "mtu", String(mtu)]);
      await createVolume(volume);
      const first = await serve(volume, minor);
      const filled = await initiate(minor, "fill", 4 * MEBIBYTE, minor);
      expect(filled).toMatchObject({ sectorCountMax: sectors, sizeBytes: 64 * MEBIBYTE, wrong: 0 });
      expect(filled.thrownAwayCount).toBeGreaterThan(0);
      expect(filled.resentCount).toBeGreaterThan(0);
      // Every answered write was durable: nothing asked it to be flushed at its end.
      await first.kill();
      const second = await serve(volume, minor, ["--wait", "60s"]);
      expect((await initiate(minor, "check", 4 * MEBIBYTE, minor)).wrong).toBe(0);
      expect(await second.stop()).toBe(0);
    });

  scene.test("says what is wrong with interface and address", async () => {
    await createVolume("wrong");
    const attempt = async (...words: string[]) => {
      const { exitCode, stderr } = await scene.attempt([await torusBinary(), "blk", "aoe", ...words], {
        env,
      });
      return `${exitCode} ${stderr.trim().split("\n").at(-1)}`;
    };
    expect(await attempt("wrong", "nowhere", "1", "1")).toMatch(
      /1 .*interface "nowhere": there is none of that name/,
    );
    expect(await attempt("wrong", "lo", "1", "1")).toMatch(
      /1 .*interface "lo": it is not an Ethernet interface/,
    );
    expect(await attempt("wrong", "aoe0", "65535", "1")).toMatch(/2 .*major address "65535"/);
    expect(await attempt("wrong", "aoe0", "1")).toMatch(/2 .*VOLUME INTERFACE MAJOR MINOR/);
    expect(await attempt("--flush", "e1.1")).toMatch(/1 .*\/dev\/etherd\/flush/);
  });

  scene.test("ends when its interface goes away, having detached", async () => {
    await createVolume("orphan");
    const serving = await serve("orphan", 9);
    await scene.run(["ip", "link", "del", "aoe0"]);
    expect(await serving.ended(20_000)).toBe(1);
    expect(serving.output()).toContain('Cannot go on with interface "aoe0": it was removed');
    const info = JSON.parse(await torus("ctl", "volume", "info", "orphan", "--json"));
    expect(info.attachedTo).toBeNull();
  });
});
