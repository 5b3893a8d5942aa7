import { beforeEach, describe, expect, test } from "bun:test";
import { assert, heapBuffer, type NativeBuffer } from "../../../../src/base";
import { type AoeLink, AoeTarget, DeviceStatus, type MacAddress, parseMac } from "../../../../src/blockdev";
import {
  aoeFrame,
  type AoeAnswer,
  type AoeRequest,
  type AtaArgument,
  ataArgument,
  CLIENT_MAC,
  configArgument,
  EVERYBODY,
  macBytes,
  OTHER_MAC,
  readAnswer,
  TARGET_MAC,
} from "../../../support/aoe-frames";
import { ManualClock } from "../../../support/manual-clock";
import { MemoryDevice } from "../../../support/memory-device";

const SECTOR = 512;
const DEVICE_BYTES = 4 * 1024 * 1024;

class MemoryLink implements AoeLink {
  readonly address = parseMac(TARGET_MAC) as MacAddress;
  readonly bufferCount = 64;
  readonly sent: AoeAnswer[] = [];
  readonly lent = new Set<NativeBuffer>();

  constructor(readonly mtuBytes: number) {}

  acquire(): NativeBuffer {
    const frame = heapBuffer(this.mtuBytes + 14 + SECTOR);
    frame.bytes.fill(0xee);
    this.lent.add(frame);
    return frame;
  }

  send(frame: NativeBuffer, lengthBytes: number): void {
    this.sent.push(readAnswer(frame.bytes.slice(0, lengthBytes)));
    this.release(frame);
  }

  release(frame: NativeBuffer): void {
    assert(this.lent.delete(frame), "a frame's buffer came back twice");
  }
}

let device: MemoryDevice;
let link: MemoryLink;
let clock: ManualClock;
let target: AoeTarget;
let gone: number;

function start(options: { mtu?: number; writeCache?: boolean; allowed?: string[] } = {}): void {
  device = new MemoryDevice("disk", DEVICE_BYTES);
  link = new MemoryLink(options.mtu ?? 1500);
  clock = new ManualClock();
  gone = 0;
  target = new AoeTarget({
    device,
    link,
    clock,
    major: 7,
    minor: 3,
    writeCache: options.writeCache ?? false,
    allowed: (options.allowed ?? []).map((one) => parseMac(one) as MacAddress),
    serial: "serial",
    firmware: "1.0",
    onDeviceGone: () => gone++,
  });
}

function give(bytes: Uint8Array): void {
  const frame = link.acquire();
  frame.bytes.set(bytes.subarray(0, frame.bytes.length));
  target.receive(frame, Math.min(bytes.length, frame.bytes.length));
}

/** Gives a request and returns what was answered meanwhile. */
function ask(request: AoeRequest): AoeAnswer[] {
  link.sent.length = 0;
  give(aoeFrame(request));
  return [...link.sent];
}

let tag = 1;
function ata(argument: AtaArgument, more: Partial<AoeRequest> = {}): AoeAnswer[] {
  return ask({ command: 0, tag: tag++, argument: ataArgument(argument), ...more });
}

function one(answers: readonly AoeAnswer[]): AoeAnswer {
  expect(answers).toHaveLength(1);
  return answers[0] as AoeAnswer;
}

function pattern(sectors: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: sectors * SECTOR }, (_, index) => (index * 7 + seed * 31) & 0xff);
}

beforeEach(() => start());

