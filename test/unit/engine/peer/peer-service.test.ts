/** PeerService over a store on a simulated disk. */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, type BlockRef, type ClusterId, heapBuffer } from "../../../../src/base";
import { makeBlockSealer, PAGE_BYTES, type SealedBlock } from "../../../../src/engine/block";
import { PeerError, PeerService } from "../../../../src/engine/peer";
import { LOOK_UP, StorageStatus } from "../../../../src/engine/ports";
import { openSegmentStore, type SegmentStore } from "../../../../src/engine/store";
import { SimulatedDisk } from "../../../sim/simulated-disk";
import { SeededRandom } from "../../../support/seeded-random";
import { VirtualLoop } from "../../../support/virtual-loop";
import { CLUSTER, dataBlock, dataRef, inodeBlock, inodeRef, payloadOf, read } from "../store/blocks";
import { PEER } from "../store/stores";

interface Bench {
  readonly loop: VirtualLoop;
  readonly disk: SimulatedDisk;
  readonly store: SegmentStore;
  readonly service: PeerService;
  put(block: SealedBlock, writerEpoch?: number, lengthBytes?: number): StorageStatus;
}

async function makeBench(): Promise<Bench> {
  const loop = new VirtualLoop();
  const random = new SeededRandom(3);
  const disk = new SimulatedDisk({ random, clock: loop });
  const store = await loop.settle(
    openSegmentStore({
      disk: disk.attach(),
      clusterId: CLUSTER,
      peerId: PEER,
      sizeBytes: 4 * 1024 * 1024,
      segmentBytes: 1024 * 1024,
      indexChunkRows: 64,
      reserveSpace: false,
      allocate: heapBuffer,
      clock: loop,
      random,
      turns: loop,
      onPoison: () => undefined,
    }),
  );
  const service = new PeerService({ store, clock: loop });
  const put = (
    block: SealedBlock,
    writerEpoch: number = block.ref.epoch,
    lengthBytes = block.lengthBytes,
  ) => {
    let answer: StorageStatus | undefined;
    const done = (status: StorageStatus) => {
      expect(answer).toBeUndefined();
      answer = status;
    };
    service.put({ buffer: block.buffer, offset: block.offset, lengthBytes, writerEpoch, done });
    loop.run();
    if (answer === undefined) throw new Error("a put was not answered");
    return answer;
  };
  return { loop, disk, store, service, put };
}

const fenceRequest = (volumeId: number, epoch: number, tailEpoch = 0, tailAfterIndex = 0) => ({
  volumeId: asVolumeId(volumeId),
  epoch: asEpoch(epoch),
  tailEpoch,
  tailAfterIndex,
});

describe("PeerService.put", () => {
  test("a good block is ok and read back", async () => {
    const { service, put } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 3);
    expect(put(block)).toBe(StorageStatus.ok);
    expect(read(service, block.ref, 0, 3).bytes).toEqual(payloadOf(block));
  });

  test("any flipped bit of a block is refused and nothing of it kept", async () => {
    const { store, put } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 1);
    for (
      let at = block.offset;
      at < block.offset + block.lengthBytes;
      at += at < block.offset + 100 ? 1 : 97
    ) {
      block.buffer.bytes[at] = (block.buffer.bytes[at] as number) ^ 16;
      expect([StorageStatus.badRequest, StorageStatus.wrongCluster] as StorageStatus[]).toContain(put(block));
      block.buffer.bytes[at] = (block.buffer.bytes[at] as number) ^ 16;
    }
    expect(store.statistics().blockCount).toBe(0);
    expect(put(block)).toBe(StorageStatus.ok);
  });

  test("a length that does not fit the header is a bad request", async () => {
    const { put } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 2);
    for (const lengthBytes of [0, 1, 71, block.headerBytes, block.lengthBytes - 1, block.lengthBytes + 4])
      expect(put(block, 1, lengthBytes)).toBe(StorageStatus.badRequest);
  });

  test("a block of another cluster is refused as such", async () => {
    const { put } = await makeBench();
    const other = makeBlockSealer("aaaaaaaa-2222-3333-4444-555555555555" as ClusterId);
    const block = dataBlock(dataRef(1, 1, 1), 1, 0, other);
    expect(put(block)).toBe(StorageStatus.wrongCluster);
  });

  test("the fence comes before held, conflict and broken bytes", async () => {
    const { loop, service, put } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 1);
    expect(put(block)).toBe(StorageStatus.ok);
    await loop.settle(service.fence(fenceRequest(1, 5)));
    expect(put(block)).toBe(StorageStatus.fenced);
    expect(put(dataBlock(block.ref, 1, 7))).toBe(StorageStatus.fenced);
    const broken = dataBlock(dataRef(1, 1, 2), 1);
    broken.buffer.bytes[broken.offset + broken.headerBytes] =
      1 ^ (broken.buffer.bytes[broken.offset + broken.headerBytes] as number);
    expect(put(broken)).toBe(StorageStatus.fenced);
    expect(put(broken, 5)).toBe(StorageStatus.badRequest);
    expect(put(block, 5)).toBe(StorageStatus.ok);
    expect(put(block, 0)).toBe(StorageStatus.ok);
    expect(put(dataBlock(block.ref, 1, 7), 5)).toBe(StorageStatus.conflict);
  });
});

