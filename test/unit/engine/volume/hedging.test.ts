/**
 * Reads that ask a second peer, on virtual time: each answer is given by the test, in any order, so that what a slow
 * peer does to the memory of a read that has ended would be seen; and whole volumes over a cluster with a silent peer.
 */
import { describe, expect, test } from "bun:test";
import { heapBuffer, type NativeBuffer, type PeerId } from "../../../../src/base";
import { PAGE_BYTES, type SealedBlock } from "../../../../src/engine/block";
import { PeerHealth } from "../../../../src/engine/distributor";
import { type OutgoingRead, type PeerTransport, StorageStatus } from "../../../../src/engine/ports";
import { BlockReader, newVolumeStatistics } from "../../../../src/engine/volume";
import { buildRing, createRing } from "../../../../src/ring";
import { MemoryService } from "../../../support/memory-service";
import { TEST_CLUSTER, testBlock, testIdentity, testPeer } from "../../../support/peer-blocks";
import { VirtualClock } from "../../../support/virtual-clock";
import { read, TestCluster, type TestPeer, write } from "./cluster";

const { ok, notFound, corrupt, unreachable, denied } = StorageStatus;
/** What an owner puts into memory it has back. */
const FREE_WORD = 0x77777777;

interface Asked {
  readonly peer: PeerId;
  readonly request: OutgoingRead;
}

/** Keeps reads until the test answers them from the peers' blocks, or writes to their memory as a slow peer does. */
class HeldReads {
  asked: Asked[] = [];
  /** What was asked of whom, by the last digit of the peer, withdrawals included. */
  readonly log: string[] = [];
  withdrawable = true;
  readonly down = new Set<PeerId>();
  readonly confirmedBy: PeerId[] = [];

  constructor(private readonly service: MemoryService) {}

  read(peer: PeerId, request: OutgoingRead): void {
    this.log.push(`read ${peer.at(-1)}`);
    this.asked.push({ peer, request });
  }

  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    const at = this.asked.findIndex((one) => one.peer === peer && one.request === request);
    if (!this.withdrawable || at < 0) return false;
    this.log.push(`withdraw ${peer.at(-1)}`);
    this.asked.splice(at, 1);
    return true;
  }

  isLikelyUp(peer: PeerId): boolean {
    return !this.down.has(peer);
  }

  confirm(peer: PeerId): Promise<never> {
    this.confirmedBy.push(peer);
    return Promise.reject(new Error("down"));
  }

  statistics(): Promise<never> {
    return Promise.reject(new Error("down"));
  }

  take(peer: PeerId): OutgoingRead {
    const at = this.asked.findIndex((one) => one.peer === peer);
    if (at < 0) throw new Error(`peer ${peer.at(-1)} was asked nothing: ${this.log.join(", ")}`);
    return (this.asked.splice(at, 1)[0] as Asked).request;
  }

  /** Answers the oldest read of the peer: with the block's bytes, a bit of them wrong, or a status. */
  answer(peer: PeerId, how: "good" | "damaged" | StorageStatus = "good"): void {
    const request = this.take(peer);
    if (typeof how === "number") return request.done(peer, how, 0, 0);
    this.service.read({
      ref: request.ref,
      firstSlot: request.firstSlot,
      slotCount: request.slotCount,
      done: (status, source, offset, lengthBytes, check, release) => {
        const bytes = (source as NativeBuffer).bytes.slice(offset, offset + lengthBytes);
        release?.();
        if (how === "damaged") bytes[7] = (bytes[7] as number) ^ 0x10;
        request.destination.bytes.set(bytes, request.destinationOffset);
        request.done(peer, status, lengthBytes, check);
      },
    });
  }
}