describe("AoeTarget addressing", () => {
  test("answers its own address and both kinds of broadcast, to whom asked, from itself", () => {
    for (const address of [
      { major: 7, minor: 3 },
      { major: 0xffff, minor: 0xff, destination: EVERYBODY },
      { major: 7, minor: 0xff },
      { major: 0xffff, minor: 3 },
    ]) {
      const answer = one(ask({ command: 1, tag: 0xdeadbeef, argument: configArgument(0), ...address }));
      expect(answer).toMatchObject({
        destination: CLIENT_MAC,
        source: TARGET_MAC,
        isResponse: true,
        isError: false,
        major: 7,
        minor: 3,
        command: 1,
        tag: 0xdeadbeef,
      });
      expect(answer.lengthBytes).toBe(60);
    }
  });

  test("is silent to other addresses, responses, other types, short frames and group senders", () => {
    const argument = configArgument(0);
    expect(ask({ command: 1, argument, major: 8 })).toEqual([]);
    expect(ask({ command: 1, argument, minor: 4 })).toEqual([]);
    expect(ask({ command: 1, argument, destination: OTHER_MAC })).toEqual([]);
    expect(ask({ command: 1, argument, source: "03:00:00:00:00:02" })).toEqual([]);
    link.sent.length = 0;
    const frame = aoeFrame({ command: 1, argument });
    give(Uint8Array.from(frame, (byte, index) => (index === 14 ? byte | 8 : byte)));
    give(Uint8Array.from(frame, (byte, index) => (index === 13 ? 0xa3 : byte)));
    give(frame.subarray(0, 23));
    give(new Uint8Array(0));
    expect(link.sent).toEqual([]);
    expect(link.lent.size).toBe(0);
    expect(target.statistics.ignored).toBe(8);
  });

  test("tells a wrong version and unknown commands", () => {
    expect(one(ask({ command: 1, version: 2, argument: configArgument(0) }))).toMatchObject({
      isError: true,
      error: 5,
    });
    expect(one(ask({ command: 9, argument: configArgument(0) }))).toMatchObject({ isError: true, error: 1 });
  });

  test("advertises itself to everybody, and again when the device has another size", () => {
    target.advertise();
    device.resize(DEVICE_BYTES);
    expect(link.sent).toHaveLength(2);
    for (const frame of link.sent)
      expect(frame).toMatchObject({ destination: EVERYBODY, isResponse: true, command: 1, tag: 0, major: 7 });
  });
});

describe("AoeTarget config", () => {
  const text = (answer: AoeAnswer) => {
    const length = (answer.argument[6]! << 8) | answer.argument[7]!;
    return new TextDecoder().decode(answer.argument.subarray(8, 8 + length));
  };
  const config = (command: number, string = "") =>
    ask({ command: 1, argument: configArgument(command, string) });

  test("tells buffers, firmware, sectors a frame by MTU, and version", () => {
    for (const [mtu, sectors] of [
      [1500, 2],
      [9000, 16],
      [4096, 7],
      [576, 1],
      [65535, 120],
    ] as const) {
      start({ mtu });
      expect([...one(config(0)).argument.subarray(0, 6)]).toEqual([0, 64, 0, 1, sectors, 0x10]);
    }
  });

  test("sets a string once, by force again, and tests it whole and by its beginning", () => {
    expect(text(one(config(0)))).toBe("");
    expect(text(one(config(3, "alpha")))).toBe("alpha");
    expect(one(config(3, "beta"))).toMatchObject({ isError: true, error: 4 });
    expect(text(one(config(3, "alpha")))).toBe("alpha");
    expect(text(one(config(1, "alpha")))).toBe("alpha");
    expect(config(1, "alph")).toEqual([]);
    expect(text(one(config(2, "alph")))).toBe("alpha");
    expect(config(2, "b")).toEqual([]);
    expect(text(one(config(4, "gamma")))).toBe("gamma");
    expect(one(config(5))).toMatchObject({ isError: true, error: 2 });
    expect(text(one(config(0)))).toBe("gamma");
  });

  test("refuses a string longer than its frame, or than the protocol allows", () => {
    const long = configArgument(4, "x".repeat(1025));
    expect(one(ask({ command: 1, argument: long }))).toMatchObject({ error: 2 });
    expect(one(ask({ command: 1, argument: configArgument(4, "abc").subarray(0, 10) }))).toMatchObject({
      error: 2,
    });
    expect(one(ask({ command: 1, argument: configArgument(0).subarray(0, 7) }))).toMatchObject({ error: 2 });
  });
});

