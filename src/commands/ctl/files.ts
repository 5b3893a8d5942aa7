/**
 * Files a person names on the command line: what the system says of them becomes a line for that person, and where a
 * file has holes is asked of the file system, so that they are neither read nor sent.
 */
import { openSync } from "node:fs";
import { C, libc, must } from "../../base/io";
import { CommandError } from "../cli";

/** `flags` and `mode` as in open(2). Throws CommandError "io" with the system's reason. */
export function openNamed(path: string, flags: "r" | "w", mode = 0o600): number {
  try {
    return openSync(path, flags, mode);
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/, open .*$/, "") : String(error);
    throw new CommandError("io", `Cannot open ${path} to ${flags === "r" ? "read" : "write"}: ${reason}`);
  }
}

export interface FileRun {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly hole: boolean;
}

/** The runs of data and holes from `offsetBytes` to `endBytes`. Where the file system knows none, all is data. */
export function* fileRuns(file: number, offsetBytes: number, endBytes: number): Generator<FileRun> {
  let at = offsetBytes;
  while (at < endBytes) {
    const found = libc.lseek(file, at, C.SEEK_DATA);
    // Not a seekable file of a kind that has holes.
    const data = found === -C.ENXIO ? endBytes : found < 0 ? at : Math.min(found, endBytes);
    if (data > at) yield { offsetBytes: at, lengthBytes: data - at, hole: true };
    if (data >= endBytes) return;
    const next = found < 0 ? endBytes : must("look for a hole", libc.lseek(file, data, C.SEEK_HOLE));
    const end = Math.min(endBytes, Math.max(next, data + 1));
    yield { offsetBytes: data, lengthBytes: end - data, hole: false };
    at = end;
  }
}
