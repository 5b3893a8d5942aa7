/** The storage service as any Connect client finds it: over Bun.serve, called by the stock client and by hand. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { connect as connectSocket } from "node:net";
import { create, toBinary } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { BLOCK_REF_BYTES, encodeBlockRef, TorusError } from "../../../../src/base";
import { nativeBuffer } from "../../../../src/base/io";
import { PAGE_BYTES } from "../../../../src/engine/block";
import { ADP_VERSION } from "../../../../src/net/adp/frame";
import { createUnaryHandler, StorageUnary, type UnaryResult } from "../../../../src/net/connect";
import { GetStatisticsRequestSchema, Status, StorageService } from "../../../../src/net/gen/storage_pb";
import { MemoryService } from "../../../support/memory-service";
import {
  OTHER_CLUSTER,
  TEST_BLOCK_BYTES_MAX,
  TEST_CLUSTER,
  testBlock,
  testIdentity,
  testPeer,
  testRef,
} from "../../../support/peer-blocks";

const REQUEST_BYTES_MAX = 2 * 1024 * 1024;
const PATH = "/torus.storage.v2.StorageService/";
const target = { clusterId: TEST_CLUSTER, peerId: testPeer(1) };

let service: MemoryService;
let unary: StorageUnary;
/** What answers instead of the service, when set. */
let answer: ((procedure: string) => Promise<UnaryResult>) | undefined;
let server: ReturnType<typeof Bun.serve>;
let base: string;

beforeAll(() => {
  const handle = createUnaryHandler({
    call: (procedure, body) => answer?.(procedure) ?? unary.handle(procedure, body),
    requestBytesMax: REQUEST_BYTES_MAX,
    bytesUnderWayMax: 2 * REQUEST_BYTES_MAX,
  });
  server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    maxRequestBodySize: 2 * REQUEST_BYTES_MAX,
    fetch: (request) => handle(request) ?? new Response("elsewhere", { status: 404 }),
  });
  base = `http://127.0.0.1:${server.port}`;
});

afterAll(() => server.stop(true));

beforeEach(() => {
  answer = undefined;
  service = new MemoryService(testIdentity(1), nativeBuffer);
  unary = new StorageUnary({
    service,
    allocate: nativeBuffer,
    blockBytesMax: TEST_BLOCK_BYTES_MAX,
    largeBufferCount: 2,
  });
});

function stock(useBinaryFormat = true): Client<typeof StorageService> {
  return createClient(
    StorageService,
    createConnectTransport({ baseUrl: base, httpVersion: "1.1", useBinaryFormat }),
  );
}

function blockBytes(index: number, pageCount: number): Uint8Array {
  const { buffer, offset, lengthBytes } = testBlock(index, pageCount);
  return buffer.bytes.slice(offset, offset + lengthBytes);
}

function refBytes(index: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK_REF_BYTES);
  encodeBlockRef(new DataView(bytes.buffer), 0, testRef(index));
  return bytes;
}

async function codeOf(call: Promise<unknown>): Promise<[Code, string]> {
  try {
    await call;
  } catch (error) {
    const refused = ConnectError.from(error);
    return [refused.code, refused.rawMessage];
  }
  throw new Error("the call succeeded");
}