describe("AoeTarget disk", () => {
  test("identifies itself: size in both forms, 48 bits, flush, cache, checksum, text", () => {
    const answer = one(ata({ command: 0xec, count: 1 }));
    expect(answer).toMatchObject({ ataStatus: 0x40, ataError: 0, lengthBytes: 36 + 512 });
    const page = answer.data;
    const word = (index: number) => page[index * 2]! | (page[index * 2 + 1]! << 8);
    expect(word(60) + word(61) * 65536).toBe(DEVICE_BYTES / SECTOR);
    expect(word(100) + word(101) * 65536).toBe(DEVICE_BYTES / SECTOR);
    expect(word(83) & 0x7400).toBe(0x7400);
    expect(word(86) & 0x0400).toBe(0x0400);
    expect(word(85) & 0x20).toBe(0);
    expect(page.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
    const model = Array.from({ length: 40 }, (_, index) => String.fromCharCode(page[54 + (index ^ 1)]!));
    expect(model.join("").trim()).toBe("torus disk");
  });

  test("identifies a disk beyond 28 and 32 bits of sectors", () => {
    device.sizeBytes = 64 * 2 ** 40;
    const page = one(ata({ command: 0xec, count: 1 })).data;
    const view = new DataView(page.buffer, page.byteOffset);
    expect(view.getUint32(120, true)).toBe(0x0fffffff);
    expect(view.getUint32(200, true) + view.getUint32(204, true) * 2 ** 32).toBe(2 ** 37);
  });

  test("reads and writes by every command, 28 and 48 bits", () => {
    let lba = 0;
    for (const [write, read] of [
      [0x30, 0x20],
      [0x34, 0x24],
      [0xca, 0xc8],
      [0x35, 0x25],
      [0x3d, 0x29],
      [0xc5, 0xc4],
    ] as const) {
      lba += 2;
      const data = pattern(2, lba);
      const written = one(ata({ command: write, lba, count: 2, data }));
      expect(written).toMatchObject({ ataStatus: 0x40, ataError: 0, lengthBytes: 60 });
      const answer = one(ata({ command: read, lba, count: 2 }));
      expect(answer).toMatchObject({ ataStatus: 0x40, lengthBytes: 36 + 1024 });
      expect(answer.data).toEqual(data);
      expect(device.content.subarray(lba * SECTOR, (lba + 2) * SECTOR)).toEqual(data);
    }
  });

  test("takes four bits of the fourth LBA byte in 28-bit commands, all of it in EXT ones", () => {
    device.sizeBytes = 64 * 2 ** 40;
    const seen: number[] = [];
    device.read = (offsetBytes, _length, _to, _at, done) => {
      seen.push(offsetBytes / SECTOR);
      done(DeviceStatus.ok);
    };
    ata({ command: 0x20, lba: 0xf_ab_cd_ef_01, count: 1 });
    ata({ command: 0x24, lba: 0x1f_ab_cd_ef_01, count: 1 });
    expect(seen).toEqual([0x0b_cd_ef_01, 0x1f_ab_cd_ef_01]);
  });

  test("carries 16 sectors a frame at MTU 9000, and refuses more than fit", () => {
    start({ mtu: 9000 });
    const data = pattern(16, 5);
    expect(one(ata({ command: 0x34, lba: 8, count: 16, data })).ataStatus).toBe(0x40);
    expect(one(ata({ command: 0x24, lba: 8, count: 16 })).data).toEqual(data);
    expect(one(ata({ command: 0x24, lba: 8, count: 17 }))).toMatchObject({ isError: true, error: 2 });
    expect(one(ata({ command: 0x24, lba: 8, count: 0 }))).toMatchObject({ isError: true, error: 2 });
  });

  test("refuses a write whose data is not all there, and touches nothing", () => {
    expect(one(ata({ command: 0x34, lba: 0, count: 2, data: pattern(1, 1) }))).toMatchObject({ error: 2 });
    expect(one(ask({ command: 0, argument: ataArgument({ command: 0x34 }).subarray(0, 11) }))).toMatchObject({
      error: 2,
    });
    expect(device.calls).toEqual([]);
  });

  test("tells sectors beyond the end, unknown commands, a read-only disk and failures by ATA status", () => {
    const last = DEVICE_BYTES / SECTOR - 1;
    expect(one(ata({ command: 0x24, lba: last, count: 1 })).ataStatus).toBe(0x40);
    expect(one(ata({ command: 0x24, lba: last, count: 2 }))).toMatchObject({
      ataStatus: 0x51,
      ataError: 0x10,
    });
    expect(one(ata({ command: 0x24, lba: 2 ** 48 - 1, count: 1 }))).toMatchObject({ ataError: 0x10 });
    expect(one(ata({ command: 0xb0 }))).toMatchObject({ ataStatus: 0x51, ataError: 0x04, isError: false });
    device.failures.set("read", DeviceStatus.ioError);
    device.failures.set("write", DeviceStatus.noSpace);
    expect(one(ata({ command: 0x24, lba: 0, count: 1 }))).toMatchObject({
      ataStatus: 0x51,
      ataError: 0x40,
      lengthBytes: 60,
    });
    expect(one(ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 1) }))).toMatchObject({ ataError: 4 });
    device.readOnly = true;
    const calls = device.calls.length;
    expect(one(ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 2) }))).toMatchObject({ ataError: 4 });
    expect(device.calls.length).toBe(calls);
  });

  test("answers a device that is gone with 'unavailable', and says so", () => {
    device.failures.set("read", DeviceStatus.shutdown);
    expect(one(ata({ command: 0x24, lba: 0, count: 1 }))).toMatchObject({ isError: true, error: 3 });
    expect(gone).toBe(1);
  });

  test("verifies more sectors than a frame holds without sending them", () => {
    expect(one(ata({ command: 0x42, lba: 3, count: 255 }))).toMatchObject({
      ataStatus: 0x40,
      lengthBytes: 60,
    });
    expect(device.calls.reduce((sum, call) => sum + call.lengthBytes, 0)).toBe(255 * SECTOR);
    expect(link.lent.size).toBe(0);
  });

  test("pads short answers with zeroes, not with what the buffer held", () => {
    const answer = one(ata({ command: 0xe7 }));
    expect(answer.lengthBytes).toBe(60);
    expect([...answer.data]).toEqual(new Array(24).fill(0));
  });
});

