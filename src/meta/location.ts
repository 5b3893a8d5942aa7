/**
 * Where metadata lives, as people write it: `etcd://h1:2379,h2:2379`, `http://HOST:PORT` (a daemon with embedded
 * metadata), `sqlite:PATH`, `memory:`. Opening it is src/net/meta's, which knows the remote store too.
 */
import { usageError } from "./errors";

/** Everything that leads to a store; secrets are never part of a printed form. */
export interface MetaLocation {
  readonly url: string;
  /** PEM files; any of them makes the connection to etcd TLS. */
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly caFile?: string;
  readonly user?: string;
  readonly password?: string;
}

export type ParsedMetaUrl =
  | {
      readonly kind: "etcd";
      /** `host:port` each. */
      readonly endpoints: readonly string[];
      /** `etcds://`: TLS with the system's CAs when no CA file is given. */
      readonly tls: boolean;
      readonly user?: string;
      readonly password?: string;
    }
  | { readonly kind: "remote"; readonly baseUrl: string }
  | { readonly kind: "sqlite"; readonly path: string }
  | { readonly kind: "memory" };

export const ETCD_PORT = 2379;
export const DAEMON_PORT = 4321;
const ENDPOINTS_MAX = 32;
const FORMS = "give etcd://HOST:PORT,..., http://HOST:PORT, sqlite:PATH or memory:";

/** As it is shown to people, also where it cannot be used: with *** for a password, which ends at the last @. */
export function shownMetaUrl(url: string): string {
  return url.startsWith("sqlite:")
    ? url
    : url.replace(/^((?:[a-z]+:\/\/|(?![a-z]+:\/\/))[^:@]*):.*@/s, "$1:***@");
}

function badUrl(url: string, reason: string): Error {
  const shown = shownMetaUrl(url).slice(0, 200);
  return usageError("bad-url", `Cannot use metadata location "${shown}": ${reason}; ${FORMS}`);
}

/** Throws "bad-url". */
export function parseMetaUrl(url: string): ParsedMetaUrl {
  const match = /^([a-z]+):(.*)$/s.exec(url);
  const scheme = match?.[1];
  const rest = match?.[2] ?? "";
  switch (scheme) {
    case "memory":
      if (rest !== "" && rest !== "//") throw badUrl(url, "memory: takes nothing more");
      return { kind: "memory" };
    case "sqlite": {
      const path = rest.startsWith("//") ? rest.slice(2) : rest;
      if (path === "" || path.includes("\0")) throw badUrl(url, "the path is missing");
      return { kind: "sqlite", path };
    }
    case "http":
    case "https":
      return { kind: "remote", baseUrl: parseBaseUrl(url) };
    case "etcd":
    case "etcds":
      if (!rest.startsWith("//")) throw badUrl(url, "// is missing");
      return parseEtcd(url, rest.slice(2), scheme === "etcds");
    default:
      throw badUrl(url, scheme === undefined ? "it has no scheme" : `unknown scheme "${scheme}"`);
  }
}

function parseBaseUrl(url: string): string {
  if (!URL.canParse(url)) throw badUrl(url, "it is no URL");
  const parsed = new URL(url);
  if (parsed.username !== "" || parsed.password !== "")
    throw badUrl(url, "user and password are not used here");
  if (parsed.pathname !== "/" || parsed.search !== "" || parsed.hash !== "")
    throw badUrl(url, "nothing may follow the port");
  const port = parsed.port === "" && !/:\d+\/?$/.test(url) ? `:${DAEMON_PORT}` : "";
  return `${parsed.origin}${port}`;
}

function parseEtcd(url: string, rest: string, tls: boolean): ParsedMetaUrl {
  const at = rest.lastIndexOf("@");
  const credentials = at === -1 ? undefined : rest.slice(0, at);
  const hosts = rest
    .slice(at + 1)
    .replace(/\/$/, "")
    .split(",");
  if (hosts.length > ENDPOINTS_MAX) throw badUrl(url, `more than ${ENDPOINTS_MAX} endpoints`);
  const endpoints = hosts.map((host) => parseEndpoint(url, host.trim()));
  if (new Set(endpoints).size !== endpoints.length) throw badUrl(url, "an endpoint is named twice");
  if (credentials === undefined) return { kind: "etcd", endpoints, tls };
  const colon = credentials.indexOf(":");
  const decode = (text: string) => {
    try {
      return decodeURIComponent(text);
    } catch {
      throw badUrl(url, "user or password is not percent-encoded properly");
    }
  };
  const user = decode(colon === -1 ? credentials : credentials.slice(0, colon));
  if (user === "") throw badUrl(url, "the user is missing");
  return {
    ...{ kind: "etcd", endpoints, tls, user },
    ...(colon !== -1 && { password: decode(credentials.slice(colon + 1)) }),
  };
}

/** `host`, `host:port`, `1.2.3.4:port`, `[::1]:port`. */
function parseEndpoint(url: string, text: string): string {
  const match = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?$/.exec(text);
  const port = match?.[2] === undefined ? ETCD_PORT : Number(match[2]);
  if (!match || port < 1 || port > 65_535) throw badUrl(url, `"${text}" is no HOST:PORT`);
  return `${match[1]}:${port}`;
}
