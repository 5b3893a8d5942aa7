/**
 * `torus ctl block import-diff`: a stream of `export-diff` into a volume. A whole snapshot becomes a new volume, which
 * gets its name only at the end. A difference goes into a volume that is, byte for byte, at the stream's base: that is
 * found by fingerprint among the volume's snapshots, and looked for writes since. If anything goes wrong the volume
 * is put back to that snapshot; the snapshot that says "this is a copy of ..." is taken last, by the same writer.
 */
import { createReadStream } from "node:fs";
import { systemRandom } from "../../base/io";
import { isMetaError, type SnapshotInfo } from "../../meta";
import { type Client, startClient, volumeArgs } from "../client";
import { CommandError, leaf, metaArgs } from "../cli";
import { type CommandDevice, PIECE_BYTES_MAX } from "../data-plane";
import { type DiffStream, openDiffStream, snapshotFingerprint } from "../diff-stream";
import { outputArgs, Progress } from "../output";
import { openNamed } from "./files";
import { Pipeline } from "./pipeline";
import { withSnapshot, withTemporarySnapshot } from "./readable";

interface Import {
  readonly client: Client;
  readonly stream: DiffStream;
  readonly volume: string;
  /** Name of the snapshot to be made. */
  readonly snapshot: string;
  readonly progress: Progress;
}

function source(path: string): AsyncIterable<Uint8Array> {
  return path === "-"
    ? process.stdin
    : createReadStream(path, { fd: openNamed(path, "r"), highWaterMark: PIECE_BYTES_MAX });
}

/** Writes all records; returns when the stream's end was checked and everything is durable. */
async function applyRecords(job: Import, device: CommandDevice, isFresh: boolean): Promise<void> {
  const pipeline = new Pipeline();
  for await (const { offsetBytes, lengthBytes, bytes } of job.stream.records()) {
    if (bytes !== undefined) await pipeline.push(device.write(offsetBytes, bytes));
    else if (!isFresh) await pipeline.push(device.trim(offsetBytes, lengthBytes));
    if (bytes !== undefined) job.progress.add(lengthBytes);
  }
  await pipeline.drain();
  await device.flush();
}

/** Epoch of the writer that has the volume: ours, while a flush of ours still succeeds afterwards. */
async function writerEpoch(client: Client, volume: string): Promise<number> {
  return (await client.metadata.volumes.info(volume)).epoch;
}

async function fill(
  job: Import,
  volume: string,
  device: CommandDevice,
  epoch: number,
  isFresh: boolean,
): Promise<void> {
  await applyRecords(job, device, isFresh);
  await job.client.metadata.snapshots.create(volume, job.snapshot, {
    copy: { origin: job.stream.header.snapshot.fingerprint, epoch },
  });
}

async function importWhole(job: Import): Promise<void> {
  const { client, stream, volume } = job;
  const { volumes } = client.metadata;
  if (await exists(client, volume))
    throw new CommandError(
      "conflict",
      `Cannot import a whole snapshot into volume "${volume}": it exists; give another name or delete it first`,
    );
  const unfinished = `${volume}.import-${systemRandom.hex(4)}`;
  await volumes.create(unfinished, stream.header.sizeBytes);
  try {
    const device = await client.plane.openDevice({ volume: unfinished });
    try {
      await fill(job, unfinished, device, await writerEpoch(client, unfinished), true);
    } finally {
      await device.close();
    }
    await volumes.rename(unfinished, volume);
  } catch (error) {
    await volumes.delete(unfinished, { withSnapshots: true }).catch((failure: unknown) => {
      client.logger.log("warn", `Volume "${unfinished}" is unfinished and could not be deleted: ${failure}`);
    });
    throw error;
  }
}

async function exists(client: Client, volume: string): Promise<boolean> {
  try {
    await client.metadata.volumes.info(volume);
    return true;
  } catch (error) {
    if (isMetaError(error, "no-such-volume")) return false;
    throw error;
  }
}

async function findBase(job: Import): Promise<SnapshotInfo> {
  const { client, stream, volume } = job;
  const { base } = stream.header;
  const { clusterId } = await client.metadata.settings.get();
  const { snapshots } = await client.metadata.snapshots.list(volume);
  if (snapshots.some((one) => one.name === job.snapshot))
    throw new CommandError(
      "conflict",
      `Cannot import into volume "${volume}": it has a snapshot "${job.snapshot}" already; use --snapshot for another name`,
    );
  const found = snapshots.find((one) => snapshotFingerprint(clusterId, one) === base?.fingerprint);
  if (found === undefined)
    throw new CommandError(
      "conflict",
      `Cannot import into volume "${volume}": none of its snapshots is ${base?.volume}@${base?.snapshot}, against which the stream was made (${base?.fingerprint}); import that one first`,
    );
  return found;
}

