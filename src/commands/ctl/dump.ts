/**
 * `torus ctl block dump`: a volume or snapshot into a file or a pipe. A volume is read through a snapshot of its own,
 * bound to a lease, so that the dump is one moment's state and the volume may be attached meanwhile. Holes are not
 * read; in a file they stay holes, in a pipe they are zeroes.
 */
import { closeSync, ftruncateSync, fsyncSync, openSync, writeSync } from "node:fs";
import { systemClock, systemRandom } from "../../base/io";
import { type Client, startClient, volumeArgs } from "../client";
import { CommandError, leaf, metaArgs } from "../cli";
import { type CommandDevice, parseExportName, PIECE_BYTES_MAX } from "../data-plane";
import { outputArgs, Progress } from "../output";
import { makeSnapshot } from "./snapshot";

const PIECES_AHEAD = 8;
const EXTENTS_AT_ONCE = 256;
const SCAN_BYTES = 64 * 2 ** 30;
const LEASE_TTL_MS = 60_000;
const LEASE_RENEW_MS = 15_000;

/** A run of data (or of nothing) in a device. */
interface Run {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly hole: boolean;
}

/** The device's runs from start to end, none longer than a piece unless it is a hole. */
export async function* runsOf(device: CommandDevice): AsyncGenerator<Run> {
  let offsetBytes = 0;
  while (offsetBytes < device.sizeBytes) {
    const scan = Math.min(SCAN_BYTES, device.sizeBytes - offsetBytes);
    for (const extent of await device.extents(offsetBytes, scan, EXTENTS_AT_ONCE)) {
      let left = extent.lengthBytes;
      while (left > 0) {
        const lengthBytes = extent.hole ? left : Math.min(left, PIECE_BYTES_MAX);
        yield { offsetBytes, lengthBytes, hole: extent.hole };
        offsetBytes += lengthBytes;
        left -= lengthBytes;
      }
    }
  }
}

/** Reads the device's data, several pieces ahead, and hands out the runs in order; a hole comes without bytes. */
export async function* readRuns(
  device: CommandDevice,
): AsyncGenerator<Run & { readonly bytes: Uint8Array | undefined }> {
  const ahead: { readonly run: Run; readonly bytes: Promise<Uint8Array> | undefined }[] = [];
  const next = async () => {
    const first = ahead.shift() as (typeof ahead)[0];
    return { ...first.run, bytes: await first.bytes };
  };
  for await (const run of runsOf(device)) {
    const bytes = run.hole ? undefined : device.read(run.offsetBytes, run.lengthBytes);
    // Its failure is met when its turn comes.
    bytes?.catch(() => undefined);
    ahead.push({ run, bytes });
    if (ahead.length > PIECES_AHEAD) yield await next();
  }
  while (ahead.length > 0) yield await next();
}

/** Opens `VOLUME@SNAPSHOT`, or a temporary snapshot of `VOLUME` as it is now, for reading; `work` is handed it. */
export async function withReadable<T>(
  client: Client,
  name: string,
  work: (device: CommandDevice) => Promise<T>,
): Promise<T> {
  const { volume, snapshot } = parseExportName(name);
  if (snapshot !== undefined) return withSnapshot(client, volume, snapshot, work);
  const { store } = client.metadata.context;
  const lease = await store.grantLease(LEASE_TTL_MS);
  let lost: unknown;
  let timer = systemClock.schedule(LEASE_RENEW_MS, renew);
  function renew() {
    store.keepLeaseAlive(lease).then(
      () => {
        timer = systemClock.schedule(LEASE_RENEW_MS, renew);
      },
      (error: unknown) => {
        lost = error;
      },
    );
  }
  const temporary = `dump-${systemRandom.hex(6)}`;
  try {
    await makeSnapshot(async () => client, client.metadata, volume, temporary, lease);
    const result = await withSnapshot(client, volume, temporary, work);
    if (lost !== undefined)
      throw new CommandError(
        "io",
        `Cannot vouch for the copy of "${name}": the snapshot behind it was lost`,
        lost,
      );
    return result;
  } finally {
    timer.cancel();
    // The snapshot goes with its lease.
    await store.revokeLease(lease);
  }
}

async function withSnapshot<T>(
  client: Client,
  volume: string,
  snapshot: string,
  work: (device: CommandDevice) => Promise<T>,
): Promise<T> {
  const device = await client.plane.openDevice({ volume, snapshot });
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}

interface Sink {
  put(offsetBytes: number, bytes: Uint8Array): Promise<void> | void;
  hole(offsetBytes: number, lengthBytes: number): Promise<void> | void;
  end(sizeBytes: number): Promise<void> | void;
}

function writeWhole(file: number, bytes: Uint8Array, offsetBytes: number): void {
  let written = 0;
  while (written < bytes.length)
    written += writeSync(file, bytes, written, bytes.length - written, offsetBytes + written);
}

function fileSink(path: string): Sink & { close(): void } {
  const file = openSync(path, "w", 0o600);
  return {
    put: (offsetBytes, bytes) => writeWhole(file, bytes, offsetBytes),
    hole: () => undefined,
    end: (sizeBytes) => {
      ftruncateSync(file, sizeBytes);
      fsyncSync(file);
    },
    close: () => closeSync(file),
  };
}

/** Standard output, waiting for whoever reads it. */
export function writeToPipe(bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

function pipeSink(): Sink & { close(): void } {
  const zeroes = new Uint8Array(PIECE_BYTES_MAX);
  return {
    put: (_, bytes) => writeToPipe(bytes),
    hole: async (_, lengthBytes) => {
      for (let left = lengthBytes; left > 0; left -= zeroes.length)
        await writeToPipe(zeroes.subarray(0, Math.min(left, zeroes.length)));
    },
    end: () => undefined,
    close: () => undefined,
  };
}

export const dumpCommand = leaf({
  name: "dump",
  description: "Copy a volume or snapshot into a file or a pipe",
  examples: [
    "torus ctl block dump data data.img",
    "torus ctl block dump data@monday - | zstd > monday.img.zst",
  ],
  args: {
    name: { type: "positional", description: "VOLUME or VOLUME@SNAPSHOT", required: true },
    file: { type: "positional", description: "File, or - for standard output", required: true },
    progress: { type: "boolean", description: "Show progress even where it is not a terminal" },
    si: outputArgs.si,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const client = await startClient(args);
    try {
      await withReadable(client, args.name, async (device) => {
        const sink = args.file === "-" ? pipeSink() : fileSink(args.file);
        const progress = new Progress({
          title: `Dumping ${args.name}`,
          totalBytes: device.sizeBytes,
          always: args.progress === true,
          si: args.si,
        });
        try {
          for await (const { offsetBytes, lengthBytes, bytes } of readRuns(device)) {
            if (bytes === undefined) await sink.hole(offsetBytes, lengthBytes);
            else await sink.put(offsetBytes, bytes);
            progress.add(lengthBytes);
          }
          await sink.end(device.sizeBytes);
          progress.finish();
        } finally {
          sink.close();
        }
      });
    } finally {
      await client.close();
    }
  },
});