describe("PeerService.read", () => {
  test("numbers that are no slots are a bad request", async () => {
    const { service, put } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 3);
    put(block);
    for (const [first, count] of [
      [-1, 1],
      [0, -1],
      [0.5, 1],
      [0, 4],
      [4, 0],
      [Number.NaN, 1],
    ] as const)
      expect(read(service, block.ref, first, count).status).toBe(StorageStatus.badRequest);
  });
});

describe("PeerService.fence", () => {
  test("it lists the tail above the head, suspects marked, after pending puts were acknowledged", async () => {
    const { loop, disk, store, service, put } = await makeBench();
    for (const index of [1, 2, 3, 5]) put(dataBlock(dataRef(1, 4, index), 1));
    disk.failNextRead("data.read");
    expect(store.verify(dataRef(1, 4, 3))).toBe(StorageStatus.corrupt);
    const order: string[] = [];
    const pending = dataBlock(dataRef(1, 4, 6), 1);
    service.put({ ...pending, writerEpoch: 4, done: (status) => order.push(`put ${status}`) });
    const reply = await loop.settle(
      service.fence(fenceRequest(1, 9, 4, 1)).then((answer) => {
        order.push("fence");
        return answer;
      }),
    );
    expect(order).toEqual([`put ${StorageStatus.ok}`, "fence"]);
    expect(reply.status).toBe(StorageStatus.ok);
    expect(reply.epochKnown).toBe(9);
    expect(reply.incarnation).toBe(store.incarnation);
    expect(reply.tail.map(({ index, suspect }) => [index, suspect])).toEqual([
      [2, false],
      [3, true],
      [5, false],
      [6, false],
    ]);
  });

  test("a lower fence is refused with the epoch known, the same one again is answered again", async () => {
    const { loop, service } = await makeBench();
    await loop.settle(service.fence(fenceRequest(1, 9)));
    const lower = await loop.settle(service.fence(fenceRequest(1, 8)));
    expect(lower).toMatchObject({ status: StorageStatus.fenced, epochKnown: 9, tail: [] });
    expect(await loop.settle(service.fence(fenceRequest(1, 9)))).toMatchObject({
      status: StorageStatus.ok,
      epochKnown: 9,
    });
  });

  test("a peer that holds a block of the epoch just minted, or of a later one, knows the metadata was rolled back", async () => {
    const { loop, service, put } = await makeBench();
    put(inodeBlock(inodeRef(1, 7, 1), 100));
    for (const epoch of [6, 7])
      expect(await loop.settle(service.fence(fenceRequest(1, epoch)))).toMatchObject({
        status: StorageStatus.fenced,
        epochKnown: 7,
      });
    expect(await loop.settle(service.fence(fenceRequest(1, 8)))).toMatchObject({ status: StorageStatus.ok });
  });

  test("one that was fenced for an epoch never minted refuses as often as it is asked, and does not raise its fence", async () => {
    const { loop, store, service } = await makeBench();
    await loop.settle(service.fence(fenceRequest(1, 100)));
    const minted = (...epochs: number[]) => ({
      completeAbove: 40,
      minted: epochs.map((epoch) => ({ from: epoch, to: epoch })),
    });
    for (const epoch of [200, 201, 202])
      expect(
        await loop.settle(
          service.fence({ ...fenceRequest(1, epoch, 50, 3), minted: minted(60, epoch - 1, epoch) }),
        ),
      ).toMatchObject({ status: StorageStatus.fenced, epochKnown: 100, tail: [] });
    expect(store.fenceEpoch(asVolumeId(1))).toBe(100);
    // Not told, or the head's or an older one, or minted: nothing is wrong.
    const granted = { status: StorageStatus.ok };
    expect(await loop.settle(service.fence(fenceRequest(1, 203)))).toMatchObject({
      ...granted,
      epochKnown: 203,
    });
    for (const [epoch, headEpoch, known] of [
      [204, 203, minted(204)],
      [205, 50, { completeAbove: 204, minted: [] }],
      [206, 50, { completeAbove: 40, minted: [{ from: 60, to: 210 }] }],
      [206, 50, minted(205, 206)],
    ] as const)
      expect(
        await loop.settle(service.fence({ ...fenceRequest(1, epoch, headEpoch), minted: known })),
      ).toMatchObject({ ...granted, epochKnown: epoch });
  });

  test("map blocks of an epoch never minted are a writer's, and data newer than the head's always are", async () => {
    const { loop, service, put } = await makeBench();
    put(inodeBlock(inodeRef(1, 7, 1), 100));
    const ask = (volumeId: number, epoch: number, headEpoch: number, ...minted: number[]) =>
      loop.settle(
        service.fence({
          ...fenceRequest(volumeId, epoch, headEpoch),
          minted: { completeAbove: 0, minted: minted.map((each) => ({ from: each, to: each })) },
        }),
      );
    expect(await ask(1, 9, 5, 6, 9)).toMatchObject({ status: StorageStatus.fenced, epochKnown: 7 });
    // An opener that got that far and no further.
    expect(await ask(1, 9, 5, 7, 9)).toMatchObject({ status: StorageStatus.ok });
    put(dataBlock(dataRef(2, 7, 1), 1));
    // Minted a second time, by an opener that was refused.
    expect(await ask(2, 9, 5, 7, 9)).toMatchObject({ status: StorageStatus.fenced, epochKnown: 7 });
    expect(await ask(2, 9, 7, 9)).toMatchObject({ status: StorageStatus.ok });
  });

  test("the newest block of the head's epoch that can be read tells whether a head reached further", async () => {
    const { loop, disk, store, service, put } = await makeBench();
    const known = { completeAbove: 40, minted: [] };
    const ask = (epoch: number, dataIndex: number) =>
      loop.settle(service.fence({ ...fenceRequest(1, epoch, 4, dataIndex), minted: known }));
    for (const [index, coveredIndex] of [
      [6, 3],
      [7, 3],
      [9, 5],
      [10, 8],
    ] as const)
      put(dataBlock(dataRef(1, 4, index), 1, 0, undefined, coveredIndex));
    const refused = { status: StorageStatus.fenced, epochKnown: 4, tail: [] };
    for (const dataIndex of [3, 5, 7]) expect(await ask(9, dataIndex)).toMatchObject(refused);
    expect(store.fenceEpoch(asVolumeId(1))).toBe(0);
    disk.failNextRead("data.read");
    expect(store.verify(dataRef(1, 4, 10))).toBe(StorageStatus.corrupt);
    expect(await ask(9, 4)).toMatchObject(refused);
    expect(await ask(9, 5)).toMatchObject({ status: StorageStatus.ok });
    expect(await ask(9, 8)).toMatchObject({ status: StorageStatus.ok });
    // Who gives up what was written since does not tell what was minted.
    expect(await loop.settle(service.fence(fenceRequest(1, 10, 4, 3)))).toMatchObject({
      status: StorageStatus.ok,
    });
  });

  test("of two fences at once only the higher is granted", async () => {
    const { loop, service } = await makeBench();
    const [lower, higher] = await loop.settle(
      Promise.all([service.fence(fenceRequest(1, 5)), service.fence(fenceRequest(1, 6))]),
    );
    expect(lower).toMatchObject({ status: StorageStatus.fenced, epochKnown: 6 });
    expect(higher).toMatchObject({ status: StorageStatus.ok, epochKnown: 6 });
  });
});

