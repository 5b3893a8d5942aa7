/**
 * The daemon's HTTP server: health for machines, metrics for Prometheus, the status page for people, and where
 * metadata is embedded the service by which ctl, blk and other daemons reach it. With certificates it is reached by
 * TLS only, and the client's certificate decides what it may change.
 */
import { IoError } from "../../base/io";
import type { KeyValueStore } from "../../meta";
import { MetaServiceHandler } from "../../net";
import { TlsGate, type TlsIdentity } from "../../net/tls";
import { systemClock } from "../../base/io";
import type { LogLevel } from "../log";
import type { AccessPolicy } from "./access";
import { CallerServers } from "./caller-servers";
import { type Caller, storeForCaller } from "./roles";
import { STATUS_PAGE, STATUS_PAGE_POLICY } from "./status-page";

/** Bodies of admin requests are small. */
const BODY_BYTES_MAX = 8 * 1024 * 1024;
const LOG_LEVELS: readonly string[] = ["debug", "info", "warn", "error"] satisfies LogLevel[];

export interface Readiness {
  readonly ready: boolean;
  /** Why not. */
  readonly reasons: readonly string[];
}

export interface AdminServerOptions {
  readonly host: string;
  readonly port: number;
  /** Present where this daemon keeps the metadata. */
  readonly embeddedStore: KeyValueStore | undefined;
  readonly access: AccessPolicy;
  readonly tls: TlsIdentity | undefined;
  /** A directory of this daemon alone, for the sockets behind TLS. */
  readonly privateDirectory: string;
  readonly readiness: () => Promise<Readiness>;
  /** JSON of /status: this daemon's figures. */
  readonly status: () => Promise<unknown>;
  /** JSON of /status.json: the cluster and this daemon, for the status page. */
  readonly clusterStatus: () => Promise<unknown>;
  readonly metrics: () => Promise<string>;
  readonly metricsContentType: string;
  readonly logLevel: () => LogLevel;
  readonly setLogLevel: (level: LogLevel) => void;
  readonly onRefused: (message: string) => void;
}

export interface AdminServer {
  readonly url: string;
  /** New connections see this certificate. */
  renew(identity: TlsIdentity): void;
  stop(): Promise<void>;
}

type Handler = (request: Request) => Promise<Response>;

const text = (body: string, status = 200, headers: Record<string, string> = {}) =>
  new Response(body, { status, headers: { "content-type": "text/plain; charset=utf-8", ...headers } });

/** What a GET finds. */
const PAGES: ReadonlySet<string> = new Set([
  "/",
  "/healthz",
  "/readyz",
  "/status",
  "/status.json",
  "/metrics",
]);

/** Who reaches a daemon without TLS. */
const LOCAL_ADMINISTRATOR: Caller = { role: "admin", name: "" };

