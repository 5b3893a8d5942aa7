/** From a location (`etcd://...`, `http://...`, `sqlite:...`, `memory:`) to an open store that has answered once. */
import { existsSync, readFileSync } from "node:fs";
import type { Clock, Random } from "../../base";
import { systemRandom } from "../../base/io";
import {
  EtcdStore,
  isMetaError,
  type KeyValueStore,
  MetaError,
  type MetaLocation,
  openMemoryStore,
  openSqliteStore,
  type ParsedMetaUrl,
  parseMetaUrl,
} from "../../meta";
import { RemoteStore } from "./remote-store";

/** A key that is read to see that the store answers; it need not exist. */
const PROBE_KEY = "torus/cluster/settings";

/**
 * `make`: a SQLite file that is not there is made; else it is "unreachable", as a mistyped path.
 * Throws "bad-url", "unreachable", "unauthenticated", "in-use", "damaged": one line that says what to do.
 * @param random for lease ids; the kernel's by default.
 */
export async function openMetadataStore(
  location: MetaLocation,
  clock: Clock,
  make: boolean,
  random: Random = systemRandom,
): Promise<KeyValueStore> {
  const parsed = parseMetaUrl(location.url);
  if (parsed.kind === "sqlite" && !make && !existsSync(parsed.path))
    throw new MetaError(
      "unreachable",
      `Cannot open metadata in sqlite:${parsed.path}: there is no such file; torus ctl init makes it, or name another place with --meta`,
    );
  const store = makeStore(parsed, location, clock, random);
  try {
    await store.get(PROBE_KEY);
    return store;
  } catch (error) {
    await store.close();
    // A deadline at the very first call means that nobody is there.
    if (isMetaError(error, "deadline"))
      throw new MetaError(
        "unreachable",
        `${error.message}; check that it runs, or name another place with --meta`,
        {
          retryable: true,
          cause: error,
        },
      );
    throw error;
  }
}

function makeStore(
  parsed: ParsedMetaUrl,
  location: MetaLocation,
  clock: Clock,
  random: Random,
): KeyValueStore {
  switch (parsed.kind) {
    case "memory":
      return openMemoryStore(clock, random);
    case "sqlite":
      return openSqliteStore(parsed.path, clock, random);
    case "remote":
      return new RemoteStore({ baseUrl: parsed.baseUrl, clock, ...remoteTls(location) });
    case "etcd": {
      const caPem = readPem("CA", location.caFile);
      const certificatePem = readPem("certificate", location.certFile);
      const keyPem = readPem("key", location.keyFile);
      if ((certificatePem === undefined) !== (keyPem === undefined))
        throw new MetaError(
          "bad-url",
          "Cannot use a client certificate for etcd without its key, or a key without its certificate; give both",
          { exitCode: 2 },
        );
      const user = parsed.user ?? location.user;
      const password = parsed.password ?? location.password;
      return new EtcdStore({
        ...{ endpoints: parsed.endpoints, clock, random },
        tls: parsed.tls || caPem !== undefined || certificatePem !== undefined,
        ...(caPem && { caPem }),
        ...(certificatePem && { certificatePem }),
        ...(keyPem && { keyPem }),
        ...(user !== undefined && { user }),
        ...(password !== undefined && { password }),
      });
    }
  }
}

function remoteTls(location: MetaLocation): { tls?: BunFetchRequestInitTLS } {
  const ca = readPem("CA", location.caFile);
  const cert = readPem("certificate", location.certFile);
  const key = readPem("key", location.keyFile);
  if (ca === undefined && cert === undefined) return {};
  return { tls: { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) } };
}

function readPem(what: string, path: string | undefined): Buffer | undefined {
  if (path === undefined) return undefined;
  let pem: Buffer;
  try {
    pem = readFileSync(path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new MetaError("bad-url", `Cannot read the ${what} file ${path}: ${reason}`, {
      exitCode: 2,
      cause: error,
    });
  }
  if (!pem.includes("-----BEGIN "))
    throw new MetaError("bad-url", `Cannot use the ${what} file ${path}: it is not in PEM form`, {
      exitCode: 2,
    });
  return pem;
}
