/**
 * The daemon's HTTP server: health for machines, status for people, and where metadata is embedded the service by
 * which ctl, blk and other daemons reach it.
 */
import { IoError } from "../../base/io";
import type { MetaServiceHandler } from "../../net";

/** Bodies of admin requests are small. */
const BODY_BYTES_MAX = 8 * 1024 * 1024;

export interface Readiness {
  readonly ready: boolean;
  /** Why not. */
  readonly reasons: readonly string[];
}

export interface AdminServerOptions {
  readonly host: string;
  readonly port: number;
  /** Present where this daemon keeps the metadata. */
  readonly metaService: MetaServiceHandler | undefined;
  readonly readiness: () => Readiness;
  /** JSON of /status. */
  readonly status: () => Promise<unknown>;
  /** Prometheus text of /metrics. */
  readonly metrics: () => Promise<string>;
}

export interface AdminServer {
  readonly url: string;
  stop(): Promise<void>;
}

export function startAdminServer(options: AdminServerOptions): AdminServer {
  const headers = { "x-torus-metadata": options.metaService === undefined ? "elsewhere" : "embedded" };
  let server: Bun.Server<undefined>;
  try {
    server = Bun.serve({
      hostname: options.host,
      port: options.port,
      idleTimeout: 120,
      maxRequestBodySize: BODY_BYTES_MAX,
      fetch: async (request) => {
        const answer = await options.metaService?.handle(request);
        if (answer !== undefined) return answer;
        switch (new URL(request.url).pathname) {
          case "/healthz":
            return new Response("ok\n", { headers });
          case "/readyz": {
            const { ready, reasons } = options.readiness();
            return new Response(ready ? "ready\n" : `${reasons.join("\n")}\n`, {
              status: ready ? 200 : 503,
              headers,
            });
          }
          case "/status":
            return Response.json(await options.status(), { headers });
          case "/metrics":
            return new Response(await options.metrics(), {
              headers: { ...headers, "content-type": "text/plain; version=0.0.4; charset=utf-8" },
            });
          default:
            return new Response("not found\n", { status: 404, headers });
        }
      },
      error: (error) => new Response(`${error.message}\n`, { status: 500, headers }),
    });
  } catch (error) {
    throw new IoError(
      "listen-failed",
      `Cannot listen on ${options.host}:${options.port}: ${error instanceof Error ? error.message : error}; give another --port, or stop what listens there`,
      { cause: error },
    );
  }
  return {
    url: `http://${options.host}:${server.port}`,
    stop: () => server.stop(true),
  };
}
