/**
 * A real Prometheus scrapes a cluster under load with the files that torus ships: every rule evaluates, every query
 * of every panel of the dashboard returns data, and an alert fires for a daemon that is gone.
 */
import { beforeAll, expect } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Cluster, fioCommand, freePort, type NbdServer, openScene, waitFor } from "./harness";

const shipped = join(import.meta.dir, "../../scripts/monitoring");
const scene = openScene("monitoring");
let cluster: Cluster;
let server: NbdServer;
let prometheusUrl: string;
let httpPort: number;

interface Dashboard {
  readonly panels: readonly {
    readonly title: string;
    readonly targets?: readonly { readonly expr: string }[];
  }[];
}

interface Rule {
  readonly name: string;
  readonly health: string;
  readonly lastError?: string;
  readonly state: string;
}

async function ask<T>(path: string): Promise<T> {
  const answer = await fetch(`${prometheusUrl}${path}`, { signal: AbortSignal.timeout(3_000) });
  const { status, data, error } = (await answer.json()) as { status: string; data: T; error?: string };
  if (status !== "success") throw new Error(`${path}: ${error}`);
  return data;
}

const query = async (expression: string) =>
  (
    await ask<{ result: { value: [number, string] }[] }>(
      `/api/v1/query?query=${encodeURIComponent(expression)}`,
    )
  ).result;

async function rules(): Promise<Rule[]> {
  const { groups } = await ask<{ groups: { rules: Rule[] }[] }>("/api/v1/rules");
  return groups.flatMap((group) => group.rules);
}

beforeAll(async () => {
  cluster = await Cluster.withEtcd(scene, { peerCount: 2, replication: 2, size: "1GiB" });
  await cluster.createVolume("disk", "256MiB");
  httpPort = await freePort();
  server = await cluster.serve("blk", ["disk"], { flags: ["--http", `127.0.0.1:${httpPort}`] });
  const port = await freePort();
  prometheusUrl = `http://127.0.0.1:${port}`;
  const targets = [...cluster.daemons.map((daemon) => daemon.adminPort), httpPort];
  const rulesFile = readFileSync(join(shipped, "alerts.yml"), "utf8");
  // Nobody wants to wait a minute here for the alert of a daemon that is gone.
  writeFileSync(scene.path("alerts.yml"), rulesFile.replaceAll(/for: \d+[smh]/g, "for: 1s"));
  writeFileSync(
    scene.path("prometheus.yml"),
    `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: torus
    static_configs: [{ targets: ${JSON.stringify(targets.map((each) => `127.0.0.1:${each}`))} }]
`,
  );
  await scene.run(["promtool", "check", "config", scene.path("prometheus.yml")]);
  await scene.start("prometheus", [
    "prometheus",
    `--config.file=${scene.path("prometheus.yml")}`,
    `--storage.tsdb.path=${scene.path("tsdb")}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ]);
  await waitFor(
    "prometheus to see all targets up",
    async () => (await query('up{job="torus"} == 1')).length === 3,
    60_000,
  );
}, 180_000);

scene.test("every panel's query returns data and every rule evaluates while a load runs", async () => {
  const load = await scene.start(
    "fio",
    fioCommand(server.uri("disk"), "load", {
      rw: "randrw",
      bs: "4k",
      size: "128m",
      iodepth: 8,
      fsync: 16,
      time_based: 1,
      // Longer than all the waiting below; it is ended when everything was seen.
      runtime: 600,
    }),
  );
  const dashboard = JSON.parse(readFileSync(join(shipped, "dashboard.json"), "utf8")) as Dashboard;
  const expressions = dashboard.panels.flatMap(({ title, targets }) =>
    (targets ?? []).map(({ expr }) => ({ title, expr: expr.replaceAll("$__rate_interval", "10s") })),
  );
  expect(expressions.length).toBeGreaterThan(30);
  for (const { title, expr } of expressions)
    await waitFor(`data for panel "${title}": ${expr}`, async () => {
      const result = await query(expr);
      return result.length > 0 && result.some(({ value }) => Number.isFinite(Number(value[1])));
    });
  await waitFor("all rules to be evaluated", async () =>
    (await rules()).every((rule) => rule.health !== "unknown"),
  );
  const evaluated = await rules();
  expect(evaluated.filter((rule) => rule.health !== "ok")).toEqual([]);
  expect(evaluated.length).toBe(
    readFileSync(join(shipped, "alerts.yml"), "utf8").match(/alert:/g)?.length ?? 0,
  );
  for (const name of [
    "TorusVolumeFailed",
    "TorusTargetDown",
    "TorusRequestErrors",
    "TorusPeersDown",
    "TorusLeaseShort",
  ])
    expect([name, evaluated.find((rule) => rule.name === name)?.state]).toEqual([name, "inactive"]);
  expect(load.running).toBe(true);
  await load.end("SIGTERM");
});

scene.test("metrics pass promtool, and count what a client does", async () => {
  const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
  const checked = await scene.attempt(["promtool", "check", "metrics"], { input: text });
  expect(checked.stderr + checked.stdout).toBe("");
  const written = () =>
    query("sum(torus_nbd_written_bytes_total)").then(([first]) => Number(first?.value[1] ?? 0));
  const before = await written();
  await scene.run(["qemu-io", "-f", "raw", "-c", "write 0 1M", "-c", "flush", server.uri("disk")]);
  await waitFor("the write to be counted", async () => (await written()) >= before + 1024 * 1024);
});

scene.test("a daemon that is gone raises the alerts, and its return ends them", async () => {
  const state = async (name: string) => (await rules()).find((rule) => rule.name === name)?.state;
  await cluster.daemons[1]!.kill();
  await waitFor("the alert of the target", async () => (await state("TorusTargetDown")) === "firing", 60_000);
  const { exitCode, stdout } = await cluster.attempt(["ctl", "doctor", ...cluster.metaFlags]);
  expect(exitCode).toBe(1);
  expect(stdout).toMatch(/^ok +peer adp:\/\/127\.0\.0\.1:\d+: reached in [\d.]+ ms$/m);
  expect(stdout).toMatch(/^problem +peer adp:.*\n +start its daemon, or open its port to this machine$/m);
  await waitFor("the alert of the peer", async () => (await state("TorusPeersDown")) === "firing", 60_000);
  await cluster.daemons[1]!.start();
  await waitFor("the alerts to end", async () => (await state("TorusPeersDown")) === "inactive", 60_000);
});
