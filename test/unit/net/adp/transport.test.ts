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
import { nativeBuffer, type StreamAddress, type StreamNetwork, systemRandom } from "../../../../src/base/io";
import {
  BlockBuilder,
  blockBufferBytes,
  blockSeed,
  clusterSeed,
  HEADER_BYTES_MAX,
  makeBlockSealer,
  PAGE_BYTES,
  readCheck,
  type SealedBlock,
} from "../../../../src/engine/block";
import { type OutgoingPut, type OutgoingRead, StorageStatus } from "../../../../src/engine/ports";
import {
  AdpClient,
  type AdpClientOptions,
  AdpError,
  AdpServer,
  LocalTransport,
} from "../../../../src/net/adp";
import * as frames from "../../../../src/net/adp/frame";
import { until, withLoop } from "../../../support/loop";
import { VirtualClock } from "../../../support/virtual-clock";
import { MemoryNetwork } from "../../../support/memory-network";
import { MemoryService } from "../../../support/memory-service";

const clusterId = "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId;
const otherCluster = "0f0e0d0c-0b0a-4900-8807-0605040302ff" as ClusterId;
const peers = [1, 2, 3].map((n) => `11111111-2222-4333-8444-00000000000${n}` as PeerId) as [
  PeerId,
  PeerId,
  PeerId,
];
const BLOCK_SIZE = 256 * 1024;
const BLOCK_BYTES_MAX = HEADER_BYTES_MAX + BLOCK_SIZE;
const sealer = makeBlockSealer(clusterId);

function identityOf(peerId: PeerId, cluster = clusterId) {
  return { clusterId: cluster, peerId, incarnation: `00000000000000a${peerId.at(-1)}` as Incarnation };
}

function refOf(index: number, epoch = 7): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(5), epoch: asEpoch(epoch), index };
}

function makeBlock(random: Random, index: number, pageCount: number, allocate = nativeBuffer): SealedBlock {
  const builder = new BlockBuilder(allocate(blockBufferBytes(BLOCK_SIZE)), BLOCK_SIZE);
  builder.addPages(random.nextU32() % 1000, pageCount);
  for (let slot = 0; slot < pageCount; slot++) {
    const offset = builder.slotOffset(slot);
    for (let at = 0; at < PAGE_BYTES; at += 4)
      builder.buffer.view.setUint32(offset + at, random.nextU32(), true);
  }
  return builder.seal(sealer, refOf(index));
}

class Put implements OutgoingPut {
  readonly buffer;
  readonly offset;
  readonly lengthBytes;
  readonly answers: { peer: PeerId; incarnation: string; status: StorageStatus }[] = [];

  constructor(
    block: SealedBlock,
    readonly writerEpoch = 7,
  ) {
    this.buffer = block.buffer;
    this.offset = block.offset;
    this.lengthBytes = block.lengthBytes;
  }

  done(peer: PeerId, incarnation: string, status: StorageStatus): void {
    this.answers.push({ peer, incarnation, status });
  }

  get statuses(): StorageStatus[] {
    return this.answers.map((answer) => answer.status);
  }
}

class Read implements OutgoingRead {
  readonly destination;
  readonly destinationOffset = 16;
  answers: { peer: PeerId; status: StorageStatus; lengthBytes: number; check: number }[] = [];

  constructor(
    readonly ref: BlockRef,
    readonly firstSlot: number,
    readonly slotCount: number,
    allocate = nativeBuffer,
  ) {
    this.destination = allocate(16 + (slotCount === 0 ? HEADER_BYTES_MAX : slotCount * PAGE_BYTES) + 16);
    this.destination.bytes.fill(0xcc);
  }

  done(peer: PeerId, status: StorageStatus, lengthBytes: number, check: number): void {
    this.answers.push({ peer, status, lengthBytes, check });
  }

  get statuses(): StorageStatus[] {
    return this.answers.map((answer) => answer.status);
  }

