/**
 * A store alone, without network: `bun test/bench/store.ts DIR [open COUNT]`. Puts of 4 KiB at depth 1 and 16 and of
 * 512 KiB, each acknowledged after its sync; reads; the time to open with many blocks and what the index takes.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  BlockKind,
  type BlockRef,
  type ClusterId,
  type Epoch,
  type PeerId,
  type VolumeId,
} from "../../src/base";
import { nativeBuffer, openDirectoryDisk, systemRandom } from "../../src/base/io";
import { BlockBuilder, blockBufferBytes, makeBlockSealer, type SealedBlock } from "../../src/engine/block";
import { PeerService } from "../../src/engine/peer";
import { StorageStatus } from "../../src/engine/ports";
import { openSegmentStore } from "../../src/engine/store";
import { putSmallBlocks } from "./conditions/small-blocks";
import { startSyncedLoop } from "./synced-loop";

const CLUSTER = "11111111-2222-3333-4444-555555555555" as ClusterId;
const PEER = "99999999-8888-7777-6666-555555555555" as PeerId;
const sealer = makeBlockSealer(CLUSTER);
const directory = process.argv[2] ?? "/dev/shm";
const path = mkdtempSync(join(directory, "torus-bench-"));
const { loop, syncer, stop } = startSyncedLoop();
const sizeBytes = Number(process.env.STORE_GIB ?? 6) * 1024 ** 3;

const open = (size = sizeBytes) =>
  openSegmentStore({
    disk: openDirectoryDisk({ path, syncer }),
    clusterId: CLUSTER,
    peerId: PEER,
    sizeBytes: size,
    reserveSpace: process.env.RESERVE !== undefined,
    allocate: nativeBuffer,
    clock: loop,
    random: systemRandom,
    turns: loop,
    onPoison: (reason) => {
      throw new Error(reason);
    },
  });

let nextIndex = 1;
function sealNext(builder: BlockBuilder, pages: number): SealedBlock {
  builder.reset();
  builder.addPages(nextIndex % 1_000_000, pages);
  const ref: BlockRef = {
    kind: BlockKind.data,
    volumeId: 1 as VolumeId,
    epoch: 1 as Epoch,
    index: nextIndex++,
  };
  return builder.seal(sealer, ref);
}

async function puts(service: PeerService, pages: number, depth: number, seconds: number): Promise<void> {
  let count = 0;
  const latencies: number[] = [];
  const endMs = performance.now() + seconds * 1000;
  const lanes = Array.from(
    { length: depth },
    () =>
      new Promise<void>((resolve) => {
        const builder = new BlockBuilder(nativeBuffer(blockBufferBytes(pages * 4096)), pages * 4096);
        crypto.getRandomValues(builder.buffer.bytes.subarray(0, 65536));
        let startedMs = 0;
        const request = {
          buffer: builder.buffer,
          offset: 0,
          lengthBytes: 0,
          writerEpoch: 1,
          done: (status: StorageStatus) => {
            if (status !== StorageStatus.ok) throw new Error(`a put was answered ${status}`);
            latencies.push(performance.now() - startedMs);
            count += 1;
            if (performance.now() > endMs) return resolve();
            loop.schedule(0, next);
          },
        };
        const next = () => {
          const block = sealNext(builder, pages);
          request.offset = block.offset;
          request.lengthBytes = block.lengthBytes;
          startedMs = performance.now();
          service.put(request);
        };
        next();
      }),
  );
  const startedMs = performance.now();
  await Promise.all(lanes);
  const elapsed = (performance.now() - startedMs) / 1000;
  latencies.sort((a, b) => a - b);
  const at = (share: number) => ((latencies[Math.floor(latencies.length * share)] ?? 0) * 1000).toFixed(0);
  console.log(
    `put ${pages * 4} KiB depth ${depth}: ${(count / elapsed).toFixed(0)}/s, ${((count * pages * 4096) / elapsed / 1e6).toFixed(0)} MB/s, us p50 ${at(0.5)} p99 ${at(0.99)} max ${at(0.9999)}`,
  );
}

/** How long a store with many blocks takes to open, and what its index takes: `store.ts DIR open COUNT`. */
async function openMany(count: number): Promise<void> {
  const store = await open(200 * 1024 ** 3);
  const startedMs = performance.now();
  await putSmallBlocks(store, sealer, loop, count);
  console.log(`${count} puts of 160 bytes: ${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
  console.log(`index: ${(store.statistics().indexBytes / count).toFixed(1)} bytes a block`);
  await store.close();
  const openedMs = performance.now();
  const cpuBefore = process.cpuUsage();
  const again = await open(200 * 1024 ** 3);
  const { user, system } = process.cpuUsage(cpuBefore);
  const { blockCount, indexBytes } = again.statistics();
  console.log(
    `open with ${blockCount} blocks: ${((performance.now() - openedMs) / 1000).toFixed(2)} s (${((user + system) / 1e6).toFixed(2)} s of CPU), index ${(indexBytes / 1e6).toFixed(0)} MB`,
  );
  await again.close();
}

async function main(): Promise<void> {
  if (process.argv[3] === "open") return openMany(Number(process.argv[4] ?? 1_000_000));

  const store = await open();
  const service = new PeerService({ store, clock: loop });
  for (const [pages, depth] of [
    [1, 1],
    [1, 16],
    [1, 64],
    [128, 1],
    [128, 4],
  ] as const)
    await puts(service, pages, depth, 3);
  const total = nextIndex - 1;
  let read = 0;
  const ref = { kind: BlockKind.data, volumeId: 1 as VolumeId, epoch: 1 as Epoch, index: 1 };
  const request = {
    ref,
    firstSlot: 0,
    slotCount: 1,
    done: (
      status: StorageStatus,
      _source: unknown,
      _at: number,
      _length: number,
      _check: number,
      release?: () => void,
    ) => {
      if (status !== StorageStatus.ok) throw new Error(`a read was answered ${status}`);
      release?.();
    },
  };
  for (const pass of ["first touch", "again"]) {
    const startedMs = performance.now();
    for (read = 0; read < 200_000; read += 1) {
      ref.index = 1 + ((read * 7919) % total);
      service.read(request);
    }
    console.log(
      `read 4 KiB, ${pass}: ${(((performance.now() - startedMs) * 1000) / read).toFixed(2)} us each`,
    );
  }
  console.log(store.statistics());
  await store.close();
  const reopenMs = performance.now();
  const again = await open();
  console.log(
    `open with ${again.statistics().blockCount} blocks: ${(performance.now() - reopenMs).toFixed(0)} ms`,
  );
  await again.close();
}

try {
  await main();
} finally {
  await stop();
  rmSync(path, { recursive: true });
}
process.exit(0);
