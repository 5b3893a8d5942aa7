/**
 * What `torus daemon` can be told, by flags, by a configuration file with the same names, or not at all. A flag
 * wins over the file. Everything is checked here, before anything is opened.
 */
import { readFile } from "node:fs/promises";
import type { ArgsDef } from "citty";
import { parseDuration, parseRate, parseSize, parseSizeOrShare, type SizeOrShare } from "../../base";
import {
  CommandError,
  levelArgs,
  metaArgs,
  parseWriteLevel,
  type ReadLevel,
  UsageError,
  type WriteLevel,
} from "../cli";

export const daemonArgs = {
  "data-dir": {
    type: "string",
    description: "Where blocks are kept (default ./torus-data)",
    valueHint: "DIR",
  },
  size: {
    type: "string",
    description:
      "Space to use: 20GiB, or 80% of the file system (default: up to 20GiB, half of what is free)",
    valueHint: "SIZE",
  },
  "peer-address": {
    type: "string",
    description: "Where this peer serves blocks: adp://HOST:PORT (default) or http://HOST:PORT",
    valueHint: "URL",
  },
  host: { type: "string", description: "HTTP admin address (default 127.0.0.1)", valueHint: "HOST" },
  port: { type: "string", description: "HTTP admin port (default 4321; 0: any)", valueHint: "PORT" },
  "auto-join": { type: "boolean", description: "Join the ring at start" },
  "debug-init": { type: "boolean", description: "Initialise the cluster if it is not yet" },
  zone: { type: "string", description: "Failure domain: replicas go to different zones", valueHint: "NAME" },
  weight: { type: "string", description: "Share in the ring (default: the size in GiB)", valueHint: "N" },
  "block-device": {
    type: "string",
    description: "Keep blocks on a raw disk instead of files",
    valueHint: "DEV",
  },
  "force-format": { type: "boolean", description: "Take a block device that holds something else" },
  "accept-loss": {
    type: "boolean",
    description: "Open a damaged store with what is intact, as a new disk; the others fill it again",
  },
  nbd: {
    type: "string",
    description: "Export every volume over NBD: HOST:PORT or unix:PATH",
    valueHint: "ADDRESS",
  },
  "scrub-interval": {
    type: "string",
    description: "Read and verify everything this often (default 7d)",
    valueHint: "T",
  },
  "rebalance-rate": {
    type: "string",
    description: "Bytes per second for moving data (default 100MiB)",
    valueHint: "R",
  },
  "read-cache-size": {
    type: "string",
    description: "Memory for pages read (default 64MiB)",
    valueHint: "SIZE",
  },
  "write-cache-size": {
    type: "string",
    description: "Memory for writes on the way (default 32MiB)",
    valueHint: "SIZE",
  },
  ...levelArgs,
  config: { type: "string", description: "TOML or JSON file with the same names", valueHint: "FILE" },
  "log-level": { type: "enum", options: ["debug", "info", "warn", "error"], description: "Default info" },
  "log-format": { type: "enum", options: ["text", "json"], description: "Default text" },
  ...metaArgs,
} as const satisfies ArgsDef;

export type DaemonFlags = { readonly [name in keyof typeof daemonArgs]?: string | boolean | undefined };

export interface DaemonOptions {
  readonly dataDirectory: string;
  /** Undefined: what the store has, or for a new one what suits the file system. */
  readonly size: SizeOrShare | undefined;
  readonly peerAddress: URL;
  readonly host: string;
  readonly port: number;
  readonly autoJoin: boolean;
  readonly debugInit: boolean;
  readonly zone: string;
  readonly weight: number | undefined;
  readonly blockDevice: string | undefined;
  readonly forceFormat: boolean;
  readonly acceptLoss: boolean;
  readonly nbd: string | undefined;
  readonly tls: { readonly certFile: string; readonly keyFile: string; readonly caFile: string } | undefined;
  readonly scrubIntervalMs: number;
  readonly rebalanceBytesPerSecond: number;
  readonly readCacheBytes: number;
  readonly writeCacheBytes: number;
  readonly readLevel: ReadLevel;
  readonly writeLevel: WriteLevel;
  readonly logLevel: "debug" | "info" | "warn" | "error";
  readonly logFormat: "text" | "json";
  readonly debug: boolean;
}

const SIZE_MIN_BYTES = 64 * 1024 * 1024;

