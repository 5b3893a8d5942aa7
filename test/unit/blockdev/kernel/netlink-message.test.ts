import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  AttributeWriter,
  encodeGenericMessage,
  numberOf,
  parseAttributes,
  parseMessages,
} from "../../../../src/blockdev/kernel/netlink-message";

describe("netlink messages", () => {
  test("a request is laid out as the kernel reads it", () => {
    const attributes = new AttributeWriter()
      .text(2, "nbd")
      .nested(7, new AttributeWriter().u32(1, 5))
      .finish();
    expect([...encodeGenericMessage(0x10, 9, 3, attributes)]).toEqual([
      // length 40, type 0x10, flags REQUEST|ACK, sequence 9, port 0
      ...[40, 0, 0, 0, 0x10, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0],
      // command 3, version 1
      ...[3, 1, 0, 0],
      // attribute 2: "nbd\0"
      ...[8, 0, 2, 0, 0x6e, 0x62, 0x64, 0],
      // attribute 7, nested: attribute 1: 5
      ...[12, 0, 7, 0x80, 8, 0, 1, 0, 5, 0, 0, 0],
    ]);
  });

  test("an attribute whose length is no multiple of four is padded", () => {
    expect([
      ...new AttributeWriter()
        .bytes(1, Uint8Array.of(9))
        .u64(2, 2 ** 40)
        .finish(),
    ]).toEqual([...[5, 0, 1, 0, 9, 0, 0, 0], ...[12, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0]]);
  });

  test("a reply and its acknowledgement are told apart", () => {
    const reply = encodeGenericMessage(0x1c, 4, 1, new AttributeWriter().u32(1, 3).finish());
    const acknowledgement = Uint8Array.from([36, 0, 0, 0, 2, 0, 0, 0, 4, ...Array(27).fill(0)]);
    const refusal = acknowledgement.slice();
    new DataView(refusal.buffer).setInt32(16, -16, true);
    const messages = parseMessages(Buffer.concat([reply, acknowledgement, refusal]));
    expect(messages?.map(({ type, sequence, errno }) => [type, sequence, errno])).toEqual([
      [0x1c, 4, 0],
      [2, 4, 0],
      [2, 4, 16],
    ]);
    expect(numberOf(messages?.[0]?.attributes.get(1))).toBe(3);
  });

  test("attributes come back as they were written", () => {
    const attribute = fc.tuple(fc.integer({ min: 1, max: 0x3fff }), fc.uint8Array({ maxLength: 20 }));
    fc.assert(
      fc.property(fc.array(attribute), (list) => {
        const writer = new AttributeWriter();
        for (const [type, data] of list) writer.bytes(type, data);
        expect(parseAttributes(writer.finish())?.map(([type, data]) => [type, [...data]])).toEqual(
          list.map(([type, data]) => [type, [...data]]),
        );
      }),
    );
  });

  test("any bytes are parsed or refused", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        parseMessages(bytes);
        parseAttributes(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  for (const [name, bytes] of [
    ["a length shorter than its header", [8, 0, 0, 0, ...Array(16).fill(0)]],
    ["a length beyond the end", [64, 0, 0, 0, ...Array(20).fill(0)]],
    ["half a header", [20, 0, 0]],
    ["an attribute beyond the end", [28, 0, 0, 0, 9, ...Array(15).fill(0), 12, 0, 1, 0, 0, 0, 0, 0]],
  ] as const)
    test(`${name} is refused`, () => {
      expect(parseMessages(Uint8Array.from(bytes))).toBeUndefined();
    });
});
