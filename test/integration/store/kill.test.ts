/**
 * A real process on a real directory, killed -9 in the middle of writes, again and again: what it said was
 * acknowledged is there. (The page cache survives: this tries recovery and its code paths with real files, mappings
 * and syncs; power losses are the simulated disk's.)
 */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { asVolumeId } from "../../../src/base";
import {
  InlineSyncer,
  nativeBuffer,
  openDeviceDisk,
  openDirectoryDisk,
  systemClock,
  systemRandom,
} from "../../../src/base/io";
import { StorageStatus } from "../../../src/engine/ports";
import { openSegmentStore } from "../../../src/engine/store";
import { CLUSTER, dataBlock, dataRef, payloadOf, read } from "../../unit/engine/store/blocks";
import { runtimeTurns } from "../../unit/engine/store/stores";

const SIZE_BYTES = 24 * 1024 * 1024;
const roundCount = Number(process.env.STORE_KILLS ?? 4);

class History {
  readonly present = new Set<number>();
  readonly gone = new Set<number>();
  fence = 0;
  next = 1;
  #deleting = new Map<number, number[]>();

  /** Learns what the writer said. */
  note(line: string): void {
    const [word, text] = line.split(" ");
    if (text === undefined) return;
    const number = Number(text);
    this.next = Math.max(this.next, number + 1);
    if (word === "put") this.present.add(number);
    if (word === "fence") this.fence = Math.max(this.fence, number);
    if (word === "deleting") {
      const indexes: number[] = [];
      for (let old = Math.max(1, number - 120); old < number - 20; old += 2) indexes.push(old);
      for (const index of indexes) this.present.delete(index);
      this.#deleting.set(number, indexes);
    }
    if (word === "deleted") for (const index of this.#deleting.get(number) ?? []) this.gone.add(index);
  }

  restart(): void {
    this.#deleting.clear();
    // Puts under way were not numbered in what was said.
    this.next += 100;
  }
}

async function killAgainAndAgain(path: string): Promise<void> {
  const history = new History();
  for (let round = 0; round < roundCount; round += 1) {
    await writeUntilKilled(path, history, 150 + 130 * (round % 5));
    await verify(path, history);
  }
  expect(history.present.size).toBeGreaterThan(10);
}

for (const directory of ["/dev/shm", tmpdir()])
  test(`a store in ${directory} keeps what a killed process acknowledged, ${roundCount} times over`, async () => {
    if (!existsSync(directory)) return;
    const path = mkdtempSync(join(directory, "torus-kill-"));
    try {
      await killAgainAndAgain(path);
    } finally {
      rmSync(path, { recursive: true });
    }
  }, 120_000);

test(`a store on a device keeps what a killed process acknowledged, and loses all it kept, ${roundCount} times over`, async () => {
  const directory = mkdtempSync(join(tmpdir(), "torus-kill-"));
  const path = join(directory, "device");
  writeFileSync(path, "");
  truncateSync(path, SIZE_BYTES + 4 * 1024 * 1024);
  try {
    await killAgainAndAgain(path);
  } finally {
    rmSync(directory, { recursive: true });
  }
}, 120_000);

/** Lets a writer say `lineCount` lines, then kills it, and listens to the end. */
async function writeUntilKilled(path: string, history: History, lineCount: number): Promise<void> {
  const writer = Bun.spawn(
    [process.execPath, join(import.meta.dir, "writer.ts"), path, String(SIZE_BYTES), String(history.next)],
    { stdout: "pipe", stderr: "inherit" },
  );
  let rest = "";
  let lines = 0;
  const decoder = new TextDecoder();
  for await (const chunk of writer.stdout) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    for (const line of parts) {
      history.note(line);
      lines += 1;
    }
    if (lines >= lineCount) writer.kill("SIGKILL");
  }
  await writer.exited;
  expect(lines).toBeGreaterThanOrEqual(lineCount);
  history.restart();
}

async function verify(path: string, history: History): Promise<void> {
  const syncer = new InlineSyncer((callback) => setImmediate(callback));
  const isDirectory = statSync(path).isDirectory();
  const store = await openSegmentStore({
    disk: isDirectory ? openDirectoryDisk({ path, syncer }) : openDeviceDisk({ path, syncer }),
    clusterId: CLUSTER,
    sizeBytes: SIZE_BYTES,
    allocate: nativeBuffer,
    clock: systemClock,
    random: systemRandom,
    turns: runtimeTurns,
    onPoison: () => undefined,
  });
  expect(store.fenceEpoch(asVolumeId(2))).toBeGreaterThanOrEqual(history.fence);
  for (const index of history.present) {
    const block = dataBlock(dataRef(1, 1, index), 1 + (index % 20));
    const answer = read(store, block.ref, 0, 1 + (index % 20));
    if (answer.status !== StorageStatus.ok)
      throw new Error(`block ${index} was acknowledged and is ${answer.status}`);
    if (Buffer.compare(answer.bytes, payloadOf(block)) !== 0)
      throw new Error(`block ${index} has other bytes`);
  }
  for (const index of history.gone)
    if (store.has(dataRef(1, 1, index))) throw new Error(`block ${index} was deleted and is there`);
  await store.close();
}
