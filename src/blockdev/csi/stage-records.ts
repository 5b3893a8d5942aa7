/**
 * What this node has staged, one small file a volume, so that a driver that was restarted (an update, a crash) knows
 * its devices and takes them over. Written whole under another name, synced, then renamed.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { Usage } from "./capabilities";
import { CsiError } from "./errors";

export interface StageRecord {
  readonly volumeName: string;
  readonly stagingPath: string;
  readonly device: string;
  readonly usage: Usage;
}

const SUFFIX = ".json";

export class StageRecords {
  readonly #records = new Map<string, StageRecord>();

  constructor(private readonly folder: string) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(folder)) {
      if (!name.endsWith(SUFFIX)) continue;
      const path = join(folder, name);
      try {
        const record = JSON.parse(readFileSync(path, "utf8")) as StageRecord;
        this.#records.set(record.volumeName, record);
      } catch (error) {
        throw new CsiError(
          "internal",
          `Cannot read ${path}: it is damaged; remove it if its volume is not in use`,
          {
            cause: error,
          },
        );
      }
    }
  }

  all(): readonly StageRecord[] {
    return [...this.#records.values()];
  }

  get(volumeName: string): StageRecord | undefined {
    return this.#records.get(volumeName);
  }

  put(record: StageRecord): void {
    const path = this.#path(record.volumeName);
    const file = openSync(`${path}.new`, "w", 0o600);
    writeSync(file, JSON.stringify(record));
    fsyncSync(file);
    closeSync(file);
    renameSync(`${path}.new`, path);
    this.#records.set(record.volumeName, record);
  }

  remove(volumeName: string): void {
    const path = this.#path(volumeName);
    if (existsSync(path)) rmSync(path);
    this.#records.delete(volumeName);
  }

  #path(volumeName: string): string {
    return join(this.folder, `${Buffer.from(volumeName).toString("hex").slice(0, 240)}${SUFFIX}`);
  }
}