/** Reads a configuration file; keys are the flags' names. */
export async function readDaemonConfig(path: string): Promise<DaemonFlags> {
  let value: unknown;
  try {
    const text = await readFile(path, "utf8");
    value = path.endsWith(".json") ? JSON.parse(text) : Bun.TOML.parse(text);
  } catch (error) {
    throw new CommandError(
      "config",
      `Cannot read ${path}: ${error instanceof Error ? error.message : error}`,
      error,
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new CommandError("config", `Cannot use ${path}: it must hold names and values`);
  const flags: Record<string, string | boolean> = {};
  for (const [name, given] of Object.entries(value)) {
    if (name === "accept-loss")
      throw new CommandError(
        "config",
        `Cannot use "accept-loss" in ${path}: give it as a flag, for one start, to a daemon that says its store is damaged`,
      );
    if (!(name in daemonArgs) || name === "config")
      throw new CommandError("config", `Unknown name "${name}" in ${path}: see torus daemon --help`);
    if (typeof given !== "string" && typeof given !== "boolean" && typeof given !== "number")
      throw new CommandError(
        "config",
        `Cannot use "${name}" in ${path}: it must be text, a number or true/false`,
      );
    flags[name] = typeof given === "number" ? String(given) : given;
  }
  return flags;
}

function parseStoreSize(text: string): SizeOrShare {
  const size = parseSizeOrShare(text);
  if (size.kind === "bytes" && size.bytes < SIZE_MIN_BYTES)
    throw new UsageError(`Cannot use --size ${text}: a peer needs at least 64 MiB`);
  return size;
}

function parsePeerAddress(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch (error) {
    throw new UsageError(
      `Cannot use --peer-address ${text}: give adp://HOST:PORT or http://HOST:PORT`,
      error,
    );
  }
  if (!["adp:", "adps:", "http:", "https:"].includes(url.protocol) || url.hostname === "")
    throw new UsageError(`Cannot use --peer-address ${text}: give adp://HOST:PORT or http://HOST:PORT`);
  return url;
}

function parsePort(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw new UsageError(`Cannot use --port ${text}: give 0 to 65535`);
  return port;
}

function parseWeight(text: string): number {
  const weight = Number(text);
  if (!(weight > 0 && weight <= 1e6))
    throw new UsageError(`Cannot use --weight ${text}: give a number above 0`);
  return weight;
}

function parseTls(get: (name: keyof typeof daemonArgs) => string | undefined): DaemonOptions["tls"] {
  const certFile = get("peer-cert-file") ?? process.env.TORUS_PEER_CERT_FILE;
  const keyFile = get("peer-key-file") ?? process.env.TORUS_PEER_KEY_FILE;
  const caFile = get("peer-ca-file") ?? process.env.TORUS_PEER_CA_FILE;
  if (certFile === undefined && keyFile === undefined && caFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined || caFile === undefined)
    throw new UsageError("Give all of --peer-cert-file, --peer-key-file and --peer-ca-file, or none");
  return { certFile, keyFile, caFile };
}

/** Flags and file made one and checked. `standalone`: no metadata was named, so this daemon keeps its own. */
export async function parseDaemonOptions(flags: DaemonFlags): Promise<DaemonOptions> {
  const file = typeof flags.config === "string" ? await readDaemonConfig(flags.config) : {};
  const value = (name: keyof typeof daemonArgs) => flags[name] ?? file[name];
  const text = (name: keyof typeof daemonArgs) => {
    const given = value(name);
    return given === undefined ? undefined : String(given);
  };
  const on = (name: keyof typeof daemonArgs) => value(name) === true || value(name) === "true";
  return {
    dataDirectory: text("data-dir") ?? "./torus-data",
    size: text("size") === undefined ? undefined : parseStoreSize(text("size") ?? ""),
    peerAddress: parsePeerAddress(text("peer-address") ?? "adp://127.0.0.1:0"),
    host: text("host") ?? "127.0.0.1",
    port: parsePort(text("port") ?? "4321"),
    autoJoin: on("auto-join"),
    debugInit: on("debug-init"),
    zone: text("zone") ?? "",
    weight: text("weight") === undefined ? undefined : parseWeight(text("weight") ?? ""),
    blockDevice: text("block-device"),
    forceFormat: on("force-format"),
    acceptLoss: on("accept-loss"),
    nbd: text("nbd"),
    tls: parseTls(text),
    scrubIntervalMs: parseDuration(text("scrub-interval") ?? "7d"),
    rebalanceBytesPerSecond: parseRate(text("rebalance-rate") ?? "100MiB"),
    readCacheBytes: parseSize(text("read-cache-size") ?? "64MiB"),
    writeCacheBytes: parseSize(text("write-cache-size") ?? "32MiB"),
    readLevel: (text("read-level") ?? "block") as ReadLevel,
    writeLevel: parseWriteLevel(text("write-level") ?? "all"),
    logLevel: (text("log-level") ?? (on("debug") ? "debug" : "info")) as DaemonOptions["logLevel"],
    logFormat: (text("log-format") ?? "text") as DaemonOptions["logFormat"],
    debug: on("debug"),
  };
}