/** What one caller gets to see and do. */
function handlerFor(caller: Caller, options: AdminServerOptions): Handler {
  const { embeddedStore } = options;
  const headers = {
    "x-torus-metadata": embeddedStore === undefined ? "elsewhere" : "embedded",
    "x-content-type-options": "nosniff",
  };
  const metaService =
    embeddedStore === undefined
      ? undefined
      : new MetaServiceHandler({
          store: storeForCaller(embeddedStore, caller, options.access, options.onRefused),
          clock: systemClock,
        });
  const logLevel = async (request: Request): Promise<Response> => {
    if (request.method === "GET") return text(`${options.logLevel()}\n`, 200, headers);
    if (request.method !== "PUT") return text("GET or PUT\n", 405, { ...headers, allow: "GET, PUT" });
    if (caller.role !== "admin")
      return text("only an admin's certificate may change the log level\n", 403, headers);
    if (request.headers.get("content-length") === null)
      return text("give the length of the body\n", 411, headers);
    const level = (await request.text()).trim();
    if (!LOG_LEVELS.includes(level)) return text(`give one of ${LOG_LEVELS.join(", ")}\n`, 400, headers);
    options.setLogLevel(level as LogLevel);
    return text(`${level}\n`, 200, headers);
  };
  return async (request) => {
    const claimedBytes = Number(request.headers.get("content-length") ?? 0);
    if (!(claimedBytes <= BODY_BYTES_MAX)) {
      options.onRefused(
        `Refused a request${caller.name === "" ? "" : ` of ${caller.name}`} at the admin port: its body claims ${claimedBytes} bytes, at most ${BODY_BYTES_MAX} are read`,
      );
      return text("the body is too large\n", 413, { ...headers, connection: "close" });
    }
    const answer = await metaService?.handle(request);
    if (answer !== undefined) return answer;
    const { pathname } = new URL(request.url);
    if (pathname === "/log-level") return logLevel(request);
    // Also to a POST: by this a client learns that metadata is elsewhere.
    if (!PAGES.has(pathname)) return text("not found\n", 404, headers);
    if (request.method !== "GET" && request.method !== "HEAD")
      return text("only GET\n", 405, { ...headers, allow: "GET, HEAD" });
    switch (pathname) {
      case "/":
        return new Response(STATUS_PAGE, {
          headers: {
            ...headers,
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": STATUS_PAGE_POLICY,
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
          },
        });
      case "/healthz":
        return text("ok\n", 200, headers);
      case "/readyz": {
        const { ready, reasons } = await options.readiness();
        return text(ready ? "ready\n" : `${reasons.join("\n")}\n`, ready ? 200 : 503, headers);
      }
      case "/status":
        return Response.json(await options.status(), { headers });
      case "/status.json":
        return Response.json(await options.clusterStatus(), {
          headers: { ...headers, "cache-control": "no-store" },
        });
      case "/metrics":
        return text(await options.metrics(), 200, { ...headers, "content-type": options.metricsContentType });
      default:
        return text("not found\n", 404, headers);
    }
  };
}

const IDLE_SECONDS = 120;
const SERVE = {
  // Whoever reads a body limits it: so that a refusal can be logged.
  maxRequestBodySize: Number.MAX_SAFE_INTEGER,
  error: (error: Error) => text(`${error.message}\n`, 500),
} as const;

function listenFailed(options: AdminServerOptions, error: unknown): IoError {
  return new IoError(
    "listen-failed",
    `Cannot listen on ${options.host}:${options.port}: ${reasonOf(error)}`,
    { cause: error },
  );
}

/** Throws "listen-failed". */
export function startAdminServer(options: AdminServerOptions): AdminServer {
  return options.tls === undefined ? startPlain(options) : startSecured(options, options.tls);
}

function startPlain(options: AdminServerOptions): AdminServer {
  try {
    const server = Bun.serve({
      ...SERVE,
      idleTimeout: IDLE_SECONDS,
      hostname: options.host,
      port: options.port,
      fetch: handlerFor(LOCAL_ADMINISTRATOR, options),
    });
    return {
      url: `http://${options.host}:${server.port}`,
      renew: () => undefined,
      stop: () => server.stop(true),
    };
  } catch (error) {
    throw listenFailed(options, error);
  }
}

function startSecured(options: AdminServerOptions, identity: TlsIdentity): AdminServer {
  const servers = new CallerServers(options.privateDirectory, ".admin-", (unix, caller) => {
    const server = Bun.serve({ ...SERVE, unix, fetch: handlerFor(caller, options) });
    return { stop: () => server.stop(true) };
  });
  try {
    const gate = new TlsGate({
      address: `${options.host}:${options.port}`,
      identity,
      onClient: () => undefined,
      routeTo: (subject) => servers.pathFor(subject),
      onRefused: (remote, reason) =>
        options.onRefused(`Turned ${hostOf(remote)} away from the admin port: ${reason}`),
    });
    return {
      url: `https://${gate.address}`,
      renew: (next) => gate.renew(next),
      stop: async () => {
        gate.close();
        await servers.stop();
      },
    };
  } catch (error) {
    void servers.stop();
    throw error;
  }
}

/** Without the port, so that a log folds what one host does again and again. */
export function hostOf(remote: string): string {
  return remote.slice(0, remote.lastIndexOf(":"));
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE") return "it is in use; give another --port, or stop what listens there";
  if (code === "EADDRNOTAVAIL") return "this machine has no such address; give another --host";
  return `${error.message}; give another --host or --port`;
}
