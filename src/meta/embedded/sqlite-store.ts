/**
 * The embedded default: the same store with every change in an SQLite file before it is answered (WAL,
 * synchronous=FULL, so a commit is one fsync). SQLite is the journal; reads come from memory, which is small. The
 * file is locked for as long as it is open, so that two processes cannot both believe to be the metadata service.
 * Leases get their full time again after a restart (R12): nobody could have renewed them meanwhile.
 *
 *   entries(key, value, create_revision, mod_revision, lease)   leases(id, ttl_ms)   state(name, value)
 */
import { Database, type SQLQueryBindings, SQLiteError } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { Clock, Random } from "../../base";
import { MetaError, unknownOutcome } from "../errors";
import type { KeyValue, LeaseId } from "../kv";
import { EmbeddedStore, type Journal } from "./embedded-store";
import { RevisionState, type TransactionPlan } from "./revision-state";

/** SQLite result code "database or disk is full". */
const SQLITE_FULL = 13;
/** "TORU": a file that carries another application id is not ours. */
const APPLICATION_ID = 0x544f5255;
const FORMAT_VERSION = 1;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL, lease TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS leases (id TEXT PRIMARY KEY, ttl_ms INTEGER NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
  INSERT OR IGNORE INTO state VALUES ('revision', 1);
`;

function explain(path: string, error: unknown): MetaError {
  const text = error instanceof Error ? error.message : String(error);
  const code = error instanceof SQLiteError ? (error.code ?? "") : "";
  if (code.startsWith("SQLITE_BUSY") || code.startsWith("SQLITE_LOCKED"))
    return new MetaError(
      "in-use",
      `Cannot open metadata at ${path}: another process has it open; talk to that daemon instead (--meta http://HOST:PORT) or stop it`,
      { cause: error },
    );
  if (code.startsWith("SQLITE_NOTADB") || code.startsWith("SQLITE_CORRUPT"))
    return new MetaError(
      "damaged",
      `Cannot open metadata at ${path}: it is not a sound SQLite file (${text}); restore it from a backup`,
      { cause: error },
    );
  return new MetaError("damaged", `Cannot open metadata at ${path}: ${text}; check the path and the disk`, {
    cause: error,
  });
}

export interface SqliteOptions {
  /** The file grows no further; writes are then refused as on a full disk. */
  readonly sizeBytesMax?: number;
}

/** A hundred times what the largest planned cluster needs. */
const SIZE_BYTES_MAX = 8 * 2 ** 30;

/** Opens or makes the file; throws "in-use" when another process (or this one) has it open. */
export function openSqliteStore(
  path: string,
  clock: Clock,
  random: Random,
  options: SqliteOptions = {},
): EmbeddedStore {
  let database: Database | undefined;
  try {
    mkdirSync(dirname(path), { recursive: true });
    database = new Database(path, { create: true, readwrite: true, strict: true });
    const journal = new SqliteJournal(path, database, options.sizeBytesMax ?? SIZE_BYTES_MAX);
    const state = journal.load(clock.nowMs());
    return new EmbeddedStore({ description: `sqlite:${path}`, clock, random, state, journal });
  } catch (error) {
    database?.close();
    throw error instanceof MetaError ? error : explain(path, error);
  }
}

class SqliteJournal implements Journal {
  readonly #path: string;
  readonly #database: Database;
  #poison: MetaError | undefined;

