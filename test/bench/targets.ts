/**
 * What is measured against what: nbdkit over one plain file (the limit of client plus protocol, and the
 * reference of every ratio), nbdkit in memory, one torus daemon exporting its volume, and three daemons with a
 * real etcd, replication 2 and a client process of their own.
 */
import { readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Cluster, freePort, nbdinfo, type Scene, tcpUri, unixUri, waitFor } from "../e2e/harness";

export interface Target {
  readonly id: TargetId;
  uri(): string;
  /** Drops what the target itself has cached. */
  coolDown(): Promise<void>;
  /** Files on tmpfs of which some memory was never used yet. */
  readonly untouchedFiles?: () => readonly string[];
  /** Kills one storage daemon without a warning; undefined where there is none to spare. */
  readonly killOne?: () => Promise<void>;
  stop(): Promise<void>;
}

export interface TargetOptions {
  readonly sizeGib: number;
  /** TCP on loopback, as a remote client would use; or a unix socket. */
  readonly socket: "tcp" | "unix";
}

export const TARGET_IDS = ["nbdkit-file", "nbdkit-memory", "torus-1", "torus-3"] as const;
export type TargetId = (typeof TARGET_IDS)[number];

const EXPORT_NAME = "bench";

async function startNbdkit(scene: Scene, id: TargetId, options: TargetOptions): Promise<Target> {
  const socketPath = scene.path(`${id}.sock`);
  const port = await freePort();
  const file = scene.path(`${id}.img`);
  const plugin = id === "nbdkit-file" ? ["file", file] : ["memory", `${options.sizeGib}G`];
  if (id === "nbdkit-file") {
    writeFileSync(file, "");
    truncateSync(file, options.sizeGib * 2 ** 30);
  }
  const listen =
    options.socket === "tcp" ? ["--ipaddr", "127.0.0.1", "--port", String(port)] : ["--unix", socketPath];
  const server = await scene.start(id, ["nbdkit", "--foreground", ...listen, ...plugin]);
  const uri = options.socket === "tcp" ? tcpUri(port, "") : unixUri(socketPath, "");
  await waitFor(`${id} to answer`, async () => (await nbdinfo(scene, uri))["export-size"] > 0);
  return {
    id,
    uri: () => uri,
    coolDown: () => Promise.resolve(),
    stop: async () => {
      await server.stop();
      await scene.run(["rm", "-f", file]);
    },
  };
}

/** Data, its garbage before cleaning, and room to clean. */
function poolGib(sizeGib: number, copiesPerDaemon: number): string {
  return `${Math.ceil(sizeGib * copiesPerDaemon * 1.5 + 1)}GiB`;
}

const PAGE_BYTES = 4096;

/**
 * Reads a byte of every page. A virtual machine gets memory that it never used from its host page by page, at 4 us each
 * and up: a log that goes on to new places would be charged for that, and a plain file written beforehand not.
 */
export function touchMemory(files: readonly string[]): void {
  for (const file of files) {
    const bytes = Bun.mmap(file);
    let sum = 0;
    for (let at = 0; at < bytes.length; at += PAGE_BYTES) sum += bytes[at]!;
    if (Number.isNaN(sum)) throw new Error(`${file} cannot be read`);
  }
}

function dataFiles(cluster: Cluster): readonly string[] {
  return cluster.daemons.flatMap(({ dataFolder }) => {
    const folder = join(dataFolder, "blocks");
    return readdirSync(folder)
      .filter((name) => name.startsWith("blocks-"))
      .map((name) => join(folder, name));
  });
}

async function startOneDaemon(scene: Scene, options: TargetOptions): Promise<Target> {
  const socketPath = scene.path("torus-1.sock");
  const port = await freePort();
  const cluster = await Cluster.embedded(scene, {
    name: "single",
    size: poolGib(options.sizeGib, 1),
    daemonFlags: ["--nbd", options.socket === "tcp" ? `127.0.0.1:${port}` : `unix:${socketPath}`],
  });
  await cluster.createVolume(EXPORT_NAME, `${options.sizeGib}GiB`);
  const uri = options.socket === "tcp" ? tcpUri(port, EXPORT_NAME) : unixUri(socketPath, EXPORT_NAME);
  await waitFor("torus-1 to export its volume", async () => (await nbdinfo(scene, uri))["export-size"] > 0);
  return {
    id: "torus-1",
    uri: () => uri,
    coolDown: () => Promise.resolve(),
    untouchedFiles: () => dataFiles(cluster),
    stop: () => cluster.destroy(),
  };
}

async function startThreeDaemons(scene: Scene, options: TargetOptions): Promise<Target> {
  const cluster = await Cluster.withEtcd(scene, {
    name: "triple",
    peerCount: 3,
    replication: 2,
    size: poolGib(options.sizeGib, 2 / 3),
  });
  await cluster.createVolume(EXPORT_NAME, `${options.sizeGib}GiB`);
  // Every read is to ask a peer, also in the second round over the same pages.
  const flags = ["--read-cache-size", "0"];
  const serveOptions = { flags, ...(options.socket === "tcp" ? { tcpPort: await freePort() } : {}) };
  const server = await cluster.serve("torus-3", [EXPORT_NAME], serveOptions);
  return {
    id: "torus-3",
    uri: () => server.uri(EXPORT_NAME),
    coolDown: async () => {
      await server.stop();
      await server.start();
    },
    untouchedFiles: () => dataFiles(cluster),
    killOne: () => cluster.daemons[1]!.kill(),
    stop: async () => {
      await server.stop();
      await cluster.destroy();
    },
  };
}

export function startTarget(scene: Scene, id: TargetId, options: TargetOptions): Promise<Target> {
  switch (id) {
    case "nbdkit-file":
    case "nbdkit-memory":
      return startNbdkit(scene, id, options);
    case "torus-1":
      return startOneDaemon(scene, options);
    case "torus-3":
      return startThreeDaemons(scene, options);
  }
}
