/**
 * A writer whose every write can be told apart, and the check of what a crash has left of it. Write number n puts
 * n, 512 times as a 64-bit word, into page (n x 7919) mod pageCount, one after the other; after some of them it
 * flushes and reports. After a crash the volume must hold exactly the state after some write k: no page torn, none
 * older than the flush that was answered last, and no later write without every earlier one.
 *
 * In between the writer reads pages at random: each must hold exactly what was written to it last, whoever serves it,
 * as long as it is served at all. A history is one volume's, over all its crashes.
 */
import { readFileSync } from "node:fs";
import { nbdcopy } from "./clients";
import type { ManagedProcess } from "./process";
import { waitFor } from "./process";
import type { Scene } from "./scene";

const PAGE_BYTES = 4096;
const WORD_BYTES = 8;
/** Coprime to every page count that is a power of two, so that all pages have their turn. */
const STRIDE = 7919;
/** Writes between two flushes: one of these by chance, so that blocks of one page and of many are in flight. */
const WRITES_PER_FLUSH = [1, 2, 3, 8, 40];
/** Far more than any stall that the failures of a test may cause on a busy machine. */
const REACH_MS_MAX = 60_000;
/** One page is read after this many writes, on average. */
const WRITES_PER_READ = 6;

function script({ firstWrite, pageCount, seed = firstWrite, reads = true }: StampWriterOptions): string {
  return `
import faulthandler, random, signal, struct, time
faulthandler.register(signal.SIGUSR1)
chance = random.Random(${seed})
inverse = pow(${STRIDE}, -1, ${pageCount})
started = time.monotonic()
n = ${firstWrite}
gap = 1
while True:
    h.pwrite(struct.pack("<Q", n) * ${PAGE_BYTES / WORD_BYTES}, (n * ${STRIDE} % ${pageCount}) * ${PAGE_BYTES})
    gap -= 1
    if gap == 0:
        h.flush()
        print(n, int((time.monotonic() - started) * 1000), flush=True)
        gap = chance.choice(${JSON.stringify(WRITES_PER_FLUSH)})
    if ${reads ? "True" : "False"} and chance.randrange(${WRITES_PER_READ}) == 0:
        page = chance.randrange(${pageCount})
        expected = max(0, n - (n - page * inverse) % ${pageCount})
        got = h.pread(${PAGE_BYTES}, page * ${PAGE_BYTES})
        if got != struct.pack("<Q", expected) * ${PAGE_BYTES / WORD_BYTES}:
            print("WRONG page", page, "after write", n, "holds", got[:8].hex(), got[-8:].hex(), "not", expected, flush=True)
            break
    n += 1
`;
}

export interface StampWriterOptions {
  readonly firstWrite: number;
  readonly pageCount: number;
  readonly seed?: number;
  /** Whether it reads in between; default true. */
  readonly reads?: boolean;
  readonly name?: string;
}

export interface StampWriter {
  /** Number of the newest write that a flush has acknowledged; 0 before the first. */
  acknowledged(): number;
  /** The longest time between two acknowledged flushes so far. */
  stallMsMax(): number;
  /** Throws when a page that it read held anything but the newest write. */
  checkReads(): void;
  /** Waits until at least this write is acknowledged. */
  reach(writeNumber: number): Promise<void>;
  readonly process: ManagedProcess;
}

/** Starts writing, from write `firstWrite` on, until the server or the writer is killed. */
export async function startStampWriter(
  scene: Scene,
  uri: string,
  options: StampWriterOptions,
): Promise<StampWriter> {
  const command = ["/usr/bin/python3", "-m", "nbd", "-u", uri, "-c", script(options)];
  const process = await scene.start(options.name ?? "stamp-writer", command);
  const acknowledged = () => {
    const flushes = reports(process);
    return flushes.length === 0 ? 0 : (flushes.at(-1) as [number, number])[0];
  };
  return {
    process,
    acknowledged,
    stallMsMax: () => {
      const timesMs = reports(process).map(([, ms]) => ms);
      return Math.max(0, ...timesMs.slice(1).map((ms, index) => ms - (timesMs[index] as number)));
    },
    checkReads: () => {
      const wrong = /^WRONG.*$/m.exec(process.output());
      if (wrong !== null) throw new Error(`A read gave what it must not: ${wrong[0]}`);
    },
    reach: async (writeNumber) => {
      try {
        await waitFor(
          `write ${writeNumber} to be acknowledged`,
          () => {
            if (!process.running) throw new Error(`the writer ended: ${process.output().slice(-1_000)}`);
            return acknowledged() >= writeNumber;
          },
          REACH_MS_MAX,
        );
      } catch (error) {
        // The line of the script says whether it waits for a write, a flush or a read.
        process.signal("SIGUSR1");
        throw error;
      }
    },
  };
}

/** Number of the write, and milliseconds since the start, of every acknowledged flush. */
function reports(process: ManagedProcess): [number, number][] {
  return [...process.output().matchAll(/^(\d+) (\d+)(?=\n)/gm)].map((line) => [
    Number(line[1]),
    Number(line[2]),
  ]);
}

/** The stamp of every page; throws for a page that holds more than one. */
function readStamps(image: Buffer, pageCount: number): number[] {
  return Array.from({ length: pageCount }, (_, page) => {
    const start = page * PAGE_BYTES;
    const stamp = image.readBigUInt64LE(start);
    for (let offset = start; offset < start + PAGE_BYTES; offset += WORD_BYTES)
      if (image.readBigUInt64LE(offset) !== stamp)
        throw new Error(`Page ${page} is torn: it holds ${stamp} and ${image.readBigUInt64LE(offset)}`);
    return Number(stamp);
  });
}

/** What page `page` holds after writes 1 .. `lastWrite`. */
function expectedStamps(pageCount: number, lastWrite: number): number[] {
  const stamps = new Array<number>(pageCount).fill(0);
  for (let write = Math.max(1, lastWrite - pageCount + 1); write <= lastWrite; write++)
    stamps[(write * STRIDE) % pageCount] = write;
  return stamps;
}

/**
 * Checks an image of the first `pageCount` pages: the state after exactly k writes with k at least `acknowledged`.
 * Returns k.
 */
export function checkStamps(image: Buffer, pageCount: number, acknowledged: number): number {
  const stamps = readStamps(image, pageCount);
  const lastWrite = Math.max(...stamps);
  if (lastWrite < acknowledged)
    throw new Error(
      `Write ${acknowledged} was acknowledged by a flush, but the newest there is ${lastWrite}`,
    );
  const expected = expectedStamps(pageCount, lastWrite);
  const page = stamps.findIndex((stamp, index) => stamp !== expected[index]);
  if (page >= 0)
    throw new Error(
      `Page ${page} holds write ${stamps[page]}, but after write ${lastWrite} it must hold ${expected[page]}`,
    );
  return lastWrite;
}

/** Reads the volume back by nbdcopy and checks it. */
export async function verifyStamps(
  scene: Scene,
  uri: string,
  options: { readonly pageCount: number; readonly acknowledged: number },
): Promise<number> {
  const file = scene.path("stamps.img");
  await nbdcopy(scene, uri, file);
  return checkStamps(readFileSync(file), options.pageCount, options.acknowledged);
}