describe("AoeTarget durability", () => {
  test("answers a write once a flush has covered it, one flush for many writes", () => {
    device.deferred = true;
    link.sent.length = 0;
    for (let lba = 0; lba < 10; lba++)
      give(
        aoeFrame({
          command: 0,
          tag: 100 + lba,
          argument: ataArgument({ command: 0x34, lba, count: 1, data: pattern(1, lba) }),
        }),
      );
    // The first write is done and its flush begins; the others are done while that is under way.
    device.waiting.shift()?.();
    for (let count = 0; count < 9; count++) device.waiting.shift()?.();
    expect(link.sent).toHaveLength(0);
    expect(device.calls.filter((call) => call.operation === "flush")).toHaveLength(1);
    device.waiting.shift()?.();
    expect(link.sent).toHaveLength(1);
    device.answer();
    expect(link.sent).toHaveLength(10);
    expect(device.calls.filter((call) => call.operation === "flush")).toHaveLength(2);
  });

  test("tells the writer when the flush fails", () => {
    device.failures.set("flush", DeviceStatus.ioError);
    expect(one(ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 1) }))).toMatchObject({
      ataStatus: 0x51,
    });
  });

  test("with a write cache answers at once, flushes when asked, and the client may turn it off", () => {
    start({ writeCache: true });
    const flushes = () => device.calls.filter((call) => call.operation === "flush").length;
    ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 1) });
    expect(flushes()).toBe(0);
    expect(one(ata({ command: 0xea })).ataStatus).toBe(0x40);
    expect(flushes()).toBe(1);
    ata({ command: 0x3d, lba: 0, count: 1, data: pattern(1, 2) });
    expect(flushes()).toBe(2);
    // Turning it off makes durable what was answered before.
    expect(one(ata({ command: 0xef, feature: 0x82 })).ataStatus).toBe(0x40);
    expect(flushes()).toBe(3);
    expect(one(ata({ command: 0xef, feature: 0x82 })).ataStatus).toBe(0x40);
    expect(flushes()).toBe(3);
    ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 3) });
    expect(flushes()).toBe(4);
    expect(one(ata({ command: 0xef, feature: 0x02 })).ataStatus).toBe(0x40);
    ata({ command: 0x34, lba: 0, count: 1, data: pattern(1, 4) });
    expect(flushes()).toBe(4);
  });

  test("without a write cache the client cannot turn one on", () => {
    expect(one(ata({ command: 0xef, feature: 0x02 }))).toMatchObject({ ataStatus: 0x51, ataError: 4 });
  });
});

