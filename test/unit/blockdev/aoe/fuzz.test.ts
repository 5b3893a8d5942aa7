/**
 * Random and mutated frames against an AoE target, with a device that answers late and in any order. Whatever comes:
 * nothing throws, no buffer is lost or given back twice, a frame is answered at most once and by a proper frame, and
 * what a model says of the sectors is what is read.
 */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { assert, heapBuffer, type NativeBuffer } from "../../../../src/base";
import { type AoeLink, AoeTarget, type MacAddress, parseMac } from "../../../../src/blockdev";
import {
  aoeFrame,
  ataArgument,
  EVERYBODY,
  OTHER_MAC,
  readAnswer,
  TARGET_MAC,
} from "../../../support/aoe-frames";
import { ManualClock } from "../../../support/manual-clock";
import { MemoryDevice } from "../../../support/memory-device";

const MTU_BYTES = 1500;
const SECTOR = 512;
const SECTORS = 64;

class CountingLink implements AoeLink {
  readonly address = parseMac(TARGET_MAC) as MacAddress;
  readonly mtuBytes = MTU_BYTES;
  readonly bufferCount = 64;
  readonly sent: Uint8Array[] = [];
  readonly lent = new Set<NativeBuffer>();
  readonly #free: NativeBuffer[] = [];

  acquire(): NativeBuffer {
    const frame = this.#free.pop() ?? heapBuffer(MTU_BYTES + 14 + SECTOR);
    this.lent.add(frame);
    return frame;
  }

  send(frame: NativeBuffer, lengthBytes: number): void {
    assert(lengthBytes >= 60 && lengthBytes <= MTU_BYTES + 14, `a frame of ${lengthBytes} bytes`);
    this.sent.push(frame.bytes.slice(0, lengthBytes));
    this.release(frame);
  }

  release(frame: NativeBuffer): void {
    assert(this.lent.delete(frame), "a frame's buffer came back twice");
    this.#free.push(frame);
  }
}

function setUp() {
  const device = new MemoryDevice("disk", SECTORS * SECTOR);
  const link = new CountingLink();
  const target = new AoeTarget({
    ...{ device, link, clock: new ManualClock(), major: 7, minor: 3, allowed: [] },
    ...{ writeCache: false, serial: "serial", firmware: "1", onDeviceGone: () => {} },
  });
  const give = (bytes: Uint8Array) => {
    const frame = link.acquire();
    frame.bytes.fill(0xee);
    frame.bytes.set(bytes);
    target.receive(frame, bytes.length);
  };
  return { device, link, give };
}

const validFrame = fc
  .record({
    command: fc.constantFrom(0, 0, 0, 0, 1, 2, 3, 4),
    tag: fc.nat(8),
    major: fc.constantFrom(7, 7, 7, 0xffff, 9),
    minor: fc.constantFrom(3, 3, 3, 0xff, 9),
    destination: fc.constantFrom(TARGET_MAC, EVERYBODY),
    source: fc.constantFrom(OTHER_MAC, "02:00:00:00:00:09"),
    ata: fc.constantFrom(0x20, 0x24, 0x25, 0x30, 0x34, 0x35, 0x3d, 0x42, 0xe7, 0xec, 0xef, 0x00),
    lba: fc.nat(SECTORS + 2),
    count: fc.nat(4),
    data: fc.option(fc.uint8Array({ minLength: 0, maxLength: 1024 })),
    raw: fc.uint8Array({ maxLength: 64 }),
  })
  .map(({ ata, lba, count, data, raw, ...request }) =>
    aoeFrame({
      ...request,
      argument:
        request.command === 0
          ? ataArgument({ command: ata, lba, count, ...(data === null ? {} : { data }) })
          : raw,
    }),
  );

const mutated = fc
  .tuple(validFrame, fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 3 }), fc.nat(1514))
  .map(([frame, changes, length]) => {
    const bytes = frame.slice(0, length);
    for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
    return bytes;
  });

const anyFrame = fc.oneof(validFrame, mutated, fc.uint8Array({ maxLength: MTU_BYTES + 14 }));

describe("AoeTarget under any frames", () => {
  test("survives, loses no buffer, and answers each at most once", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyFrame, fc.nat(7)), { maxLength: 40 }), (steps) => {
        const { device, link, give } = setUp();
        device.deferred = true;
        for (const [frame, pick] of steps) {
          give(frame);
          if (pick > 3 && device.waiting.length > 0)
            device.waiting.splice(pick % device.waiting.length, 1)[0]?.();
        }
        while (device.waiting.length > 0) device.answer((count) => count - 1);
        expect(link.lent.size).toBe(0);
        expect(link.sent.length).toBeLessThanOrEqual(steps.length);
        for (const frame of link.sent)
          expect(readAnswer(frame)).toMatchObject({
            isResponse: true,
            source: TARGET_MAC,
            major: 7,
            minor: 3,
          });
      }),
      { numRuns: 3000 },
    );
  }, 60_000);

  test("reads what a model of the sectors says, whatever comes twice and in whatever order the device answers", () => {
    const step = fc.record({
      isWrite: fc.boolean(),
      lba: fc.nat(12),
      count: fc.integer({ min: 1, max: 2 }),
      fill: fc.nat(255),
      repeatEarlier: fc.option(fc.nat(100), { freq: 3 }),
      pick: fc.nat(7),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const { device, link, give } = setUp();
        device.deferred = true;
        const model = new Uint8Array(SECTORS);
        const expected = new Map<number, readonly number[]>();
        const frames: { readonly bytes: Uint8Array; readonly isWrite: boolean }[] = [];
        steps.forEach(({ isWrite, lba, count, fill, repeatEarlier, pick }, index) => {
          const data = new Uint8Array(count * SECTOR).fill(fill);
          const argument = ataArgument({
            command: isWrite ? 0x34 : 0x24,
            lba,
            count,
            ...(isWrite ? { data } : {}),
          });
          const bytes = aoeFrame({ command: 0, tag: 1000 + index, source: OTHER_MAC, argument });
          give(bytes);
          frames.push({ bytes, isWrite });
          if (isWrite) model.fill(fill, lba, lba + count);
          else expected.set(1000 + index, [...model.subarray(lba, lba + count)]);
          // A write may come again at any time; a read that does would rightly see newer sectors.
          const earlier = repeatEarlier === null ? undefined : frames[repeatEarlier % frames.length];
          if (earlier?.isWrite) give(earlier.bytes);
          if (pick > 4 && device.waiting.length > 0)
            device.waiting.splice(pick % device.waiting.length, 1)[0]?.();
        });
        while (device.waiting.length > 0) device.answer((count) => count - 1);
        for (const answer of link.sent.map(readAnswer)) {
          expect(answer.ataStatus).toBe(0x40);
          const sectors = expected.get(answer.tag);
          if (sectors === undefined) continue;
          expect(sectors).toEqual(sectors.map((_, index) => answer.data[index * SECTOR] as number));
          expected.delete(answer.tag);
        }
        expect(expected.size).toBe(0);
        expect(link.lent.size).toBe(0);
      }),
      { numRuns: 1000 },
    );
  }, 60_000);
});
