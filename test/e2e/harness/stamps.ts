/**
 * A writer whose every write can be told apart, and the check of what a crash has left of it. Write number n puts
 * n, 512 times as a 64-bit word, into page (n x 7919) mod pageCount, one after the other; after some of them it
 * flushes and reports. After a crash the volume must hold exactly the state after some write k: no page torn, none
 * older than the flush that was answered last, and no later write without every earlier one.
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
const WRITES_PER_FLUSH = 3;

function script(firstWrite: number, pageCount: number): string {
  return `
import struct, sys
n = ${firstWrite}
while True:
    h.pwrite(struct.pack("<Q", n) * ${PAGE_BYTES / WORD_BYTES}, (n * ${STRIDE} % ${pageCount}) * ${PAGE_BYTES})
    if n % ${WRITES_PER_FLUSH} == 0:
        h.flush()
        print(n, flush=True)
    n += 1
`;
}

export interface StampWriter {
  /** Number of the newest write that a flush has acknowledged; 0 before the first. */
  acknowledged(): number;
  /** Waits until at least this write is acknowledged. */
  reach(writeNumber: number): Promise<void>;
  readonly process: ManagedProcess;
}

/** Starts writing, from write `firstWrite` on, until the server or the writer is killed. */
export async function startStampWriter(
  scene: Scene,
  uri: string,
  options: { readonly firstWrite: number; readonly pageCount: number },
): Promise<StampWriter> {
  const command = [
    "/usr/bin/python3",
    "-m",
    "nbd",
    "-u",
    uri,
    "-c",
    script(options.firstWrite, options.pageCount),
  ];
  const process = await scene.start("stamp-writer", command);
  const acknowledged = () => {
    const lines = process.output().match(/^\d+(?=\n)/gm);
    return lines === null ? 0 : Number(lines.at(-1));
  };
  return {
    process,
    acknowledged,
    reach: (writeNumber) =>
      waitFor(`write ${writeNumber} to be acknowledged`, () => {
        if (!process.running) throw new Error(`the writer ended: ${process.output()}`);
        return acknowledged() >= writeNumber;
      }),
  };
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
