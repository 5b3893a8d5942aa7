/** The stream of differences: what is written comes back, and nothing else is ever taken for a stream. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { TorusError, parseClusterId, asEpoch, asVolumeId } from "../../../../src/base";
import {
  type DiffHeader,
  DiffStreamError,
  DiffStreamWriter,
  openDiffStream,
  snapshotFingerprint,
} from "../../../../src/commands/diff-stream";

const SIZE_BYTES = 64 * 1024 * 1024;
const header: DiffHeader = {
  snapshot: { fingerprint: "c/1/2/3/4/5", volume: "data", snapshot: "tuesday" },
  base: { fingerprint: "c/1/2/2/4/5", volume: "data", snapshot: "monday" },
  sizeBytes: SIZE_BYTES,
  createdMs: 1_795_390_323_717,
};

interface Range {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly fill: number | undefined;
}

async function write(ranges: readonly Range[], of: DiffHeader = header): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const writer = new DiffStreamWriter((bytes) => void parts.push(bytes.slice()));
  await writer.begin(of);
  for (const { offsetBytes, lengthBytes, fill } of ranges)
    if (fill === undefined) await writer.hole(offsetBytes, lengthBytes);
    else await writer.data(offsetBytes, new Uint8Array(lengthBytes).fill(fill));
  await writer.end();
  return Buffer.concat(parts);
}

async function* chunksOf(bytes: Uint8Array, chunkBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes);
}

async function read(bytes: Uint8Array, chunkBytes = 1000): Promise<{ header: DiffHeader; ranges: Range[] }> {
  const stream = await openDiffStream(chunksOf(bytes, chunkBytes));
  const ranges: Range[] = [];
  for await (const record of stream.records()) {
    const { offsetBytes, lengthBytes, bytes: data } = record;
    if (data !== undefined) expect(data.length).toBe(lengthBytes);
    if (data !== undefined) expect(data.every((byte) => byte === data[0])).toBe(true);
    ranges.push({ offsetBytes, lengthBytes, fill: data?.[0] });
  }
  return { header: stream.header, ranges };
}

async function code(bytes: Uint8Array): Promise<string> {
  try {
    await read(bytes);
    return "ok";
  } catch (error) {
    if (!(error instanceof DiffStreamError)) throw error;
    return error.code;
  }
}

const ranges = fc
  .array(
    fc.record({
      gap: fc.nat(9000),
      lengthBytes: fc.integer({ min: 1, max: 9000 }),
      fill: fc.option(fc.nat(255), { nil: undefined }),
    }),
    { maxLength: 12 },
  )
  .map((steps) => {
    let at = 0;
    return steps.map(({ gap, lengthBytes, fill }) => {
      const offsetBytes = at + gap;
      at = offsetBytes + lengthBytes;
      return { offsetBytes, lengthBytes, fill };
    });
  });

test("a stream comes back as it was written, in whatever chunks", async () => {
  await fc.assert(
    fc.asyncProperty(ranges, fc.integer({ min: 1, max: 5000 }), async (list, chunkBytes) => {
      expect(await read(await write(list), chunkBytes)).toEqual({ header, ranges: list });
    }),
    { numRuns: 60 },
  );
  const { base: _, ...whole } = header;
  expect((await read(await write([], whole))).header).toEqual(whole);
});

test("every shorter stream is truncated, wherever it ends", async () => {
  const bytes = await write([
    { offsetBytes: 0, lengthBytes: 100, fill: 7 },
    { offsetBytes: 4096, lengthBytes: 8192, fill: undefined },
  ]);
  for (let length = 0; length < bytes.length; length += 1)
    expect(await code(bytes.subarray(0, length))).toBe("truncated-stream");
  expect(await code(bytes)).toBe("ok");
});

test("no change of any byte goes unnoticed", async () => {
  const bytes = await write([
    { offsetBytes: 0, lengthBytes: 100, fill: 7 },
    { offsetBytes: 4096, lengthBytes: 8192, fill: undefined },
  ]);
  for (let at = 0; at < bytes.length; at += 1)
    for (const flip of [1, 0x80]) {
      const changed = bytes.slice();
      changed[at] = (changed[at] as number) ^ flip;
      expect(await code(changed)).not.toBe("ok");
    }
});

test("records that are missing, repeated, swapped or added are noticed", async () => {
  const parts: Uint8Array[] = [];
  const writer = new DiffStreamWriter((bytes) => void parts.push(bytes.slice()));
  await writer.begin(header);
  for (const at of [0, 4096, 8192]) await writer.hole(at, 4096);
  await writer.end();
  const pick = (...order: number[]) => Buffer.concat(order.map((index) => parts[index] as Uint8Array));
  expect(await code(pick(0, 1, 2, 3, 4, 5))).toBe("ok");
  expect(await code(pick(0, 1, 3, 4, 5))).toBe("damaged-stream");
  expect(await code(pick(0, 1, 1, 2, 3, 4, 5))).toBe("damaged-stream");
  expect(await code(pick(0, 2, 1, 3, 4, 5))).toBe("damaged-stream");
  expect(await code(pick(0, 1, 2, 3, 4, 5, 1))).toBe("damaged-stream");
});

test("a writer's mistakes are refused: ranges that overlap, go back or leave the volume", async () => {
  const one = { offsetBytes: 4096, lengthBytes: 4096, fill: undefined };
  for (const other of [
    { offsetBytes: 0, lengthBytes: 4096, fill: undefined },
    { offsetBytes: 8191, lengthBytes: 4096, fill: 3 },
    { offsetBytes: SIZE_BYTES - 10, lengthBytes: 11, fill: 3 },
    { offsetBytes: 2 ** 52, lengthBytes: 2 ** 52, fill: undefined },
  ])
    expect(await code(await write([one, other]))).toBe("damaged-stream");
});

test("random bytes, and damaged streams with right checksums, give an error of ours or a valid reading", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 600 }), fc.boolean(), async (noise, hasMagic) => {
      const bytes = hasMagic ? Buffer.concat([Buffer.from("TORUSDIF\u0001\u0000"), noise]) : noise;
      expect(await code(bytes)).not.toBe("ok");
    }),
    { numRuns: 300 },
  );
  const valid = await write([{ offsetBytes: 0, lengthBytes: 100, fill: 7 }]);
  const descriptionBytes = new DataView(valid.buffer, valid.byteOffset).getUint32(12, true);
  const crcAt = 32 + descriptionBytes;
  await fc.assert(
    fc.asyncProperty(fc.nat(crcAt - 1), fc.nat(255), async (at, value) => {
      const changed = valid.slice();
      changed[at] = value;
      const view = new DataView(changed.buffer);
      view.setUint32(crcAt, Bun.hash.crc32(changed.subarray(0, crcAt)), true);
      try {
        await read(changed);
      } catch (error) {
        expect(error).toBeInstanceOf(TorusError);
      }
    }),
    { numRuns: 500 },
  );
});

test("messages say what is wrong and what to do", async () => {
  const bytes = await write([]);
  await expect(read(Buffer.from("hello ".repeat(20)))).rejects.toThrow(
    "Cannot import the stream: it was not made by torus ctl block export-diff",
  );
  await expect(read(bytes.subarray(0, 50))).rejects.toThrow(
    "Cannot import the stream: it ends too early; make it again",
  );
  const newer = bytes.slice();
  newer[8] = 2;
  await expect(read(newer)).rejects.toThrow(
    "Cannot import the stream: its format version is 2, and this torus reads 1",
  );
});

test("snapshotFingerprint names cluster, root and size, and a copy by its original", () => {
  const clusterId = parseClusterId("6f1c8d0e-3a77-4f0b-9a53-2f7c1c0d9e11");
  const root = { volumeId: asVolumeId(3), epoch: asEpoch(9), index: 4, offsetBytes: 128, lengthBytes: 184 };
  const record = { volumeId: asVolumeId(3), name: "s", root, sizeBytes: 4096, createdMs: 1 };
  expect(snapshotFingerprint(clusterId, record)).toBe(`${clusterId}/3/9/4/128/4096`);
  expect(snapshotFingerprint(clusterId, { ...record, root: null })).toBe(`${clusterId}/empty/4096`);
  expect(snapshotFingerprint(clusterId, { ...record, origin: "elsewhere/1/2/3/4" })).toBe(
    "elsewhere/1/2/3/4",
  );
});
