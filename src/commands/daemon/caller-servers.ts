/**
 * HTTP servers behind a TLS gate, one for each client: the runtime's server does not tell who its client is, so each
 * has a unix socket of its own in a private directory, opened when the client comes first.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { TlsSubject } from "../../net/tls";
import { type Caller, roleOf } from "./roles";

/** Different clients since the start. */
const CALLERS_MAX = 4096;

export interface BoundServer {
  stop(): Promise<void>;
}

export class CallerServers {
  readonly #directory: string;
  readonly #servers = new Map<string, { readonly path: string; readonly server: BoundServer }>();

  /** `serve` answers one caller's requests on a unix socket. */
  constructor(
    directory: string,
    prefix: string,
    private readonly serve: (path: string, caller: Caller) => BoundServer,
  ) {
    this.#directory = mkdtempSync(join(directory, prefix));
  }

  /** Where this client's bytes go; undefined when too many clients came. */
  pathFor({ commonName, organization }: TlsSubject): string | undefined {
    const caller: Caller = { role: roleOf(organization), name: commonName };
    // All administrators are alike, and so are all peers.
    const key = caller.role === "client" ? `client ${caller.name}` : caller.role;
    const known = this.#servers.get(key);
    if (known !== undefined) return known.path;
    if (this.#servers.size >= CALLERS_MAX) return undefined;
    const path = join(this.#directory, String(this.#servers.size));
    this.#servers.set(key, { path, server: this.serve(path, caller) });
    return path;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#servers.values()].map(({ server }) => server.stop()));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
