/**
 * `torus ctl block load`: a file or a pipe into a volume. Zeroes are not stored. How far a load of a file came is
 * kept beside the profiles after each flush, so that the same command goes on where an interrupted one ended.
 */
import { closeSync, fstatSync, mkdirSync, readSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { formatSize } from "../../base";
import { isMetaError, type VolumeInfo } from "../../meta";
import { type Client, startClient, volumeArgs } from "../client";
import { CommandError, configFilePath, leaf, metaArgs, parseVolumeSize, UsageError } from "../cli";
import { type CommandDevice, PIECE_BYTES_MAX } from "../data-plane";
import { outputArgs, Progress } from "../output";
import { type FileRun, fileRuns, openNamed } from "./files";
import { Pipeline } from "./pipeline";

/** A flush, and a note of how far we came, after this much. */
const NOTE_BYTES = 64 * 2 ** 20;
const ZERO_CHECK_BYTES = 4096;
const SECTOR_BYTES = 512;

interface LoadNote {
  /** Of the load that wrote it: if another writer came since, what is there may not be the file's any more. */
  readonly epoch: number;
  readonly clusterId: string;
  readonly volumeId: number;
  readonly fileBytes: number;
  readonly modifiedMs: number;
  readonly doneBytes: number;
}

/** Where the note about loading this file into this volume lies. */
function notePath(file: string, volumeId: number): string {
  const key = Bun.hash.xxHash3(`${resolve(file)}\0${volumeId}`).toString(16);
  return join(dirname(configFilePath()), "loads", `${key}.json`);
}

async function readNote(path: string): Promise<LoadNote | undefined> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as LoadNote;
  } catch {
    // None, or a torn one: the load starts from the beginning, which is always right.
    return undefined;
  }
}

function writeNote(path: string, note: LoadNote): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(`${path}.tmp`, JSON.stringify(note), { flush: true });
  renameSync(`${path}.tmp`, path);
}

function isZero(bytes: Uint8Array): boolean {
  return Buffer.compare(bytes, ZEROES.subarray(0, bytes.length)) === 0;
}
const ZEROES = new Uint8Array(ZERO_CHECK_BYTES);

/** Writes what is not zero of a piece; `fresh`: the volume holds nothing there, so zeroes need no trim. */
async function putPiece(
  device: CommandDevice,
  offsetBytes: number,
  bytes: Uint8Array,
  fresh: boolean,
): Promise<void> {
  let start = 0;
  while (start < bytes.length) {
    const zero = isZero(bytes.subarray(start, Math.min(bytes.length, start + ZERO_CHECK_BYTES)));
    let end = start;
    do end = Math.min(bytes.length, end + ZERO_CHECK_BYTES);
    while (
      end < bytes.length &&
      isZero(bytes.subarray(end, Math.min(bytes.length, end + ZERO_CHECK_BYTES))) === zero
    );
    if (!zero) await device.write(offsetBytes + start, bytes.subarray(start, end));
    else if (!fresh) await device.trim(offsetBytes + start, end - start);
    start = end;
  }
}

/** The file's runs in pieces; a hole is one piece however long it is. */
function* filePieces(file: number, offsetBytes: number, endBytes: number): Generator<FileRun> {
  for (const run of fileRuns(file, offsetBytes, endBytes)) {
    const step = run.hole ? run.lengthBytes : PIECE_BYTES_MAX;
    for (let done = 0; done < run.lengthBytes; done += step)
      yield {
        offsetBytes: run.offsetBytes + done,
        lengthBytes: Math.min(step, run.lengthBytes - done),
        hole: run.hole,
      };
  }
}

async function putFilePiece(
  path: string,
  file: number,
  device: CommandDevice,
  piece: FileRun,
  fresh: boolean,
): Promise<void> {
  const { offsetBytes, lengthBytes, hole } = piece;
  if (hole) {
    if (!fresh) await device.trim(offsetBytes, lengthBytes);
    return;
  }
  const bytes = new Uint8Array(lengthBytes);
  for (let filled = 0; filled < lengthBytes; ) {
    const got = readSync(file, bytes, filled, lengthBytes - filled, offsetBytes + filled);
    if (got === 0) throw new CommandError("io", `Cannot load ${path}: it became shorter meanwhile`);
    filled += got;
  }
  await putPiece(device, offsetBytes, bytes, fresh);
}

async function loadFile(
  path: string,
  device: CommandDevice,
  info: VolumeInfo,
  clusterId: string,
  epoch: number,
  fresh: boolean,
  progress: Progress,
): Promise<void> {
  const file = openNamed(path, "r");
  try {
    const { size, mtimeMs } = fstatSync(file);
    const note = notePath(path, info.volumeId);
    const earlier = await readNote(note);
    const same =
      earlier !== undefined &&
      earlier.clusterId === clusterId &&
      earlier.epoch === info.epoch &&
      earlier.fileBytes === size &&
      earlier.modifiedMs === mtimeMs;
    let offsetBytes = same ? earlier.doneBytes : 0;
    if (offsetBytes > 0) {
      console.error(
        `Going on at ${formatSize(offsetBytes)} of ${formatSize(size)}, where an earlier load ended`,
      );
      progress.skip(offsetBytes);
    }
    const save = (doneBytes: number) =>
      writeNote(note, {
        ...{ epoch, clusterId, volumeId: info.volumeId },
        ...{ fileBytes: size, modifiedMs: mtimeMs, doneBytes },
      });
    save(offsetBytes);
    let notedBytes = offsetBytes;
    const pipeline = new Pipeline();
    const isEmpty = fresh && !same;
    for (const piece of filePieces(file, offsetBytes, size)) {
      await pipeline.push(putFilePiece(path, file, device, piece, isEmpty));
      offsetBytes = piece.offsetBytes + piece.lengthBytes;
      progress.add(piece.lengthBytes);
      if (offsetBytes - notedBytes < NOTE_BYTES) continue;
      await pipeline.drain();
      await device.flush();
      notedBytes = offsetBytes;
      save(offsetBytes);
    }
    await pipeline.drain();
    await device.flush();
    rmSync(note, { force: true });
  } finally {
    closeSync(file);
  }
}

