/**
 * The status page in a real browser: headless Chromium renders what a cluster is, on a desk and on a phone, light and
 * dark, and the page follows what changes. With TORUS_E2E_SHOTS=DIR the pictures stay there to be looked at.
 */
import { beforeAll, describe, expect } from "bun:test";
import { mkdirSync } from "node:fs";
import { Cluster, openScene, waitFor } from "./harness";

const scene = openScene("page");
let cluster: Cluster;
const shots = process.env.TORUS_E2E_SHOTS;
/** Virtual time for the page's script and its first answers. */
const PAGE_MS = 6_000;

const chromium = (size: string, ...args: string[]) => [
  ...["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"],
  ...[
    `--user-data-dir=${scene.path("chromium")}`,
    `--window-size=${size}`,
    `--virtual-time-budget=${PAGE_MS}`,
  ],
  ...args,
];

/** The document after the script has run. */
async function rendered(): Promise<string> {
  const { stdout } = await scene.run(chromium("1280,900", "--dump-dom", `${cluster.daemons[0]!.adminUrl}/`), {
    timeMsMax: 90_000,
  });
  return stdout;
}

async function shot(name: string, size: string, ...args: string[]): Promise<number> {
  const file = `${shots ?? scene.folder}/${name}.png`;
  await scene.run(chromium(size, `--screenshot=${file}`, ...args, `${cluster.daemons[0]!.adminUrl}/`), {
    timeMsMax: 90_000,
  });
  return Bun.file(file).size;
}

describe("the status page", () => {
  beforeAll(async () => {
    if (shots !== undefined) mkdirSync(shots, { recursive: true });
    cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    await cluster.createVolume("database", "256MiB");
    await cluster.createVolume("<b>logs", "64MiB").catch(() => cluster.createVolume("logs", "64MiB"));
    const server = await cluster.serve("blk", ["database"]);
    await scene.run(["qemu-io", "-f", "raw", "-c", "write 0 64M", "-c", "flush", server.uri("database")]);
  }, 180_000);

  scene.test("shows health, peers and volumes, with nothing that a browser refuses", async () => {
    const page = await rendered();
    expect(page).toContain('data-loaded="yes"');
    expect(page).toMatch(/id="health"[^>]*>healthy</);
    for (const { address, peerId } of await cluster.peers()) {
      expect(page).toContain(address);
      expect(page).toContain(peerId);
    }
    expect(page).toContain("database");
    expect(page).toMatch(/\(pid \d+/);
    expect(page).toContain("3 of 3 up");
    expect(page).not.toContain("<b>logs");
    const { stderr } = await scene.run(
      chromium("800,600", "--enable-logging=stderr", "--dump-dom", `${cluster.daemons[0]!.adminUrl}/`),
      { timeMsMax: 90_000 },
    );
    expect(stderr).not.toMatch(/CONSOLE.*(Refused|Uncaught|Error)/i);
  });

  scene.test("says what is wrong and what to do when a peer is down", async () => {
    await cluster.daemons[2]!.kill();
    await waitFor("the status to say so", async () => {
      const answer = await cluster.daemons[0]!.ask("/status.json");
      return ((await answer.json()) as { cluster: { health: string } }).cluster.health !== "ok";
    });
    const page = await rendered();
    expect(page).toMatch(/id="health"[^>]*>degraded</);
    expect(page).toContain(
      "is down: start its daemon, or remove it for good with torus ctl peer remove --force",
    );
    expect(await shot("desk-light", "1280,1000")).toBeGreaterThan(10_000);
    expect(
      await shot("desk-dark", "1280,1000", "--force-dark-mode", "--blink-settings=preferredColorScheme=0"),
    ).toBeGreaterThan(10_000);
    expect(await shot("phone", "500,1400")).toBeGreaterThan(10_000);
  });
});
