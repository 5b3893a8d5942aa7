/** Streams that were valid once, damaged at random, against both sides of adp: nobody throws, hangs or leaks. */
import { expect, test } from "bun:test";
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  type ClusterId,
  heapBuffer,
  type Incarnation,
  type PeerId,
  type Random,
} from "../../../../src/base";
import {
  BlockBuilder,
  blockBufferBytes,
  HEADER_BYTES_MAX,
  makeBlockSealer,
} from "../../../../src/engine/block";
import { AdpClient, AdpServer } from "../../../../src/net/adp";
import { ADP_VERSION } from "../../../../src/net/adp/frame";
import { encodeFenceRequest, encodeStatistics } from "../../../../src/net/adp/control";
import {
  encodeHello,
  encodeReadBody,
  encodeReplyHeader,
  encodeRequestHeader,
  FrameKind,
  HELLO_BYTES,
} from "../../../../src/net/adp/frame";
import { MemoryNetwork } from "../../../support/memory-network";
import { MemoryService } from "../../../support/memory-service";
import { VirtualClock } from "../../../support/virtual-clock";

const clusterId = "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId;
const peerId = "11111111-2222-4333-8444-000000000001" as PeerId;
const identity = { clusterId, peerId, incarnation: "00000000000000a1" as Incarnation };
const BLOCK_SIZE = 64 * 1024;
const ROUNDS = 400;
const ref: BlockRef = { kind: BlockKind.data, volumeId: asVolumeId(1), epoch: asEpoch(1), index: 1 };

function seeded(seed: number): Random {
  let state = seed;
  const nextU32 = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return { nextU32, hex: () => "00", uuid: () => peerId };
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function helloBytes(wanted: PeerId | "", incarnation: Incarnation | ""): Uint8Array {
  const bytes = new Uint8Array(HELLO_BYTES);
  const sizes = { blockBytesMax: HEADER_BYTES_MAX + BLOCK_SIZE, requestCountMax: 100 };
  encodeHello(bytes, 0, {
    clusterId,
    peerId: wanted,
    incarnation,
    versionMin: ADP_VERSION,
    versionMax: ADP_VERSION,
    status: 0,
    ...sizes,
  });
  return bytes;
}

function frame(kind: FrameKind, operation: number, extra: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + body.length);
  encodeRequestHeader(new DataView(bytes.buffer), 0, body.length, kind, operation, extra);
  bytes.set(body, 16);
  return bytes;
}

function reply(kind: FrameKind, ordinal: number, body: Uint8Array, check: number): Uint8Array {
  const bytes = new Uint8Array(16 + body.length);
  encodeReplyHeader(new DataView(bytes.buffer), 0, body.length, kind, 0, ordinal, check);
  bytes.set(body, 16);
  return bytes;
}

function blockBytes(pages: number): Uint8Array {
  const builder = new BlockBuilder(heapBuffer(blockBufferBytes(BLOCK_SIZE)), BLOCK_SIZE);
  builder.addPages(0, pages);
  const sealed = builder.seal(makeBlockSealer(clusterId), ref);
  return sealed.buffer.bytes.slice(sealed.offset, sealed.offset + sealed.lengthBytes);
}

/** Flips, overwrites, removes, repeats or cuts, one to four times, mostly not in the hello. */
function damage(random: Random, whole: Uint8Array): Uint8Array {
  let bytes: Uint8Array = whole.slice();
  const count = 1 + (random.nextU32() % 4);
  for (let round = 0; round < count && bytes.length > 0; round++) {
    const from = random.nextU32() % 8 === 0 ? 0 : Math.min(HELLO_BYTES, bytes.length - 1);
    const at = from + (random.nextU32() % (bytes.length - from));
    const lengthBytes = 1 + (random.nextU32() % 40);
    const end = Math.min(at + lengthBytes, bytes.length);
    switch (random.nextU32() % 5) {
      case 0:
        bytes[at] = (bytes[at] as number) ^ (1 << (random.nextU32() % 8));
        break;
      case 1:
        for (let index = at; index < end; index++) bytes[index] = random.nextU32();
        break;
      case 2:
        bytes = concat([bytes.subarray(0, at), bytes.subarray(end)]);
        break;
      case 3:
        bytes = concat([bytes.subarray(0, end), bytes.subarray(at)]);
        break;
      default:
        bytes = bytes.slice(0, at);
    }
  }
  return bytes;
}