describe("AoeTarget repeated frames", () => {
  const write = (tag: number, lba: number, data: Uint8Array) =>
    aoeFrame({ command: 0, tag, argument: ataArgument({ command: 0x34, lba, count: 1, data }) });

  test("a write that comes again late is answered again and does not undo a newer one", () => {
    const [older, newer] = [pattern(1, 1), pattern(1, 2)];
    give(write(1, 5, older));
    give(write(2, 5, newer));
    link.sent.length = 0;
    give(write(1, 5, older));
    expect(one(link.sent)).toMatchObject({ tag: 1, ataStatus: 0x40 });
    expect(device.content.subarray(5 * SECTOR, 6 * SECTOR)).toEqual(newer);
    expect(target.statistics.repeated).toBe(1);
  });

  test("a failure is repeated as a failure", () => {
    device.failures.set("write", DeviceStatus.ioError);
    give(write(1, 5, pattern(1, 1)));
    device.failures.clear();
    give(write(1, 5, pattern(1, 1)));
    expect(link.sent.map((answer) => answer.ataStatus)).toEqual([0x51, 0x51]);
  });

  test("a frame that comes again while the first is under way is dropped", () => {
    device.deferred = true;
    give(write(1, 5, pattern(1, 1)));
    give(write(1, 5, pattern(1, 1)));
    expect(device.waiting).toHaveLength(1);
    while (device.waiting.length > 0) device.answer();
    expect(link.sent).toHaveLength(1);
    expect(link.lent.size).toBe(0);
  });

  test("the same tag for something else, from somebody else, or half a minute later is new", () => {
    give(write(1, 5, pattern(1, 1)));
    give(write(1, 5, pattern(1, 2)));
    give(
      aoeFrame({
        command: 0,
        tag: 1,
        source: OTHER_MAC,
        argument: ataArgument({ command: 0x34, lba: 5, count: 1, data: pattern(1, 2) }),
      }),
    );
    clock.advance(31_000);
    give(write(1, 5, pattern(1, 2)));
    expect(device.calls.filter((call) => call.operation === "write")).toHaveLength(4);
  });

  test("overlapping writes under new tags happen in the order they came, reads between them see that order", () => {
    device.deferred = true;
    give(write(1, 5, pattern(1, 1)));
    give(write(2, 5, pattern(1, 2)));
    give(aoeFrame({ command: 0, tag: 3, argument: ataArgument({ command: 0x24, lba: 4, count: 2 }) }));
    give(write(4, 5, pattern(1, 4)));
    give(write(5, 9, pattern(1, 5)));
    // Whatever the device finishes first: only what may run is running.
    expect(device.waiting).toHaveLength(2);
    while (device.waiting.length > 0) device.answer((count) => count - 1);
    const read = link.sent.find((answer) => answer.tag === 3)!;
    expect(read.data.subarray(SECTOR)).toEqual(pattern(1, 2));
    expect(device.content.subarray(5 * SECTOR, 6 * SECTOR)).toEqual(pattern(1, 4));
    expect(link.sent.map((answer) => answer.tag).sort()).toEqual([1, 2, 3, 4, 5]);
  });
});

