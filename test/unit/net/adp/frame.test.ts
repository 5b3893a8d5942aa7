import { expect, test } from "bun:test";
import fc from "fast-check";
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type ClusterId,
  type Incarnation,
  type PeerId,
} from "../../../../src/base";
import * as control from "../../../../src/net/adp/control";
import { AdpError } from "../../../../src/net/adp/errors";
import {
  decodeHello,
  encodeHello,
  encodeReplyHeader,
  encodeRequestHeader,
  FrameKind,
  HELLO_BYTES,
  type Hello,
  HelloStatus,
  isHeaderWhole,
  requestExtra,
} from "../../../../src/net/adp/frame";

const clusterId = "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId;
const peerId = "11111111-2222-4333-8444-555555555555" as PeerId;
const incarnation = "00112233445566ff" as Incarnation;
const identity = { clusterId, peerId, incarnation };

const hello: Hello = {
  versionMin: 1,
  versionMax: 3,
  status: HelloStatus.wrongPeer,
  clusterId,
  peerId,
  incarnation,
  blockBytesMax: 548_864,
  requestCountMax: 1024,
};

test("a hello survives encoding, with and without identities", () => {
  for (const one of [hello, { ...hello, peerId: "" as const, incarnation: "" as const }]) {
    const bytes = new Uint8Array(HELLO_BYTES + 7);
    encodeHello(bytes, 7, one);
    expect(decodeHello(bytes, 7)).toEqual(one);
  }
});

test("a hello with any byte changed is no hello", () => {
  const bytes = new Uint8Array(HELLO_BYTES);
  encodeHello(bytes, 0, hello);
  for (let at = 0; at < HELLO_BYTES; at++) {
    const changed = bytes.slice();
    changed[at] = (changed[at] as number) ^ 0x10;
    expect(decodeHello(changed, 0)).toBeUndefined();
  }
  expect(decodeHello(bytes.subarray(0, 95), 0)).toBeUndefined();
});

test("a frame header with any bit changed is not whole", () => {
  const view = new DataView(new ArrayBuffer(16));
  const encoders = [
    () => encodeRequestHeader(view, 0, 4188, FrameKind.put, 0, 1_700_000_000_123),
    () => encodeReplyHeader(view, 0, 4096, FrameKind.read, 0, 2 ** 40 + 77, 0xdeadbeef),
  ];
  for (const encode of encoders) {
    encode();
    expect(isHeaderWhole(view, 0)).toBe(true);
    for (let bit = 0; bit < 128; bit++) {
      encode();
      view.setUint8(bit >> 3, view.getUint8(bit >> 3) ^ (1 << (bit & 7)));
      expect([bit, isHeaderWhole(view, 0)]).toEqual([bit, false]);
    }
  }
});

test("requestExtra gives back epochs up to 2^53", () => {
  const view = new DataView(new ArrayBuffer(16));
  fc.assert(
    fc.property(fc.nat(2 ** 31), fc.maxSafeNat(), (bodyBytes, epoch) => {
      encodeRequestHeader(view, 0, bodyBytes, FrameKind.put, 0, epoch);
      expect(isHeaderWhole(view, 0)).toBe(true);
      expect(view.getUint32(0, true)).toBe(bodyBytes);
      expect(requestExtra(view, 0)).toBe(epoch);
    }),
  );
});

const u32 = fc.nat(2 ** 32 - 1);
const safe = fc.maxSafeNat();
const volumeId = fc.integer({ min: 1, max: 2 ** 40 - 1 }).map(asVolumeId);
const epoch = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }).map(asEpoch);
const ref = fc.record({
  kind: fc.constantFrom(BlockKind.data, BlockKind.inode),
  volumeId,
  epoch,
  index: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
});
const status = fc.constantFrom(0, 1, 2, 3, 4, 5, 6, 7, 8) as fc.Arbitrary<0>;

