/**
 * Reading JSON values of metadata with every field checked: a value that another version, another program or a
 * bad disk left behind becomes a MetaError "bad-record" that names key and field, never a crash or a wrong number.
 * Every record carries its format; a newer one than this program knows is refused by name.
 */
import type { KeyValue } from "../kv";
import { MetaError } from "../errors";

export const RECORD_FORMAT = 1;
/** A longer record is damaged; ring tables and statistics are the longest. */
const RECORD_BYTES_MAX = 1024 * 1024;

export function badRecord(key: string, reason: string, cause?: unknown): MetaError {
  return new MetaError(
    "bad-record",
    `Cannot use metadata record ${key}: ${reason}; restore it from a backup`,
    {
      cause,
    },
  );
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

/** The stored form: UTF-8 JSON with the format first. */
export function encodeRecord(record: object): Uint8Array {
  return encoder.encode(JSON.stringify({ format: RECORD_FORMAT, ...record }));
}

export function decodeRecord(entry: KeyValue): Fields {
  if (entry.value.length > RECORD_BYTES_MAX) throw badRecord(entry.key, `${entry.value.length} bytes long`);
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(entry.value));
  } catch (error) {
    throw badRecord(entry.key, "it is not JSON text", error);
  }
  const fields = new Fields(entry.key, "", value);
  const format = fields.integer("format", 1);
  if (format > RECORD_FORMAT)
    throw new MetaError(
      "newer-format",
      `Cannot use metadata record ${entry.key}: its format ${format} is newer than ${RECORD_FORMAT}; use a newer torus`,
    );
  return fields;
}

export class Fields {
  readonly #key: string;
  readonly #path: string;
  readonly #object: Readonly<Record<string, unknown>>;

  constructor(key: string, path: string, value: unknown) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw badRecord(key, `${path === "" ? "it" : path} is not an object`);
    this.#key = key;
    this.#path = path;
    this.#object = value as Record<string, unknown>;
  }

  has(name: string): boolean {
    return this.#object[name] !== undefined;
  }

  raw(name: string): unknown {
    return this.#object[name];
  }

  integer(name: string, min: number, max: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.#object[name];
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max)
      throw this.#bad(name, `is not a whole number of ${min} to ${max}`);
    return value;
  }

  number(name: string, min: number): number {
    const value = this.#object[name];
    if (typeof value !== "number" || !Number.isFinite(value) || value < min)
      throw this.#bad(name, `is not a number of at least ${min}`);
    return value;
  }

  string(name: string, lengthMax = 4096): string {
    const value = this.#object[name];
    if (typeof value !== "string" || value.length > lengthMax)
      throw this.#bad(name, `is not text of at most ${lengthMax} characters`);
    return value;
  }

  oneOf<T extends string>(name: string, choices: readonly T[]): T {
    const value = this.string(name);
    if (!choices.includes(value as T)) throw this.#bad(name, `is not one of ${choices.join(", ")}`);
    return value as T;
  }

  object(name: string): Fields {
    return new Fields(this.#key, this.#join(name), this.#object[name]);
  }

  objectOrNull<T>(name: string, decode: (fields: Fields) => T): T | null {
    return this.#object[name] === null ? null : decode(this.object(name));
  }

  objects<T>(name: string, countMax: number, decode: (fields: Fields) => T): T[] {
    return this.#array(name, countMax).map((value, index) =>
      decode(new Fields(this.#key, `${this.#join(name)}[${index}]`, value)),
    );
  }

  integers(name: string, countMax: number, min: number, max: number): number[] {
    return this.#array(name, countMax).map((value) => {
      if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max)
        throw this.#bad(name, `holds something else than whole numbers of ${min} to ${max}`);
      return value;
    });
  }

  strings(name: string, countMax: number, lengthMax: number): string[] {
    return this.#array(name, countMax).map((value) => {
      if (typeof value !== "string" || value.length > lengthMax)
        throw this.#bad(name, `holds something else than texts of at most ${lengthMax} characters`);
      return value;
    });
  }

  /** Runs one of the id parsers, which throw errors of their own. */
  parsed<T>(name: string, parse: (text: string) => T): T {
    const text = this.string(name);
    try {
      return parse(text);
    } catch (error) {
      throw badRecord(this.#key, `${this.#join(name)} is "${text.slice(0, 64)}"`, error);
    }
  }

  fail(reason: string): MetaError {
    return badRecord(this.#key, reason);
  }

  #array(name: string, countMax: number): unknown[] {
    const value = this.#object[name];
    if (!Array.isArray(value) || value.length > countMax)
      throw this.#bad(name, `is not a list of at most ${countMax} entries`);
    return value;
  }

  #join(name: string): string {
    return this.#path === "" ? name : `${this.#path}.${name}`;
  }

  #bad(name: string, reason: string): MetaError {
    return badRecord(this.#key, `${this.#join(name)} ${reason}`);
  }
}
