/** ConnectTransport on the raw event loop, against the real service on Bun.serve and against servers that misbehave. */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId } from "../../../../src/base";
import {
  type EventLoop,
  nativeBuffer,
  type SocketNetwork,
  type StreamConnection,
  type StreamHandler,
  systemRandom,
} from "../../../../src/base/io";
import { StorageStatus } from "../../../../src/engine";
import { PAGE_BYTES } from "../../../../src/engine/block";
import {
  ConnectTransport,
  type ConnectTransportOptions,
  createUnaryHandler,
  StorageUnary,
  type UnaryResult,
} from "../../../../src/net/connect";
import { until, withLoop } from "../../../support/loop";
import { MemoryService } from "../../../support/memory-service";
import {
  OTHER_CLUSTER,
  RecordedPut,
  RecordedRead,
  TEST_BLOCK_BYTES_MAX,
  TEST_CLUSTER,
  testBlock,
  testIdentity,
  testPeer,
  testRef,
} from "../../../support/peer-blocks";

const peer = testPeer(1);
const { ok, notFound, unreachable, wrongCluster, badRequest, unavailable, fenced } = StorageStatus;

interface Served {
  readonly service: MemoryService;
  readonly address: string;
  /** Batches that came, by procedure. */
  readonly calls: string[];
  /** Requests that wait before they are answered, when set. */
  gate: Promise<void> | undefined;
  answer: ((procedure: string) => UnaryResult | undefined) | undefined;
  stop(): void;
}

function serve(identity = testIdentity(1), port = 0): Served {
  const service = new MemoryService(identity, nativeBuffer);
  const unary = new StorageUnary({ service, allocate: nativeBuffer, blockBytesMax: TEST_BLOCK_BYTES_MAX });
  const handle = createUnaryHandler({
    call: async (procedure, body) => {
      served.calls.push(procedure);
      await served.gate;
      return served.answer?.(procedure) ?? unary.handle(procedure, body);
    },
  });
  const server = Bun.serve({
    port,
    hostname: "127.0.0.1",
    fetch: (request) => handle(request) ?? new Response("", { status: 404 }),
  });
  const served: Served = {
    service,
    address: `127.0.0.1:${server.port}`,
    calls: [],
    gate: undefined,
    answer: undefined,
    stop: () => server.stop(true),
  };
  return served;
}

function transportTo(
  loop: EventLoop,
  network: SocketNetwork,
  address: string | undefined,
  options: Partial<ConnectTransportOptions> = {},
): ConnectTransport {
  return new ConnectTransport({
    network,
    clock: loop,
    turns: loop,
    random: systemRandom,
    allocate: nativeBuffer,
    clusterId: TEST_CLUSTER,
    locate: () => address,
    requestTimeoutMs: 2000,
    controlTimeoutMs: 2000,
    connectTimeoutMs: 1000,
    ...options,
  });
}

async function withPeer(
  body: (
    transport: ConnectTransport,
    served: Served,
    loop: EventLoop,
    network: SocketNetwork,
  ) => Promise<void>,
  options: Partial<ConnectTransportOptions> = {},
): Promise<void> {
  await withLoop(async (loop, network) => {
    const served = serve();
    const transport = transportTo(loop, network, served.address, options);
    try {
      await body(transport, served, loop, network);
    } finally {
      transport.close();
      served.stop();
    }
  });
}

const answered = (calls: readonly { readonly answers: readonly unknown[] }[]) => () =>
  calls.every((call) => call.answers.length > 0);