const codecs: {
  readonly name: string;
  readonly value: fc.Arbitrary<unknown>;
  readonly encode: (value: never) => Uint8Array;
  readonly decode: (bytes: Uint8Array) => unknown;
  /** Cut off here it is what older clients send. */
  readonly olderBytes?: number;
}[] = [
  {
    name: "fence request",
    value: fc.record(
      {
        ...{ volumeId, epoch, tailEpoch: safe, tailAfterIndex: safe },
        minted: fc.record({
          completeAbove: safe,
          minted: fc.array(fc.record({ from: safe, to: safe }), { maxLength: 64 }),
        }),
      },
      { requiredKeys: ["volumeId", "epoch", "tailEpoch", "tailAfterIndex"] },
    ),
    encode: control.encodeFenceRequest,
    decode: control.decodeFenceRequest,
    olderBytes: 32,
  },
  {
    name: "fence reply",
    value: fc.record({
      ...constants(identity),
      status,
      epochKnown: safe,
      tail: fc.array(fc.record({ index: safe, headerCrc: u32, lengthBytes: u32, suspect: fc.boolean() })),
    }),
    encode: control.encodeFenceReply,
    decode: control.decodeFenceReply,
  },
  {
    name: "list request",
    value: fc.record(
      {
        limit: fc.integer({ min: 1, max: 65_536 }),
        volumeId,
        cursor: fc.string({ minLength: 1, unit: "grapheme" }),
      },
      { requiredKeys: ["limit"] },
    ),
    encode: control.encodeListRequest,
    decode: control.decodeListRequest,
  },
  {
    name: "list reply",
    value: fc.record(
      {
        blocks: fc.array(fc.record({ ref, lengthBytes: u32, headerCrc: u32, suspect: fc.boolean() })),
        cursor: fc.string({ minLength: 1 }),
      },
      { requiredKeys: ["blocks"] },
    ),
    encode: control.encodeListReply,
    decode: control.decodeListReply,
  },
  {
    name: "confirm request",
    value: fc.record({ refs: fc.array(ref), ringVersion: safe }),
    encode: control.encodeConfirmRequest,
    decode: control.decodeConfirmRequest,
  },
  {
    name: "confirm reply",
    value: fc.record({ ...constants(identity), ringVersion: safe, statuses: fc.array(status) }),
    encode: control.encodeConfirmReply,
    decode: control.decodeConfirmReply,
  },
  {
    name: "statistics",
    value: fc.record({
      ...constants(identity),
      capacityBytes: safe,
      usedBytes: safe,
      blockCount: safe,
      suspectCount: safe,
      ringVersion: safe,
    }),
    encode: control.encodeStatistics,
    decode: control.decodeStatistics,
  },
];

function constants<T extends object>(values: T): { [Key in keyof T]: fc.Arbitrary<T[Key]> } {
  return Object.fromEntries(Object.entries(values).map(([key, value]) => [key, fc.constant(value)])) as never;
}

for (const { name, value, encode, decode, olderBytes } of codecs) {
  test(`${name}: what is encoded is decoded again`, () => {
    fc.assert(
      fc.property(value, (one) => {
        expect(decode(encode(one as never))).toEqual(one as never);
      }),
    );
  });

  test(`${name}: cut, extended, changed and random bytes are refused with bad-frame or decode to something`, () => {
    const decodeAny = (bytes: Uint8Array, mustFail: boolean) => {
      try {
        decode(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(AdpError);
        expect((error as AdpError).code).toBe("bad-frame");
        return;
      }
      expect(mustFail).toBe(false);
    };
    fc.assert(
      fc.property(value, fc.nat(), fc.nat(255), fc.uint8Array({ maxLength: 200 }), (one, at, mask, noise) => {
        const bytes = encode(one as never);
        const cut = bytes.length > 0 ? bytes.slice(0, at % bytes.length) : undefined;
        if (cut !== undefined) decodeAny(cut, cut.length !== olderBytes);
        decodeAny(new Uint8Array([...bytes, 0]), true);
        const changed = bytes.slice();
        if (bytes.length > 0) changed[at % bytes.length] = mask;
        decodeAny(changed, false);
        decodeAny(noise, false);
      }),
    );
  });
}

test("a fence reply of a long tail survives encoding", () => {
  const tail = Array.from({ length: 20_000 }, (_, at) => ({
    index: at + 1,
    headerCrc: (at * 7919) >>> 0,
    lengthBytes: 4188,
    suspect: at % 100 === 0,
  }));
  const reply = { ...identity, status: 0 as const, epochKnown: 5, tail };
  const bytes = control.encodeFenceReply(reply);
  expect(bytes.length).toBe(40 + 1 + 8 + 4 + 17 * 20_000);
  expect(control.decodeFenceReply(bytes)).toEqual(reply);
});

test("a count of items that are not there is refused before anything is allocated", () => {
  const bytes = new Uint8Array(12);
  new DataView(bytes.buffer).setUint32(8, 16_000, true);
  expect(() => control.decodeConfirmRequest(bytes)).toThrow("Cannot read a frame: items are missing");
  new DataView(bytes.buffer).setUint32(8, 0xffffffff, true);
  expect(() => control.decodeConfirmRequest(bytes)).toThrow("4294967295 items are more than 16384");
});
