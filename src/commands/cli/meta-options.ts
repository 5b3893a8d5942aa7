/**
 * Where the metadata lives, for every command: a flag, else TORUS_META, else the profile in
 * ~/.torus/config.json, else the local daemon if one listens, else etcd on its usual port if it listens.
 */
import { createConnection } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import type { ArgsDef } from "citty";
import { CommandError, UsageError } from "./errors";

export const metaArgs = {
  meta: {
    type: "string",
    description: "Where metadata lives: etcd://H:P,H:P | http://HOST:PORT (a daemon) | sqlite:PATH",
    valueHint: "URL",
  },
  etcd: {
    type: "string",
    alias: "C",
    description: "Short for --meta etcd://HOST:PORT",
    valueHint: "HOST:PORT",
  },
  "etcd-cert-file": { type: "string", description: "Client certificate for etcd (PEM)", valueHint: "FILE" },
  "etcd-key-file": { type: "string", description: "Key of the client certificate (PEM)", valueHint: "FILE" },
  "etcd-ca-file": {
    type: "string",
    description: "CA that signed etcd's certificate (PEM)",
    valueHint: "FILE",
  },
  "etcd-user": {
    type: "string",
    description: "etcd user; password by TORUS_ETCD_PASSWORD",
    valueHint: "NAME",
  },
  "peer-cert-file": {
    type: "string",
    description: "Certificate for daemons and peers (PEM)",
    valueHint: "FILE",
  },
  "peer-key-file": { type: "string", description: "Its key (PEM)", valueHint: "FILE" },
  "peer-ca-file": {
    type: "string",
    description: "CA that daemons and peers are signed by",
    valueHint: "FILE",
  },
  profile: { type: "string", description: "Profile of ~/.torus/config.json", valueHint: "NAME" },
  debug: { type: "boolean", description: "Show stack traces and debug logs" },
} as const satisfies ArgsDef;

export interface MetaFlags {
  readonly meta?: string | undefined;
  readonly etcd?: string | undefined;
  readonly "etcd-cert-file"?: string | undefined;
  readonly "etcd-key-file"?: string | undefined;
  readonly "etcd-ca-file"?: string | undefined;
  readonly "etcd-user"?: string | undefined;
  readonly "peer-cert-file"?: string | undefined;
  readonly "peer-key-file"?: string | undefined;
  readonly "peer-ca-file"?: string | undefined;
  readonly profile?: string | undefined;
}

/** What leads to the metadata store; the password is never part of a printed form. */
export interface MetaLocation {
  readonly url: string;
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly caFile?: string;
  readonly user?: string;
  readonly password?: string;
}

export interface Profile {
  readonly meta?: string;
  readonly etcdCertFile?: string;
  readonly etcdKeyFile?: string;
  readonly etcdCaFile?: string;
  readonly etcdUser?: string;
  readonly etcdPassword?: string;
  readonly peerCertFile?: string;
  readonly peerKeyFile?: string;
  readonly peerCaFile?: string;
}

export interface ConfigFile {
  readonly default?: string;
  readonly profiles: Readonly<Record<string, Profile>>;
}

export const LOCAL_DAEMON_URL = "http://127.0.0.1:4321";
const LOCAL_ETCD_HOST = "127.0.0.1";
const LOCAL_ETCD_PORT = 2379;
export const LOCAL_ETCD_URL = `etcd://${LOCAL_ETCD_HOST}:${LOCAL_ETCD_PORT}`;
const PROBE_MS = 500;
/** Where nobody listens a probe ends at once; a daemon that does may be slow to answer on a busy machine. */
const ANSWER_MS = 10_000;

export function configFilePath(): string {
  return join(process.env.TORUS_CONFIG_DIR ?? join(homedir(), ".torus"), "config.json");
}

/** Reads the profiles; a missing file is an empty one, a broken one is an error that names the file. */
export async function readConfigFile(path = configFilePath()): Promise<ConfigFile> {
  const file = Bun.file(path);
  if (!(await file.exists())) return { profiles: {} };
  try {
    const value = (await file.json()) as ConfigFile;
    if (typeof value !== "object" || value === null || typeof value.profiles !== "object")
      throw new TypeError("it has no object named profiles");
    return value;
  } catch (error) {
    throw new CommandError(
      "config",
      `Cannot read ${path}: ${error instanceof Error ? error.message : error}; mend or remove it`,
      error,
    );
  }
}

function fromFlags(flags: MetaFlags): string | undefined {
  if (flags.meta !== undefined && flags.etcd !== undefined)
    throw new UsageError("Give --meta or --etcd, not both");
  if (flags.meta !== undefined) return flags.meta;
  return flags.etcd === undefined ? undefined : `etcd://${flags.etcd}`;
}

