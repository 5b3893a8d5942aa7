/** The options that `blk attach` and `blk nbd` share. */
import type { ArgsDef } from "citty";
import { parseDuration } from "../../base";
import { BLOCK_SIZES, CONNECTION_COUNT_MAX } from "../../blockdev";
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

function parseConnections(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > CONNECTION_COUNT_MAX)
    throw new UsageError(`Cannot use --connections "${text}": give 1 to ${CONNECTION_COUNT_MAX}`);
  return count;
}

function parseBlockSize(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!BLOCK_SIZES.includes(Number(text)))
    throw new UsageError(`Cannot use --block-size "${text}": give one of ${BLOCK_SIZES.join(", ")}`);
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
    connectionCount: parseConnections(flags.connections),
    blockSizeBytes: parseBlockSize(flags["block-size"]),
    deadConnectionTimeoutS: deadMs === undefined ? undefined : Math.ceil(deadMs / 1000),
  };
}