  expectBytesOf(block: SealedBlock): void {
    const [answer] = this.answers;
    expect(this.answers.length).toBe(1);
    expect(answer?.status).toBe(StorageStatus.ok);
    const start =
      this.slotCount === 0 ? block.offset : block.offset + block.headerBytes + this.firstSlot * PAGE_BYTES;
    const lengthBytes = this.slotCount === 0 ? block.headerBytes : this.slotCount * PAGE_BYTES;
    expect(answer?.lengthBytes).toBe(lengthBytes);
    const got = this.destination.bytes.subarray(16, 16 + lengthBytes);
    expect(Buffer.compare(got, block.buffer.bytes.subarray(start, start + lengthBytes))).toBe(0);
    expect(this.destination.bytes.subarray(16 + lengthBytes).every((byte) => byte === 0xcc)).toBe(true);
    if (this.slotCount > 0)
      expect(
        readCheck(blockSeed(clusterSeed(clusterId), this.ref), this.firstSlot, got, 0, lengthBytes),
      ).toBe(answer?.check as number);
  }
}

// ------------------------------------------------------------------------------------------------ real sockets

const clientDefaults = {
  random: systemRandom,
  allocate: nativeBuffer,
  clusterId,
  blockBytesMax: BLOCK_BYTES_MAX,
  requestTimeoutMs: 2000,
  controlTimeoutMs: 3000,
  connectTimeoutMs: 1000,
};

const serviceErrors: string[] = [];

const overSockets = (
  body: (tools: {
    readonly service: MemoryService;
    readonly server: AdpServer;
    readonly client: AdpClient;
    readonly network: StreamNetwork;
    readonly address: StreamAddress;
    until(what: string, condition: () => boolean): Promise<void>;
  }) => Promise<void>,
  options: { readonly largeBufferCount?: number; readonly smallBufferCount?: number } = {},
) =>
  withLoop(async (loop, network) => {
    const service = new MemoryService(identityOf(peers[0]), nativeBuffer);
    const server = new AdpServer({
      service,
      network,
      clock: loop,
      allocate: nativeBuffer,
      blockBytesMax: BLOCK_BYTES_MAX,
      onServiceError: (error) => serviceErrors.push(String(error)),
      ...options,
    });
    const { address } = server.listen("127.0.0.1:0");
    const client = new AdpClient({
      ...clientDefaults,
      network,
      clock: loop,
      turns: loop,
      locate: () => address,
    });
    await body({
      service,
      server,
      client,
      network,
      address,
      until: (what, holds) => until(loop, what, holds),
    });
    client.close();
    server.close();
    expect(service.lentCount).toBe(0);
  });

test("AdpClient and AdpServer carry blocks of all sizes there and back over real sockets", () =>
  overSockets(async ({ client, service, until, server }) => {
    const blocks = [1, 2, 5, 16, 64].flatMap((pages, at) =>
      Array.from({ length: 6 }, (_, copy) => makeBlock(systemRandom, 1 + at * 6 + copy, pages)),
    );
    const puts = blocks.map((block) => new Put(block));
    for (const put of puts) client.put(peers[0], put);
    expect(puts.every((put) => put.answers.length === 0)).toBe(true);
    await until("all puts answered", () => puts.every((put) => put.answers.length === 1));
    for (const put of puts)
      expect(put.answers).toEqual([
        { peer: peers[0], incarnation: "00000000000000a1", status: StorageStatus.ok },
      ]);
    const reads = blocks.flatMap((block, at) => {
      const pages = (block.lengthBytes - block.headerBytes) / PAGE_BYTES;
      const first = at % pages;
      return [
        { block, read: new Read(block.ref, 0, 0) },
        { block, read: new Read(block.ref, first, pages - first) },
        { block, read: new Read(block.ref, first, 1) },
      ];
    });
    for (const { read } of reads) client.read(peers[0], read);
    await until("all reads answered", () => reads.every(({ read }) => read.answers.length === 1));
    for (const { block, read } of reads) read.expectBytesOf(block);
    const missing = new Read(refOf(999), 0, 1);
    client.read(peers[0], missing);
    await until("answered", () => missing.answers.length === 1);
    expect(missing.statuses).toEqual([StorageStatus.notFound]);
    expect(service.blocks.size).toBe(30);
    expect(server.statistics.violationCount).toBe(0);
    const [statistics] = client.peerStatistics;
    const putBytes = blocks.reduce((sum, block) => sum + 16 + block.lengthBytes, 0);
    expect(statistics?.put).toEqual({ requests: 30, sentBytes: putBytes, receivedBytes: 30 * 16 });
    expect(statistics?.read.requests).toBe(91);
    expect([statistics?.state, statistics?.connectCount, statistics?.unreachableCount]).toEqual([
      "ready",
      1,
      0,
    ]);
  }));

