/** What commands that make or open volumes are told in the same words: sizes, and the read and write levels. */
import type { ArgsDef } from "citty";
import { parseSize } from "../../base";
import { UsageError } from "./errors";

const SECTOR_BYTES = 512;

/** A volume's size as a person gives it, rounded up to whole sectors: "500M" is none otherwise. Throws UnitError. */
export function parseVolumeSize(text: string): number {
  return Math.ceil(parseSize(text) / SECTOR_BYTES) * SECTOR_BYTES;
}

export type ReadLevel = "block" | "seq" | "spread";
export type WriteLevel = "all" | "quorum" | "one";

export const levelArgs = {
  "read-level": {
    type: "enum",
    options: ["block", "seq", "spread"],
    description:
      "Which copy is read first: the nearest in the ring's order (block, the default), strictly in its order (seq), or each in turn (spread)",
  },
  "write-level": {
    type: "string",
    description: "How many copies are durable before a flush is answered (default all)",
    valueHint: "all|quorum|one",
  },
} as const satisfies ArgsDef;

const WRITE_LEVELS: readonly string[] = ["all", "quorum", "one"] satisfies WriteLevel[];

/** Throws UsageError for what is none; Torus's "local" is refused with the reason. */
export function parseWriteLevel(text: string): WriteLevel {
  if (WRITE_LEVELS.includes(text)) return text as WriteLevel;
  if (text === "local")
    throw new UsageError(
      "Cannot use write level local: a write kept on one machine is lost with it, so it is not offered; use one, quorum or all",
    );
  throw new UsageError(`Cannot use write level "${text}": give all, quorum or one`);
}