  constructor(path: string, database: Database, sizeBytesMax: number) {
    this.#path = path;
    this.#database = database;
    // Exclusive before the first access of the WAL: then SQLite keeps no shared memory file and never lets go.
    database.run("PRAGMA busy_timeout = 0");
    database.run("PRAGMA locking_mode = EXCLUSIVE");
    const id = this.#pragma("application_id");
    const isNew = id === 0 && this.#pragma("schema_version") === 0;
    if (!isNew && id !== APPLICATION_ID)
      throw new MetaError("damaged", `Cannot open metadata at ${path}: it belongs to another program`);
    const version = this.#pragma("user_version");
    if (version > FORMAT_VERSION)
      throw new MetaError(
        "newer-format",
        `Cannot open metadata at ${path}: its format ${version} is newer than ${FORMAT_VERSION}; use a newer torus`,
      );
    database.run("PRAGMA journal_mode = WAL");
    database.run("PRAGMA synchronous = FULL");
    database.run(`PRAGMA max_page_count = ${Math.floor(sizeBytesMax / this.#pragma("page_size"))}`);
    database.run("BEGIN EXCLUSIVE");
    database.run(`PRAGMA application_id = ${APPLICATION_ID}`);
    database.run(`PRAGMA user_version = ${FORMAT_VERSION}`);
    database.run(SCHEMA);
    database.run("COMMIT");
  }

  load(nowMs: number): RevisionState {
    const state = this.#database.query("SELECT value FROM state WHERE name = 'revision'").get() as {
      value: number;
    };
    const rows = this.#database.query("SELECT * FROM entries ORDER BY key").all() as {
      key: string;
      value: Uint8Array;
      create_revision: number;
      mod_revision: number;
      lease: string;
    }[];
    const leases = this.#database.query("SELECT id, ttl_ms FROM leases").all() as {
      id: string;
      ttl_ms: number;
    }[];
    return new RevisionState(
      state.value,
      rows.map(
        (row): KeyValue => ({
          key: row.key,
          value: row.value,
          createRevision: row.create_revision,
          modRevision: row.mod_revision,
          lease: row.lease,
        }),
      ),
      leases.map((lease) => ({ id: lease.id, ttlMs: lease.ttl_ms })),
      nowMs,
    );
  }

  commit(plan: TransactionPlan, endedLease?: LeaseId): void {
    this.#write(() => {
      for (const event of plan.events) {
        if (event.kind === "delete") this.#run("DELETE FROM entries WHERE key = ?", event.key);
        else {
          const { key, value, createRevision, modRevision, lease } = event.entry;
          this.#run(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            key,
            value,
            createRevision,
            modRevision,
            lease,
          );
        }
      }
      this.#run("UPDATE state SET value = ? WHERE name = 'revision'", plan.revision);
      if (endedLease !== undefined) this.#run("DELETE FROM leases WHERE id = ?", endedLease);
    });
  }

  grantLease(id: LeaseId, ttlMs: number): void {
    this.#write(() => this.#run("INSERT INTO leases VALUES (?, ?)", id, ttlMs));
  }

  close(): void {
    this.#database.close();
  }

  #run(sql: string, ...bindings: SQLQueryBindings[]): void {
    this.#database.query(sql).run(...bindings);
  }

  #pragma(name: string): number {
    const row = this.#database.query(`PRAGMA ${name}`).get() as Record<string, number>;
    return row[name] ?? 0;
  }

  /**
   * A full disk is rolled back and may end; after any other failure nobody knows what the file holds (a failed
   * fsync cannot be retried), so the store answers nothing more.
   */
  #write(body: () => void): void {
    if (this.#poison !== undefined) throw this.#poison;
    try {
      this.#database.run("BEGIN IMMEDIATE");
      body();
      this.#database.run("COMMIT");
    } catch (error) {
      if (error instanceof SQLiteError && error.errno === SQLITE_FULL && this.#rollBack())
        throw new MetaError("out-of-space", `Cannot write metadata at ${this.#path}: the disk is full`, {
          retryable: true,
          cause: error,
        });
      const text = error instanceof Error ? error.message : String(error);
      this.#poison = new MetaError(
        "damaged",
        `Cannot use metadata at ${this.#path}: an earlier write failed (${text}); check the disk and restart the daemon`,
        { cause: error },
      );
      throw unknownOutcome(
        `Cannot tell whether metadata at ${this.#path} was written: ${text}; check the disk and restart the daemon`,
        error,
      );
    }
  }

  #rollBack(): boolean {
    if (!this.#database.inTransaction) return true;
    try {
      this.#database.run("ROLLBACK");
      return true;
    } catch {
      // Then the outcome is unknown, which the caller reports with the first error.
      return false;
    }
  }
}