test("a block of one page costs its header and 32 bytes beyond the page on the wire", () =>
  overSockets(async ({ client, until }) => {
    const put = new Put(makeBlock(systemRandom, 1, 1));
    client.put(peers[0], put);
    await until("answered", () => put.answers.length === 1);
    const [statistics] = client.peerStatistics;
    expect(statistics?.put).toEqual({ requests: 1, sentBytes: 16 + 72 + 16 + 4 + 4096, receivedBytes: 16 });
  }));

test("control calls cross with all their fields, and a fence arrives after the puts before it", () =>
  overSockets(async ({ client, service }) => {
    const blocks = Array.from({ length: 40 }, (_, at) => makeBlock(systemRandom, at + 1, 1 + (at % 20)));
    const puts = blocks.map((block) => new Put(block));
    for (const put of puts) client.put(peers[0], put);
    const fence = await client.fence(peers[0], {
      volumeId: asVolumeId(5),
      epoch: asEpoch(9),
      tailEpoch: 7,
      tailAfterIndex: 3,
    });
    expect(fence).toEqual({
      ...identityOf(peers[0]),
      status: StorageStatus.ok,
      epochKnown: 9,
      tail: blocks.slice(3).map(({ ref, headerCrc, lengthBytes }) => ({
        index: ref.index,
        headerCrc,
        lengthBytes,
        suspect: false,
      })),
    });
    const late = new Put(makeBlock(systemRandom, 41, 1));
    const unfenced = new Put(makeBlock(systemRandom, 42, 1), 0);
    client.put(peers[0], late);
    client.put(peers[0], unfenced);
    const first = await client.list(peers[0], { limit: 30, volumeId: asVolumeId(5) });
    expect([late.statuses, unfenced.statuses]).toEqual([[StorageStatus.fenced], [StorageStatus.ok]]);
    expect(first.blocks.length).toBe(30);
    const rest = await client.list(peers[0], { limit: 30, cursor: first.cursor as string });
    expect(rest.cursor).toBeUndefined();
    expect([...first.blocks, ...rest.blocks].map((block) => block.ref.index)).toEqual([
      ...blocks.map((block) => block.ref.index),
      42,
    ]);
    const refs = Array.from({ length: 9000 }, (_, at) => refOf(at + 1));
    const confirmed = await client.confirm(peers[0], { refs, ringVersion: 4 });
    expect(confirmed.statuses.filter((status) => status === StorageStatus.ok).length).toBe(41);
    expect(confirmed.statuses.length).toBe(9000);
    expect(confirmed.incarnation).toBe(identityOf(peers[0]).incarnation);
    expect((await client.statistics(peers[0])).capacityBytes).toBe(2 ** 44);
    service.failControl = true;
    const refused = await client
      .fence(peers[0], { volumeId: asVolumeId(5), epoch: asEpoch(10), tailEpoch: 0, tailAfterIndex: 0 })
      .catch((error: unknown) => error);
    expect(serviceErrors).toEqual(["Error: the disk is gone"]);
    expect((refused as AdpError).message).toBe(`Cannot ask peer ${peers[0]}: it answered status 8`);
  }));

test("an empty buffer pool stops reading, and everything is stored in the end", () =>
  overSockets(
    async ({ client, service, server, until }) => {
      service.holding = true;
      const puts = Array.from(
        { length: 24 },
        (_, at) => new Put(makeBlock(systemRandom, at + 1, at % 3 === 0 ? 1 : 40)),
      );
      for (const put of puts) client.put(peers[0], put);
      await until(
        "the pools are empty",
        () => service.held.length === 2 || server.statistics.bufferWaitCount > 0,
      );
      expect(service.held.length).toBeLessThanOrEqual(4);
      while (puts.some((put) => put.answers.length === 0)) {
        const before = service.putCount;
        service.releaseHeld();
        await until(
          "more came",
          () => service.putCount > before || puts.every((put) => put.answers.length === 1),
        );
      }
      expect(puts.flatMap((put) => put.statuses)).toEqual(puts.map(() => StorageStatus.ok));
      expect(server.statistics.bufferWaitCount).toBeGreaterThan(0);
      expect(server.smallPool.availableCount + server.largePool.availableCount).toBe(4);
    },
    { largeBufferCount: 2, smallBufferCount: 2 },
  ));

