/** Blocks made by the builder and read back: the property is that replaying the extents gives the pages written. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  heapBuffer,
  parseClusterId,
} from "../../../../src/base";
import {
  BLOCK_HEADROOM_BYTES,
  BlockBuilder,
  BlockFault,
  BlockHeader,
  BlockVerifier,
  blockBufferBytes,
  blockSeed,
  clusterSeed,
  EXTENT_COUNT_MAX,
  HOLE_SLOT,
  makeBlockSealer,
  PAGE_BYTES,
  readCheck,
  type SealedBlock,
  sealInodeBlock,
  VOLUME_PAGE_COUNT_MAX,
  verifyBlock,
} from "../../../../src/engine/block";

const clusterId = parseClusterId("6f1c8d0e-3a77-4f0b-9a53-2f7c1c0d9e11");
const otherCluster = parseClusterId("6f1c8d0e-3a77-4f0b-9a53-2f7c1c0d9e12");
const sealer = makeBlockSealer(clusterId);
const dataRef = (index: number): BlockRef => ({
  kind: BlockKind.data,
  volumeId: asVolumeId(7),
  epoch: asEpoch(1_700_000_000_000),
  index,
});
const inodeRef = (index: number): BlockRef => ({ ...dataRef(index), kind: BlockKind.inode });

function makeBuilder(pages: number): BlockBuilder {
  const blockSizeBytes = pages * PAGE_BYTES;
  return new BlockBuilder(heapBuffer(blockBufferBytes(blockSizeBytes)), blockSizeBytes);
}

function writePage(builder: BlockBuilder, page: number, fill: number): number {
  const slot = builder.addPages(page, 1);
  const start = builder.slotOffset(slot);
  builder.buffer.bytes.fill(fill, start, start + PAGE_BYTES);
  return slot;
}

function parsed(block: SealedBlock): BlockHeader {
  const header = new BlockHeader();
  expect(header.parse(block.buffer, block.offset, block.lengthBytes)).toBe(BlockFault.none);
  return header;
}

/** Replays the block into a model: page -> fill byte, or 0 for a hole. */
function replay(block: SealedBlock, model: Map<number, number>): void {
  const header = parsed(block);
  const extent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
  const payload = block.offset + header.headerBytes;
  for (let index = 0; index < header.extentCount; index += 1) {
    header.extent(index, extent);
    for (let page = 0; page < extent.pageCount; page += 1) {
      const slot = extent.firstSlot + page;
      const hole = extent.firstSlot === HOLE_SLOT;
      model.set(extent.firstPage + page, hole ? 0 : (block.buffer.bytes[payload + slot * PAGE_BYTES] ?? -1));
    }
  }
}

describe("BlockBuilder", () => {
  test("seal writes the header directly before the payload and the block verifies", () => {
    const builder = makeBuilder(16);
    writePage(builder, 5, 1);
    writePage(builder, 6, 2);
    writePage(builder, 100, 3);
    const block = builder.seal(sealer, dataRef(1));
    expect(block.offset + block.headerBytes).toBe(BLOCK_HEADROOM_BYTES);
    expect(block.lengthBytes).toBe(block.headerBytes + 3 * PAGE_BYTES);
    const verifier = new BlockVerifier(clusterId);
    expect(verifier.verify(block.buffer, block.offset, block.lengthBytes)).toBe(BlockFault.none);
    expect(verifier.header.ref).toEqual(dataRef(1));
    expect(verifier.header.headerCrc).toBe(block.headerCrc);
    expect(verifier.header.extentCount).toBe(2);
  });

  test("any mix of writes, overwrites and trims replays to the pages written", () => {
    const step = fc.record({
      trim: fc.boolean(),
      page: fc.integer({ min: 0, max: 24 }),
      count: fc.integer({ min: 1, max: 8 }),
      fill: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const builder = makeBuilder(16);
        const model = new Map<number, number>();
        const slots = new Map<number, number>();
        for (const { trim, page, count, fill } of steps) {
          if (trim) {
            expect(builder.addHole(page, count)).toBe(true);
            for (let at = page; at < page + count; at += 1) {
              model.set(at, 0);
              slots.delete(at);
            }
            continue;
          }
          const slot = slots.get(page);
          if (slot === undefined && builder.freeSlots === 0) continue;
          if (slot === undefined) slots.set(page, writePage(builder, page, fill));
          else builder.buffer.bytes.fill(fill, builder.slotOffset(slot), builder.slotOffset(slot + 1));
          model.set(page, fill);
        }
        const block = builder.seal(sealer, dataRef(3));
        expect(verifyBlock(block.buffer, block.offset, block.lengthBytes, clusterId)).toBe(BlockFault.none);
        const replayed = new Map<number, number>();
        replay(block, replayed);
        expect([...replayed].sort()).toEqual([...model].sort());
      }),
      { numRuns: 200 },
    );
  });

  test("holes and slots together stay within the extents a header can hold", () => {
    const builder = makeBuilder(1024);
    for (let hole = 0; hole < EXTENT_COUNT_MAX - 1; hole += 1)
      expect(builder.addHole(hole * 3, 1)).toBe(true);
    expect(builder.freeSlots).toBe(1);
    writePage(builder, 5000, 9);
    expect(builder.freeSlots).toBe(0);
    expect(builder.addHole(9000, 1)).toBe(false);
    expect(builder.addHole((EXTENT_COUNT_MAX - 2) * 3, 2)).toBe(true);
    const block = builder.seal(sealer, dataRef(1));
    expect(verifyBlock(block.buffer, block.offset, block.lengthBytes, clusterId)).toBe(BlockFault.none);
    expect(block.offset).toBeGreaterThanOrEqual(PAGE_BYTES);
  });

  test("a trim of the largest volume is a few holes", () => {
    const builder = makeBuilder(16);
    expect(builder.addHole(0, VOLUME_PAGE_COUNT_MAX)).toBe(true);
    const header = parsed(builder.seal(sealer, dataRef(1)));
    const extent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
    let next = 0;
    for (let index = 0; index < header.extentCount; index += 1) {
      header.extent(index, extent);
      expect([extent.firstPage, extent.firstSlot]).toEqual([next, HOLE_SLOT]);
      next += extent.pageCount;
    }
    expect(next).toBe(VOLUME_PAGE_COUNT_MAX);
  });

  test("a reused builder holds nothing of the block before", () => {
    const builder = makeBuilder(16);
    writePage(builder, 1, 1);
    builder.addHole(7, 3);
    builder.reset();
    expect(builder.isEmpty).toBe(true);
    writePage(builder, 2, 2);
    const model = new Map<number, number>();
    replay(builder.seal(sealer, dataRef(2)), model);
    expect([...model]).toEqual([[2, 2]]);
  });
});

