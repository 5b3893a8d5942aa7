/**
 * `torus ctl block export-diff`: a snapshot, or what it holds otherwise than an earlier one, as a stream for backups
 * and for other clusters (bytes: commands/diff-stream). A file gets its name only when it is whole.
 */
import { closeSync, fsyncSync, renameSync, rmSync, statSync, writeSync } from "node:fs";
import { type Client, startClient, volumeArgs } from "../client";
import { CommandError, leaf, metaArgs } from "../cli";
import { type CommandDevice, type DeviceDifference, parseExportName, PIECE_BYTES_MAX } from "../data-plane";
import { type DiffPoint, DiffStreamWriter, snapshotFingerprint } from "../diff-stream";
import { outputArgs, Progress } from "../output";
import { writeToPipe } from "./dump";
import { openNamed } from "./files";
import { withSnapshot } from "./readable";
import { parseSnapshotName } from "./snapshot-making";

const PIECES_AHEAD = 8;

interface Target {
  write(bytes: Uint8Array): Promise<void> | void;
  /** The whole stream was written. */
  finish(): void;
  /** Called in any case, last. */
  close(): void;
}

/** Standard output, a pipe or a device by its path, or a file that appears when it is finished. */
function openTarget(path: string): Target {
  if (path === "-") return { write: writeToPipe, finish: () => undefined, close: () => undefined };
  const isFile = statSync(path, { throwIfNoEntry: false })?.isFile() ?? true;
  const written = isFile ? `${path}.partial` : path;
  const file = openNamed(written, "w");
  let finished = !isFile;
  return {
    write: (bytes) => {
      for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
    },
    finish: () => {
      if (!isFile) return;
      fsyncSync(file);
      renameSync(written, path);
      finished = true;
    },
    close: () => {
      closeSync(file);
      if (!finished) rmSync(written, { force: true });
    },
  };
}

async function pointOf(client: Client, volume: string, snapshot: string): Promise<DiffPoint> {
  const { clusterId } = await client.metadata.settings.get();
  const record = await client.metadata.snapshots.get(volume, snapshot);
  return { fingerprint: snapshotFingerprint(clusterId, record), volume, snapshot };
}

type Piece = DeviceDifference & { readonly bytes: Promise<Uint8Array> | undefined };

/** The differences with their data, several pieces read ahead, in order. */
async function* readDifferences(
  device: CommandDevice,
  base: CommandDevice | undefined,
): AsyncGenerator<DeviceDifference & { readonly data: Uint8Array | undefined }> {
  const ahead: Piece[] = [];
  const next = async () => {
    const { bytes, ...piece } = ahead.shift() as Piece;
    return { ...piece, data: await bytes };
  };
  for await (const difference of device.differences(base)) {
    const step = difference.hole ? difference.lengthBytes : PIECE_BYTES_MAX;
    for (let done = 0; done < difference.lengthBytes; done += step) {
      const offsetBytes = difference.offsetBytes + done;
      const lengthBytes = Math.min(step, difference.lengthBytes - done);
      const bytes = difference.hole ? undefined : device.read(offsetBytes, lengthBytes);
      // Its failure is met when its turn comes.
      bytes?.catch(() => undefined);
      ahead.push({ offsetBytes, lengthBytes, hole: difference.hole, bytes });
      if (ahead.length > PIECES_AHEAD) yield await next();
    }
  }
  while (ahead.length > 0) yield await next();
}

/** How much data the differences hold: reads maps only. */
async function dataBytesOf(device: CommandDevice, base: CommandDevice | undefined): Promise<number> {
  let bytes = 0;
  for await (const { hole, lengthBytes } of device.differences(base)) if (!hole) bytes += lengthBytes;
  return bytes;
}

export const exportDiffCommand = leaf({
  name: "export-diff",
  description:
    "Write a snapshot, or with --from what changed since an earlier one, as a stream for import-diff; for backups to a file or over ssh",
  examples: [
    "torus ctl block export-diff data@monday data-monday.diff",
    "torus ctl block export-diff --from monday data@tuesday - | ssh backup torus ctl block import-diff - data",
  ],
  args: {
    name: { type: "positional", description: "VOLUME@SNAPSHOT", required: true },
    file: { type: "positional", description: "File, or - for standard output", required: true },
    from: { type: "string", description: "Only what changed since this snapshot", valueHint: "SNAPSHOT" },
    progress: { type: "boolean", description: "Show progress even where it is not a terminal" },
    si: outputArgs.si,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.name);
    const from = args.from === undefined ? undefined : baseName(args.from, volume);
    const client = await startClient(args);
    try {
      const whole = await pointOf(client, volume, snapshot);
      const base = from === undefined ? undefined : await pointOf(client, from.volume, from.snapshot);
      const run = (before: CommandDevice | undefined) =>
        withSnapshot(client, volume, snapshot, async (device) => {
          const shown = args.progress === true || process.stderr.isTTY === true;
          const progress = new Progress({
            title: `Exporting ${args.name}`,
            totalBytes: shown ? await dataBytesOf(device, before) : undefined,
            always: args.progress === true,
            si: args.si,
          });
          const target = openTarget(args.file);
          try {
            const writer = new DiffStreamWriter((bytes) => target.write(bytes));
            await writer.begin({
              snapshot: whole,
              ...(base !== undefined && { base }),
              sizeBytes: device.sizeBytes,
              createdMs: Date.now(),
            });
            for await (const { offsetBytes, lengthBytes, data } of readDifferences(device, before)) {
              if (data === undefined) await writer.hole(offsetBytes, lengthBytes);
              else await writer.data(offsetBytes, data);
              if (data !== undefined) progress.add(lengthBytes);
            }
            await writer.end();
            target.finish();
            progress.finish();
          } finally {
            target.close();
          }
        });
      if (from === undefined) await run(undefined);
      else await withSnapshot(client, from.volume, from.snapshot, run);
    } finally {
      await client.close();
    }
  },
});

/** `--from monday`, or of a volume that this one was cloned from: `--from parent@monday`. */
function baseName(text: string, volume: string): { readonly volume: string; readonly snapshot: string } {
  if (text.includes("@")) return parseSnapshotName(text);
  const { volume: snapshot } = parseExportName(text);
  if (snapshot === "") throw new CommandError("not-found", "Cannot export since a snapshot without a name");
  return { volume, snapshot };
}