test("two connections that wait for the same pool both go on, also when one of them dies waiting", () =>
  overSockets(
    async ({ service, server, network, address, until }) => {
      await withLoop(async (loop2, network2) => {
        service.holding = true;
        const make = (network_: StreamNetwork) =>
          new AdpClient({
            ...clientDefaults,
            network: network_,
            clock: loop2,
            turns: loop2,
            locate: () => address,
          });
        const clients = [make(network2), make(network2), make(network2)];
        const puts = clients.map((client, at) => {
          const put = new Put(makeBlock(systemRandom, at + 1, 40));
          client.put(peers[0], put);
          return put;
        });
        await until(
          "one is held, two wait",
          () => service.held.length === 1 && server.statistics.bufferWaitCount === 2,
        );
        clients[1]?.close();
        service.holding = false;
        service.releaseHeld();
        await until("the others are done", () => puts.every((put) => put.answers.length === 1));
        expect(puts.map((put) => put.statuses)).toEqual([
          [StorageStatus.ok],
          [StorageStatus.unreachable],
          [StorageStatus.ok],
        ]);
        for (const client of clients) client.close();
      });
      expect(network).toBeDefined();
    },
    { largeBufferCount: 1 },
  ));

// ----------------------------------------------------------------------------- virtual time, random pieces, faults

function seeded(seed: number): Random {
  let state = seed || 1;
  const nextU32 = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  return { nextU32, hex: () => "00", uuid: () => peers[0] };
}

class World {
  readonly clock = new VirtualClock();
  readonly random: Random;
  readonly wire: MemoryNetwork;
  readonly turns = { afterTurn: (callback: () => void) => void this.clock.schedule(0, callback) };
  readonly addresses = new Map<PeerId, StreamAddress>();

  constructor(
    seed: number,
    options: { latencyMsMax?: number; windowBytes?: number; pieceBytesMax?: number } = {},
  ) {
    this.random = seeded(seed);
    this.wire = new MemoryNetwork({
      clock: this.clock,
      random: this.random,
      pieceBytesMax: 500 + (this.random.nextU32() % 5000),
      windowBytes: 30_000,
      ...options,
    });
  }

  serve(peerId: PeerId, cluster = clusterId): { service: MemoryService; server: AdpServer } {
    const service = new MemoryService(identityOf(peerId, cluster));
    const server = new AdpServer({
      service,
      network: this.wire.node(peerId),
      clock: this.clock,
      allocate: heapBuffer,
      blockBytesMax: BLOCK_BYTES_MAX,
      largeBufferCount: 3,
      onServiceError: () => {},
    });
    this.addresses.set(peerId, server.listen(`${peerId}:0`).address);
    return { service, server };
  }

  client(options: Partial<AdpClientOptions> = {}): AdpClient {
    return new AdpClient({
      ...clientDefaults,
      random: this.random,
      allocate: heapBuffer,
      network: this.wire.node("client"),
      clock: this.clock,
      turns: this.turns,
      locate: (peer) => this.addresses.get(peer),
      ...options,
    });
  }

  /** Runs until the condition holds; fails after `ms` of virtual time. Returns how long it took. */
  run(what: string, condition: () => boolean, ms = 60_000): number {
    const startMs = this.clock.nowMs();
    while (!condition()) {
      if (this.clock.nowMs() - startMs > ms) throw new Error(`never happened: ${what}`);
      this.clock.advance(1);
    }
    return this.clock.nowMs() - startMs;
  }

  block(index: number, pageCount: number): SealedBlock {
    return makeBlock(this.random, index, pageCount, heapBuffer);
  }
}

test("every request is answered once, with the right bytes, however the stream is cut to pieces", () => {
  for (let seed = 1; seed <= 4; seed++) {
    // The last one in pieces of a few bytes.
    const world = new World(seed, { latencyMsMax: 3, ...(seed === 4 ? { pieceBytesMax: 7 } : {}) });
    world.serve(peers[0]);
    world.serve(peers[1]);
    const client = world.client();
    const blocks = Array.from({ length: 8 }, (_, at) =>
      world.block(at + 1, 1 + (world.random.nextU32() % 30)),
    );
    const puts = blocks.map((block) => new Put(block));
    for (const put of puts) for (const peer of peers.slice(0, 2)) client.put(peer, put);
    world.run("puts", () => puts.every((put) => put.answers.length === 2));
    expect(puts.flatMap((put) => put.statuses)).toEqual(Array(16).fill(StorageStatus.ok));
    const reads = blocks.map((block) => ({
      block,
      read: new Read(block.ref, 0, (block.lengthBytes - block.headerBytes) / PAGE_BYTES, heapBuffer),
    }));
    for (const [at, { read }] of reads.entries()) client.read(peers[at % 2] as PeerId, read);
    world.run("reads", () => reads.every(({ read }) => read.answers.length === 1));
    for (const { block, read } of reads) read.expectBytesOf(block);
    client.close();
  }
});