describe("ConnectTransport", () => {
  test("puts and reads whole batches, every operation once", async () => {
    await withPeer(async (transport, served, loop) => {
      const blocks = Array.from({ length: 30 }, (_, index) => testBlock(index + 1, 1 + (index % 3) * 40));
      const puts = blocks.map((block) => new RecordedPut(block));
      for (const put of puts) {
        transport.put(peer, put);
        expect(put.answers.length).toBe(0);
      }
      await until(loop, "all puts are answered", answered(puts));
      for (const put of puts) expect(put.answers).toEqual([{ ...testIdentityOf(), status: ok }]);
      // 30 operations of one turn went in a handful of calls.
      expect(served.calls.length).toBeLessThan(8);

      const reads = blocks.flatMap((_, index) => [
        new RecordedRead(testRef(index + 1), 0, 0),
        new RecordedRead(testRef(index + 1), (index % 3) * 10, 1),
      ]);
      reads.push(new RecordedRead(testRef(99), 0, 1), new RecordedRead(testRef(1), 3, 1));
      for (const read of reads) transport.read(peer, read);
      await until(loop, "all reads are answered", answered(reads));
      for (const [index, block] of blocks.entries()) {
        const [header, page] = [reads[2 * index], reads[2 * index + 1]] as [RecordedRead, RecordedRead];
        expect([header.statuses, page.statuses]).toEqual([[ok], [ok]]);
        const start = block.offset + block.headerBytes + (index % 3) * 10 * PAGE_BYTES;
        const bytes = block.buffer.bytes;
        expect(
          Buffer.compare(header.received(), bytes.subarray(block.offset, block.offset + block.headerBytes)),
        ).toBe(0);
        expect(Buffer.compare(page.received(), bytes.subarray(start, start + PAGE_BYTES))).toBe(0);
        expect(page.answers[0]?.check).not.toBe(0);
      }
      expect(reads.at(-2)?.statuses).toEqual([notFound]);
      expect(reads.at(-1)?.statuses).toEqual([badRequest]);
      expect(transport.isLikelyUp(peer)).toBe(true);
    });
  });

  test("a fence arrives after the puts before it, with the epochs minted", async () => {
    const minted = {
      completeAbove: 3,
      minted: [
        { from: 4, to: 6 },
        { from: 9, to: 9 },
      ],
    };
    await withPeer(async (transport, served, loop) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      served.gate = promise;
      const early = [1, 2, 3].map((index) => new RecordedPut(testBlock(index, 1)));
      for (const put of early) transport.put(peer, put);
      const fence = transport.fence(peer, {
        volumeId: asVolumeId(5),
        epoch: asEpoch(9),
        tailEpoch: 7,
        tailAfterIndex: 1,
        minted,
      });
      await until(loop, "the puts arrived", () => served.calls.length > 0);
      await loopTurns(loop, 20);
      expect(served.calls).not.toContain("Fence");
      resolve();
      const reply = await fence;
      expect(served.service.fenceRequests.at(-1)?.minted).toEqual(minted);
      expect(early.map((put) => put.statuses)).toEqual([[ok], [ok], [ok]]);
      expect(reply).toMatchObject({ ...testIdentity(1), status: ok, epochKnown: 9 });
      expect(reply.tail.map((block) => block.index)).toEqual([2, 3]);
      const late = new RecordedPut(testBlock(4, 1));
      transport.put(peer, late);
      await until(loop, "the late put is answered", answered([late]));
      expect(late.statuses).toEqual([fenced]);
    });
  });

  test("control calls come back as they were answered", async () => {
    await withPeer(async (transport, served, loop) => {
      const puts = [1, 2, 3].map((index) => new RecordedPut(testBlock(index, 1)));
      for (const put of puts) transport.put(peer, put);
      await until(loop, "the puts are answered", answered(puts));
      const first = await transport.list(peer, { limit: 2 });
      expect(first.blocks.map((block) => block.ref)).toEqual([testRef(1), testRef(2)]);
      const rest = await transport.list(peer, {
        limit: 2,
        cursor: first.cursor as string,
        volumeId: asVolumeId(5),
      });
      expect(rest).toEqual({ blocks: [expect.objectContaining({ ref: testRef(3) })] });
      expect(await transport.confirm(peer, { refs: [testRef(1), testRef(8)], ringVersion: 1 })).toEqual({
        ...testIdentity(1),
        ringVersion: 1,
        statuses: [ok, notFound],
      });
      expect(await transport.statistics(peer)).toEqual(await served.service.statistics());
    });
  });

  test("a connection that the server closed while quiet is replaced without anybody noticing", async () => {
    await withPeer(async (transport, served, loop) => {
      const first = new RecordedPut(testBlock(1, 1));
      transport.put(peer, first);
      await until(loop, "the first put is answered", answered([first]));
      const port = Number(served.address.split(":")[1]);
      served.stop();
      const again = serve(testIdentity(1), port);
      const second = new RecordedPut(testBlock(2, 1));
      transport.put(peer, second);
      await until(loop, "the second put is answered", answered([second]));
      expect(second.statuses).toEqual([ok]);
      again.stop();
    });
  });

  test("nobody there: unreachable, at once while the link rests, and found again by itself", async () => {
    await withLoop(async (loop, network) => {
      const taken = serve();
      const { address } = taken;
      taken.stop();
      const transport = transportTo(loop, network, address);
      const first = new RecordedPut(testBlock(1, 1));
      transport.put(peer, first);
      await until(loop, "the first put fails", answered([first]));
      expect(first.answers).toEqual([{ peer, incarnation: "", status: unreachable }]);
      expect(transport.isLikelyUp(peer)).toBe(false);
      const read = new RecordedRead(testRef(1), 0, 1);
      transport.read(peer, read);
      expect(read.answers.length).toBe(0);
      await loopTurns(loop, 2);
      expect(read.answers).toEqual([{ peer, status: unreachable, lengthBytes: 0, check: 0 }]);
      const served = serve(testIdentity(1), Number(address.split(":")[1]));
      await until(loop, "the link is up again", () => transport.isLikelyUp(peer));
      const again = new RecordedPut(testBlock(1, 1));
      transport.put(peer, again);
      await until(loop, "the put is answered", answered([again]));
      expect(again.statuses).toEqual([ok]);
      transport.close();
      served.stop();
    });
  });

  test("a peer that does not answer: unreachable after the deadline, and controls reject", async () => {
    await withPeer(
      async (transport, served, loop) => {
        served.gate = new Promise(() => {});
        const put = new RecordedPut(testBlock(1, 100));
        const read = new RecordedRead(testRef(1), 0, 1);
        transport.put(peer, put);
        transport.read(peer, read);
        const statistics = transport.statistics(peer);
        const reason = reasonOf(statistics);
        await until(loop, "both fail", answered([put, read]));
        expect([put.statuses, read.statuses]).toEqual([[unreachable], [unreachable]]);
        expect(transport.isLikelyUp(peer)).toBe(false);
        expect(await reason).toStartWith(`Cannot reach peer ${peer}: `);
      },
      { requestTimeoutMs: 150, controlTimeoutMs: 200 },
    );
  });

  test("reads that are withdrawn end nowhere and touch nothing, waiting or under way; the others of their call do", async () => {
    await withPeer(
      async (transport, served, loop) => {
        const block = testBlock(1, 100);
        const put = new RecordedPut(block);
        transport.put(peer, put);
        await until(loop, "stored", answered([put]));
        let open = () => {};
        served.gate = new Promise((resolve) => {
          open = resolve;
        });
        const calls = served.calls.length;
        const [underWay, kept] = [new RecordedRead(testRef(1), 0, 2), new RecordedRead(testRef(1), 5, 2)];
        transport.read(peer, underWay);
        transport.read(peer, kept);
        await until(loop, "the call is under way", () => served.calls.length === calls + 1);
        const waiting = new RecordedRead(testRef(1), 0, 2);
        transport.read(peer, waiting);
        await loopTurns(loop, 5);
        expect([underWay, waiting].map((read) => transport.withdrawRead(peer, read))).toEqual([true, true]);
        expect([underWay, waiting].map((read) => transport.withdrawRead(peer, read))).toEqual([false, false]);
        open();
        const last = new RecordedRead(testRef(1), 9, 1);
        transport.read(peer, last);
        await until(loop, "the others are answered", answered([kept, last]));
        const start = block.offset + block.headerBytes + 5 * PAGE_BYTES;
        expect(kept.received()).toEqual(block.buffer.bytes.subarray(start, start + 2 * PAGE_BYTES));
        for (const read of [underWay, waiting]) {
          expect(read.answers).toEqual([]);
          expect(read.destination.bytes.every((byte) => byte === 0xcc)).toBe(true);
        }
        expect(last.statuses).toEqual([ok]);
      },
      { connectionCountMax: 1 },
    );
  });

  test("a withdrawn read is not told when its call fails", async () => {
    await withLoop(async (loop, network) => {
      const served = serve();
      const transport = transportTo(loop, network, served.address, { requestTimeoutMs: 200 });
      served.gate = new Promise(() => {});
      const [withdrawn, other] = [new RecordedRead(testRef(1), 0, 1), new RecordedRead(testRef(1), 0, 1)];
      transport.read(peer, withdrawn);
      transport.read(peer, other);
      await until(loop, "the call is under way", () => served.calls.length === 1);
      expect(transport.withdrawRead(peer, withdrawn)).toBe(true);
      await until(loop, "the call fails", answered([other]));
      expect([withdrawn.answers, other.statuses, transport.isLikelyUp(peer)]).toEqual([
        [],
        [unreachable],
        false,
      ]);
      transport.close();
      served.stop();
    });
  });

  const strangers: [string, Parameters<typeof serve>[0], StorageStatus][] = [
    ["another cluster", testIdentity(1, OTHER_CLUSTER), wrongCluster],
    ["another peer", testIdentity(2), unreachable],
  ];
  for (const [name, identity, status] of strangers)
    test(`${name} at the address answers for nothing`, async () => {
      await withLoop(async (loop, network) => {
        const served = serve(identity);
        const transport = transportTo(loop, network, served.address);
        const put = new RecordedPut(testBlock(1, 1));
        const read = new RecordedRead(testRef(1), 0, 1);
        transport.put(peer, put);
        transport.read(peer, read);
        await until(loop, "both are answered", answered([put, read]));
        expect([put.statuses, read.statuses]).toContainEqual([status]);
        expect(put.statuses[0]).not.toBe(ok);
        expect(served.service.putCount).toBe(0);
        expect(transport.isLikelyUp(peer)).toBe(false);
        transport.close();
        served.stop();
      });
    });

  test("a peer of another version answers for nothing, and says why", async () => {
    await withLoop(async (loop, network) => {
      const server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: () => new Response("", { status: 404 }),
      });
      const transport = transportTo(loop, network, `127.0.0.1:${server.port}`);
      const read = new RecordedRead(testRef(1), 0, 1);
      transport.read(peer, read);
      const reason = reasonOf(transport.list(peer, { limit: 1 }));
      await until(loop, "the read is answered", answered([read]));
      expect(read.statuses).toEqual([unreachable]);
      expect(await reason).toContain("it knows no such service: it is of another version, or no peer");
      transport.close();
      await server.stop(true);
    });
  });

  test("a refusal reaches every operation of the call, and the link stays up", async () => {
    await withPeer(async (transport, served, loop) => {
      served.answer = (procedure) =>
        procedure === "PutBlocks"
          ? { ok: false, code: "unavailable", message: "the store is poisoned" }
          : undefined;
      const puts = [1, 2, 3].map((index) => new RecordedPut(testBlock(index, 1)));
      for (const put of puts) transport.put(peer, put);
      await until(loop, "all are answered", answered(puts));
      expect(puts.map((put) => put.statuses)).toEqual([[unavailable], [unavailable], [unavailable]]);
      served.answer = () => ({ ok: false, code: "internal", message: "the disk is gone" });
      expect(await reasonOf(transport.list(peer, { limit: 1 }))).toBe("the disk is gone");
      await loopTurns(loop, 30);
      expect(transport.isLikelyUp(peer)).toBe(true);
    });
  });

  test("close ends everything, and nothing can be asked afterwards", async () => {
    await withPeer(async (transport, served, loop) => {
      served.gate = new Promise(() => {});
      const put = new RecordedPut(testBlock(1, 1));
      transport.put(peer, put);
      await until(loop, "it is under way", () => served.calls.length > 0);
      transport.close();
      expect(put.statuses).toEqual([unreachable]);
      const late = new RecordedPut(testBlock(2, 1));
      transport.put(peer, late);
      expect(await reasonOf(transport.statistics(peer))).toBe(`Cannot reach peer ${peer}: the client closes`);
      await until(loop, "the late put fails", answered([late]));
      expect(late.statuses).toEqual([unreachable]);
    });
  });
});

