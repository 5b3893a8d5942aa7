import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DeviceStatus } from "../../../../src/blockdev";
import { MemoryStream, settle } from "../../../support/memory-stream";
import { DEVICE_BYTES, makeStage, Session, type Style } from "../../../support/nbd-session";
import { Bytes, concat, infoData, clientFlags, option, type RequestFields } from "../../../support/nbd-wire";

const [READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const [EPERM, EIO, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN] = [1, 5, 22, 28, 95, 108] as const;
const [FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN] = [1, 2, 4, 8, 16, 32] as const;
const MIB = 1024 * 1024;
const STYLES: readonly Style[] = ["simple", "structured", "extended"];

function pattern(lengthBytes: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let index = 0; index < lengthBytes; index++) bytes[index] = index * 31 + seed * 17 + (index >>> 8);
  return bytes;
}

/** The data of a read reply in any style. */
async function readBack(session: Session, offset: number, length: number, flags = 0): Promise<Uint8Array> {
  session.send({ command: READ, offset, length, flags, cookie: 77n });
  const result = new Uint8Array(length);
  let covered = 0;
  for (const reply of await session.replies()) {
    expect(reply.error).toBe(0);
    if (reply.kind === "simple") return reply.payload;
    if (reply.type === 0) continue;
    const view = new DataView(reply.payload.buffer, reply.payload.byteOffset);
    result.set(reply.payload.subarray(8), Number(view.getBigUint64(0)) - offset);
    covered += reply.payload.length - 8;
  }
  expect(covered).toBe(length);
  return result;
}