test("a peer that hangs costs one deadline: requests end as unreachable once, and the connection is closed", () => {
  const world = new World(3);
  const { service, server } = world.serve(peers[0]);
  const client = world.client();
  const first = new Put(world.block(1, 1));
  client.put(peers[0], first);
  world.run("connected", () => first.answers.length === 1);
  world.wire.cut("client", peers[0]);
  const put = new Put(world.block(2, 40));
  const read = new Read(refOf(1), 0, 1, heapBuffer);
  client.put(peers[0], put);
  client.read(peers[0], read);
  const elapsedMs = world.run("both ended", () => put.answers.length === 1 && read.answers.length === 1);
  expect(elapsedMs).toBeGreaterThanOrEqual(1999);
  expect(elapsedMs).toBeLessThan(2600);
  expect([...put.statuses, ...read.statuses]).toEqual([StorageStatus.unreachable, StorageStatus.unreachable]);
  world.run("closed", () => client.peerStatistics[0]?.state !== "ready", 600);
  expect(client.isLikelyUp(peers[0])).toBe(false);
  const refused = new Put(world.block(3, 1));
  client.put(peers[0], refused);
  expect(refused.answers).toEqual([]);
  world.clock.advance(1);
  expect(refused.statuses).toEqual([StorageStatus.unreachable]);
  world.wire.heal("client", peers[0]);
  world.run("found up again by itself", () => client.isLikelyUp(peers[0]), 5000);
  const last = new Put(world.block(4, 1));
  client.put(peers[0], last);
  world.run("stored", () => last.answers.length === 1);
  expect(last.statuses).toEqual([StorageStatus.ok]);
  expect([put.answers.length, read.answers.length, server.statistics.violationCount]).toEqual([1, 1, 0]);
  expect(service.lentCount).toBe(0);
});

test("a request that is slow on a busy connection ends as unreachable, its late reply is thrown away", () => {
  const world = new World(4);
  const { service } = world.serve(peers[0]);
  const client = world.client();
  const stored = world.block(1, 30);
  const put = new Put(stored);
  client.put(peers[0], put);
  world.run("stored", () => put.answers.length === 1);
  service.holding = true;
  const slow = new Read(stored.ref, 0, 30, heapBuffer);
  const slowPut = new Put(world.block(2, 1));
  client.read(peers[0], slow);
  client.put(peers[0], slowPut);
  world.run("held", () => service.held.length === 2);
  service.holding = false;
  const quick: Read[] = [];
  world.run("the slow ones ended", () => {
    if (quick.every((read) => read.answers.length === 1)) {
      const read = new Read(stored.ref, 3, 2, heapBuffer);
      quick.push(read);
      client.read(peers[0], read);
    }
    return slow.answers.length === 1 && slowPut.answers.length === 1;
  });
  expect([...slow.statuses, ...slowPut.statuses]).toEqual([
    StorageStatus.unreachable,
    StorageStatus.unreachable,
  ]);
  expect(client.peerStatistics[0]?.state).toBe("ready");
  service.releaseHeld();
  const after = new Read(stored.ref, 29, 1, heapBuffer);
  client.read(peers[0], after);
  world.run("answered", () => after.answers.length === 1);
  after.expectBytesOf(stored);
  expect([slow.answers.length, slowPut.answers.length]).toEqual([1, 1]);
  expect(slow.destination.bytes.every((byte) => byte === 0xcc)).toBe(true);
  for (const read of quick) if (read.answers.length === 1) read.expectBytesOf(stored);
});

