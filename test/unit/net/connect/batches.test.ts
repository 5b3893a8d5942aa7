import { describe, expect, test } from "bun:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { BLOCK_REF_BYTES, encodeBlockRef } from "../../../../src/base";
import { StorageStatus } from "../../../../src/engine";
import {
  encodeHead,
  encodePutResponse,
  encodeReadResponse,
  putItemBytes,
  readItemBytes,
  readPutRequest,
  readPutResponse,
  readReadRequest,
  readReadResponse,
  statusOf,
  wireStatus,
  writePutFrame,
  writeReadItem,
} from "../../../../src/net/connect/batches";
import { FieldWriter } from "../../../../src/net/connect/protobuf";
import {
  PutBlocksRequestSchema,
  PutBlocksResponseSchema,
  ReadBlocksRequestSchema,
  ReadBlocksResponseSchema,
  Status,
  TargetSchema,
} from "../../../../src/net/gen/storage_pb";
import { testRef } from "../../../support/peer-blocks";

const target = { clusterId: "some-cluster", peerId: "some-peer" };
const head = encodeHead(toBinary(TargetSchema, create(TargetSchema, target)));
const epochs = fc.oneof(
  fc.constant(0),
  fc.integer({ min: 1, max: 2 ** 31 }),
  fc.constant(Number.MAX_SAFE_INTEGER),
);
const data = fc.uint8Array({ maxLength: 300 });
const statuses = fc.constantFrom(
  ...Object.values(StorageStatus).filter((each) => each !== StorageStatus.unreachable),
);
const u32 = fc.integer({ min: 0, max: 0xffffffff });

function refBytes(index: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK_REF_BYTES);
  encodeBlockRef(new DataView(bytes.buffer), 0, testRef(index));
  return bytes;
}

describe("batches against the generated code", () => {
  test("a PutBlocksRequest, both ways", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ writerEpoch: epochs, block: data }), { maxLength: 8 }), (puts) => {
        const total = puts.reduce(
          (sum, put) => sum + putItemBytes(put.writerEpoch, put.block.length),
          head.length,
        );
        const writer = new FieldWriter(new Uint8Array(total)).raw(head);
        for (const put of puts) {
          writePutFrame(writer, put.writerEpoch, put.block.length);
          writer.raw(put.block);
        }
        expect(writer.position).toBe(total);
        const message = fromBinary(PutBlocksRequestSchema, writer.bytes);
        expect(message.target).toMatchObject(target);
        const bigEpochs = puts.map((put) => BigInt(put.writerEpoch));
        expect(message.puts.map((put) => put.writerEpoch)).toEqual(bigEpochs);
        expect(message.puts.map((put) => [...put.block])).toEqual(puts.map((put) => [...put.block]));

        const bytes = toBinary(PutBlocksRequestSchema, message);
        const back = readPutRequest(bytes, 8);
        expect(back.items.map((item) => item.writerEpoch)).toEqual(puts.map((put) => put.writerEpoch));
        const blocks = back.items.map((item) => [...bytes.subarray(item.start, item.end)]);
        expect(blocks).toEqual(puts.map((put) => [...put.block]));
      }),
    );
  });

  test("a PutBlocksResponse, both ways", () => {
    fc.assert(
      fc.property(fc.array(statuses, { maxLength: 200 }), (list) => {
        const bytes = encodePutResponse(head, list);
        const wire = list.map(wireStatus);
        expect(fromBinary(PutBlocksResponseSchema, bytes).statuses as number[]).toEqual(wire);
        const generated = toBinary(
          PutBlocksResponseSchema,
          create(PutBlocksResponseSchema, { statuses: wire }),
        );
        expect(readPutResponse(generated).statuses).toEqual(list);
        expect(readPutResponse(bytes).statuses).toEqual(list);
      }),
    );
  });

  test("a ReadBlocksRequest, both ways", () => {
    const reads = fc.record({ index: fc.integer({ min: 1, max: 2 ** 31 }), firstSlot: u32, slotCount: u32 });
    fc.assert(
      fc.property(fc.array(reads, { maxLength: 8 }), (list) => {
        const total = list.reduce(
          (sum, read) => sum + readItemBytes(read.firstSlot, read.slotCount),
          head.length,
        );
        const writer = new FieldWriter(new Uint8Array(total)).raw(head);
        for (const read of list) writeReadItem(writer, testRef(read.index), read.firstSlot, read.slotCount);
        expect(writer.position).toBe(total);
        const message = fromBinary(ReadBlocksRequestSchema, writer.bytes);
        expect(message.reads.map((read) => [...read.ref])).toEqual(
          list.map((read) => [...refBytes(read.index)]),
        );
        const back = readReadRequest(toBinary(ReadBlocksRequestSchema, message), 8);
        expect(back.items).toEqual(
          list.map(({ index, firstSlot, slotCount }) => ({ ref: testRef(index), firstSlot, slotCount })),
        );
      }),
    );
  });

  test("a ReadBlocksResponse, both ways", () => {
    fc.assert(
      fc.property(fc.array(fc.record({ status: statuses, check: u32, data }), { maxLength: 8 }), (list) => {
        const bytes = encodeReadResponse(head, list);
        const message = fromBinary(ReadBlocksResponseSchema, bytes);
        expect(
          message.results.map((result) => [result.status as number, result.check, [...result.data]]),
        ).toEqual(list.map((result) => [wireStatus(result.status), result.check, [...result.data]]));
        const again = toBinary(ReadBlocksResponseSchema, message);
        const back = readReadResponse(again, 8);
        expect(
          back.items.map((item) => [item.status, item.check, [...again.subarray(item.start, item.end)]]),
        ).toEqual(list.map((result) => [result.status, result.check, [...result.data]]));
      }),
    );
  });

  test("every status has its name on the wire", () => {
    const names = Object.entries(StorageStatus).filter(([name]) => name !== "unreachable");
    for (const [name, status] of names) {
      const wireName = Status[wireStatus(status)] as string;
      expect(wireName.replaceAll("_", "").toLowerCase()).toBe(name.toLowerCase());
      expect(statusOf(wireStatus(status))).toBe(status);
    }
    expect(names.length).toBe(Object.keys(Status).length / 2 - 1);
  });
});