describe("Transmission errors, by the protocol document", () => {
  const end = DEVICE_BYTES;
  const cases: [string, RequestFields, number][] = [
    ["read beyond the end", { command: READ, offset: end - 1, length: 2 }, EINVAL],
    ["read up to the end", { command: READ, offset: end - 2, length: 2 }, 0],
    ["read of nothing", { command: READ, offset: 0, length: 0 }, 0],
    ["read far beyond", { command: READ, offset: 0xffffffffffffffffn, length: 1 }, EINVAL],
    ["read of over 32 MiB", { command: READ, length: 32 * MIB + 1 }, EINVAL],
    ["read of 32 MiB", { command: READ, length: 32 * MIB }, 0],
    ["read with NO_HOLE", { command: READ, length: 1, flags: NO_HOLE }, EINVAL],
    ["read with an unknown flag", { command: READ, length: 1, flags: 0x8000 }, EINVAL],
    ["read with FUA, which any command may carry", { command: READ, length: 1, flags: FUA }, 0],
    ["write beyond the end", { command: WRITE, offset: end - 1, payload: new Uint8Array(2) }, ENOSPC],
    ["write up to the end", { command: WRITE, offset: end - 2, payload: new Uint8Array(2) }, 0],
    ["write of nothing", { command: WRITE, payload: new Uint8Array(0) }, 0],
    ["write with DF", { command: WRITE, flags: DF, payload: new Uint8Array(2) }, EINVAL],
    ["flush", { command: FLUSH }, 0],
    ["flush with FUA", { command: FLUSH, flags: FUA }, 0],
    ["flush with an offset", { command: FLUSH, offset: 1 }, EINVAL],
    ["flush with a length", { command: FLUSH, length: 1 }, EINVAL],
    ["trim", { command: TRIM, length: 4096 }, 0],
    ["trim of everything", { command: TRIM, length: end }, 0],
    ["trim beyond the end", { command: TRIM, offset: 1, length: end }, EINVAL],
    ["cache", { command: CACHE, length: 3 * MIB }, 0],
    ["cache beyond the end", { command: CACHE, offset: end, length: 1 }, EINVAL],
    ["write zeroes", { command: ZEROES, length: 4096, flags: NO_HOLE | FAST_ZERO | FUA }, 0],
    ["write zeroes beyond the end", { command: ZEROES, offset: end - 1, length: 2 }, ENOSPC],
    ["write zeroes with DF", { command: ZEROES, length: 1, flags: DF }, EINVAL],
    ["resize, unknown here", { command: 8 }, EINVAL],
    ["an unknown command", { command: 0xffff, length: 5 }, EINVAL],
  ];
  for (const style of STYLES)
    for (const [name, fields, error] of cases)
      test(`${style}: ${name} answers ${error}`, async () => {
        const stage = makeStage();
        const session = await Session.open(stage, style);
        expect(await session.errorOf(fields)).toBe(error);
        // Nobody is harmed: the next request is served, and no memory stayed behind.
        expect(await session.errorOf({ command: READ, length: 8, cookie: 9n })).toBe(0);
        expect(stage.server.bufferPieceCount).toBe(0);
      });

  const styled: [string, Style, RequestFields, number][] = [
    ["DF without structured replies", "simple", { command: READ, length: 8, flags: DF }, EINVAL],
    ["DF", "structured", { command: READ, length: 8, flags: DF }, 0],
    ["block status without a context", "simple", { command: STATUS, length: 8 }, EINVAL],
    ["block status", "structured", { command: STATUS, length: 8 }, 0],
    ["block status of nothing", "structured", { command: STATUS, length: 0 }, EINVAL],
    [
      "block status beyond the end",
      "structured",
      { command: STATUS, offset: 1, length: DEVICE_BYTES },
      EINVAL,
    ],
    ["block status of one extent", "extended", { command: STATUS, length: 8, flags: REQ_ONE }, 0],
    [
      "payload flag without extended headers",
      "structured",
      { command: TRIM, length: 8, flags: PAYLOAD_LEN },
      EINVAL,
    ],
    ["trim of over 4 GiB", "extended", { command: TRIM, length: 2n ** 40n }, EINVAL],
    [
      "a payload where none belongs",
      "extended",
      { command: STATUS, flags: PAYLOAD_LEN, payload: new Uint8Array(8) },
      EINVAL,
    ],
  ];
  for (const [name, style, fields, error] of styled)
    test(`${style}: ${name} answers ${error}`, async () => {
      const session = await Session.open(makeStage(), style);
      expect(await session.errorOf(fields)).toBe(error);
      expect(await session.errorOf({ command: READ, length: 8, cookie: 9n })).toBe(0);
    });

  test("a read-only export refuses every kind of write", async () => {
    const stage = makeStage();
    stage.device.readOnly = true;
    const session = await Session.open(stage);
    for (const fields of [
      { command: WRITE, payload: new Uint8Array(512) },
      { command: TRIM, length: 512 },
      { command: ZEROES, length: 512 },
    ])
      expect(await session.errorOf(fields)).toBe(EPERM);
    expect(stage.device.calls).toEqual([]);
  });

  const mapped: [DeviceStatus, number][] = [
    [DeviceStatus.ioError, EIO],
    [DeviceStatus.noSpace, ENOSPC],
    [DeviceStatus.invalid, EINVAL],
    [DeviceStatus.readOnly, EPERM],
    [DeviceStatus.shutdown, ESHUTDOWN],
    [DeviceStatus.notSupported, ENOTSUP],
  ];
  for (const style of STYLES)
    test(`${style}: what a device answers becomes NBD's error, for every command`, async () => {
      const stage = makeStage();
      const session = await Session.open(stage, style);
      for (const [status, error] of mapped) {
        for (const operation of ["read", "write", "flush", "trim", "writeZeroes", "extents"] as const)
          stage.device.failures.set(operation, status);
        expect(await session.errorOf({ command: READ, length: 3 * MIB })).toBe(error);
        expect(await session.errorOf({ command: READ, length: 512 })).toBe(error);
        expect(await session.errorOf({ command: WRITE, payload: new Uint8Array(512) })).toBe(error);
        expect(await session.errorOf({ command: WRITE, payload: new Uint8Array(3 * MIB) })).toBe(error);
        expect(await session.errorOf({ command: FLUSH })).toBe(error);
        expect(await session.errorOf({ command: TRIM, length: 512 })).toBe(error);
        expect(await session.errorOf({ command: ZEROES, length: 512 })).toBe(error);
        expect(await session.errorOf({ command: CACHE, length: MIB })).toBe(error);
        if (style !== "simple") expect(await session.errorOf({ command: STATUS, length: 512 })).toBe(error);
      }
      expect(stage.server.bufferPieceCount).toBe(0);
    });

  test("a huge write is refused without memory for it, and its body skipped", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    session.send({ command: WRITE, length: 200 * MIB });
    for (let sent = 0; sent < 200 * MIB; sent += 10 * MIB) session.stream.feed(new Uint8Array(10 * MIB));
    const replies = await session.replies();
    expect(replies.map((reply) => reply.error)).toEqual([EINVAL]);
    expect(stage.server.bufferBytes).toBe(0);
  });

  test("an extended write that announces exabytes is cut off", async () => {
    const session = await Session.open(makeStage(), "extended");
    session.send({ command: WRITE, length: 2n ** 60n });
    expect(session.stream.closeReason).toBe(
      "NBD transmission: a body of 1152921504606847000 bytes was announced",
    );
  });

  test("garbage ends this connection and no other", async () => {
    const stage = makeStage();
    const [bad, good] = [await Session.open(stage), await Session.open(stage)];
    bad.stream.feed(new Uint8Array(64).fill(0xaa));
    expect(bad.stream.closeReason).toBe("NBD transmission: a request with a wrong magic");
    expect(await good.errorOf({ command: READ, length: 4096 })).toBe(0);
    expect(stage.directory.holders.get("data")).toBe(1);
  });
});