test("a read that is withdrawn ends nowhere and touches nothing, and all others go on", () => {
  let meetingCount = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const world = new World(seed, { latencyMsMax: 1, pieceBytesMax: 4_000, windowBytes: 8_000 });
    const { service } = world.serve(peers[0]);
    const client = world.client();
    const stored = world.block(1, 60);
    const connecting = new Read(stored.ref, 0, 4, heapBuffer);
    client.read(peers[0], connecting);
    expect(client.withdrawRead(peers[0], connecting)).toBe(true);
    const put = new Put(stored);
    client.put(peers[0], put);
    world.run("stored", () => put.answers.length === 1);
    const reads = Array.from({ length: 12 }, () => new Read(stored.ref, 0, 60, heapBuffer));
    for (const read of reads) client.read(peers[0], read);
    expect(client.withdrawRead(peers[1], reads[0] as Read)).toBe(false);
    const withdrawn = new Map<Read, Uint8Array>();
    world.run("all are done", () => {
      const read = reads[world.random.nextU32() % reads.length] as Read;
      const isUnderWay = read.answers.length === 0 && !withdrawn.has(read);
      if (isUnderWay && withdrawn.size < 6 && world.random.nextU32() % 8 === 0) {
        // Half of them while their bodies arrive.
        const arriving = reads.find((one) => one.answers.length === 0 && one.destination.bytes[100] !== 0xcc);
        const chosen = arriving !== undefined && !withdrawn.has(arriving) ? arriving : read;
        if (chosen === arriving) meetingCount++;
        expect(client.withdrawRead(peers[0], chosen)).toBe(true);
        expect(client.withdrawRead(peers[0], chosen)).toBe(false);
        withdrawn.set(chosen, chosen.destination.bytes.slice());
      }
      return reads.every((one) => one.answers.length === 1 || withdrawn.has(one));
    });
    const last = new Read(stored.ref, 7, 3, heapBuffer);
    client.read(peers[0], last);
    world.run("the last is answered", () => last.answers.length === 1);
    last.expectBytesOf(stored);
    for (const read of reads) {
      const before = withdrawn.get(read);
      if (before === undefined) read.expectBytesOf(stored);
      else expect([read.answers, read.destination.bytes]).toEqual([[], before]);
    }
    expect([connecting.answers, client.peerStatistics[0]?.state]).toEqual([[], "ready"]);
    expect(service.lentCount).toBe(0);
    client.close();
    expect(withdrawn.size + reads.filter((read) => read.answers.length === 1).length).toBe(reads.length);
  }
  expect(meetingCount).toBeGreaterThan(10);
});

test("a peer that hangs in the middle of an answer is found out, though the read was withdrawn", () => {
  const world = new World(9, { latencyMsMax: 3, pieceBytesMax: 4_000, windowBytes: 8_000 });
  world.serve(peers[0]);
  const client = world.client();
  const stored = world.block(1, 60);
  const put = new Put(stored);
  client.put(peers[0], put);
  world.run("stored", () => put.answers.length === 1);
  const read = new Read(stored.ref, 0, 60, heapBuffer);
  client.read(peers[0], read);
  const waiting = new Read(stored.ref, 1, 1, heapBuffer);
  client.read(peers[0], waiting);
  world.run("the answer has begun", () => read.destination.bytes[100] !== 0xcc);
  world.wire.cut("client", peers[0]);
  expect(client.withdrawRead(peers[0], read)).toBe(true);
  const before = read.destination.bytes.slice();
  world.run("the other ends", () => waiting.answers.length === 1, 3_000);
  expect([waiting.statuses, client.isLikelyUp(peers[0])]).toEqual([[StorageStatus.unreachable], false]);
  world.wire.heal("client", peers[0]);
  world.run("found up again", () => client.isLikelyUp(peers[0]), 5_000);
  expect([read.answers, read.destination.bytes]).toEqual([[], before]);
});

test("a peer of another cluster is refused with wrongCluster, another peer at the address with unreachable", () => {
  const world = new World(5);
  const { service } = world.serve(peers[0], otherCluster);
  world.serve(peers[1]);
  world.addresses.set(peers[2], world.addresses.get(peers[1]) as string);
  const client = world.client();
  const [wrongCluster, wrongPeer] = [new Put(world.block(1, 1)), new Put(world.block(2, 1))];
  client.put(peers[0], wrongCluster);
  client.put(peers[2], wrongPeer);
  world.run("both ended", () => wrongCluster.answers.length === 1 && wrongPeer.answers.length === 1);
  expect(wrongCluster.statuses).toEqual([StorageStatus.wrongCluster]);
  expect(wrongPeer.statuses).toEqual([StorageStatus.unreachable]);
  expect(service.putCount).toBe(0);
  expect(client.peerStatistics.map((one) => one.lastFailure)).toEqual([
    `it belongs to cluster ${otherCluster}`,
    `peer ${peers[1]} answers at its address`,
  ]);
});