describe("sealInodeBlock", () => {
  test("seals a payload whose last slot is short", () => {
    const buffer = heapBuffer(blockBufferBytes(64 * 1024));
    buffer.bytes.fill(0x5a, BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + 10_001);
    const block = sealInodeBlock(buffer, 10_001, sealer, inodeRef(4));
    expect(verifyBlock(buffer, block.offset, block.lengthBytes, clusterId)).toBe(BlockFault.none);
    const header = parsed(block);
    expect([header.slotCount, header.slotBytes(2)]).toEqual([3, 10_001 - 2 * PAGE_BYTES]);
    const seed = blockSeed(clusterSeed(clusterId), inodeRef(4));
    const start = BLOCK_HEADROOM_BYTES + PAGE_BYTES;
    expect(readCheck(seed, 1, buffer.bytes, start, 10_001 - PAGE_BYTES)).toBe(header.check(1, 2));
  });
});

describe("readCheck", () => {
  test("equals the header's check for every range and differs for a wrong slot, ref or byte", () => {
    const builder = makeBuilder(64);
    for (let page = 0; page < 64; page += 1) writePage(builder, page * 2, page + 1);
    const block = builder.seal(sealer, dataRef(9));
    const header = parsed(block);
    const seed = blockSeed(clusterSeed(clusterId), dataRef(9));
    expect(header.blockSeed).toBe(seed);
    for (let first = 0; first < 64; first += 7)
      for (let count = 1; first + count <= 64; count += 5) {
        const offset = builder.slotOffset(first);
        const bytes = count * PAGE_BYTES;
        expect(readCheck(seed, first, block.buffer.bytes, offset, bytes)).toBe(header.check(first, count));
        expect(readCheck(seed, first + 1, block.buffer.bytes, offset, bytes)).not.toBe(
          header.check(first, count),
        );
      }
    const otherSeed = blockSeed(clusterSeed(clusterId), dataRef(10));
    const offset = builder.slotOffset(0);
    expect(readCheck(otherSeed, 0, block.buffer.bytes, offset, PAGE_BYTES)).not.toBe(header.check(0, 1));
    block.buffer.bytes[offset + 77] = 0xff;
    expect(readCheck(seed, 0, block.buffer.bytes, offset, PAGE_BYTES)).not.toBe(header.check(0, 1));
  });
});