describe("Transmission data", () => {
  for (const style of STYLES) {
    for (const length of [
      1,
      511,
      4096,
      32 * 1024,
      32 * 1024 + 1,
      100_000,
      MIB,
      MIB + 1,
      5 * MIB + 3,
      32 * MIB,
    ])
      test(`${style}: ${length} bytes come back as written`, async () => {
        const stage = makeStage();
        const session = await Session.open(stage, style);
        const offset = 12_345;
        const payload = pattern(length);
        expect(await session.errorOf({ command: WRITE, offset, payload, flags: FUA })).toBe(0);
        expect(stage.device.calls.every((call) => call.forceUnitAccess)).toBe(true);
        expect(Buffer.compare(await readBack(session, offset, length), payload)).toBe(0);
        expect(stage.server.bufferPieceCount).toBe(0);
        const { readBytes, writtenBytes } = stage.server.statistics;
        expect([readBytes, writtenBytes]).toEqual([length, length]);
      });

    test(`${style}: requests in flight are answered in the order the device finishes them`, async () => {
      const stage = makeStage();
      const session = await Session.open(stage, style);
      stage.device.deferred = true;
      stage.device.content.set(pattern(DEVICE_BYTES / 16));
      for (let index = 0; index < 20; index++)
        session.send({
          command: READ,
          offset: index * 4096,
          length: 4096,
          cookie: 0xabcd_0000_0000_0000n + BigInt(index),
        });
      stage.device.answer((count) => count - 1);
      const replies = await session.replies();
      expect(replies.map((reply) => Number(reply.cookie & 0xffffn))).toEqual(
        Array.from({ length: 20 }, (_, index) => 19 - index),
      );
      for (const reply of replies) {
        const at = Number(reply.cookie & 0xffffn) * 4096;
        const data = reply.kind === "simple" ? reply.payload : reply.payload.subarray(8);
        expect(Buffer.compare(data, stage.device.content.subarray(at, at + 4096))).toBe(0);
      }
    });
  }

  test("DF answers a large read in one chunk", async () => {
    const stage = makeStage();
    stage.device.content.set(pattern(3 * MIB));
    const session = await Session.open(stage, "structured");
    session.send({ command: READ, length: 3 * MIB, flags: DF });
    const replies = await session.replies();
    expect(replies.map((reply) => [reply.type, reply.last, reply.payload.length])).toEqual([
      [1, true, 3 * MIB + 8],
    ]);
  });

  test("a large structured read that fails midway ends with an error chunk", async () => {
    const stage = makeStage();
    const session = await Session.open(stage, "structured");
    stage.device.deferred = true;
    session.send({ command: READ, length: 3 * MIB });
    stage.device.waiting.shift()?.();
    stage.device.failures.set("read", DeviceStatus.ioError);
    session.send({ command: READ, offset: MIB, length: 8, cookie: 2n });
    stage.device.answer();
    const replies = await session.replies();
    expect(replies.map((reply) => [Number(reply.cookie), reply.type, reply.last])).toEqual([
      [1, 1, false],
      [1, 1, false],
      [1, 1, true],
      [2, 0x8001, true],
    ]);
  });

  test("block status tells holes, in both widths", async () => {
    const stage = makeStage();
    for (const style of ["structured", "extended"] as const) {
      const session = await Session.open(stage, style);
      await session.errorOf({ command: WRITE, offset: 8192, payload: pattern(4096) });
      session.send({ command: STATUS, offset: 4096, length: 16_384, flags: 0 });
      const [reply] = await session.replies();
      const expected =
        style === "structured"
          ? new Bytes().u32(1).u32(4096).u32(3).u32(4096).u32(0).u32(8192).u32(3)
          : new Bytes().u32(1).u32(3).u64(4096).u64(3).u64(4096).u64(0).u64(8192).u64(3);
      expect(reply?.payload).toEqual(expected.done());
      expect(reply?.type).toBe(style === "structured" ? 5 : 6);
      session.send({ command: STATUS, offset: 4096, length: 16_384, flags: REQ_ONE });
      expect((await session.replies())[0]?.payload.length).toBe(style === "structured" ? 12 : 24);
    }
  });

  test("zeroing options reach the device", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    await session.errorOf({ command: WRITE, payload: pattern(8192) });
    await session.errorOf({ command: ZEROES, length: 4096, flags: FUA });
    expect(stage.device.calls.at(-1)).toEqual({
      operation: "writeZeroes",
      offsetBytes: 0,
      lengthBytes: 4096,
      forceUnitAccess: true,
    });
    expect(
      Buffer.compare(
        await readBack(session, 0, 8192),
        concat(new Uint8Array(4096), pattern(8192).slice(4096)),
      ),
    ).toBe(0);
  });

  test("all connections see one volume, and a resize", async () => {
    const stage = makeStage();
    const [one, two] = [await Session.open(stage), await Session.open(stage, "structured")];
    await one.errorOf({ command: WRITE, offset: 7, payload: pattern(1000) });
    expect(await readBack(two, 7, 1000)).toEqual(pattern(1000));
    stage.device.resize(MIB);
    expect(await two.errorOf({ command: READ, offset: MIB, length: 1 })).toBe(EINVAL);
  });
});