test("a peer without an address, or with one that cannot be, is unreachable and is looked up again", async () => {
  const world = new World(6);
  const client = world.client();
  const put = new Put(world.block(1, 1));
  client.put(peers[0], put);
  world.addresses.set(peers[1], "not an address");
  const call = client.statistics(peers[1]);
  world.run("ended", () => put.answers.length === 1);
  expect(put.statuses).toEqual([StorageStatus.unreachable]);
  const error = await call.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(AdpError);
  expect([(error as AdpError).code, (error as AdpError).retryable]).toEqual(["unreachable", true]);
  world.serve(peers[0]);
  world.run("found", () => client.isLikelyUp(peers[0]), 5000);
  client.close();
  await expect(client.statistics(peers[0])).rejects.toThrow(
    `Cannot reach peer ${peers[0]}: the client closes`,
  );
});

test("a peer that crashes in the middle of everything: each request ends exactly once, and only its own", () => {
  for (let seed = 1; seed <= 12; seed++) {
    const world = new World(seed, { latencyMsMax: 2, windowBytes: 20_000 });
    world.serve(peers[0]);
    world.serve(peers[1]);
    const client = world.client();
    const blocks = Array.from({ length: 10 }, (_, at) =>
      world.block(at + 1, 1 + (world.random.nextU32() % 20)),
    );
    const puts = blocks.map((block) => new Put(block));
    for (const put of puts) for (const peer of peers.slice(0, 2)) client.put(peer, put);
    world.clock.advance(world.random.nextU32() % 25);
    world.wire.crash(peers[0]);
    world.run("all ended", () => puts.every((put) => put.answers.length === 2));
    world.clock.advance(5000);
    for (const put of puts) {
      expect(put.answers.length).toBe(2);
      const survivor = put.answers.find((answer) => answer.peer === peers[1]);
      expect(survivor?.status).toBe(StorageStatus.ok);
    }
    client.close();
  }
});

test("garbage, oversized and broken frames close their own connection and nobody else's", () => {
  const world = new World(9);
  const { server, service } = world.serve(peers[0]);
  const client = world.client();
  const address = world.addresses.get(peers[0]) as string;
  const speak = (bytes: Uint8Array, withHello: boolean): (() => boolean) => {
    let closed = false;
    world.wire.node("villain").connect(
      address,
      1000,
      (connection) => {
        if (withHello) {
          const hello = new Uint8Array(96);
          frames.encodeHello(hello, 0, {
            versionMin: frames.ADP_VERSION,
            versionMax: frames.ADP_VERSION,
            status: 0,
            clusterId,
            peerId: "",
            incarnation: "",
            blockBytesMax: 1,
            requestCountMax: 1,
          });
          connection.write(hello, 0, 96);
        }
        connection.write(bytes, 0, bytes.length);
        return {
          onData: (_buffer, start, end) => end - start,
          onReceived: () => {},
          onClose: () => {
            closed = true;
          },
        };
      },
      (reason) => expect(reason).toBe("nothing"),
    );
    return () => closed;
  };
  const header = (bodyBytes: number, kind: number, operation = 0, extra = 0) => {
    const bytes = new Uint8Array(16);
    frames.encodeRequestHeader(new DataView(bytes.buffer), 0, bodyBytes, kind as 1, operation, extra);
    return bytes;
  };
  const noise = () => Uint8Array.from({ length: 400 }, () => world.random.nextU32());
  const villains = [
    speak(noise(), false),
    speak(new TextEncoder().encode(`GET / HTTP/1.1\r\n${"x".repeat(200)}`), false),
    speak(noise(), true),
    speak(header(BLOCK_BYTES_MAX + 1, 1), true),
    speak(header(0, 1), true),
    speak(header(4188, 1, 0, 2 ** 60), true),
    speak(header(31, 2), true),
    speak(header(600 * 1024, 3, 1), true),
    speak(header(10, 9), true),
    speak(new Uint8Array(50), false),
    speak(header(100_000, 1), true),
  ];
  const put = new Put(world.block(1, 3));
  client.put(peers[0], put);
  world.run("the good put is stored", () => put.answers.length === 1);
  expect(put.statuses).toEqual([StorageStatus.ok]);
  world.run("all villains are cut off", () => villains.every((isClosed) => isClosed()), 60_000);
  expect(server.statistics.connectionCount).toBe(1);
  expect(server.statistics.violationCount).toBe(9);
  expect(server.largePool.availableCount).toBe(3);
  expect(service.blocks.size).toBe(1);
});