describe("batches from anywhere", () => {
  const cases: [string, number[], string][] = [
    [
      "a length beyond the end",
      [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
      "a field of 4294967295 bytes with 0 left",
    ],
    [
      "a length of 2^63",
      [0x12, ...Array(9).fill(0xff), 0x01],
      "a field of 9007199254740991 bytes with 0 left",
    ],
    ["an endless number", [0x08, ...Array(11).fill(0x80)], "a number of more than ten bytes"],
    ["half a number", [0x08, 0x80], "it ends inside a number"],
    ["field 0", [0x00, 0x00], "field tag 0"],
    ["a group", [0x0b], "wire type 3"],
    ["half a fixed field", [0x15, 0x01], "a field of 4 bytes with 1 left"],
  ];
  for (const [name, bytes, problem] of cases)
    test(`${name} is malformed`, () => {
      expect(() => readPutRequest(Uint8Array.from(bytes), 8)).toThrow(`Cannot read a message: ${problem}`);
    });

  test("more operations than allowed are malformed", () => {
    const bytes = Uint8Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? 0x12 : 0));
    expect(() => readPutRequest(bytes, 9)).toThrow("Cannot read a message: more than 9 operations");
    expect(readPutRequest(bytes, 10).items.length).toBe(10);
  });

  test("unknown fields are skipped", () => {
    const bytes = Uint8Array.from([
      0x78, 1, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x7a, 1, 9, 0x7d, 1, 2, 3, 4, 0x12, 0,
    ]);
    expect(readPutRequest(bytes, 8).items.length).toBe(1);
  });

  test("any bytes are read or refused, never anything else", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        for (const read of [readPutRequest, readReadRequest, readPutResponse, readReadResponse]) {
          try {
            read(bytes, 8);
          } catch (error) {
            expect((error as { code?: string }).code).toBe("malformed");
          }
        }
      }),
      { numRuns: 3000 },
    );
  });
});
