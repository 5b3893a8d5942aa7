import { expect, test } from "bun:test";
import { nativeBuffer } from "../../../../src/base/io";
import { type BlockDevice, DeviceStatus, type Done, DurableDevice } from "../../../../src/blockdev";

/** A device that finishes nothing by itself. */
function heldDevice() {
  const writes: Done[] = [];
  const flushes: Done[] = [];
  const device = {
    name: "disk",
    description: "",
    sizeBytes: 1 << 20,
    readOnly: false,
    preferredBlockBytes: 4096,
    read: (_offset, _length, _destination, _at, done) => done(DeviceStatus.ok),
    write: (_offset, _length, _source, _at, forceUnitAccess, done) => {
      expect(forceUnitAccess).toBe(false);
      writes.push(done);
    },
    trim: (_offset, _length, _forceUnitAccess, done) => writes.push(done),
    writeZeroes: (_offset, _length, _options, done) => writes.push(done),
    flush: (done) => flushes.push(done),
    extents: (_offset, lengthBytes, _countMax, done) => done(DeviceStatus.ok, [{ lengthBytes, hole: true }]),
    onResize: () => () => {},
  } as BlockDevice;
  return { device, writes, flushes };
}

const buffer = nativeBuffer(4096);

function open() {
  const held = heldDevice();
  const answers: string[] = [];
  const shutdowns: number[] = [];
  const durable = new DurableDevice(held.device, () => shutdowns.push(answers.length));
  const note = (name: string) => (status: DeviceStatus) => answers.push(`${name}:${status}`);
  const write = (name: string) => durable.write(0, 4096, buffer, 0, true, note(name));
  return { ...held, durable, answers, shutdowns, write, note };
}

test("DurableDevice answers a write only after a flush that began when it was done", () => {
  const { writes, flushes, answers, write } = open();
  write("a");
  write("b");
  expect(flushes).toHaveLength(0);
  writes[0]?.(DeviceStatus.ok);
  expect(flushes).toHaveLength(1);
  // Done while the flush runs: the flush may not cover it.
  writes[1]?.(DeviceStatus.ok);
  expect(flushes).toHaveLength(1);
  flushes[0]?.(DeviceStatus.ok);
  expect(answers).toEqual(["a:0"]);
  expect(flushes).toHaveLength(2);
  flushes[1]?.(DeviceStatus.ok);
  expect(answers).toEqual(["a:0", "b:0"]);
});

test("DurableDevice shares one flush among all that wait, and answers them in order", () => {
  const { durable, writes, flushes, answers, write, note } = open();
  write("first");
  writes[0]?.(DeviceStatus.ok);
  for (const name of ["a", "b"]) write(name);
  durable.trim(0, 4096, false, note("trim"));
  durable.writeZeroes(0, 4096, { forceUnitAccess: false, mayTrim: true, fastOnly: false }, note("zero"));
  for (const done of writes.slice(1)) done(DeviceStatus.ok);
  flushes[0]?.(DeviceStatus.ok);
  flushes[1]?.(DeviceStatus.ok);
  expect(flushes).toHaveLength(2);
  expect(answers).toEqual(["first:0", "a:0", "b:0", "trim:0", "zero:0"]);
});

test("DurableDevice answers a failed write at once and a failed flush to all it served", () => {
  const { writes, flushes, answers, write } = open();
  write("bad");
  write("good");
  writes[0]?.(DeviceStatus.noSpace);
  writes[1]?.(DeviceStatus.ok);
  flushes[0]?.(DeviceStatus.ioError);
  expect(answers).toEqual([`bad:${DeviceStatus.noSpace}`, `good:${DeviceStatus.ioError}`]);
});

test("DurableDevice tells of a lost volume before whoever asked", () => {
  const { writes, flushes, answers, shutdowns, write } = open();
  write("a");
  writes[0]?.(DeviceStatus.ok);
  flushes[0]?.(DeviceStatus.shutdown);
  expect(shutdowns).toEqual([0]);
  expect(answers).toEqual([`a:${DeviceStatus.shutdown}`]);
});
