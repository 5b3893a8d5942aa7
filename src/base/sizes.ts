/**
 * Sizes and durations as people type and read them. Plain suffixes are powers of 1000 (K, M, G, T, P; "KB" is the
 * same), suffixes with an i are powers of 1024 (KiB, MiB, ...), as the first Torus had them. Values are exact
 * integers: a size that is no whole number of bytes, or above 2^53-1, is refused rather than rounded.
 */
import { TorusError } from "./errors";

export type UnitErrorCode = "bad-size" | "bad-duration";

/** What a person typed is no size or no duration; always wrong usage (exit code 2). */
export class UnitError extends TorusError<UnitErrorCode> {
  constructor(code: UnitErrorCode, message: string) {
    super(code, message, { exitCode: 2 });
  }
}

const SIZE_PREFIXES = ["", "k", "m", "g", "t", "p"] as const;
const SIZE_PATTERN = /^(\d{1,16})(?:\.(\d{1,9}))?\s*([kmgtp]?)(i?)b?$/i;

/** Bytes of `512KiB`, `20G`, `1.5 TB`, `4096`; throws UnitError. */
export function parseSize(text: string): number {
  const match = SIZE_PATTERN.exec(text.trim());
  const prefix = match?.[3]?.toLowerCase() ?? "";
  const binary = match?.[4] !== undefined && match[4] !== "";
  if (!match || (binary && prefix === ""))
    throw new UnitError(
      "bad-size",
      `Cannot read size "${text}": give a number with B, K, M, G, T (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)`,
    );
  const unit = BigInt(binary ? 1024 : 1000) ** BigInt(SIZE_PREFIXES.indexOf(prefix as "k"));
  const fraction = match[2] ?? "";
  const scale = 10n ** BigInt(fraction.length);
  const scaled = BigInt(`${match[1]}${fraction}`) * unit;
  if (scaled % scale !== 0n)
    throw new UnitError("bad-size", `Cannot read size "${text}": it is not a whole number of bytes`);
  const bytes = scaled / scale;
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER))
    throw new UnitError("bad-size", `Cannot read size "${text}": it is above 2^53-1 bytes`);
  return Number(bytes);
}

/** A size given outright, or as a share of something the caller knows (`80%` of the file system). */
export type SizeOrShare =
  | { readonly kind: "bytes"; readonly bytes: number }
  | { readonly kind: "share"; readonly percent: number };

/** Reads `20GiB` or `80%` (0 < percent <= 100); throws UnitError. */
export function parseSizeOrShare(text: string): SizeOrShare {
  const match = /^(\d{1,3}(?:\.\d{1,3})?)\s*%$/.exec(text.trim());
  if (!match) return { kind: "bytes", bytes: parseSize(text) };
  const percent = Number(match[1]);
  if (percent <= 0 || percent > 100)
    throw new UnitError("bad-size", `Cannot read share "${text}": give more than 0 % and at most 100 %`);
  return { kind: "share", percent };
}

/** Bytes per second of `100MiB`, `100MiB/s` or `100M/s`; throws UnitError. */
export function parseRate(text: string): number {
  return parseSize(text.trim().replace(/\/s$/i, ""));
}

export interface SizeFormat {
  /** Powers of 1000 (kB, MB) instead of 1024 (KiB, MiB). */
  readonly si?: boolean;
}

const BINARY_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] as const;
const SI_UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"] as const;

/** `1.50 GiB`, `512 KiB`, `0 B`: three significant digits, whole numbers without decimals. For reading, not for parsing back. */
export function formatSize(bytes: number, format: SizeFormat = {}): string {
  const step = format.si ? 1000 : 1024;
  const units = format.si ? SI_UNITS : BINARY_UNITS;
  let value = Math.abs(bytes);
  let unitIndex = 0;
  // Half a unit below the step would round up to it, so the next unit takes over before.
  while (unitIndex < units.length - 1 && value >= step - 0.5) {
    value /= step;
    unitIndex++;
  }
  return `${bytes < 0 ? "-" : ""}${threeDigits(value)} ${units[unitIndex]}`;
}

export function formatRate(bytesPerSecond: number, format: SizeFormat = {}): string {
  return `${formatSize(bytesPerSecond, format)}/s`;
}

function threeDigits(value: number): string {
  if (Number.isInteger(value) || value >= 99.95) return String(Math.round(value));
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

const DURATION_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
/** One hundred years: anything longer is a slip of the finger, and would overflow timers. */
export const DURATION_MS_MAX = 100 * 365 * 86_400_000;

/** Milliseconds of `500ms`, `5s`, `1m`, `1h30m`, `7d`; `0` is allowed bare. Throws UnitError. */
export function parseDuration(text: string): number {
  const trimmed = text.trim().toLowerCase();
  if (trimmed === "0") return 0;
  if (!/^(\d{1,12}(\.\d{1,6})?(ms|s|m|h|d))+$/.test(trimmed))
    throw new UnitError(
      "bad-duration",
      `Cannot read duration "${text}": give a number with ms, s, m, h or d`,
    );
  let totalMs = 0;
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g))
    totalMs += Number(amount) * (DURATION_MS[unit as string] as number);
  if (totalMs > DURATION_MS_MAX)
    throw new UnitError("bad-duration", `Cannot read duration "${text}": it is above 100 years`);
  return Math.round(totalMs);
}

/** `350ms`, `12s`, `4m10s`, `2h5m`, `3d4h`: the two largest units. */
export function formatDuration(durationMs: number): string {
  const sign = durationMs < 0 ? "-" : "";
  const ms = Math.round(Math.abs(durationMs));
  if (ms < 1000) return `${sign}${ms}ms`;
  if (ms < 9_950) return `${sign}${(ms / 1000).toFixed(1).replace(/\.0$/, "")}s`;
  const seconds = Math.round(ms / 1000);
  const parts: readonly (readonly [number, string])[] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  const shown = parts.slice(first, first + 2).filter(([amount]) => amount > 0);
  return sign + shown.map(([amount, unit]) => `${amount}${unit}`).join("");
}

/** `1 volume`, `2 volumes`, for nouns whose plural takes an s. */
export function formatCount(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