describe("Transmission bounds", () => {
  test("a client at its limit of bytes is paused, and goes on as answers leave", async () => {
    const stage = makeStage({ clientBytesMax: 64 * 1024 });
    const session = await Session.open(stage);
    stage.device.deferred = true;
    for (let index = 0; index < 40; index++)
      session.send({ command: READ, offset: index * 4096, length: 4096, cookie: BigInt(index) });
    expect(stage.device.calls.length).toBe(16);
    expect(session.stream.paused).toBe(true);
    for (let round = 0; round < 40; round++) {
      stage.device.answer();
      await settle();
    }
    expect((await session.replies()).length).toBe(40);
  });

  test("a client at its limit of requests is paused", async () => {
    const stage = makeStage({ clientRequestCountMax: 3 });
    const session = await Session.open(stage);
    stage.device.deferred = true;
    for (let index = 0; index < 10; index++) session.send({ command: FLUSH, cookie: BigInt(index) });
    expect(stage.device.calls.length).toBe(3);
    stage.device.answer();
    await settle();
    expect(stage.device.calls.length).toBe(6);
  });

  test("a client that takes no replies is not read from, and loses nothing", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    session.stream.holdOutput = true;
    const flush = session.encode({ command: FLUSH });
    const many = new Uint8Array(flush.length * 1000);
    for (let index = 0; index < 1000; index++) many.set(flush, index * flush.length);
    for (let round = 0; round < 200; round++) session.stream.feed(many);
    await settle();
    expect(session.stream.queuedBytes).toBeLessThan(2 * MIB);
    expect(session.stream.unreadBytes).toBeGreaterThan(0);
    session.stream.holdOutput = false;
    let replies = 0;
    for (let round = 0; round < 20 && replies < 200_000; round++) {
      session.stream.flush();
      replies += (await session.replies()).length;
    }
    expect(replies).toBe(200_000);
  });

  test("with all memory taken others wait in turn, and a stalled holder is dropped only then", async () => {
    const stage = makeStage({ clientBytesMax: 64 * MIB, bufferBytesMax: 64 * MIB, stallTimeoutMs: 2000 });
    const hog = await Session.open(stage);
    hog.stream.holdOutput = true;
    hog.send({ command: READ, length: 32 * MIB, cookie: 1n });
    hog.send({ command: READ, length: 32 * MIB, cookie: 2n });
    stage.clock.advance(10_000);
    expect(hog.stream.closed).toBe(false);
    const other = await Session.open(stage);
    other.send({ command: WRITE, payload: pattern(2 * MIB) });
    expect(other.stream.paused).toBe(true);
    stage.clock.advance(5000);
    expect(hog.stream.closeReason).toContain("while others wait for memory");
    expect((await other.replies()).map((reply) => reply.error)).toEqual([0]);
    expect(stage.server.bufferPieceCount).toBe(0);
  });

  test("memory of one size is carved anew for another", async () => {
    const stage = makeStage({ bufferBytesMax: 64 * MIB });
    const session = await Session.open(stage);
    for (const length of [4096, 30_000, 200_000, 32 * MIB, 4096, 32 * MIB])
      for (let round = 0; round < 3; round++)
        expect(await session.errorOf({ command: READ, length })).toBe(0);
    expect(stage.server.bufferBytes).toBeLessThan(66 * MIB);
  });

  test("who begins a request and stops is let go, at any of its bytes; who is only quiet is not", async () => {
    const stage = makeStage();
    const quiet = await Session.open(stage);
    for (const payload of [pattern(512), pattern(5 * MIB)])
      expect(await quiet.errorOf({ command: WRITE, payload })).toBe(0);
    const beginnings: [number, Session][] = [];
    // Of a header, of a small write, of a large write, of a refused write's body (beyond the end of the device).
    for (const [fields, sentBytes] of [
      [{ command: FLUSH }, 1],
      [{ command: WRITE, payload: pattern(512) }, 100],
      [{ command: WRITE, payload: pattern(5 * MIB) }, 3 * MIB],
      [{ command: WRITE, payload: pattern(512), offset: 2n ** 40n }, 100],
    ] as const) {
      const session = await Session.open(stage);
      session.stream.feed(session.encode(fields).subarray(0, sentBytes));
      beginnings.push([sentBytes, session]);
    }
    stage.clock.advance(60_000);
    for (const [sentBytes, session] of beginnings)
      expect([sentBytes, session.stream.closed]).toEqual([sentBytes, false]);
    stage.clock.advance(65_000);
    await settle();
    for (const [sentBytes, session] of beginnings)
      expect([sentBytes, session.stream.closeReason]).toEqual([
        sentBytes,
        expect.stringContaining("began a request and sent nothing more of it"),
      ]);
    expect(quiet.stream.closed).toBe(false);
    expect(await quiet.errorOf({ command: FLUSH })).toBe(0);
    expect(stage.server.bufferPieceCount).toBe(0);
    expect(stage.server.statistics.connectionsOpen).toBe(1);
  });

  test("a request that waits for memory, or arrives slowly, or a server that was stopped, is not held against a client", async () => {
    const stage = makeStage({ clientBytesMax: 64 * MIB, bufferBytesMax: 64 * MIB, stallTimeoutMs: 10 ** 9 });
    const hog = await Session.open(stage);
    hog.stream.holdOutput = true;
    for (const cookie of [1n, 2n]) hog.send({ command: READ, length: 32 * MIB, cookie });
    const waiting = await Session.open(stage);
    waiting.send({ command: WRITE, payload: pattern(2 * MIB) });
    const slow = await Session.open(stage);
    const flush = slow.encode({ command: FLUSH });
    for (const at of flush.keys()) {
      slow.stream.feed(flush.subarray(at, at + 1));
      stage.clock.advance(100_000);
    }
    expect((await slow.replies()).map((reply) => reply.error)).toEqual([0]);
    expect(waiting.stream.closed).toBe(false);
    slow.stream.feed(flush.subarray(0, 3));
    stage.clock.advance(3000);
    stage.clock.leap(3_600_000);
    expect(slow.stream.closed).toBe(false);
  });

  test("an idle connection is closed where a limit is set", async () => {
    const stage = makeStage({ idleTimeoutMs: 5000 });
    const session = await Session.open(stage);
    stage.clock.advance(4000);
    await session.errorOf({ command: FLUSH });
    stage.clock.advance(5000);
    expect(session.stream.closed).toBe(false);
    stage.clock.advance(3000);
    expect(session.stream.closeReason).toStartWith("NBD transmission: no request for ");
  });
});

