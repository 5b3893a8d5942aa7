/**
 * What a scrub remembers over a restart, as text for the daemon's state: where it is and what it found so far. Text
 * from another version or a damaged file starts the scrub anew; nothing else depends on it.
 */
export interface ScrubProgress {
  /** Of the local listing; undefined at the start. */
  readonly cursor: string | undefined;
  readonly startedWallMs: number;
  readonly blocksChecked: number;
  readonly bytesChecked: number;
  readonly blocksCorrupt: number;
  readonly blocksRepaired: number;
  /** When the last whole scrub ended; 0 before the first. */
  readonly finishedWallMs: number;
}

/** Where the progress is kept between runs of the daemon. */
export interface ScrubProgressStore {
  load(): Promise<string | undefined>;
  save(text: string): Promise<void>;
}

export function encodeProgress(progress: ScrubProgress): string {
  return JSON.stringify({ version: 1, ...progress });
}

/** Undefined for anything that is not a progress of this version. */
export function decodeProgress(text: string | undefined): ScrubProgress | undefined {
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return isProgress(value) ? value : undefined;
  } catch {
    // Not JSON: a damaged file, which costs one scrub from the start.
    return undefined;
  }
}

const COUNTS = [
  "startedWallMs",
  "blocksChecked",
  "bytesChecked",
  "blocksCorrupt",
  "blocksRepaired",
  "finishedWallMs",
] as const;

function isProgress(value: unknown): value is ScrubProgress {
  if (typeof value !== "object" || value === null) return false;
  const fields = value as Record<string, unknown>;
  if (fields.version !== 1) return false;
  if (fields.cursor !== undefined && typeof fields.cursor !== "string") return false;
  return COUNTS.every((name) => Number.isSafeInteger(fields[name]) && (fields[name] as number) >= 0);
}