test("AdpServer: damaged request streams never throw, never leak a buffer, and end", () => {
  const requests = concat([
    helloBytes(peerId, ""),
    frame(FrameKind.put, 0, 1, blockBytes(1)),
    ...[0, 1].map((slotCount) => {
      const body = new Uint8Array(32);
      encodeReadBody(new DataView(body.buffer), 0, ref, 0, slotCount);
      return frame(FrameKind.read, 0, 0, body);
    }),
    ...[
      [1, encodeFenceRequest({ volumeId: ref.volumeId, epoch: asEpoch(2), tailEpoch: 1, tailAfterIndex: 0 })],
      [4, new Uint8Array(0)],
    ].map(([operation, body]) =>
      frame(FrameKind.control, operation as number, Bun.hash.crc32(body as Uint8Array), body as Uint8Array),
    ),
    frame(FrameKind.put, 0, 0, blockBytes(9)),
  ]);
  let served = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const random = seeded(seed * 7919);
    const clock = new VirtualClock();
    const wire = new MemoryNetwork({ clock, random, pieceBytesMax: 1 + (random.nextU32() % 3000) });
    const service = new MemoryService(identity);
    const server = new AdpServer({
      service,
      network: wire.node("server"),
      clock,
      allocate: heapBuffer,
      blockBytesMax: HEADER_BYTES_MAX + BLOCK_SIZE,
      largeBufferCount: 1,
      smallBufferCount: 1,
      onServiceError: (error) => expect(error).toBeNull(),
    });
    const { address } = server.listen("server:1");
    const bytes = damage(random, requests);
    wire.node("client").connect(
      address,
      1000,
      (connection) => {
        connection.write(bytes, 0, bytes.length);
        connection.end();
        return { onData: (_buffer, start, end) => end - start, onReceived: () => {}, onClose: () => {} };
      },
      (reason) => expect(reason).toBe("nothing"),
    );
    clock.advance(60_000);
    expect([seed, server.statistics.connectionCount]).toEqual([seed, 0]);
    expect(server.smallPool.availableCount + server.largePool.availableCount).toBe(2);
    expect(service.lentCount).toBe(0);
    served += service.blocks.size;
    server.close();
  }
  // Some damage is behind the first put: that one must have been stored.
  expect(served).toBeGreaterThan(ROUNDS / 4);
});

test("AdpClient: damaged reply streams complete every request once and write nothing beyond its destination", () => {
  const page = new Uint8Array(4096).fill(9);
  const statistics = encodeStatistics({
    ...identity,
    capacityBytes: 1,
    usedBytes: 1,
    blockCount: 1,
    suspectCount: 0,
    ringVersion: 1,
  });
  const replies = concat([
    helloBytes(peerId, identity.incarnation),
    reply(FrameKind.put, 0, new Uint8Array(0), 0),
    reply(FrameKind.read, 2, page, 5),
    reply(FrameKind.read, 1, page, 5),
    reply(FrameKind.control, 3, statistics, Bun.hash.crc32(statistics)),
  ]);
  let whole = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const random = seeded(seed * 104_729);
    const clock = new VirtualClock();
    const wire = new MemoryNetwork({ clock, random, pieceBytesMax: 1 + (random.nextU32() % 600) });
    const bytes = damage(random, replies);
    let connections = 0;
    const listener = wire.node("server").listen("server:1", (connection) => {
      let greeted = false;
      let received = 0;
      connections++;
      return {
        onData: (_buffer, start, end) => {
          received += end - start;
          if (!greeted && received >= HELLO_BYTES) {
            greeted = true;
            connection.write(bytes, 0, Math.min(HELLO_BYTES, bytes.length));
          }
          // Replies come once all four requests are there.
          if (received === REQUEST_BYTES && bytes.length > HELLO_BYTES)
            connection.write(bytes, HELLO_BYTES, bytes.length);
          return end - start;
        },
        onReceived: () => {},
        onClose: () => {},
      };
    });
    const client = new AdpClient({
      network: wire.node("client"),
      clock,
      turns: { afterTurn: (callback) => void clock.schedule(0, callback) },
      random,
      allocate: heapBuffer,
      clusterId,
      blockBytesMax: HEADER_BYTES_MAX + BLOCK_SIZE,
      locate: () => (connections === 0 ? listener.address : undefined),
      requestTimeoutMs: 2000,
      controlTimeoutMs: 3000,
      connectTimeoutMs: 1000,
    });
    const answers = { put: 0, reads: [0, 0], control: 0 };
    const block = heapBuffer(PUT_BYTES);
    client.put(peerId, {
      buffer: block,
      offset: 0,
      lengthBytes: PUT_BYTES,
      writerEpoch: 1,
      done: () => {
        answers.put++;
      },
    });
    const destination = heapBuffer(3 * 4096 + 100);
    for (const at of [0, 1])
      client.read(peerId, {
        ref,
        firstSlot: at,
        slotCount: 1,
        destination,
        destinationOffset: at * 4096,
        done: (_peer, status) => {
          answers.reads[at] = (answers.reads[at] as number) + 1;
          if (status === 0) whole++;
        },
      });
    client.statistics(peerId).then(
      () => answers.control++,
      () => answers.control++,
    );
    clock.advance(60_000);
    expect([seed, answers.put, ...answers.reads]).toEqual([seed, 1, 1, 1]);
    expect(destination.bytes.subarray(8192).every((byte) => byte === 0)).toBe(true);
    client.close();
    clock.advance(10_000);
    expect([answers.put, ...answers.reads]).toEqual([1, 1, 1]);
  }
  expect(whole).toBeGreaterThan(ROUNDS / 4);
});

const PUT_BYTES = 500;
const REQUEST_BYTES = HELLO_BYTES + 16 + PUT_BYTES + 2 * (16 + 32) + 16;