describe("Transmission endings", () => {
  test("DISC answers what is in flight, then closes and gives the device back", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    stage.device.deferred = true;
    session.send({ command: WRITE, payload: pattern(512), cookie: 5n });
    session.send({ command: DISC });
    session.send({ command: FLUSH });
    expect(session.stream.closed).toBe(false);
    stage.device.answer();
    expect((await session.replies()).map((reply) => reply.cookie)).toEqual([5n]);
    expect(session.stream.closed).toBe(true);
    expect(stage.directory.holders.get("data")).toBe(0);
  });

  test("a client that vanishes: the device is released after its last answer, the memory with it", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    stage.device.deferred = true;
    session.send({ command: READ, length: 3 * MIB, cookie: 1n });
    session.send({ command: WRITE, payload: pattern(512), cookie: 2n });
    const half = session.encode({ command: WRITE, payload: pattern(5 * MIB) });
    session.stream.feed(half.subarray(0, 3 * MIB));
    session.stream.hangUp();
    await settle();
    expect(stage.directory.holders.get("data")).toBe(1);
    stage.device.answer();
    await settle();
    expect(stage.directory.holders.get("data")).toBe(0);
    expect(stage.server.bufferPieceCount).toBe(0);
    expect(stage.server.statistics.connectionsOpen).toBe(0);
  });

  test("close answers what is in flight, refuses what is new, and waits for the end", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    stage.device.deferred = true;
    session.send({ command: WRITE, payload: pattern(512), cookie: 1n });
    let over = false;
    const closing = stage.server.close(5000).then(() => {
      over = true;
    });
    session.send({ command: READ, length: 4096, cookie: 2n });
    session.send({ command: WRITE, payload: pattern(512), cookie: 3n });
    await settle();
    expect(over).toBe(false);
    stage.device.answer();
    await closing;
    const replies = await session.replies();
    expect(replies.map((reply) => [Number(reply.cookie), reply.error])).toEqual([
      [2, ESHUTDOWN],
      [3, ESHUTDOWN],
      [1, 0],
    ]);
    expect(stage.clock.timerCount).toBe(0);
  });

  test("close cuts off who has not ended in time, and still waits for the device", async () => {
    const stage = makeStage();
    const session = await Session.open(stage);
    stage.device.deferred = true;
    session.send({ command: WRITE, payload: pattern(512) });
    const closing = stage.server.close(5000);
    stage.clock.advance(5000);
    expect(session.stream.closeReason).toBe("NBD server: not drained within 5000 ms of shutdown");
    stage.device.answer();
    await closing;
    expect(stage.directory.holders.get("data")).toBe(0);
  });
});

