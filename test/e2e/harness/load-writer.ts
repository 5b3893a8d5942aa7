/**
 * A writer with the load of a benchmark whose every write can be told apart: many requests in flight on one connection,
 * made durable by flushes among them or by FUA. Write number n puts n, as 64-bit words, into the whole of unit
 * (n x stride) mod unitCount. Write n is sent when n - depth and all before it are answered, so that what is in flight
 * together is known from the numbers alone.
 *
 * Durable is what was answered before a flush was sent that was answered, or answered itself with FUA. After a crash
 * no page may be older than that, or torn; none may hold what was never sent; and, as the log keeps its order, with
 * write k there must be all that were answered before k was sent.
 */
import { readFileSync } from "node:fs";
import { nbdcopy } from "./clients";
import { type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

const PAGE_BYTES = 4096;
const WORD_BYTES = 8;
const REACH_MS_MAX = 60_000;

export interface LoadShape {
  readonly unitBytes: number;
  readonly unitCount: number;
  /** Coprime to the count; 1 writes in a row. */
  readonly stride: number;
  readonly depth: number;
  /** A flush goes out after so many writes; undefined: every write has FUA. */
  readonly writesPerFlush?: number;
}

function script(shape: LoadShape, firstWrite: number): string {
  const { unitBytes, unitCount, stride, depth, writesPerFlush } = shape;
  return `
import nbd, struct
FUA = ${writesPerFlush === undefined ? "nbd.CMD_FLAG_FUA" : "0"}
sent = ${firstWrite - 1}
answered = sent
durable = sent
early = set()
flushes = 0
broken = False

def fail(error):
    global broken
    broken = True
    return 1

def writer(n):
    def done(error):
        global answered, durable
        if error.value != 0:
            return fail(error)
        early.add(n)
        while answered + 1 in early:
            answered += 1
            early.remove(answered)
        if FUA:
            durable = answered
        return 1
    return done

def flusher(covered):
    def done(error):
        global durable, flushes
        flushes -= 1
        if error.value != 0:
            return fail(error)
        durable = max(durable, covered)
        return 1
    return done

reported = 0
try:
    while not broken:
        while not broken and sent < answered + ${depth} and flushes < ${depth}:
            sent += 1
            data = nbd.Buffer.from_bytearray(bytearray(struct.pack("<Q", sent) * ${unitBytes / WORD_BYTES}))
            h.aio_pwrite(data, sent * ${stride} % ${unitCount} * ${unitBytes}, completion=writer(sent), flags=FUA)
            if not FUA and sent % ${writesPerFlush ?? 1} == 0:
                flushes += 1
                h.aio_flush(completion=flusher(answered))
        h.poll(-1)
        if durable - reported >= 32:
            reported = durable
            print("durable", durable, flush=True)
except nbd.Error as error:
    print("the connection ended:", error, flush=True)
alone = sorted(early) if FUA else []
print("end", sent, durable, *alone, flush=True)
`;
}

/** What a writer knows at its end. */
export interface LoadEnd {
  readonly lastSent: number;
  /** All up to this one are durable, ... */
  readonly durable: number;
  /** ... and these. */
  readonly durableAlone: readonly number[];
}

export interface LoadWriter {
  /** Waits until so many writes more are durable than were when it started. */
  advance(writeCount: number): Promise<void>;
  /** Waits for the writer, whose server was killed, to say how far it came. */
  end(): Promise<LoadEnd>;
}

/** Starts writing, from write `firstWrite` on, until the server is killed. */
export async function startLoadWriter(
  scene: Scene,
  uri: string,
  shape: LoadShape,
  firstWrite: number,
): Promise<LoadWriter> {
  const process: ManagedProcess = await scene.start("load-writer", [
    ...["/usr/bin/python3", "-m", "nbd", "-u", uri],
    ...["-c", script(shape, firstWrite)],
  ]);
  const durable = () => Number([...process.output().matchAll(/^durable (\d+)$/gm)].at(-1)?.[1] ?? 0);
  return {
    advance: (writeCount) =>
      waitFor(
        `${writeCount} writes to be durable`,
        () => {
          if (!process.running) throw new Error(`the writer ended: ${process.output().slice(-1_000)}`);
          return durable() >= firstWrite - 1 + writeCount;
        },
        REACH_MS_MAX,
      ),
    end: async () => {
      await process.ended(REACH_MS_MAX);
      const numbers = /^end ([\d ]+)$/m.exec(process.output())?.[1]?.split(" ").map(Number);
      if (numbers === undefined)
        throw new Error(`The writer did not say how far it came: ${process.output().slice(-1_000)}`);
      const [lastSent = 0, durableWrite = 0, ...durableAlone] = numbers;
      return { lastSent, durable: durableWrite, durableAlone };
    },
  };
}

/** The newest write to this unit up to `write`; 0: none. */
function newestOf({ unitCount }: LoadShape, inverse: number, unit: number, write: number): number {
  const first = (unit * inverse) % unitCount;
  if (write < first) return 0;
  return write - ((write - first) % unitCount);
}

function inverseOf({ stride, unitCount }: LoadShape): number {
  for (let candidate = 1; candidate <= unitCount; candidate++)
    if ((candidate * stride) % unitCount === 1 % unitCount) return candidate;
  throw new Error(`Stride ${stride} and ${unitCount} units have a common divisor`);
}

function stampOf(image: Buffer, offsetBytes: number): number {
  const stamp = image.readBigUInt64LE(offsetBytes);
  for (let at = offsetBytes; at < offsetBytes + PAGE_BYTES; at += WORD_BYTES)
    if (image.readBigUInt64LE(at) !== stamp)
      throw new Error(
        `The page at ${offsetBytes} is torn: it holds ${stamp} and ${image.readBigUInt64LE(at)}`,
      );
  return Number(stamp);
}

/** Checks an image of all units against what the writer knew at its end; returns the newest write in it. */
export function checkLoad(image: Buffer, shape: LoadShape, end: LoadEnd): number {
  const inverse = inverseOf(shape);
  const pagesPerUnit = shape.unitBytes / PAGE_BYTES;
  const stamps = Array.from({ length: shape.unitCount * pagesPerUnit }, (_, page) =>
    stampOf(image, page * PAGE_BYTES),
  );
  const newest = Math.max(...stamps);
  const alone = new Set(end.durableAlone);
  for (const [page, stamp] of stamps.entries()) {
    const unit = Math.floor(page / pagesPerUnit);
    const where = `The page at ${page * PAGE_BYTES}`;
    if (stamp > end.lastSent || (stamp !== 0 && (stamp * shape.stride) % shape.unitCount !== unit))
      throw new Error(`${where} holds ${stamp}, which was never written there`);
    const sentLast = newestOf(shape, inverse, unit, end.lastSent);
    const durable = alone.has(sentLast) ? sentLast : newestOf(shape, inverse, unit, end.durable);
    if (stamp < durable) throw new Error(`${where} holds ${stamp}, but write ${durable} was durable`);
    const before = newestOf(shape, inverse, unit, newest - shape.depth);
    if (stamp < before)
      throw new Error(
        `${where} holds ${stamp}: write ${newest} is there, but ${before}, which was answered before it was sent, is not`,
      );
  }
  return newest;
}

/** Reads the volume back by nbdcopy and checks it. */
export async function verifyLoad(scene: Scene, uri: string, shape: LoadShape, end: LoadEnd): Promise<number> {
  const file = scene.path("load.img");
  await nbdcopy(scene, uri, file);
  return checkLoad(readFileSync(file), shape, end);
}
