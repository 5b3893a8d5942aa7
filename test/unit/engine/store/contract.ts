/** What every block store must do, run over each implementation by its own test file. */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, BlockKind, type BlockRef } from "../../../../src/base";
import { readCheck, blockSeed, PAGE_BYTES } from "../../../../src/engine/block";
import { type BlockListing, isStored, keepListing, StorageStatus } from "../../../../src/engine/ports";
import type { BlockStore } from "../../../../src/engine/store";
import {
  dataBlock,
  dataRef,
  inodeBlock,
  inodeRef,
  payloadOf,
  put,
  read,
  sealedBytes,
  sealer,
} from "./blocks";

export interface StoreUnderTest {
  readonly store: BlockStore;
  /** Closes the store and opens what it left; undefined for a store that forgets. */
  readonly reopen?: () => Promise<BlockStore>;
  readonly dispose: () => Promise<void>;
}

/** `capacityBytes` is about what the store should hold. */
export type MakeStore = (capacityBytes: number) => Promise<StoreUnderTest>;

const MIB = 1024 * 1024;

export function storeContract(name: string, make: MakeStore): void {
  const withStore = async (
    capacityBytes: number,
    body: (store: BlockStore, under: StoreUnderTest) => Promise<void>,
  ) => {
    const under = await make(capacityBytes);
    try {
      await body(under.store, under);
    } finally {
      await under.dispose();
    }
  };
  const fence = (store: BlockStore, volumeId: number, epoch: number) =>
    new Promise<StorageStatus>((resolve) => store.fence(asVolumeId(volumeId), asEpoch(epoch), resolve));
  const advance = (store: BlockStore) => new Promise<StorageStatus>((resolve) => store.advance(resolve));
  const remove = (store: BlockStore, refs: BlockRef[]) =>
    new Promise<StorageStatus>((resolve) => store.delete(refs, resolve));

  describe(`${name}: put and read`, () => {
    for (const pageCount of [1, 2, 7, 64, 128])
      test(`a block of ${pageCount} pages is read back, any range of it`, () =>
        withStore(4 * MIB, async (store) => {
          const ref = dataRef(7, 3, 1);
          const block = dataBlock(ref, pageCount);
          expect(await put(store, block)).toBe(StorageStatus.ok);
          const payload = payloadOf(block);
          for (const [first, count] of [
            [0, pageCount],
            [pageCount - 1, 1],
            [Math.floor(pageCount / 2), Math.ceil(pageCount / 2)],
          ] as const) {
            const answer = read(store, ref, first, count);
            expect(answer.status).toBe(StorageStatus.ok);
            expect(answer.bytes).toEqual(payload.slice(first * PAGE_BYTES, (first + count) * PAGE_BYTES));
            const seed = blockSeed(sealer.seed, ref);
            expect(answer.check).toBe(readCheck(seed, first, answer.bytes, 0, answer.bytes.length));
          }
        }));

    test("an INode block with a short last slot is read back", () =>
      withStore(4 * MIB, async (store) => {
        const ref = inodeRef(7, 3, 1);
        const block = inodeBlock(ref, PAGE_BYTES + 100);
        expect(await put(store, block)).toBe(StorageStatus.ok);
        const answer = read(store, ref, 1, 1);
        expect(answer.status).toBe(StorageStatus.ok);
        expect(answer.bytes).toEqual(payloadOf(block).slice(PAGE_BYTES));
      }));

    test("slotCount 0 reads the header", () =>
      withStore(4 * MIB, async (store) => {
        const block = dataBlock(dataRef(7, 3, 1), 3);
        await put(store, block);
        const answer = read(store, block.ref, 0, 0);
        expect(answer.status).toBe(StorageStatus.ok);
        expect(answer.bytes).toEqual(sealedBytes(block).slice(0, block.headerBytes));
        expect(answer.check).toBe(0);
      }));

    test("slots beyond the block are a bad request, an unknown block is not found", () =>
      withStore(4 * MIB, async (store) => {
        const block = dataBlock(dataRef(7, 3, 1), 3);
        await put(store, block);
        expect(read(store, block.ref, 2, 2).status).toBe(StorageStatus.badRequest);
        expect(read(store, dataRef(7, 3, 2), 0, 1).status).toBe(StorageStatus.notFound);
        expect(read(store, inodeRef(7, 3, 1), 0, 1).status).toBe(StorageStatus.notFound);
        expect(read(store, dataRef(8, 3, 1), 0, 1).status).toBe(StorageStatus.notFound);
      }));

    test("names with large numbers are told apart", () =>
      withStore(8 * MIB, async (store) => {
        const refs = [
          dataRef(2 ** 40 - 1, 2 ** 53 - 1, 2 ** 53 - 1),
          dataRef(2 ** 40 - 1, 2 ** 53 - 1, 2 ** 53 - 1 - 2 ** 32),
          dataRef(2 ** 40 - 1, 2 ** 53 - 1 - 2 ** 32, 2 ** 53 - 1),
          dataRef(2 ** 32 - 1, 2 ** 53 - 1, 2 ** 53 - 1),
          inodeRef(2 ** 40 - 1, 2 ** 53 - 1, 2 ** 53 - 1),
        ];
        const blocks = refs.map((ref, content) =>
          ref.kind === BlockKind.data ? dataBlock(ref, 1, content) : inodeBlock(ref, PAGE_BYTES, content),
        );
        for (const block of blocks) expect(await put(store, block)).toBe(StorageStatus.ok);
        for (const block of blocks) expect(read(store, block.ref, 0, 1).bytes).toEqual(payloadOf(block));
      }));

    test("many blocks put in one turn are acknowledged together, with one sync or few", () =>
      withStore(8 * MIB, async (store) => {
        const before = store.statistics().syncCount;
        const blocks = Array.from({ length: 100 }, (_, index) => dataBlock(dataRef(1, 1, index + 1), 1));
        const statuses = await Promise.all(blocks.map((block) => put(store, block)));
        expect(statuses.every((status) => status === StorageStatus.ok)).toBe(true);
        expect(store.statistics().syncCount - before).toBeLessThanOrEqual(3);
        expect(store.statistics().blockCount).toBe(100);
      }));

    test("the same block again is ok, another content under its name is a conflict", () =>
      withStore(4 * MIB, async (store) => {
        const ref = dataRef(7, 3, 1);
        const block = dataBlock(ref, 2);
        expect(await Promise.all([put(store, block), put(store, block)])).toEqual([
          StorageStatus.ok,
          StorageStatus.ok,
        ]);
        expect(await put(store, block)).toBe(StorageStatus.ok);
        expect(await put(store, dataBlock(ref, 2, 1))).toBe(StorageStatus.conflict);
        expect(store.statistics().blockCount).toBe(1);
        expect(read(store, ref, 0, 2).bytes).toEqual(payloadOf(block));
      }));

    test("what is lent stays unchanged until it is given back, though deleted and its space wanted", () =>
      withStore(MIB, async (store) => {
        const block = dataBlock(dataRef(1, 1, 1), 16);
        await put(store, block);
        let lent: { bytes: Uint8Array; release: () => void } | undefined;
        store.read({
          ref: block.ref,
          firstSlot: 0,
          slotCount: 16,
          done: (status, source, offset, lengthBytes, _check, release) => {
            if (status !== StorageStatus.ok || source === undefined || release === undefined)
              throw new Error("not lent");
            lent = { bytes: source.bytes.subarray(offset, offset + lengthBytes), release };
          },
        });
        expect(store.statistics().lentCount).toBe(1);
        expect(await remove(store, [block.ref])).toBe(StorageStatus.ok);
        for (let index = 2; ; index += 1)
          if ((await put(store, dataBlock(dataRef(1, 1, index), 16, 9))) !== StorageStatus.ok) break;
        expect(Buffer.compare(lent?.bytes ?? new Uint8Array(0), payloadOf(block))).toBe(0);
        lent?.release();
        expect(store.statistics().lentCount).toBe(0);
      }));
  });

  describe(`${name}: fences`, () => {
    test("a fence refuses lower epochs, even for a block that is held, and unfenced copies go on", () =>
      withStore(4 * MIB, async (store) => {
        const held = dataBlock(dataRef(7, 3, 1), 1);
        expect(await put(store, held)).toBe(StorageStatus.ok);
        expect(await fence(store, 7, 5)).toBe(StorageStatus.ok);
        expect(store.fenceEpoch(asVolumeId(7))).toBe(5);
        expect(await put(store, held)).toBe(StorageStatus.fenced);
        expect(await put(store, dataBlock(dataRef(7, 3, 2), 1))).toBe(StorageStatus.fenced);
        expect(await put(store, held, 5)).toBe(StorageStatus.ok);
        expect(await put(store, dataBlock(dataRef(7, 3, 3), 1), 0)).toBe(StorageStatus.ok);
        expect(await put(store, dataBlock(dataRef(8, 3, 1), 1))).toBe(StorageStatus.ok);
      }));

    test("a fence is answered after the puts accepted before it, and holds from its call on", () =>
      withStore(4 * MIB, async (store) => {
        const order: string[] = [];
        const before = put(store, dataBlock(dataRef(7, 3, 1), 1)).then((status) =>
          order.push(`put ${status}`),
        );
        const fenced = fence(store, 7, 4).then((status) => order.push(`fence ${status}`));
        const after = put(store, dataBlock(dataRef(7, 3, 2), 1)).then((status) =>
          order.push(`late ${status}`),
        );
        await Promise.all([before, fenced, after]);
        expect(order.indexOf(`put ${StorageStatus.ok}`)).toBeLessThan(
          order.indexOf(`fence ${StorageStatus.ok}`),
        );
        expect(order).toContain(`late ${StorageStatus.fenced}`);
        expect(store.tail(BlockKind.data, asVolumeId(7), 3, 0).map(({ index }) => index)).toEqual([1]);
      }));

    test("a fence never goes down", () =>
      withStore(4 * MIB, async (store) => {
        await fence(store, 7, 9);
        await fence(store, 7, 4);
        expect(store.fenceEpoch(asVolumeId(7))).toBe(9);
      }));

    test("tail lists one epoch's data blocks above an index in order", () =>
      withStore(4 * MIB, async (store) => {
        const blocks = [5, 2, 9, 1].map((index) => dataBlock(dataRef(7, 3, index), 1));
        for (const block of blocks) await put(store, block);
        await put(store, dataBlock(dataRef(7, 4, 7), 1));
        await put(store, inodeBlock(inodeRef(7, 3, 6), 100));
        const tail = store.tail(BlockKind.data, asVolumeId(7), 3, 1);
        expect(tail.map(({ index }) => index)).toEqual([2, 5, 9]);
        expect(tail[1]?.headerCrc).toBe(blocks[0]?.headerCrc);
        expect(tail[1]?.lengthBytes).toBe(blocks[0]?.lengthBytes);
        expect(tail.every(({ suspect }) => !suspect)).toBe(true);
        expect(store.heldEpochMax(BlockKind.data, asVolumeId(7))).toBe(4);
        expect(store.heldEpochMax(BlockKind.inode, asVolumeId(7))).toBe(3);
        expect(store.heldEpochMax(BlockKind.data, asVolumeId(8))).toBe(0);
      }));
  });

  describe(`${name}: delete, list, space`, () => {
    test("a deleted block is gone at once and can be put again, even with another content", () =>
      withStore(4 * MIB, async (store) => {
        const ref = dataRef(7, 3, 1);
        await put(store, dataBlock(ref, 1));
        const done = remove(store, [ref, dataRef(7, 3, 99)]);
        expect(store.has(ref)).toBe(false);
        expect(read(store, ref, 0, 1).status).toBe(StorageStatus.notFound);
        expect(await done).toBe(StorageStatus.ok);
        const again = dataBlock(ref, 1, 5);
        expect(await put(store, again)).toBe(StorageStatus.ok);
        expect(read(store, ref, 0, 1).bytes).toEqual(payloadOf(again));
      }));

    test("list walks every block once, by volume when asked", () =>
      withStore(8 * MIB, async (store) => {
        const expected: string[] = [];
        for (let index = 1; index <= 50; index += 1) {
          const ref = dataRef(1 + (index % 3), 2, index);
          await put(store, dataBlock(ref, 1));
          expected.push(`${ref.volumeId}/${index}`);
        }
        const walk = (volumeId?: number) => {
          const found: string[] = [];
          let cursor: string | undefined;
          do {
            const reply = store.list({
              limit: 7,
              ...(cursor === undefined ? {} : { cursor }),
              ...(volumeId === undefined ? {} : { volumeId: asVolumeId(volumeId) }),
            });
            expect(reply.blocks.length).toBeLessThanOrEqual(7);
            for (const { ref } of reply.blocks) found.push(`${ref.volumeId}/${ref.index}`);
            cursor = reply.cursor;
          } while (cursor !== undefined);
          return found.sort();
        };
        expect(walk()).toEqual(expected.sort());
        expect(walk(2)).toEqual(expected.filter((name) => name.startsWith("2/")));
        expect(walk(9)).toEqual([]);
      }));

    test("a walk shows what a listing lists", () =>
      withStore(8 * MIB, async (store) => {
        for (let index = 1; index <= 20; index += 1)
          await put(store, dataBlock(dataRef(1 + (index % 3), 2, index), 1 + (index % 4)));
        const listed = store.list({ limit: 100 }).blocks;
        const kept: BlockListing[] = [];
        let cursor: string | undefined;
        do {
          cursor = store.walk({ limit: 6, ...(cursor === undefined ? {} : { cursor }) }, (listing) => {
            kept.push(keepListing(listing));
          });
        } while (cursor !== undefined);
        expect(kept).toEqual([...listed]);
        expect(kept.length).toBe(20);
      }));

    test("a look-up tells what is there and durable", () =>
      withStore(8 * MIB, async (store) => {
        const ref = dataRef(1, 2, 3);
        expect(store.lookUp(ref)).toBe(StorageStatus.notFound);
        await put(store, dataBlock(ref, 1));
        expect(store.lookUp(ref)).toBe(StorageStatus.ok);
        expect(store.lookUp(dataRef(1, 2, 4))).toBe(StorageStatus.notFound);
        await put(store, dataBlock(dataRef(1, 2, 5), 1));
        await remove(store, [ref]);
        expect(store.lookUp(ref)).toBe(StorageStatus.notFound);
        await store.close();
        expect(store.lookUp(dataRef(1, 2, 5))).toBe(StorageStatus.unavailable);
      }));

    test("a full store refuses, loses nothing, and takes blocks again once some are deleted", () =>
      withStore(2 * MIB, async (store) => {
        const kept: ReturnType<typeof dataBlock>[] = [];
        let status: StorageStatus = StorageStatus.ok;
        for (let index = 1; isStored(status); index += 1) {
          const block = dataBlock(dataRef(1, 1, index), 1 + (index % 5));
          status = await put(store, block);
          if (isStored(status)) kept.push(block);
        }
        expect(status).toBe(StorageStatus.outOfSpace);
        expect(kept.length).toBeGreaterThan(20);
        for (const block of kept) expect(read(store, block.ref, 0, 1).status).toBe(StorageStatus.ok);
        expect(await fence(store, 1, 1)).toBe(StorageStatus.ok);
        const gone = kept.splice(0, Math.floor(kept.length / 2));
        const used = store.statistics().usedBytes;
        expect(
          await remove(
            store,
            gone.map(({ ref }) => ref),
          ),
        ).toBe(StorageStatus.ok);
        expect(store.statistics().usedBytes).toBeLessThan(used);
        for (let index = 0; index < gone.length / 2; index += 1) {
          const block = dataBlock(dataRef(2, 1, index + 1), 1);
          expect(isStored(await put(store, block))).toBe(true);
          kept.push(block);
        }
        for (const block of kept)
          expect(read(store, block.ref, 0, 1).bytes).toEqual(payloadOf(block).slice(0, PAGE_BYTES));
      }));

    test("large blocks find room in the gaps that small ones left", () =>
      withStore(4 * MIB, async (store) => {
        const small: ReturnType<typeof dataBlock>[] = [];
        for (let index = 1; ; index += 1) {
          const block = dataBlock(dataRef(1, 1, index), 1);
          if (!isStored(await put(store, block))) break;
          small.push(block);
        }
        const odd = small.filter((_, position) => position % 2 === 1);
        expect(
          await remove(
            store,
            odd.map(({ ref }) => ref),
          ),
        ).toBe(StorageStatus.ok);
        const large = dataBlock(dataRef(2, 1, 1), 64);
        expect(isStored(await put(store, large))).toBe(true);
        expect(read(store, large.ref, 0, 64).bytes).toEqual(payloadOf(large));
        expect(read(store, large.ref, 63, 1).bytes).toEqual(payloadOf(large).slice(63 * PAGE_BYTES));
        expect(store.verify(large.ref)).toBe(StorageStatus.ok);
        const used = store.statistics().usedBytes;
        await remove(store, [large.ref]);
        expect(store.statistics().usedBytes).toBeLessThanOrEqual(used - large.lengthBytes);
      }));

    test("ring versions never go back", () =>
      withStore(MIB, async (store) => {
        const adopt = (version: number) =>
          new Promise<StorageStatus>((resolve) => store.adoptRingVersion(version, resolve));
        expect(await adopt(4)).toBe(StorageStatus.ok);
        expect(await adopt(2)).toBe(StorageStatus.ok);
        expect(store.ringVersion).toBe(4);
      }));

    test("a closed store answers unavailable", () =>
      withStore(MIB, async (store) => {
        const block = dataBlock(dataRef(1, 1, 1), 1);
        await store.close();
        expect(await put(store, block)).toBe(StorageStatus.unavailable);
        expect(read(store, block.ref, 0, 1).status).toBe(StorageStatus.unavailable);
        expect(await remove(store, [block.ref])).toBe(StorageStatus.unavailable);
        expect(await fence(store, 1, 1)).toBe(StorageStatus.unavailable);
      }));

    test("everything is there after closing and opening again", () =>
      withStore(8 * MIB, async (store, under) => {
        if (under.reopen === undefined) return;
        const blocks = Array.from({ length: 40 }, (_, index) =>
          dataBlock(dataRef(1 + (index % 2), 3, index + 1), 1 + (index % 9)),
        );
        for (const block of blocks) expect(await put(store, block)).toBe(StorageStatus.ok);
        const inode = inodeBlock(inodeRef(1, 3, 1), 5000);
        expect(await put(store, inode)).toBe(StorageStatus.ok);
        const gone = blocks.splice(10, 10);
        await remove(
          store,
          gone.map(({ ref }) => ref),
        );
        await fence(store, 1, 8);
        await new Promise((resolve) => store.adoptRingVersion(6, resolve));
        await advance(store);
        const { incarnation, peerId, bootCount, progress } = store;
        const statistics = store.statistics();
        const opened = await under.reopen();
        expect(opened.incarnation).toBe(incarnation);
        expect(opened.peerId).toBe(peerId);
        expect(opened.bootCount).toBe(bootCount + 1);
        expect(opened.progress).toBe(progress);
        expect(progress).toBeGreaterThan(0);
        expect(opened.ringVersion).toBe(6);
        expect(opened.fenceEpoch(asVolumeId(1))).toBe(8);
        expect(opened.statistics().usedBytes).toBe(statistics.usedBytes);
        expect(opened.statistics().blockCount).toBe(31);
        expect(opened.statistics().suspectCount).toBe(0);
        for (const block of [...blocks, inode])
          expect(read(opened, block.ref, 0, 1).bytes).toEqual(payloadOf(block).slice(0, PAGE_BYTES));
        for (const { ref } of gone) expect(opened.has(ref)).toBe(false);
        expect(await put(opened, dataBlock(dataRef(1, 3, 99), 1))).toBe(StorageStatus.fenced);
        expect(await put(opened, dataBlock(dataRef(1, 8, 1), 1))).toBe(StorageStatus.ok);
      }));
  });
}