for (const useBinaryFormat of [true, false])
  describe(`StorageUnary called by the stock client, ${useBinaryFormat ? "protobuf" : "JSON"}`, () => {
    test("puts and reads blocks", async () => {
      const client = stock(useBinaryFormat);
      const puts = [1, 2, 3].map((index) => ({ writerEpoch: 7n, block: blockBytes(index, index * 8) }));
      const put = await client.putBlocks({
        target,
        puts: [...puts, { writerEpoch: 7n, block: Uint8Array.of(1) }],
      });
      expect(put.statuses).toEqual([Status.OK, Status.OK, Status.OK, Status.BAD_REQUEST]);
      expect(put.identity).toMatchObject(testIdentity(1));
      const read = await client.readBlocks({
        target,
        reads: [
          { ref: refBytes(2), firstSlot: 3, slotCount: 2 },
          { ref: refBytes(3), firstSlot: 0, slotCount: 0 },
          { ref: refBytes(9), firstSlot: 0, slotCount: 1 },
          { ref: Uint8Array.of(1, 2), firstSlot: 0, slotCount: 1 },
          { ref: refBytes(1), firstSlot: 0xffffffff, slotCount: 1 },
        ],
      });
      const { OK, NOT_FOUND, BAD_REQUEST } = Status;
      expect(read.results.map((result) => result.status)).toEqual([
        OK,
        OK,
        NOT_FOUND,
        BAD_REQUEST,
        BAD_REQUEST,
      ]);
      const sealed = blockBytes(2, 16);
      const start = sealed.length - 13 * PAGE_BYTES;
      const expected = sealed.subarray(start, start + 2 * PAGE_BYTES);
      expect(Buffer.compare(read.results[0]?.data as Uint8Array, expected)).toBe(0);
      expect(service.lentCount).toBe(0);
    });

    test("fences, lists, confirms and counts", async () => {
      const client = stock(useBinaryFormat);
      await client.putBlocks({ target, puts: [{ writerEpoch: 7n, block: blockBytes(1, 1) }] });
      const fence = await client.fence({
        target,
        volumeId: 5n,
        epoch: 9n,
        tailEpoch: 7n,
        tailAfterIndex: 0n,
      });
      expect(fence).toMatchObject({
        status: Status.OK,
        epochKnown: 9n,
        tail: [{ index: 1n, suspect: false }],
      });
      const late = await client.putBlocks({ target, puts: [{ writerEpoch: 7n, block: blockBytes(2, 1) }] });
      expect(late.statuses).toEqual([Status.FENCED]);
      const list = await client.listBlocks({ target, limit: 10 });
      expect(list.blocks.map((block) => [...block.ref])).toEqual([[...refBytes(1)]]);
      const refs = [refBytes(1), refBytes(2)];
      const confirm = await client.confirmBlocks({ target, refs, ringVersion: 1n });
      expect(confirm.statuses).toEqual([Status.OK, Status.NOT_FOUND]);
      const statistics = await client.getStatistics({ target });
      expect(statistics).toMatchObject({ capacityBytes: 2n ** 44n, blockCount: 1n });
    });

    test("refuses by the codes of Connect", async () => {
      const client = stock(useBinaryFormat);
      const { InvalidArgument, FailedPrecondition, NotFound, ResourceExhausted } = Code;
      const other = { clusterId: OTHER_CLUSTER, peerId: "" };
      const reads = Array.from({ length: 16 }, () => ({ ref: refBytes(1), firstSlot: 0, slotCount: 1024 }));
      const cases: [Promise<unknown>, Code, string][] = [
        [client.getStatistics({}), InvalidArgument, "Cannot answer: the request names no cluster"],
        [
          client.getStatistics({ target: other }),
          FailedPrecondition,
          `Cannot answer: this peer belongs to cluster ${TEST_CLUSTER}`,
        ],
        [
          client.putBlocks({ target: { ...target, peerId: testPeer(2) } }),
          NotFound,
          `Cannot answer: peer ${testPeer(1)} answers at this address`,
        ],
        [
          client.readBlocks({ target, reads }),
          ResourceExhausted,
          "Cannot read 67108864 bytes at once: 8478720 are possible",
        ],
        [
          client.fence({ target, volumeId: 5n }),
          InvalidArgument,
          "Cannot read a message: a fence of epoch 0",
        ],
        [
          client.fence({ target, volumeId: 0n, epoch: 1n }),
          InvalidArgument,
          "Cannot read a message: volume id 0 is out of range",
        ],
        [
          client.listBlocks({ target, limit: 65_537 }),
          InvalidArgument,
          "Cannot read a message: a listing of 65537 blocks; 1 to 65536 are possible",
        ],
        [
          client.confirmBlocks({ target, refs: [Uint8Array.of(1)] }),
          InvalidArgument,
          "Cannot read a message: a block reference that names no block",
        ],
      ];
      for (const [call, code, message] of cases) expect(await codeOf(call)).toEqual([code, message]);
    });
  });

describe("StorageUnary under load", () => {
  test("takes no more blocks at once than it has buffers, and loses none", async () => {
    service.holding = true;
    const puts = Array.from({ length: 6 }, (_, index) => ({
      writerEpoch: 7n,
      block: blockBytes(index + 1, 40),
    }));
    const call = stock().putBlocks({ target, puts });
    for (let round = 0; round < 3; round++) {
      while (service.held.length < 2) await new Promise((resolve) => setImmediate(resolve));
      expect(service.held.length).toBe(2);
      service.releaseHeld();
    }
    expect((await call).statuses).toEqual(Array(6).fill(Status.OK));
  });

  test("a service that fails on purpose is told apart from a bug", async () => {
    answer = () =>
      Promise.reject(new TorusError("worker-timeout", "Cannot ask the storage thread: no answer"));
    expect(await codeOf(stock().getStatistics({ target }))).toEqual([
      Code.Unavailable,
      "Cannot ask the storage thread: no answer",
    ]);
    service.failControl = true;
    await expect(unary.handle("Fence", toBinaryFence())).rejects.toThrow("the disk is gone");
  });

  test("an answer later than the caller will wait for is not waited for", async () => {
    answer = () => new Promise(() => {});
    expect(await codeOf(stock().getStatistics({ target }, { timeoutMs: 50 }))).toEqual([
      Code.DeadlineExceeded,
      expect.any(String) as unknown as string,
    ]);
  });
});

