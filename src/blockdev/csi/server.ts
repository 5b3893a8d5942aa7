/** The CSI driver's gRPC server: HTTP/2 on a unix socket, as orchestrators expect it. */
import { chmodSync, existsSync, lstatSync, mkdirSync, rmSync } from "node:fs";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import { dirname } from "node:path";
import { ConnectError, type Interceptor, type ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { TorusError } from "../../base";
import { CsiError, GRPC_CODES } from "./errors";
import { Controller, Identity, Node } from "./gen/csi_pb";

export interface CsiServerOptions {
  /** `unix:///path` or a path. */
  readonly endpoint: string;
  readonly identity: ServiceImpl<typeof Identity>;
  /** Undefined: this process does not serve it. */
  readonly controller: ServiceImpl<typeof Controller> | undefined;
  readonly node: ServiceImpl<typeof Node> | undefined;
  readonly onEvent: (level: "debug" | "warn", message: string) => void;
}

const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
/** mkfs of a large volume discards it first. */
const CALL_MS_MAX = 30 * 60_000;
const CLOSE_MS_MAX = 5_000;

/** The path of a unix socket. Throws "invalid-argument" for another kind of endpoint. */
export function parseEndpoint(endpoint: string): string {
  const path = endpoint.startsWith("unix://")
    ? endpoint.slice("unix://".length)
    : endpoint.replace(/^unix:/, "");
  if (!path.startsWith("/"))
    throw new CsiError(
      "invalid-argument",
      `Cannot listen on "${endpoint}": write it as unix:///run/torus/csi.sock`,
      {
        exitCode: 2,
      },
    );
  return path;
}

/** Errors as gRPC has them. What is no error of ours is a bug, and says so in the log. */
function errorInterceptor(onEvent: CsiServerOptions["onEvent"]): Interceptor {
  return (next) => async (request) => {
    try {
      return await next(request);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      onEvent(error instanceof CsiError ? "debug" : "warn", `CSI ${request.method.name}: ${text}`);
      if (error instanceof ConnectError) throw error;
      const code = error instanceof CsiError ? error.code : "internal";
      const said = error instanceof TorusError ? text : `Internal error: ${text}`;
      throw new ConnectError(said, GRPC_CODES[code], undefined, undefined, error);
    }
  };
}

export class CsiServer {
  readonly #sessions = new Set<ServerHttp2Session>();

  private constructor(
    private readonly server: Http2Server,
    readonly path: string,
  ) {
    server.on("session", (session) => {
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
    });
  }

  /** Listens; a socket that an earlier process left is replaced. */
  static async start(options: CsiServerOptions): Promise<CsiServer> {
    const path = parseEndpoint(options.endpoint);
    mkdirSync(dirname(path), { recursive: true });
    if (existsSync(path) && lstatSync(path).isSocket()) rmSync(path);
    const handler = connectNodeAdapter({
      connect: false,
      grpcWeb: false,
      interceptors: [errorInterceptor(options.onEvent)],
      readMaxBytes: MESSAGE_BYTES_MAX,
      maxTimeoutMs: CALL_MS_MAX,
      routes: (router) => {
        router.service(Identity, options.identity);
        if (options.controller !== undefined) router.service(Controller, options.controller);
        if (options.node !== undefined) router.service(Node, options.node);
      },
    });
    const http = createServer(handler);
    const server = new CsiServer(http, path);
    await new Promise<void>((resolve, reject) => {
      http.once("error", reject);
      http.listen(path, resolve);
    });
    chmodSync(path, 0o600);
    return server;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const session of this.#sessions) session.close();
    const deadline = setTimeout(() => {
      for (const session of this.#sessions) session.destroy();
    }, CLOSE_MS_MAX);
    await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, CLOSE_MS_MAX + 500))]);
    clearTimeout(deadline);
    if (existsSync(this.path)) rmSync(this.path);
  }
}