/** Throws when the open volume holds anything else than its snapshot `base`. */
async function checkUnchanged(job: Import, device: CommandDevice, base: SnapshotInfo): Promise<void> {
  const { client, volume } = job;
  const changed = new CommandError(
    "conflict",
    `Cannot import into volume "${volume}": it was written since its snapshot "${base.name}"; put it back by torus ctl block snapshot restore ${volume}@${base.name}, or import into another volume`,
  );
  if (device.sizeBytes !== base.sizeBytes) throw changed;
  await withTemporarySnapshot(client, volume, (name) =>
    withSnapshot(client, volume, name, (now) =>
      withSnapshot(client, volume, base.name, async (then) => {
        for await (const { offsetBytes, lengthBytes } of now.differences(then)) {
          // Cleaning moves data: what lies elsewhere need not be other.
          for (let done = 0; done < lengthBytes; done += PIECE_BYTES_MAX) {
            const count = Math.min(PIECE_BYTES_MAX, lengthBytes - done);
            const [a, b] = await Promise.all([
              now.read(offsetBytes + done, count),
              then.read(offsetBytes + done, count),
            ]);
            if (Buffer.compare(a, b) !== 0) throw changed;
          }
        }
      }),
    ),
  );
}

async function importDifference(job: Import): Promise<void> {
  const { client, stream, volume } = job;
  const base = await findBase(job);
  let touched = false;
  try {
    const device = await client.plane.openDevice({ volume });
    try {
      const epoch = await writerEpoch(client, volume);
      await checkUnchanged(job, device, base);
      touched = true;
      const { sizeBytes } = stream.header;
      if (sizeBytes !== device.sizeBytes) await device.resize(sizeBytes, sizeBytes < device.sizeBytes);
      await fill(job, volume, device, epoch, false);
    } finally {
      await device.close();
    }
  } catch (error) {
    if (touched) await putBack(job, base, error);
    throw error;
  }
}

async function putBack(job: Import, base: SnapshotInfo, cause: unknown): Promise<void> {
  const { client, volume } = job;
  try {
    const device = await client.plane.openDevice({ volume, restoreSnapshot: base.name });
    await device.close();
    console.error(`Volume ${volume} was put back to ${base.name}`);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    console.error(`Volume ${volume} could not be put back to ${base.name}: ${reason}`);
    throw new CommandError(
      "io",
      `Cannot import into volume "${volume}", which is changed in part now: put it back by torus ctl block snapshot restore ${volume}@${base.name}`,
      cause,
    );
  }
}

export const importDiffCommand = leaf({
  name: "import-diff",
  description:
    "Read a stream of export-diff: a whole snapshot into a new volume, a difference into a volume that is at the stream's base",
  examples: [
    "torus ctl block import-diff data-monday.diff data",
    "torus ctl block import-diff data-tuesday.diff data",
  ],
  args: {
    file: { type: "positional", description: "File, or - for standard input", required: true },
    name: { type: "positional", description: "Name of the volume", required: true },
    snapshot: {
      type: "string",
      description: "Name of the snapshot made (default: as it was exported)",
      valueHint: "NAME",
    },
    progress: { type: "boolean", description: "Show progress even where it is not a terminal" },
    json: outputArgs.json,
    si: outputArgs.si,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const stream = await openDiffStream(source(args.file));
    const { header } = stream;
    const client = await startClient(args);
    try {
      const progress = new Progress({
        title: `Importing ${args.name}`,
        totalBytes: undefined,
        always: args.progress === true,
        si: args.si,
      });
      const snapshot = args.snapshot ?? header.snapshot.snapshot;
      const job = { client, stream, volume: args.name, snapshot, progress };
      if (header.base === undefined) await importWhole(job);
      else await importDifference(job);
      progress.finish();
      if (args.json)
        console.log(JSON.stringify({ volume: args.name, snapshot, origin: header.snapshot.fingerprint }));
      else console.log(`Volume ${args.name} is as ${header.snapshot.volume}@${header.snapshot.snapshot} was`);
    } finally {
      await client.close();
    }
  },
});