function toBinaryFence(): Uint8Array {
  // target { cluster_id }, volume_id 5, epoch 9.
  const cluster = new TextEncoder().encode(TEST_CLUSTER);
  return Uint8Array.from([0x0a, cluster.length + 2, 0x0a, cluster.length, ...cluster, 0x10, 5, 0x18, 9]);
}

describe("createUnaryHandler envelope", () => {
  const body = toBinary(GetStatisticsRequestSchema, create(GetStatisticsRequestSchema, { target }));
  const proto = { "content-type": "application/proto" };
  const post = (path: string, headers: Record<string, string>, content: BodyInit = body as BodyInit) =>
    fetch(base + PATH + path, { method: "POST", headers, body: content });
  const errorOf = async (response: Response) => [
    response.status,
    ((await response.json()) as { code: string }).code,
  ];

  test("leaves other paths to others", async () => {
    expect(await (await fetch(`${base}/status`)).text()).toBe("elsewhere");
  });

  test("a caller of another version is told so, and nothing is answered", async () => {
    expect(PATH).toContain(`.v${ADP_VERSION}.`);
    const older = PATH.replace(`.v${ADP_VERSION}.`, `.v${ADP_VERSION - 1}.`);
    const response = await fetch(`${base}${older}ReadBlocks`, { method: "POST", headers: proto });
    expect(response.status).toBe(501);
    expect(await response.json()).toEqual({
      code: "unimplemented",
      message:
        "Cannot answer: this peer speaks torus.storage.v2.StorageService alone; peers and clients must be of the same version",
    });
  });

  test("wants POST and a known content type", async () => {
    expect((await fetch(`${base}${PATH}GetStatistics`)).status).toBe(405);
    expect((await post("GetStatistics", { "content-type": "text/plain" })).status).toBe(415);
    expect((await post("GetStatistics", { "content-type": "application/proto; charset=x" })).status).toBe(
      200,
    );
  });

  test("refuses what it does not understand", async () => {
    expect(await errorOf(await post("DeleteBlocks", proto))).toEqual([501, "unimplemented"]);
    expect(await errorOf(await post("GetStatistics", { ...proto, "connect-protocol-version": "2" }))).toEqual(
      [400, "invalid_argument"],
    );
    expect(await errorOf(await post("GetStatistics", { ...proto, "content-encoding": "gzip" }))).toEqual([
      501,
      "unimplemented",
    ]);
    expect(await errorOf(await post("GetStatistics", { ...proto, "connect-timeout-ms": "soon" }))).toEqual([
      400,
      "invalid_argument",
    ]);
    expect(await errorOf(await post("GetStatistics", proto, Uint8Array.of(0x0a, 0xff)))).toEqual([
      400,
      "invalid_argument",
    ]);
    expect(
      await errorOf(await post("GetStatistics", { "content-type": "application/json" }, "{nonsense")),
    ).toEqual([400, "invalid_argument"]);
  });

  test("refuses a body that is too large, with a length and without", async () => {
    const large = new Uint8Array(REQUEST_BYTES_MAX + 1);
    expect(await errorOf(await post("PutBlocks", proto, large))).toEqual([429, "resource_exhausted"]);
    const endless = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(256 * 1024)),
    });
    const refused = post("PutBlocks", proto, endless).then(errorOf);
    expect([[429, "resource_exhausted"], "closed"]).toContainEqual(await refused.catch(() => "closed"));
  });

  test("a claim of 4 GiB costs nothing and harms nobody", async () => {
    const before = process.memoryUsage.rss();
    const sockets = Array.from({ length: 20 }, () => {
      const socket = connectSocket(server.port as number, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(
        `POST ${PATH}PutBlocks HTTP/1.1\r\nHost: x\r\nContent-Type: application/proto\r\nContent-Length: 4294967296\r\n\r\nabc`,
      );
      return socket;
    });
    await Promise.all(
      sockets.map((socket) => new Promise((resolve) => socket.once("data", resolve).once("close", resolve))),
    );
    expect((await stock().getStatistics({ target })).blockCount).toBe(0n);
    expect(process.memoryUsage.rss() - before).toBeLessThan(200 * 1024 * 1024);
    for (const socket of sockets) socket.destroy();
  });

  test("refuses while too much is under way, and goes on afterwards", async () => {
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    answer = async () => {
      await gate;
      return { ok: true, body: new Uint8Array(0) };
    };
    const big = new Uint8Array(REQUEST_BYTES_MAX);
    const first = [post("PutBlocks", proto, big), post("PutBlocks", proto, big)];
    let refused: unknown[] = [200];
    while (refused[0] === 200) {
      const probe = await Promise.race([
        post("GetStatistics", proto).then(errorOf),
        Bun.sleep(20).then(() => [200]),
      ]);
      refused = probe;
    }
    expect(refused).toEqual([429, "resource_exhausted"]);
    release();
    for (const response of await Promise.all(first)) expect(response.status).toBe(200);
    answer = undefined;
    expect((await stock().getStatistics({ target })).blockCount).toBe(0n);
  });
});