/** At ring version 4, with three blocks, of which the second has a flipped bit, and a name that nothing has. */
async function makeRottenBench(): Promise<Bench & { readonly refs: readonly BlockRef[] }> {
  const bench = await makeBench();
  const { loop, disk, service, put } = bench;
  const blocks = [1, 2, 3].map((index) => dataBlock(dataRef(1, 1, index), 2));
  for (const block of blocks) put(block);
  await loop.settle(service.adoptRingVersion(4));
  const { buffer, offset, headerBytes } = blocks[1] as SealedBlock;
  const file = Buffer.from(disk.bytesOf("blocks-00000"));
  const at = file.indexOf(Buffer.from(buffer.bytes.subarray(offset, offset + 100)));
  disk.flipBit("blocks-00000", at + headerBytes + PAGE_BYTES + 3);
  return { ...bench, refs: [...blocks.map(({ ref }) => ref), dataRef(1, 1, 9)] };
}

describe("PeerService: confirm, list, delete, ring", () => {
  test("confirm reads every copy and answers only at its own ring version", async () => {
    const { loop, service, refs } = await makeRottenBench();
    const reply = await loop.settle(service.confirm({ refs, ringVersion: 4 }));
    expect(reply.ringVersion).toBe(4);
    expect(reply.statuses).toEqual([
      StorageStatus.ok,
      StorageStatus.corrupt,
      StorageStatus.ok,
      StorageStatus.notFound,
    ]);
    const stale = await loop.settle(service.confirm({ refs, ringVersion: 3 }));
    expect(stale.ringVersion).toBe(4);
    expect(stale.statuses.every((status) => status === StorageStatus.unavailable)).toBe(true);
  });

  test("a look-up answers at any ring version, by the index: rot shows once it was found", async () => {
    const { loop, store, service, refs } = await makeRottenBench();
    const lookUp = async () => {
      const reply = await loop.settle(service.confirm({ refs, ringVersion: LOOK_UP }));
      expect(reply.ringVersion).toBe(LOOK_UP);
      return reply.statuses;
    };
    const { ok, corrupt, notFound } = StorageStatus;
    expect(await lookUp()).toEqual([ok, ok, ok, notFound]);
    store.verify(refs[1] as BlockRef);
    expect(await lookUp()).toEqual([ok, corrupt, ok, notFound]);
  });

  test("a block on its way to the disk is no copy, neither to a look-up nor to a confirmation", async () => {
    const { loop, store, service } = await makeBench();
    const block = dataBlock(dataRef(1, 1, 1), 2);
    const { buffer, offset, lengthBytes, ref } = block;
    let isDone = false;
    service.put({ buffer, offset, lengthBytes, writerEpoch: 1, done: () => (isDone = true) });
    const { ok, unavailable } = StorageStatus;
    expect([isDone, store.lookUp(ref), store.verify(ref)]).toEqual([false, unavailable, unavailable]);
    loop.run();
    expect([isDone, store.lookUp(ref), store.verify(ref)]).toEqual([true, ok, ok]);
  });

  test("many deletes at once leave nothing behind, and answer when all are durable", async () => {
    const { loop, service, put } = await makeBench();
    const blocks = Array.from({ length: 300 }, (_, index) => dataBlock(dataRef(1, 1, index + 1), 1));
    for (const block of blocks) put(block);
    await loop.settle(service.deleteBlocks(blocks.slice(1).map(({ ref }) => ref)));
    expect((await loop.settle(service.list({ limit: 1000 }))).blocks.length).toBe(1);
  });

  test("deleteBlocks, list and statistics agree", async () => {
    const { loop, service, put } = await makeBench();
    const blocks = Array.from({ length: 20 }, (_, index) => dataBlock(dataRef(1, 1, index + 1), 1));
    for (const block of blocks) put(block);
    await loop.settle(service.deleteBlocks(blocks.slice(5).map(({ ref }) => ref)));
    const reply = await loop.settle(service.list({ limit: 1000 }));
    expect(reply.blocks.map(({ ref }) => ref.index).sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5]);
    expect(reply.cursor).toBeUndefined();
    expect(await loop.settle(service.statistics())).toMatchObject({ blockCount: 5, suspectCount: 0 });
  });

  test("a poisoned peer refuses the rare calls with its reason", async () => {
    const { loop, disk, service, put } = await makeBench();
    disk.failNextSync("segment.sync");
    expect(put(dataBlock(dataRef(1, 1, 1), 1))).toBe(StorageStatus.unavailable);
    const failures = [
      service.list({ limit: 1 }),
      service.confirm({ refs: [], ringVersion: 0 }),
      service.deleteBlocks([dataRef(1, 1, 1)]),
      service.adoptRingVersion(3),
    ];
    const settled = failures.map((failure) =>
      failure.then(
        () => undefined,
        (reason: unknown) => reason,
      ),
    );
    for (const each of settled) {
      const error = await loop.settle(each);
      expect(error).toBeInstanceOf(PeerError);
      expect((error as PeerError).code).toBe("unavailable");
      expect((error as PeerError).message).toContain("the disk reports an error");
    }
  });
});
