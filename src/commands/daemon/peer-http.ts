/** The storage service on HTTP, for a peer whose address begins with http://: Connect calls, handed to the store's thread. */
import { IoError } from "../../base/io";
import { createUnaryHandler } from "../../net/connect";
import type { DataPlane } from "../data-plane";

export interface PeerHttpServer {
  /** `host:port` that was bound. */
  readonly address: string;
  stop(): Promise<void>;
}

/** Where to listen: on the network, or behind a TLS gate on a unix socket. */
export type PeerHttpAddress =
  | { readonly hostname: string; readonly port: number }
  | { readonly unix: string };

/** `client`: whose access to volumes is limited by their lists; undefined: nobody's. */
export function startPeerHttpServer(
  address: PeerHttpAddress,
  plane: DataPlane,
  onRefused: (message: string) => void,
  client?: string,
): PeerHttpServer {
  const handle = createUnaryHandler({
    call: (procedure, body) => plane.storageCall(procedure, body, client),
    onTooLarge: onRefused,
  });
  const shared = {
    // The handler limits what it reads of a body, and has refusals logged.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    idleTimeout: 120,
    fetch: (request: Request) => handle(request) ?? new Response("not found\n", { status: 404 }),
    error: (error: Error) => new Response(`${error.message}\n`, { status: 500 }),
  };
  if ("unix" in address) {
    const { idleTimeout: _, ...options } = shared;
    const server = Bun.serve({ ...options, unix: address.unix });
    return { address: `unix:${address.unix}`, stop: () => server.stop(true) };
  }
  const { hostname, port } = address;
  try {
    const server = Bun.serve({ ...shared, hostname: hostname.replace(/^\[|\]$/g, ""), port });
    return { address: `${hostname}:${server.port}`, stop: () => server.stop(true) };
  } catch (error) {
    throw new IoError(
      "listen-failed",
      `Cannot listen on ${hostname}:${port}: ${error instanceof Error ? error.message : error}; give another --peer-address, or stop what listens there`,
      { cause: error },
    );
  }
}