test("a client survives replies that are noise, of a wrong number, or too long", () => {
  const replies = [
    (view: DataView) => view.setUint32(0, 0xdeadbeef),
    (view: DataView) => frames.encodeReplyHeader(view, 0, 0, 1, 0, 1, 0),
    (view: DataView) => frames.encodeReplyHeader(view, 0, 8192, 2, 0, 0, 0),
    (view: DataView) => frames.encodeReplyHeader(view, 0, 0, 1, 0, 0, 0),
    (view: DataView) => frames.encodeReplyHeader(view, 0, 4096, 2, 3, 0, 0),
    (view: DataView) => frames.encodeReplyHeader(view, 0, 0, 2, 9, 0, 0),
  ];
  for (const reply of replies) {
    const world = new World(11);
    let greeted = false;
    const listener = world.wire.node("liar").listen("liar:1", (connection) => ({
      onData: (_buffer, start, end) => {
        if (!greeted && end - start < 96) return 0;
        const bytes = new Uint8Array(96 + 16);
        frames.encodeHello(bytes, 0, {
          ...identityOf(peers[0]),
          versionMin: frames.ADP_VERSION,
          versionMax: frames.ADP_VERSION,
          status: 0,
          blockBytesMax: BLOCK_BYTES_MAX,
          requestCountMax: 10,
        });
        reply(new DataView(bytes.buffer, 96));
        if (greeted) connection.write(bytes, 96, bytes.length);
        else connection.write(bytes, 0, 96);
        greeted = true;
        return end - start;
      },
      onReceived: () => {},
      onClose: () => {},
    }));
    world.addresses.set(peers[0], listener.address);
    const client = world.client();
    const read = new Read(refOf(1), 0, 1, heapBuffer);
    client.read(peers[0], read);
    world.run("ended", () => read.answers.length === 1);
    expect(read.statuses).toEqual([StorageStatus.unreachable]);
    expect(client.peerStatistics[0]?.lastFailure).toBe("it sent a reply that fits no request");
    client.close();
  }
});

test("thousands of requests at once grow the table of slots and all come back", () => {
  const world = new World(12);
  world.serve(peers[0]);
  const client = world.client();
  const put = new Put(world.block(1, 1));
  client.put(peers[0], put);
  world.run("stored", () => put.answers.length === 1);
  const reads = Array.from({ length: 3000 }, () => new Read(refOf(1), 0, 1, heapBuffer));
  for (const read of reads) client.read(peers[0], read);
  world.run("all read", () => reads.every((read) => read.answers.length === 1));
  expect(reads.every((read) => read.answers[0]?.status === StorageStatus.ok)).toBe(true);
});

test("LocalTransport serves the local peer in this thread, later, and passes all else on", async () => {
  const world = new World(13);
  const { service } = world.serve(peers[0]);
  world.serve(peers[1]);
  const transport = new LocalTransport(service, world.turns, world.client());
  const blocks = [world.block(1, 1), world.block(2, 9)];
  const puts = blocks.map((block) => new Put(block));
  for (const put of puts) for (const peer of peers.slice(0, 2)) transport.put(peer, put);
  expect(puts.flatMap((put) => put.answers)).toEqual([]);
  world.run("stored twice", () => puts.every((put) => put.answers.length === 2));
  expect(puts[0]?.answers.map((answer) => [answer.peer, answer.incarnation])).toEqual([
    [peers[0], "00000000000000a1"],
    [peers[1], "00000000000000a2"],
  ]);
  const reads = peers.slice(0, 2).map((peer) => {
    const read = new Read(refOf(2), 2, 7, heapBuffer);
    transport.read(peer, read);
    return read;
  });
  expect(reads.flatMap((read) => read.answers)).toEqual([]);
  world.run("both read", () => reads.every((read) => read.answers.length === 1));
  for (const read of reads) read.expectBytesOf(blocks[1] as SealedBlock);
  expect(service.lentCount).toBe(0);
  expect((await transport.statistics(peers[0])).peerId).toBe(peers[0]);
  expect((await transport.list(peers[0], { limit: 5 })).blocks.length).toBe(2);
  expect(transport.isLikelyUp(peers[0])).toBe(true);
});
