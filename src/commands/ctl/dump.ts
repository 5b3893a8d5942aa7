/**
 * `torus ctl block dump`: a volume or snapshot, as it is at one moment, into a file or a pipe. Holes are not read; in
 * a file they stay holes, in a pipe they are zeroes.
 */
import { closeSync, ftruncateSync, fsyncSync, writeSync } from "node:fs";
import { startClient, volumeArgs } from "../client";
import { leaf, metaArgs } from "../cli";
import { PIECE_BYTES_MAX } from "../data-plane";
import { outputArgs, Progress } from "../output";
import { openNamed } from "./files";
import { readRuns, withReadable } from "./readable";

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
  const file = openNamed(path, "w");
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

/** Standard output, waiting for whoever reads it; rejects when nobody does any more. */
export function writeToPipe(bytes: Uint8Array): Promise<void> {
  // The stream tells twice of an error. Told to nobody, it would end the process before the volume is given back.
  if (process.stdout.listenerCount("error") === 0) process.stdout.on("error", () => undefined);
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