async function loadPipe(device: CommandDevice, fresh: boolean, progress: Progress): Promise<void> {
  const pipeline = new Pipeline();
  let offsetBytes = 0;
  let piece = new Uint8Array(PIECE_BYTES_MAX);
  let filled = 0;
  const send = async () => {
    if (offsetBytes + filled > device.sizeBytes)
      throw new CommandError(
        "conflict",
        `Cannot load more than the volume's ${formatSize(device.sizeBytes)}: the input goes on`,
      );
    await pipeline.push(putPiece(device, offsetBytes, piece.subarray(0, filled), fresh));
    progress.add(filled);
    offsetBytes += filled;
    piece = new Uint8Array(PIECE_BYTES_MAX);
    filled = 0;
  };
  for await (const chunk of process.stdin as AsyncIterable<Uint8Array>) {
    let taken = 0;
    while (taken < chunk.length) {
      const count = Math.min(chunk.length - taken, piece.length - filled);
      piece.set(chunk.subarray(taken, taken + count), filled);
      filled += count;
      taken += count;
      if (filled === piece.length) await send();
    }
  }
  if (filled > 0) await send();
  await pipeline.drain();
  await device.flush();
}

/** The volume to load into: found, or made in the size asked for. */
async function targetVolume(
  client: Client,
  name: string,
  sizeBytes: number | undefined,
): Promise<{ readonly info: VolumeInfo; readonly made: boolean }> {
  try {
    return { info: await client.metadata.volumes.info(name), made: false };
  } catch (error) {
    if (!isMetaError(error, "no-such-volume")) throw error;
    if (sizeBytes === undefined)
      throw new UsageError(
        `Volume "${name}" does not exist: give the SIZE to make it, as the input tells none`,
      );
  }
  await client.metadata.volumes.create(name, sizeBytes);
  return { info: await client.metadata.volumes.info(name), made: true };
}

function fileBytes(path: string): number {
  const file = openNamed(path, "r");
  try {
    const status = fstatSync(file);
    if (!status.isFile())
      throw new UsageError(
        `Cannot load ${path}: it is no regular file; use - and standard input: torus ctl block load - VOLUME SIZE < ${path}`,
      );
    return status.size;
  } finally {
    closeSync(file);
  }
}

function tooLarge(inputBytes: number, name: string, sizeBytes: number): CommandError {
  return new CommandError(
    "conflict",
    `Cannot load ${formatSize(inputBytes)} into volume "${name}" of ${formatSize(sizeBytes)}: give it more room first`,
  );
}

/** A pipe can't be read again: a volume made for one that failed goes again. That of a file stays, to go on with. */
async function orWithout(client: Client, name: string, fill: () => Promise<void>): Promise<void> {
  try {
    await fill();
  } catch (error) {
    await client.metadata.volumes.delete(name).then(
      () => console.error(`Volume ${name}, made for this, was deleted again`),
      (failure: unknown) =>
        console.error(`Volume ${name} is unfinished and could not be deleted: ${failure}`),
    );
    throw error;
  }
}

export const loadCommand = leaf({
  name: "load",
  description:
    "Copy a file or a pipe into a volume, which is made when it is not there; zeroes take no space",
  examples: [
    "torus ctl block load data.img data",
    "zstdcat monday.img.zst | torus ctl block load - data 10GiB",
  ],
  args: {
    file: { type: "positional", description: "File, or - for standard input", required: true },
    name: { type: "positional", description: "Name of the volume", required: true },
    size: { type: "positional", description: "Size of a new volume (default: the file's)", required: false },
    progress: { type: "boolean", description: "Show progress even where it is not a terminal" },
    si: outputArgs.si,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const inputBytes = args.file === "-" ? undefined : fileBytes(args.file);
    const rounded =
      inputBytes === undefined ? undefined : Math.ceil(inputBytes / SECTOR_BYTES) * SECTOR_BYTES;
    const sizeBytes = args.size === undefined ? rounded : parseVolumeSize(args.size);
    if (inputBytes !== undefined && args.size !== undefined && inputBytes > (sizeBytes ?? 0))
      throw tooLarge(inputBytes, args.name, sizeBytes ?? 0);
    const client = await startClient(args);
    try {
      const { info, made } = await targetVolume(client, args.name, sizeBytes);
      if (inputBytes !== undefined && inputBytes > info.sizeBytes)
        throw tooLarge(inputBytes, args.name, info.sizeBytes);
      const fresh = made || (info.head?.root === null && info.head.log.members.length === 0);
      const { clusterId } = await client.metadata.settings.get();
      const progress = new Progress({
        title: `Loading ${args.name}`,
        totalBytes: inputBytes,
        always: args.progress === true,
        si: args.si,
      });
      const fill = async () => {
        const device = await client.plane.openDevice({ volume: args.name });
        try {
          if (args.file === "-") return await loadPipe(device, fresh, progress);
          const { epoch } = await client.metadata.volumes.info(args.name);
          await loadFile(args.file, device, info, clusterId, epoch, fresh, progress);
        } finally {
          await device.close();
        }
      };
      if (args.file === "-" && made) await orWithout(client, args.name, fill);
      else await fill();
      progress.finish();
    } finally {
      await client.close();
    }
  },
});