function setup(options: { replication?: number; hedged?: boolean } = {}) {
  const clock = new VirtualClock();
  const service = new MemoryService(testIdentity(1));
  const blocks: SealedBlock[] = [1, 2, 3].map((index) => testBlock(index, 32));
  for (const block of blocks)
    service.put({
      ...{ buffer: block.buffer, offset: block.offset, lengthBytes: block.lengthBytes, writerEpoch: 7 },
      done: () => undefined,
    });
  const transport = new HeldReads(service);
  const peers = [1, 2, 3, 4].map(testPeer);
  const ring = buildRing(
    createRing({
      replication: options.replication ?? 2,
      members: peers.map((peerId) => ({ peerId, weight: 1, zone: "" })),
    }),
  );
  const statistics = newVolumeStatistics();
  const health = new PeerHealth(clock, transport as unknown as PeerTransport);
  const reader = new BlockReader(
    {
      clusterId: TEST_CLUSTER,
      transport: transport as unknown as PeerTransport,
      health,
      view: { ring: () => ring, peers: () => peers },
      statistics,
      ...(options.hedged !== false && { hedging: { clock, allocate: heapBuffer } }),
    },
    { readLevel: "block", localPeerId: undefined },
  );
  const bad: PeerId[] = [];
  reader.onBadCopy = (_ref, peer) => bad.push(peer);
  const block = blocks[0] as SealedBlock;
  const order = new Uint16Array(4);
  ring.permutation(block.ref, 4, order);
  const [first, second, third] = [...order].map((at) => ring.peers[at] as PeerId) as [PeerId, PeerId, PeerId];
  return {
    ...{ clock, transport, reader, statistics, health, block, bad, first, second, third },
    start: (pageCount = 1, firstSlot = 0) => new Watched(reader, block, firstSlot, pageCount),
    /** Makes reads of one page that take `ms`, until it is known how long they take. */
    accustom: (ms: number, count = 600) => {
      for (let at = 0; at < count; at++) {
        const one = new Watched(reader, block, 0, 1);
        clock.advance(ms);
        transport.answer(first);
        one.expectGood();
      }
    },
  };
}

/** A read whose memory its owner marks as soon as it is finished. */
class Watched {
  readonly destination: NativeBuffer;
  readonly statuses: StorageStatus[] = [];
  servedBy: PeerId | undefined;
  #received = new Uint8Array(0);

  constructor(
    reader: BlockReader,
    private readonly block: SealedBlock,
    private readonly firstSlot: number,
    private readonly slotCount: number,
  ) {
    this.destination = heapBuffer((slotCount + 2) * PAGE_BYTES);
    const request = reader.acquire();
    request.ref = block.ref;
    request.firstSlot = firstSlot;
    request.slotCount = slotCount;
    request.expectedBytes = slotCount * PAGE_BYTES;
    request.destination = this.destination;
    request.destinationOffset = PAGE_BYTES;
    request.finished = (finished, status) => {
      this.statuses.push(status);
      this.servedBy = finished.servedBy;
      this.#received = this.destination.bytes.slice(PAGE_BYTES, PAGE_BYTES + finished.lengthBytes);
      this.destination.words.fill(FREE_WORD);
      reader.release(finished);
    };
    reader.start(request);
  }

  get isDone(): boolean {
    return this.statuses.length > 0;
  }

