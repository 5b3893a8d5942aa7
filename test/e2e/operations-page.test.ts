/**
 * The status page in a real browser: headless Chromium renders what a cluster is, on a desk and on a phone, light and
 * dark, and the page follows what changes. With TORUS_E2E_SHOTS=DIR the pictures stay there to be looked at.
 */
import { beforeAll, describe, expect } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { Browser, Cluster, type Look, openScene, waitFor } from "./harness";

const scene = openScene("page");
let cluster: Cluster;
let browser: Browser;
const shots = process.env.TORUS_E2E_SHOTS;

const DESK: Look = { width: 1280, height: 1000, scheme: "light" };
const LOOKS: Readonly<Record<string, Look>> = {
  "desk-light": DESK,
  "desk-dark": { ...DESK, scheme: "dark" },
  "phone-light": { width: 390, height: 1700, scheme: "light" },
  "phone-dark": { width: 390, height: 1700, scheme: "dark" },
};

/** Of every text that is seen: its contrast with what is behind it, as WCAG 2 reckons. */
const CONTRASTS = `(() => {
  const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((each) => each / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== ""))
    .map((element) => {
      const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(behind(element))];
      return { text: element.textContent.slice(0, 40), contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) };
    });
})()`;

const textOf = () => browser.ask<string>("document.body.innerText");
const url = () => `${cluster.daemons[0]!.adminUrl}/`;

async function untilLoaded(): Promise<void> {
  await waitFor("the page to show the cluster", () => browser.ask("document.body?.dataset.loaded === 'yes'"));
}

describe("the status page", () => {
  beforeAll(async () => {
    if (shots !== undefined) mkdirSync(shots, { recursive: true });
    cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    await cluster.createVolume("database", "256MiB");
    await cluster.createVolume("<b>logs", "64MiB");
    const server = await cluster.serve("blk", ["database"]);
    await scene.run(["qemu-io", "-f", "raw", "-c", "write 0 64M", "-c", "flush", server.uri("database")]);
    browser = await Browser.open(scene, DESK);
  }, 180_000);

  scene.test("shows health, peers and volumes, with nothing that a browser refuses", async () => {
    await browser.go(url());
    await untilLoaded();
    await waitFor("a healthy cluster", async () => (await textOf()).includes("healthy"));
    const text = await textOf();
    for (const { address, peerId } of await cluster.peers()) {
      expect(text).toContain(address);
      expect(text).toContain(peerId);
    }
    expect(text).toContain("database");
    expect(text).toMatch(/\(pid \d+/);
    expect(text).toContain("3 of 3 up");
    // As a name, not as a tag.
    expect(text).toContain("<b>logs");
    expect(browser.complaints).toEqual([]);
  });

  scene.test("follows, without reloading, and says what to do when a peer is down", async () => {
    await browser.ask("(window.sameDocument = true)");
    await cluster.daemons[2]!.kill();
    await waitFor("the page to say so", async () => (await textOf()).includes("2 of 3 up"), 60_000);
    await waitFor("the problem", () => browser.ask("!document.getElementById('problems').hidden"));
    expect(await textOf()).toContain(
      "is down: start its daemon, or remove it for good with torus ctl peer remove --force",
    );
    expect(await browser.ask("document.getElementById('health').textContent")).toBe("degraded");
    expect(await browser.ask("document.title")).toBe("torus: degraded");
    expect(await browser.ask("window.sameDocument")).toBe(true);
  });

  for (const [name, look] of Object.entries(LOOKS))
    scene.test(`can be read: ${name}`, async () => {
      await browser.look(look);
      await browser.go(url());
      await untilLoaded();
      expect(await browser.ask<number>("document.documentElement.scrollWidth")).toBeLessThanOrEqual(
        look.width,
      );
      const texts = await browser.ask<{ text: string; contrast: number }[]>(CONTRASTS);
      expect(texts.length).toBeGreaterThan(30);
      expect(texts.filter(({ contrast }) => contrast < 4.5)).toEqual([]);
      expect(await browser.ask("document.querySelectorAll('[role=meter][aria-label]').length")).toBe(3);
      if (shots !== undefined) writeFileSync(`${shots}/${name}.png`, await browser.picture());
    });
});
