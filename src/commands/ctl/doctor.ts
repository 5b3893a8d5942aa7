/**
 * `torus ctl doctor`: looks at this machine, not at the cluster: what the kernel offers, whether the metadata and the
 * peers can be reached and how far its clock is away, how fast the disk makes a flush durable, and the limits a daemon runs into. Every
 * line says what was found, and what to do where it is not well.
 */
import {
  closeSync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { formatSize } from "../../base";
import { leaf, type MetaLocation, metaArgs, metadataOver, openStore, resolveMetaLocation } from "../cli";
import { type Column, outputArgs, outputStyle, paint, renderJson, renderList } from "../output";

type Verdict = "ok" | "warning" | "problem";

interface Finding {
  readonly check: string;
  readonly verdict: Verdict;
  readonly found: string;
  /** What to do; empty when all is well. */
  readonly advice: string;
}

const SYNC_ROUNDS = 32;
const SYNC_BYTES = 4096;
/** A flush of a volume waits for one such sync at each of its peers. */
const SYNC_MS_SLOW = 10;
const SYNC_MS_BAD = 50;
const FREE_BYTES_LOW = 2 ** 30;
const OPEN_FILES_LOW = 4096;
const META_ROUNDS = 5;
const META_MS_SLOW = 50;
const CLOCK_ANSWER_MS = 2_000;
const PORT_MS_MAX = 3_000;
/** Peers whose ports are tried. */
const PEERS_MAX = 64;

const finding = (check: string, verdict: Verdict, found: string, advice = ""): Finding => ({
  check,
  verdict,
  found,
  advice: verdict === "ok" ? "" : advice,
});

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // What is not there is a finding of its own.
    return undefined;
  }
}

function kernelModule(name: string, use: string): Finding {
  const loaded =
    read("/proc/modules")
      ?.split("\n")
      .some((line) => line.startsWith(`${name} `)) === true;
  const builtIn =
    read(`/sys/module/${name}/initstate`) !== undefined || read(`/sys/module/${name}/uevent`) !== undefined;
  if (loaded || builtIn) return finding(`kernel module ${name}`, "ok", "loaded");
  return finding(
    `kernel module ${name}`,
    "warning",
    "not loaded",
    `modprobe ${name} if you want ${use}; NBD clients that are programs don't need it`,
  );
}

function openFiles(): Finding {
  const limit = Number(/^Max open files\s+(\d+)/m.exec(read("/proc/self/limits") ?? "")?.[1] ?? Number.NaN);
  return finding(
    "open files",
    limit >= OPEN_FILES_LOW ? "ok" : "warning",
    `at most ${limit}`,
    "raise it (ulimit -n; LimitNOFILE= of the unit): each client and peer takes one",
  );
}