describe("AoeTarget access", () => {
  const mask = (command: number, directives: readonly (readonly [number, string])[], source = CLIENT_MAC) =>
    ask({
      command: 2,
      source,
      argument: new Uint8Array([
        0,
        command,
        0,
        directives.length,
        ...directives.flatMap(([kind, mac]) => [0, kind, ...macBytes(mac)]),
      ]),
    });
  const reserve = (command: number, macs: readonly string[], source = CLIENT_MAC) =>
    ask({ command: 3, source, argument: new Uint8Array([command, macs.length, ...macs.flatMap(macBytes)]) });
  const readFrom = (source: string) => ata({ command: 0x24, lba: 0, count: 1 }, { source });

  test("hears only the MACs of its mask list, whether given at the start or over the wire", () => {
    start({ allowed: [OTHER_MAC] });
    expect(readFrom(CLIENT_MAC)).toEqual([]);
    expect(readFrom(OTHER_MAC)).toHaveLength(1);
    expect([...one(mask(1, [[1, CLIENT_MAC]], OTHER_MAC)).argument.subarray(2, 4)]).toEqual([0, 2]);
    expect(readFrom(CLIENT_MAC)).toHaveLength(1);
    mask(1, [[2, OTHER_MAC]]);
    expect(readFrom(OTHER_MAC)).toEqual([]);
    expect([...one(mask(0, [])).argument.subarray(0, 12)]).toEqual([
      0,
      0,
      0,
      1,
      0,
      1,
      ...macBytes(CLIENT_MAC),
    ]);
  });

  test("applies all mask directives or none", () => {
    const answer = one(
      mask(1, [
        [1, OTHER_MAC],
        [7, CLIENT_MAC],
      ]),
    );
    expect([...answer.argument.subarray(2, 4)]).toEqual([2, 0]);
    expect(readFrom(CLIENT_MAC)).toHaveLength(1);
    const short = new Uint8Array([0, 1, 0, 5, 0, 1, ...macBytes(OTHER_MAC)]);
    expect(one(ask({ command: 2, argument: short })).argument[2]).toBe(1);
    expect(readFrom(CLIENT_MAC)).toHaveLength(1);
    expect(one(ask({ command: 2, argument: new Uint8Array([0, 9, 0, 0]) }))).toMatchObject({ error: 2 });
  });

  test("a reservation keeps others from disk and settings, until released or forced", () => {
    expect([...one(reserve(1, [CLIENT_MAC])).argument.subarray(0, 8)]).toEqual([
      1,
      1,
      ...macBytes(CLIENT_MAC),
    ]);
    expect(one(readFrom(OTHER_MAC))).toMatchObject({ isError: true, error: 6 });
    expect(one(reserve(1, [OTHER_MAC], OTHER_MAC))).toMatchObject({ error: 6 });
    expect(one(mask(1, [[1, OTHER_MAC]], OTHER_MAC))).toMatchObject({ error: 6 });
    expect(one(ask({ command: 1, source: OTHER_MAC, argument: configArgument(4, "x") }))).toMatchObject({
      error: 6,
    });
    expect(one(ask({ command: 1, source: OTHER_MAC, argument: configArgument(0) })).isError).toBe(false);
    expect(one(readFrom(CLIENT_MAC)).ataStatus).toBe(0x40);
    reserve(1, []);
    expect(one(readFrom(OTHER_MAC)).isError).toBe(false);
    reserve(1, [CLIENT_MAC]);
    expect(one(reserve(2, [OTHER_MAC], OTHER_MAC)).isError).toBe(false);
    expect(one(readFrom(CLIENT_MAC))).toMatchObject({ error: 6 });
    expect(one(reserve(0, [])).argument[1]).toBe(1);
  });

  test("refuses a reservation whose addresses are not all there", () => {
    expect(one(ask({ command: 3, argument: new Uint8Array([1, 2, ...macBytes(CLIENT_MAC)]) }))).toMatchObject(
      { error: 2 },
    );
    expect(one(ask({ command: 3, argument: new Uint8Array([3, 0]) }))).toMatchObject({ error: 2 });
    expect(one(readFrom(OTHER_MAC)).isError).toBe(false);
  });
});

describe("AoeTarget.close", () => {
  test("answers what is under way, ignores what comes later, and resolves then", async () => {
    device.deferred = true;
    give(aoeFrame({ command: 0, argument: ataArgument({ command: 0x24, lba: 0, count: 1 }) }));
    let closed = false;
    const closing = target.close().then(() => {
      closed = true;
    });
    give(aoeFrame({ command: 1, argument: configArgument(0) }));
    await Promise.resolve();
    expect(closed).toBe(false);
    device.answer();
    await closing;
    expect(link.sent).toHaveLength(1);
    expect(link.lent.size).toBe(0);
  });
});