  /** It ended well, with the block's bytes, and nobody has touched its memory since. */
  expectGood(): void {
    expect(this.statuses).toEqual([ok]);
    const { buffer, offset, headerBytes } = this.block;
    const start = offset + headerBytes + this.firstSlot * PAGE_BYTES;
    expect(this.#received).toEqual(buffer.bytes.slice(start, start + this.slotCount * PAGE_BYTES));
    this.expectUntouched();
  }

  expectUntouched(): void {
    expect(this.destination.words.every((word) => word === FREE_WORD)).toBe(true);
  }
}

describe("BlockReader with second requests", () => {
  test("a silent peer costs a read the time that such reads take a few times over, not the deadline", () => {
    const { clock, transport, accustom, start, statistics, first, second } = setup();
    accustom(0.4);
    const silent = start();
    clock.advance(19.9);
    expect(transport.asked.map(({ peer }) => peer)).toEqual([first]);
    clock.advance(6);
    expect(transport.asked.map(({ peer }) => peer)).toEqual([first, second]);
    transport.answer(second);
    silent.expectGood();
    expect(silent.servedBy).toBe(second);
    expect(transport.log.at(-1)).toBe(`withdraw ${first.at(-1)}`);
    expect(transport.asked).toEqual([]);
    expect([statistics.hedgedReads, statistics.hedgesWon]).toEqual([1, 1]);
  });

  test("what is usual follows the reads: after slow ones a second peer is asked later, never after 405 ms", () => {
    for (const [usualMs, dueMs] of [
      [12, 40],
      [60, 185],
      [300, 405],
    ] as const) {
      const { clock, transport, accustom, start } = setup();
      accustom(usualMs);
      start();
      const askedBefore = transport.log.length;
      let waitedMs = 0;
      for (; transport.log.length === askedBefore; waitedMs++) clock.advance(1);
      expect(Math.abs(waitedMs - dueMs)).toBeLessThan(12);
    }
  });

  test("the first answer wins whichever peer it comes from; the other's touches nothing, and is awaited", () => {
    const { clock, transport, start, first, second, statistics } = setup();
    const one = start(3, 2);
    clock.advance(110);
    transport.answer(first);
    one.expectGood();
    expect(one.servedBy).toBe(first);
    const other = start();
    clock.advance(110);
    // The memory of the first second request is the transport's: this one has other.
    const [late, next] = transport.asked.filter(({ peer }) => peer === second).map(({ request }) => request);
    expect(late?.destination).not.toBe(next?.destination as NativeBuffer);
    transport.answer(second);
    expect(other.isDone).toBe(false);
    transport.answer(second);
    other.expectGood();
    one.expectUntouched();
    // Both are free now, and used again.
    start();
    clock.advance(110);
    expect([late?.destination, next?.destination]).toContain(transport.take(second).destination);
    expect([statistics.hedgedReads, statistics.hedgesWon]).toEqual([3, 1]);
  });

  test("where the first request cannot be withdrawn, the read ends only when it has, with either answer", () => {
    for (const how of ["good", "damaged", unreachable] as const) {
      const { clock, transport, start, first, second, bad, statistics } = setup();
      transport.withdrawable = false;
      const one = start(2);
      clock.advance(110);
      transport.answer(second);
      // The first may write yet.
      (transport.asked[0] as Asked).request.destination.bytes.fill(0x11, PAGE_BYTES, PAGE_BYTES + 100);
      expect(one.isDone).toBe(false);
      transport.answer(first, how);
      one.expectGood();
      expect(one.servedBy).toBe(how === "good" ? first : second);
      expect(bad).toEqual(how === "damaged" ? [first] : []);
      expect(statistics.hedgesWon).toBe(how === "good" ? 0 : 1);
    }
  });

  test("a damaged second answer is not served: the first is waited for, and the bad copy is told", async () => {
    const { clock, transport, start, first, second, bad, statistics } = setup();
    const one = start();
    clock.advance(110);
    transport.answer(second, "damaged");
    expect(one.isDone).toBe(false);
    expect(transport.log.filter((word) => word.startsWith("withdraw"))).toEqual([]);
    transport.answer(first);
    one.expectGood();
    expect([one.servedBy, bad, transport.confirmedBy]).toEqual([first, [second], [second]]);
    expect([statistics.badCopies, statistics.hedgesWon]).toEqual([1, 0]);
  });

  test("a damaged first answer: the second, asked already, serves; with both damaged others are asked", () => {
    const { clock, transport, start, first, second, third, bad, health } = setup();
    const one = start();
    clock.advance(110);
    transport.answer(first, "damaged");
    transport.answer(second);
    one.expectGood();
    expect([one.servedBy, bad]).toEqual([second, [first]]);
    expect(transport.log.at(-1)).toBe(`withdraw ${third.at(-1)}`);
    expect(health.anyLate).toBe(false);
    const two = start();
    clock.advance(110);
    transport.answer(first, "damaged");
    transport.answer(second, "damaged");
    transport.answer(third);
    two.expectGood();
    expect(two.servedBy).toBe(third);
  });

  test("with no good copy the error is that of the peers' answers, also when they come in other orders", () => {
    for (const [answers, status] of [
      [[notFound, notFound], notFound],
      [[unreachable, notFound], unreachable],
      [[notFound, corrupt], corrupt],
      [[denied, notFound], denied],
      [[notFound, denied], denied],
    ] as const)
      for (const firstIsFirst of [true, false]) {
        const { clock, transport, start, first, second } = setup();
        const one = start();
        clock.advance(110);
        const both = [() => transport.answer(first, answers[0]), () => transport.answer(second, answers[1])];
        for (const answer of firstIsFirst ? both : both.reverse()) if (!one.isDone) answer();
        for (let rounds = 0; rounds < 8 && !one.isDone; rounds++)
          transport.answer((transport.asked[0] as Asked).peer, notFound);
        expect(one.statuses).toEqual([status]);
        one.expectUntouched();
      }
  });

  test("a second peer that has no copy is followed by a third while the first keeps silent", () => {
    const { clock, transport, start, second, third } = setup({ replication: 3 });
    const one = start();
    clock.advance(110);
    transport.answer(second, notFound);
    expect(one.isDone).toBe(false);
    clock.advance(110);
    transport.answer(third);
    one.expectGood();
  });

  test("one in sixteen reads and 32 more have a second request, however slow all peers are", () => {
    const { clock, transport, start, first, second, statistics } = setup();
    const reads: Watched[] = [];
    const COUNT = 800;
    for (let round = 0; round < COUNT / 8; round++) {
      for (let at = 0; at < 8; at++) reads.push(start());
      clock.advance(300);
      for (let at = 0; at < 8; at++) transport.answer(first);
      while (transport.asked.length > 0) transport.answer(second);
    }
    for (const one of reads) one.expectGood();
    expect(statistics.hedgedReads).toBeGreaterThanOrEqual(32);
    expect(statistics.hedgedReads).toBeLessThanOrEqual(32 + COUNT / 16);
    expect(statistics.hedgesWon).toBe(0);
  });

  test("memory is bounded: of the largest reads only so many are hedged, of larger ones none", () => {
    const { clock, transport, reader, block } = setup();
    for (const slotCount of [256, 256, 256, 257, 300]) new Watched(reader, block, 0, slotCount);
    clock.advance(2_000);
    expect(transport.log.length).toBe(7);
    expect(new Set(transport.asked.map(({ request }) => request)).size).toBe(7);
  });

  test("a peer that is down is not asked as the second, nor is one where only one peer may be asked", async () => {
    const { clock, transport, reader, start, first, second, third, block } = setup();
    transport.down.add(second).add(third);
    start();
    void reader.readHeader(block.ref, heapBuffer(64 * 1024), 0, first);
    clock.advance(2_000);
    expect(transport.log).toEqual([`read ${first.at(-1)}`, `read ${first.at(-1)}`]);
  });

  test("without hedging every peer has until the transport's deadline", () => {
    const { clock, transport, start } = setup({ hedged: false });
    start();
    clock.advance(10_000);
    expect(transport.asked.length).toBe(1);
  });

  test("a peer that others overtake three times is asked after them, tried by one read, and first again", () => {
    const { clock, transport, start, accustom, health, first, second } = setup();
    accustom(0.4);
    const overtaken = [start(), start(), start(), start()];
    clock.advance(26);
    for (const one of overtaken) {
      transport.answer(second);
      one.expectGood();
    }
    expect(health.isLate(first)).toBe(true);
    start();
    transport.answer(second);
    // Its time is over: one read tries it, at the cost of one wait, and the others go elsewhere meanwhile.
    clock.advance(500);
    const trial = start();
    expect(transport.asked.map(({ peer }) => peer)).toEqual([first]);
    start();
    transport.answer(second);
    clock.advance(26);
    transport.answer(second);
    trial.expectGood();
    // Still late: the next trial is after twice the time.
    clock.advance(700);
    start();
    transport.answer(second);
    clock.advance(400);
    start();
    transport.answer(first);
    expect([health.anyLate, health.isLate(first)]).toEqual([false, false]);
    start();
    transport.answer(first);
    expect(transport.asked).toEqual([]);
  });
});

describe("a volume with a silent peer", () => {
  const PAGES = 64;
  const page = (number: number): Uint8Array => new Uint8Array(PAGE_BYTES).fill(number + 1);

  async function opened(): Promise<{ cluster: TestCluster; volume: Awaited<ReturnType<typeof reopen>> }> {
    const cluster = await TestCluster.start({ peerCount: 3, replication: 2 });
    await cluster.run(cluster.volumes.create("db", 1024 ** 2));
    const writer = await cluster.client();
    const volume = await cluster.run(writer.open("db"));
    for (let at = 0; at < PAGES; at++) {
      await cluster.run(write(volume, at * PAGE_BYTES, page(at)));
      if (at % 4 === 3) await cluster.pass(1_500);
    }
    expect((await cluster.run(volume.close())).clean).toBe(true);
    return { cluster, volume: await reopen(cluster) };
  }

  async function reopen(cluster: TestCluster) {
    const client = await cluster.client();
    return { client, volume: await cluster.run(client.open("db")) };
  }

  test("reads take some tens of milliseconds, then go to the others, and come back when it answers again", async () => {
    const { cluster, volume: open } = await opened();
    const readAll = async (): Promise<number> => {
      let longestMs = 0;
      for (let at = 0; at < PAGES; at++) {
        const startMs = cluster.clock.nowMs();
        expect(await cluster.run(read(open.volume, at * PAGE_BYTES, PAGE_BYTES))).toEqual(page(at));
        longestMs = Math.max(longestMs, cluster.clock.nowMs() - startMs);
      }
      return longestMs;
    };
    expect(await readAll()).toBeLessThan(10);
    const silent = cluster.peers[0] as TestPeer;
    silent.silent = true;
    const { statistics } = open.volume;
    expect(await readAll()).toBeLessThan(150);
    const hedged = statistics.hedgedReads;
    expect(hedged).toBeGreaterThanOrEqual(3);
    expect(statistics.hedgesWon).toBe(hedged);
    // Known by now: at most a trial or two.
    await readAll();
    expect(statistics.hedgedReads - hedged).toBeLessThanOrEqual(2);
    silent.silent = false;
    await cluster.pass(20_000);
    await readAll();
    const settled = statistics.hedgedReads;
    expect(await readAll()).toBeLessThan(10);
    expect(statistics.hedgedReads).toBe(settled);
    open.client.crash();
  });

  test("answers that cannot be given up are awaited, to their deadline, and every byte is right", async () => {
    const { cluster, volume: open } = await opened();
    open.client.transport.withdrawsNothing = true;
    (cluster.peers[0] as TestPeer).silent = true;
    for (let at = 0; at < PAGES; at++)
      expect(await cluster.run(read(open.volume, at * PAGE_BYTES, PAGE_BYTES))).toEqual(page(at));
    open.client.crash();
  });

  test("with all peers silent a read asks on, as ever, and ends well when they answer again", async () => {
    const { cluster, volume: open } = await opened();
    for (const peer of cluster.peers) peer.silent = true;
    let isDone = false;
    const reading = read(open.volume, 0, PAGE_BYTES).finally(() => {
      isDone = true;
    });
    await cluster.pass(15_000);
    expect(isDone).toBe(false);
    for (const peer of cluster.peers) peer.silent = false;
    expect(await cluster.run(reading)).toEqual(page(0));
    open.client.crash();
  });
});
