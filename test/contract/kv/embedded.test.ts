/** The contract over the memory and the SQLite store, and what only these have. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock, systemRandom } from "../../../src/base/io";
import { type EmbeddedStore, openMemoryStore, openSqliteStore } from "../../../src/meta";
import { keyValueContract } from "./suite";

keyValueContract("memory", {
  isShared: false,
  restart: undefined,
  start: async () => {},
  open: async () => openMemoryStore(systemClock, systemRandom),
  compact: async (store) => (store as EmbeddedStore).compact(),
  stop: async () => {},
});

const folder = mkdtempSync(join(tmpdir(), "torus-kv-"));
keyValueContract("sqlite", {
  isShared: false,
  restart: async () => {},
  start: async () => {},
  open: async () => openSqliteStore(join(folder, "meta.db"), systemClock, systemRandom),
  compact: async (store) => (store as EmbeddedStore).compact(),
  stop: async () => rmSync(folder, { recursive: true }),
});
