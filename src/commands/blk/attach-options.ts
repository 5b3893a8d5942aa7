/** The options that `blk attach` and `blk nbd` share. */
import type { ArgsDef } from "citty";
import { parseDuration } from "../../base";
import type { AttachVolumeOptions } from "../attach";
import { UsageError } from "../cli";

export const attachArgs = {
  method: {
    type: "enum",
    options: ["auto", "netlink", "ioctl"],
    description: "How to talk to the kernel (default auto: netlink, else ioctl)",
  },
  "read-only": { type: "boolean", description: "The kernel may only read" },
  "write-cache": {
    type: "boolean",
    description:
      "Answer writes before they are durable: faster, but if this process dies the device ends with errors",
  },
  connections: { type: "string", description: "Connections of the kernel (default 4)", valueHint: "N" },
  "block-size": {
    type: "string",
    description: "Logical block: 512, 1024, 2048 or 4096 (default)",
    valueHint: "BYTES",
  },
  "dead-timeout": {
    type: "string",
    description: "How long requests wait for a new process when this one died (default 2m)",
    valueHint: "T",
  },
} as const satisfies ArgsDef;

export interface AttachFlags {
  readonly method?: string | undefined;
  readonly "read-only"?: boolean | undefined;
  readonly "write-cache"?: boolean | undefined;
  readonly connections?: string | undefined;
  readonly "block-size"?: string | undefined;
  readonly "dead-timeout"?: string | undefined;
}

function parseCount(what: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,5}$/.test(text)) throw new UsageError(`Cannot use ${what} "${text}": give a number`);
  return Number(text);
}

export function attachOptions(
  name: string,
  device: string | undefined,
  flags: AttachFlags,
): AttachVolumeOptions {
  const deadMs = flags["dead-timeout"] === undefined ? undefined : parseDuration(flags["dead-timeout"]);
  return {
    name,
    device,
    method: flags.method as AttachVolumeOptions["method"],
    readOnly: flags["read-only"],
    writeCache: flags["write-cache"],
    connectionCount: parseCount("--connections", flags.connections),
    blockSizeBytes: parseCount("--block-size", flags["block-size"]),
    deadConnectionTimeoutS: deadMs === undefined ? undefined : Math.ceil(deadMs / 1000),
  };
}