describe("ConnectTransport with servers that misbehave", () => {
  const reply = (head: string, body = "") => `HTTP/1.1 ${head}\r\n\r\n${body}`;
  const cases: [string, string, StorageStatus][] = [
    ["garbage", "SSH-2.0-OpenSSH\r\n\r\n", unreachable],
    ["an endless head", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(20_000)}`, unreachable],
    ["no length", reply("200 OK\r\nContent-Type: application/proto"), unreachable],
    ["two lengths", reply("200 OK\r\nContent-Length: 1\r\nContent-Length: 2", "ab"), unreachable],
    ["a length that is no number", reply("200 OK\r\nContent-Length: -1"), unreachable],
    [
      "a huge length",
      reply("200 OK\r\nContent-Type: application/proto\r\nContent-Length: 99999999999"),
      unreachable,
    ],
    ["chunks", reply("200 OK\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), unreachable],
    ["compression", reply("200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0"), unreachable],
    [
      "an empty message",
      reply("200 OK\r\nContent-Type: application/proto\r\nContent-Length: 0"),
      unreachable,
    ],
    [
      "nonsense",
      reply("200 OK\r\nContent-Type: application/proto\r\nContent-Length: 3", "\x12\x7f\x01"),
      unreachable,
    ],
    ["a web page", reply("200 OK\r\nContent-Type: text/html\r\nContent-Length: 5", "hello"), unreachable],
    ["404", reply("404 Not Found\r\nContent-Length: 0"), unreachable],
    [
      "an error that is no JSON",
      reply("500 No\r\nContent-Type: application/json\r\nContent-Length: 3", "{x}"),
      unreachable,
    ],
    [
      "an error in JSON, and closes",
      reply(
        "503 No\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 22",
        '{"code":"unavailable"}',
      ),
      unavailable,
    ],
    [
      "Continue before the answer",
      `HTTP/1.1 100 Continue\r\n\r\n${reply("503 No\r\nContent-Type: application/json\r\nContent-Length: 22", '{"code":"unavailable"}')}`,
      unavailable,
    ],
    ["half an answer", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc<close>", unreachable],
    ["nothing, and closes", "<close>", unreachable],
  ];
  for (const [name, text, status] of cases)
    test(`${name}: every operation is told ${status} once`, async () => {
      await withLoop(async (loop, network) => {
        let served = 0;
        const listener = network.listen("127.0.0.1:0", (connection) => {
          served++;
          return answerWith(connection, text);
        });
        const transport = transportTo(loop, network, listener.address, { requestTimeoutMs: 150 });
        const puts = [1, 2].map((index) => new RecordedPut(testBlock(index, index * 60)));
        const read = new RecordedRead(testRef(1), 0, 1);
        for (const put of puts) transport.put(peer, put);
        transport.read(peer, read);
        await until(loop, "all are answered", answered([...puts, read]));
        await loopTurns(loop, 20);
        expect([...puts, read].map((call) => call.answers.length)).toEqual([1, 1, 1]);
        expect(puts[0]?.statuses).toContainEqual(status);
        expect(served).toBeGreaterThan(0);
        transport.close();
        listener.close();
      });
    });
});

function testIdentityOf() {
  return { peer, incarnation: testIdentity(1).incarnation };
}

/** Answers the first bytes of each request with a text; `<close>` at its end closes. */
function answerWith(connection: StreamConnection, text: string): StreamHandler {
  let answeredOnce = false;
  return {
    onData: (_buffer, start, end) => {
      if (!answeredOnce) {
        answeredOnce = true;
        const bytes = Buffer.from(text.replace("<close>", ""), "latin1");
        connection.write(bytes, 0, bytes.length);
        if (text.endsWith("<close>")) connection.end();
      }
      return end - start;
    },
    onReceived: () => {},
    onClose: () => {},
  };
}

/** Not `rejects`: that stops the thread, and with it the loop, until the promise is settled. */
function reasonOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "it succeeded",
    (error: Error) => error.message,
  );
}

function loopTurns(loop: EventLoop, count: number): Promise<void> {
  return new Promise((resolve) => {
    let left = count;
    const next = () => {
      if (--left < 0) resolve();
      else loop.schedule(1, next);
    };
    next();
  });
}
