/** The HTTP server of an attached client: what it measures, and whether it is well. A daemon has its own. */
import { IoError } from "../../base/io";
import { UsageError } from "../cli";

export interface ClientHttpOptions {
  /** `HOST:PORT`; port 0 takes a free one. */
  readonly address: string;
  readonly metrics: () => Promise<string>;
  readonly contentType: string;
  /** Reasons why this client does not serve its volumes well; empty when it does. */
  readonly problems: () => Promise<readonly string[]>;
}

export interface ClientHttpServer {
  readonly url: string;
  stop(): Promise<void>;
}

/** Requests here have no body. */
const BODY_BYTES_MAX = 4096;

/** Throws "listen-failed". */
export function startClientHttp(options: ClientHttpOptions): ClientHttpServer {
  const match = /^(.+):(\d{1,5})$/.exec(options.address);
  if (match === null || Number(match[2]) > 65_535)
    throw new UsageError(`Cannot use --http ${options.address}: give HOST:PORT`);
  const hostname = (match[1] as string).replace(/^\[|\]$/g, "");
  try {
    const server = Bun.serve({
      hostname,
      port: Number(match[2]),
      maxRequestBodySize: BODY_BYTES_MAX,
      fetch: async (request) => {
        if (request.method !== "GET" && request.method !== "HEAD")
          return new Response("only GET\n", { status: 405, headers: { allow: "GET, HEAD" } });
        switch (new URL(request.url).pathname) {
          case "/healthz":
            return new Response("ok\n");
          case "/readyz": {
            const problems = await options.problems();
            return problems.length === 0
              ? new Response("ready\n")
              : new Response(`${problems.join("\n")}\n`, { status: 503 });
          }
          case "/metrics":
            return new Response(await options.metrics(), {
              headers: { "content-type": options.contentType },
            });
          default:
            return new Response("not found\n", { status: 404 });
        }
      },
      error: (error) => new Response(`${error.message}\n`, { status: 500 }),
    });
    return { url: `http://${match[1]}:${server.port}`, stop: () => server.stop(true) };
  } catch (error) {
    throw new IoError(
      "listen-failed",
      `Cannot listen on ${options.address}: ${error instanceof Error ? error.message : error}; give another --http`,
      { cause: error },
    );
  }
}