describe("Transmission properties", () => {
  test("any split of the input gives the same answers", async () => {
    const requests: RequestFields[] = [
      { command: WRITE, offset: 5, payload: pattern(70_000), cookie: 1n },
      { command: WRITE, offset: 90_000, payload: pattern(600, 3), cookie: 2n },
      { command: READ, offset: 0, length: 100_000, cookie: 3n },
      { command: WRITE, offset: DEVICE_BYTES, payload: pattern(50_000), cookie: 4n },
      { command: 99, cookie: 5n },
      { command: STATUS, length: 65_536, cookie: 6n },
      { command: FLUSH, cookie: 7n },
      { command: DISC },
    ];
    const run = async (style: Style, splits: readonly number[]) => {
      const stage = makeStage({}, DEVICE_BYTES);
      const stream = new MemoryStream((connection) => stage.server.accept(connection));
      const setUp = [clientFlags(), ...(style === "simple" ? [] : [option(style === "extended" ? 11 : 8)])];
      stream.feed(concat(...setUp, option(7, infoData("data"))));
      await settle();
      stream.take();
      const encoder = await Session.open(makeStage({}, 4096), style);
      const input = concat(...requests.map((fields) => encoder.encode(fields)));
      let at = 0;
      for (let index = 0; at < input.length; index++) {
        const step = splits.length === 0 ? input.length : (splits[index % splits.length] as number);
        stream.feed(input.subarray(at, at + step));
        at += step;
      }
      await settle();
      expect(stage.server.bufferPieceCount).toBe(0);
      return stream.take();
    };
    for (const style of STYLES) {
      const whole = await run(style, []);
      const split = fc.array(
        fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 100_000 })),
        {
          minLength: 1,
          maxLength: 40,
        },
      );
      await fc.assert(
        fc.asyncProperty(split, async (splits) => {
          // Steps of a few bytes over 120 KB take long: make them grow.
          const growing = splits.map((step, index) => step + index * 500);
          expect(Buffer.compare(await run(style, growing), whole)).toBe(0);
        }),
        { numRuns: 15 },
      );
    }
  }, 60_000);
});