async function localDaemonListens(): Promise<boolean> {
  try {
    const answer = await fetch(`${LOCAL_DAEMON_URL}/healthz`, { signal: AbortSignal.timeout(ANSWER_MS) });
    return answer.headers.get("x-torus-metadata") === "embedded";
  } catch {
    // Nobody there is an ordinary answer to a probe.
    return false;
  }
}

function localEtcdListens(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: LOCAL_ETCD_HOST, port: LOCAL_ETCD_PORT, timeout: PROBE_MS });
    const ended = (listens: boolean): void => {
      socket.destroy();
      resolve(listens);
    };
    socket.on("connect", () => ended(true));
    socket.on("timeout", () => ended(true));
    socket.on("error", () => ended(false));
  });
}

/** Whoever forgot to start a daemon must not hear of an etcd that they never had. */
async function localMetadata(): Promise<string> {
  if (await localDaemonListens()) return LOCAL_DAEMON_URL;
  if (await localEtcdListens()) return LOCAL_ETCD_URL;
  throw new CommandError(
    "config",
    `Cannot find the metadata: no daemon that keeps it answers at ${LOCAL_DAEMON_URL}, and no etcd at ${LOCAL_ETCD_HOST}:${LOCAL_ETCD_PORT}; start torus daemon, or name where it lives with --meta`,
  );
}

interface PemFiles {
  readonly certFile: string | undefined;
  readonly keyFile: string | undefined;
  readonly caFile: string | undefined;
}

function etcdFiles(flags: MetaFlags, profile: Profile | undefined): PemFiles {
  return {
    certFile: flags["etcd-cert-file"] ?? process.env.TORUS_ETCD_CERT_FILE ?? profile?.etcdCertFile,
    keyFile: flags["etcd-key-file"] ?? process.env.TORUS_ETCD_KEY_FILE ?? profile?.etcdKeyFile,
    caFile: flags["etcd-ca-file"] ?? process.env.TORUS_ETCD_CA_FILE ?? profile?.etcdCaFile,
  };
}

function peerFiles(flags: MetaFlags, profile: Profile | undefined): PemFiles {
  return {
    certFile: flags["peer-cert-file"] ?? process.env.TORUS_PEER_CERT_FILE ?? profile?.peerCertFile,
    keyFile: flags["peer-key-file"] ?? process.env.TORUS_PEER_KEY_FILE ?? profile?.peerKeyFile,
    caFile: flags["peer-ca-file"] ?? process.env.TORUS_PEER_CA_FILE ?? profile?.peerCaFile,
  };
}

async function profileOf(flags: MetaFlags): Promise<Profile | undefined> {
  const config = await readConfigFile();
  const name = flags.profile ?? process.env.TORUS_PROFILE ?? config.default;
  if (name === undefined) return undefined;
  // Going on with another cluster than the one that was named would be the worst answer.
  if (!Object.hasOwn(config.profiles, name))
    throw new UsageError(
      `Unknown profile "${name}": ${configFilePath()} does not hold it; see torus ctl config --view`,
    );
  return config.profiles[name];
}

/** The certificate of this process towards daemons and peers; undefined without one. Throws when a part is missing. */
export async function resolvePeerTls(
  flags: MetaFlags,
): Promise<{ readonly certFile: string; readonly keyFile: string; readonly caFile: string } | undefined> {
  const { certFile, keyFile, caFile } = peerFiles(flags, await profileOf(flags));
  if (certFile === undefined && keyFile === undefined && caFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined || caFile === undefined)
    throw new UsageError("Give all of --peer-cert-file, --peer-key-file and --peer-ca-file, or none");
  return { certFile, keyFile, caFile };
}

/**
 * Decides where the metadata is.
 * @param fallback what to use when nothing was said; the daemon passes its embedded store.
 */
export async function resolveMetaLocation(flags: MetaFlags, fallback?: string): Promise<MetaLocation> {
  const profile = await profileOf(flags);
  const url =
    fromFlags(flags) ?? process.env.TORUS_META ?? profile?.meta ?? fallback ?? (await localMetadata());
  const { certFile, keyFile, caFile } = url.startsWith("https:")
    ? peerFiles(flags, profile)
    : etcdFiles(flags, profile);
  const user = flags["etcd-user"] ?? process.env.TORUS_ETCD_USER ?? profile?.etcdUser;
  const password = process.env.TORUS_ETCD_PASSWORD ?? profile?.etcdPassword;
  return {
    url,
    ...(certFile === undefined ? {} : { certFile }),
    ...(keyFile === undefined ? {} : { keyFile }),
    ...(caFile === undefined ? {} : { caFile }),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
  };
}