/** Microseconds would do on a disk with a safe cache; what this shows is what a flush costs here. */
function disk(directory: string): Finding[] {
  const { bsize, bavail } = statfsSync(directory);
  const freeBytes = bsize * bavail;
  const space = finding(
    `space in ${directory}`,
    freeBytes >= FREE_BYTES_LOW ? "ok" : "warning",
    `${formatSize(freeBytes)} free`,
    "free some, or choose another --data-dir",
  );
  const folder = mkdtempSync(join(directory, ".torus-doctor-"));
  try {
    const file = openSync(join(folder, "sync"), "w");
    const page = new Uint8Array(SYNC_BYTES).fill(0x5a);
    const times: number[] = [];
    for (let round = 0; round < SYNC_ROUNDS; round++) {
      writeSync(file, page, 0, SYNC_BYTES, round * SYNC_BYTES);
      const startMs = performance.now();
      fdatasyncSync(file);
      times.push(performance.now() - startMs);
    }
    closeSync(file);
    times.sort((left, right) => left - right);
    const median = times[SYNC_ROUNDS / 2] as number;
    const worst = times.at(-1) as number;
    const verdict = median < SYNC_MS_SLOW ? "ok" : median < SYNC_MS_BAD ? "warning" : "problem";
    return [
      space,
      finding(
        `sync in ${directory}`,
        verdict,
        `median ${median.toFixed(2)} ms, worst ${worst.toFixed(1)} ms`,
        `every flush of a volume waits this long; use a disk with a safe write cache, or less load (iostat -x 1)`,
      ),
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Whether this machine gets through to the port where a peer serves blocks. */
async function peerPort(address: string): Promise<Finding> {
  const check = `peer ${address}`;
  const { hostname, port } = new URL(address);
  const startMs = performance.now();
  const socket = connect({ host: hostname.replace(/^\[|\]$/g, ""), port: Number(port) });
  const failure = await new Promise<string | undefined>((resolve) => {
    socket.setTimeout(PORT_MS_MAX, () => resolve(`no answer in ${PORT_MS_MAX / 1000} s`));
    socket.on("connect", () => resolve(undefined));
    socket.on("error", (error) => resolve(error.message));
  });
  socket.destroy();
  return failure === undefined
    ? finding(check, "ok", `reached in ${(performance.now() - startMs).toFixed(1)} ms`)
    : finding(check, "problem", failure, "start its daemon, or open its port to this machine");
}

async function metadata(flags: Parameters<typeof resolveMetaLocation>[0]): Promise<Finding[]> {
  const location = await resolveMetaLocation(flags);
  try {
    const store = await openStore(location);
    try {
      const startMs = performance.now();
      for (let round = 0; round < META_ROUNDS; round++) await store.get("torus/cluster/settings");
      const eachMs = (performance.now() - startMs) / META_ROUNDS;
      const { peers } = metadataOver(store);
      const addresses = (await peers.list()).peers.map(({ address }) => address).slice(0, PEERS_MAX);
      return [
        finding(
          "metadata",
          eachMs < META_MS_SLOW ? "ok" : "warning",
          `${store.description} answers in ${eachMs.toFixed(1)} ms`,
          "leases are renewed by it: look at its disk and the network",
        ),
        ...(await Promise.all(addresses.map(peerPort))),
      ];
    } finally {
      await store.close();
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    // The reason says what to do.
    return [finding("metadata", "problem", reason)];
  }
}

/** The clock of a daemon or etcd, by the Date header of its HTTP answer; to the second. */
async function clockSkew(location: MetaLocation): Promise<Finding[]> {
  const url = clockUrl(location);
  if (url === undefined) return [];
  try {
    const { certFile, keyFile, caFile } = location;
    const file = (path: string | undefined) => (path === undefined ? undefined : Bun.file(path));
    const tls = { cert: file(certFile), key: file(keyFile), ca: file(caFile) };
    const beforeMs = Date.now();
    const answer = await fetch(url, {
      signal: AbortSignal.timeout(CLOCK_ANSWER_MS),
      ...(url.startsWith("https:") ? { tls } : {}),
    });
    const middleMs = (beforeMs + Date.now()) / 2;
    const theirs = Date.parse(answer.headers.get("date") ?? "");
    if (Number.isNaN(theirs)) return [];
    const skewMs = Math.max(0, Math.abs(theirs + 500 - middleMs) - 500);
    return [
      finding(
        "clock",
        skewMs < 2_000 ? "ok" : "warning",
        `${(skewMs / 1000).toFixed(1)} s away from the metadata's`,
        "run an NTP client: times in listings are wrong and certificates may seem to have ended (data is not at risk)",
      ),
    ];
  } catch {
    // That it does not answer is said by the check of the metadata.
    return [];
  }
}

/** Where the Date header can be read; undefined where the metadata is a file. */
function clockUrl({ url, certFile, keyFile, caFile }: MetaLocation): string | undefined {
  if (/^https?:/.test(url)) return `${url.replace(/\/$/, "")}/healthz`;
  const etcd = /^etcd:\/\/(?:[^@/]*@)?([^,/]+)/.exec(url)?.[1];
  const isSecured = certFile !== undefined || keyFile !== undefined || caFile !== undefined;
  return etcd === undefined ? undefined : `http${isSecured ? "s" : ""}://${etcd}/health`;
}

const findingColumns: readonly Column<Finding>[] = [
  { name: "check", title: "CHECK", value: (row) => row.check },
  { name: "verdict", title: "VERDICT", value: (row) => row.verdict },
  { name: "found", title: "FOUND", value: (row) => row.found },
  { name: "advice", title: "ADVICE", value: (row) => row.advice },
];

const TONES = { ok: "good", warning: "warn", problem: "bad" } as const;

export const doctorCommand = leaf({
  name: "doctor",
  description: "Look at this machine: kernel, limits, disk, clock, the way to the metadata and to the peers",
  examples: ["torus ctl doctor", "torus ctl doctor --data-dir /var/lib/torus --json"],
  args: {
    "data-dir": { type: "string", description: "Disk to measure (default: here)", valueHint: "DIR" },
    json: outputArgs.json,
    csv: outputArgs.csv,
    ...metaArgs,
  },
  async run(args) {
    const location = await resolveMetaLocation(args);
    const findings = [
      kernelModule("nbd", "torus blk attach"),
      openFiles(),
      ...disk(args["data-dir"] ?? "."),
      ...(await metadata(args)),
      ...(await clockSkew(location)),
    ];
    const style = outputStyle(args);
    if (style.format === "json") process.stdout.write(renderJson(findings));
    else if (style.format === "csv") process.stdout.write(renderList(findingColumns, findings, style));
    else
      for (const { check, verdict, found, advice } of findings) {
        console.log(`${paint(verdict.padEnd(8), TONES[verdict], style)}${check}: ${found}`);
        if (advice !== "") console.log(`        ${advice}`);
      }
    if (findings.some((each) => each.verdict === "problem")) process.exitCode = 1;
  },
});