describe("verifyBlock", () => {
  function sample(): SealedBlock {
    const builder = makeBuilder(16);
    builder.addHole(40, 4);
    writePage(builder, 10, 1);
    writePage(builder, 11, 2);
    return builder.seal(sealer, dataRef(2));
  }

  test("names another cluster, a short block and trailing bytes", () => {
    const block = sample();
    const { buffer, offset, lengthBytes } = block;
    expect(verifyBlock(buffer, offset, lengthBytes, otherCluster)).toBe(BlockFault.wrongCluster);
    expect(verifyBlock(buffer, offset, lengthBytes - 1, clusterId)).toBe(BlockFault.truncated);
    expect(verifyBlock(buffer, offset, block.headerBytes - 1, clusterId)).toBe(BlockFault.truncated);
    expect(verifyBlock(buffer, offset, 71, clusterId)).toBe(BlockFault.truncated);
    expect(verifyBlock(buffer, offset, lengthBytes + 1, clusterId)).toBe(BlockFault.badLengths);
  });

  test("any flipped bit is found", () => {
    const block = sample();
    const { buffer, offset, lengthBytes } = block;
    for (let bit = 0; bit < lengthBytes * 8; bit += bit < block.headerBytes * 8 ? 1 : 1013) {
      const at = offset + (bit >> 3);
      buffer.bytes[at] = (buffer.bytes[at] as number) ^ (1 << (bit & 7));
      expect(verifyBlock(buffer, offset, lengthBytes, clusterId)).not.toBe(BlockFault.none);
      buffer.bytes[at] = (buffer.bytes[at] as number) ^ (1 << (bit & 7));
    }
    expect(verifyBlock(buffer, offset, lengthBytes, clusterId)).toBe(BlockFault.none);
  });

  test("garbage with a right header CRC never throws and never names impossible extents", () => {
    const header = new BlockHeader();
    const edit = fc.record({ at: fc.integer({ min: 0, max: 120 }), value: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 8 }), (edits) => {
        const { buffer, offset, headerBytes, lengthBytes } = sample();
        for (const { at, value } of edits) buffer.bytes[offset + at] = value;
        buffer.view.setUint32(offset + 64, 0, true);
        const crc = Bun.hash.crc32(buffer.bytes.subarray(offset, offset + headerBytes));
        buffer.view.setUint32(offset + 64, crc, true);
        if (header.parse(buffer, offset, lengthBytes) !== BlockFault.none) return;
        const extent = { firstPage: 0, pageCount: 0, firstSlot: 0 };
        for (let index = 0; index < header.extentCount; index += 1) {
          header.extent(index, extent);
          expect(extent.firstPage + extent.pageCount).toBeLessThanOrEqual(VOLUME_PAGE_COUNT_MAX);
          if (extent.firstSlot !== HOLE_SLOT)
            expect(extent.firstSlot + extent.pageCount).toBeLessThanOrEqual(header.slotCount);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("random bytes never throw", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 300 }), (bytes) => {
        const buffer = heapBuffer(304);
        buffer.bytes.set(bytes);
        expect(verifyBlock(buffer, 0, bytes.length, clusterId)).not.toBe(BlockFault.none);
      }),
    );
  });
});

test("a data block tells how far the map of the head in force reached", () => {
  const seal = (index: number, coveredIndex?: number) => {
    const builder = makeBuilder(16);
    writePage(builder, 1, 1);
    return builder.seal(sealer, dataRef(index), coveredIndex);
  };
  expect(parsed(seal(9)).coveredIndex).toBe(0);
  expect(parsed(seal(9, 0)).coveredIndex).toBe(0);
  expect(parsed(seal(9, 8)).coveredIndex).toBe(8);
  expect(parsed(seal(2 ** 40, 2 ** 40 - 2 ** 32 + 1)).coveredIndex).toBe(2 ** 40 - 2 ** 32 + 1);
  // Too far apart to be told.
  expect(parsed(seal(2 ** 40, 2 ** 40 - 2 ** 32)).coveredIndex).toBe(0);
  const wrong = seal(9, 8);
  wrong.buffer.view.setUint32(wrong.offset + 68, 10, true);
  wrong.buffer.view.setUint32(wrong.offset + 64, 0, true);
  const headerBytes = wrong.buffer.bytes.subarray(wrong.offset, wrong.offset + wrong.headerBytes);
  wrong.buffer.view.setUint32(wrong.offset + 64, Bun.hash.crc32(headerBytes), true);
  expect(new BlockHeader().parse(wrong.buffer, wrong.offset, wrong.lengthBytes)).toBe(BlockFault.badLengths);
});

test("the format's bytes are as they were: golden header", () => {
  const builder = makeBuilder(16);
  writePage(builder, 2 ** 33 + 1, 0xab);
  builder.addHole(3, 2);
  const block = builder.seal(sealer, dataRef(1));
  const header = block.buffer.bytes.subarray(block.offset, block.offset + block.headerBytes);
  expect(Buffer.from(header).toString("hex")).toBe(
    [
      "54424c4b010000006f1c8d0e3a774f0b9a532f7c1c0d9e1107000000000100000068e5cf8b0100000100000000000000",
      "6c00000000100000020000000100000079ad987500000000030000000000000002000000ffffffff0100000002000000",
      "01000000000000000eeb755f",
    ].join(""),
  );
});
