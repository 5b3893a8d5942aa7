/**
 * Which holder a small read asks first: on virtual time against peers that serve one read after the other, as fast as
 * memory or as slow as a disk; and in whole volumes, where it shows in who is asked.
 */
import { describe, expect, test } from "bun:test";
import { asVolumeId, type PeerId } from "../../../../src/base";
import { PAGE_BYTES } from "../../../../src/engine/block";
import { StorageStatus } from "../../../../src/engine/ports";
import { BlockRead } from "../../../../src/engine/volume/block-read";
import { type Holder, HolderChoice } from "../../../../src/engine/volume/holder-choice";
import { buildRing, createRing, type Ring } from "../../../../src/ring";
import { testPeer, testRef } from "../../../support/peer-blocks";
import { VirtualClock } from "../../../support/virtual-clock";
import { read, TestCluster, write } from "./cluster";

function ringOf(peerCount: number, replication = 2, from = 1): Ring {
  const peers = Array.from({ length: peerCount }, (_, index) => testPeer(from + index));
  return buildRing(
    createRing({ replication, members: peers.map((peerId) => ({ peerId, weight: 1, zone: "" })) }),
  );
}

/** The peers that should have the block. */
function holdersOf(ring: Ring, index: number): PeerId[] {
  const out = new Uint16Array(ring.spec.replication);
  const count = ring.permutation(testRef(index), out.length, out);
  return [...out.subarray(0, count)].map((at) => ring.peers[at] as PeerId);
}

function smallRead(): BlockRead {
  const one = new BlockRead();
  one.slotCount = 1;
  return one;
}

/** Reads of blocks 1, 2, 3 and so on, so many at once, of peers that serve one after the other. */
function load(
  choice: HolderChoice,
  ring: Ring,
  options: {
    depth: number;
    count: number;
    serviceMs: (peer: PeerId) => number;
    clock: VirtualClock;
    /** Answers at once that it does not have the block; who asked goes elsewhere, uncounted. */
    lacks?: PeerId;
    mayAsk?: (peer: PeerId) => boolean;
  },
): Map<PeerId, number> {
  const { clock } = options;
  const asked = new Map<PeerId, number>();
  const busyUntilMs = new Map<PeerId, number>();
  let index = 0;
  const next = () => {
    if (index === options.count) return;
    const holder = choice.choose(ring, testRef(++index), options.mayAsk) as Holder;
    expect(holdersOf(ring, index)).toContain(holder.peer);
    const one = smallRead();
    choice.begin(one, holder);
    asked.set(holder.peer, (asked.get(holder.peer) ?? 0) + 1);
    const lacks = options.lacks === holder.peer;
    if (lacks) clock.schedule(0.005, () => choice.ended(one, holder, StorageStatus.notFound));
    const server = lacks
      ? (holdersOf(ring, index).find((peer) => peer !== holder.peer) as PeerId)
      : holder.peer;
    const doneMs = Math.max(busyUntilMs.get(server) ?? 0, clock.nowMs()) + options.serviceMs(server);
    busyUntilMs.set(server, doneMs);
    clock.schedule(doneMs - clock.nowMs(), () => {
      if (!lacks) choice.ended(one, holder, StorageStatus.ok);
      next();
    });
  };
  for (let at = 0; at < options.depth; at++) next();
  clock.advance(options.count * 10);
  expect(index).toBe(options.count);
  return asked;
}

/** Of the ring's members, in its order. */
const shares = (asked: Map<PeerId, number>, ring: Ring): number[] => {
  const total = [...asked.values()].reduce((sum, one) => sum + one, 0);
  return ring.peers.map((peer) => (asked.get(peer) ?? 0) / total);
};

/** The peer that the volume would ask for everything. */
function favourite(choice: HolderChoice, ring: Ring): PeerId {
  const counts = new Map<PeerId, number>();
  for (let index = 1; index <= 1_000; index++) {
    const { peer } = choice.choose(ring, testRef(index)) as Holder;
    counts.set(peer, (counts.get(peer) ?? 0) + 1);
  }
  return ([...counts].toSorted(([, a], [, b]) => b - a)[0] as [PeerId, number])[0];
}

describe("HolderChoice", () => {
  test("of peers that answer fast a volume asks as few as have all its blocks", () => {
    const ring = ringOf(3);
    const clock = new VirtualClock();
    const choice = new HolderChoice(clock, asVolumeId(3));
    const asked = load(choice, ring, { depth: 16, count: 20_000, serviceMs: () => 0.004, clock });
    const [least, second, most] = shares(asked, ring).toSorted((a, b) => a - b) as [number, number, number];
    // The first reads, before it is known how fast the peers are.
    expect(least).toBeLessThan(0.01);
    expect(second).toBeLessThan(0.4);
    expect(most).toBeGreaterThan(0.6);
  });

  test("the same block is asked of the same peer each time", () => {
    const ring = ringOf(5, 3);
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(9));
    for (let index = 1; index < 200; index++) {
      const peer = choice.choose(ring, testRef(index))?.peer;
      for (let again = 0; again < 3; again++) expect(choice.choose(ring, testRef(index))?.peer).toBe(peer);
    }
  });

  test("all volumes together ask all peers alike", () => {
    const ring = ringOf(5, 3);
    const counts = new Map<PeerId, number>();
    for (let volume = 1; volume <= 500; volume++) {
      const choice = new HolderChoice(new VirtualClock(), asVolumeId(volume));
      for (let index = 1; index <= 400; index++) {
        const { peer } = choice.choose(ring, testRef(index)) as Holder;
        counts.set(peer, (counts.get(peer) ?? 0) + 1);
      }
    }
    for (const share of shares(counts, ring)) expect(Math.abs(share - 0.2)).toBeLessThan(0.03);
  });

  test("disks are all at work as soon as some reads are under way", () => {
    const ring = ringOf(3);
    const clock = new VirtualClock();
    const choice = new HolderChoice(clock, asVolumeId(1));
    load(choice, ring, { depth: 16, count: 1_000, serviceMs: () => 0.1, clock });
    const startMs = clock.nowMs();
    const asked = load(choice, ring, { depth: 16, count: 10_000, serviceMs: () => 0.1, clock });
    expect(clock.nowMs()).toBeGreaterThan(startMs);
    for (const share of shares(asked, ring)) expect(Math.abs(share - 1 / 3)).toBeLessThan(0.04);
  });

  test.each([1, 16])("a slow disk is left alone at depth %d, and asked again once it is fast", (depth) => {
    const ring = ringOf(3);
    const clock = new VirtualClock();
    const choice = new HolderChoice(clock, asVolumeId(3));
    const slow = favourite(choice, ring);
    const slowly = (peer: PeerId) => (peer === slow ? 10 : 0.1);
    const shareOf = (serviceMs: (peer: PeerId) => number, count: number) =>
      (load(choice, ring, { depth, count, serviceMs, clock }).get(slow) ?? 0) / count;
    shareOf(slowly, 1_000);
    expect(shareOf(slowly, 5_000)).toBeLessThan(0.02);
    shareOf(() => 0.004, 5_000);
    expect(shareOf(() => 0.004, 5_000)).toBeGreaterThan(0.6);
  });

  test("a disk that was slow once is found out also where it is not the preferred one", () => {
    const ring = ringOf(2);
    const clock = new VirtualClock();
    const choice = new HolderChoice(clock, asVolumeId(3));
    const preferred = favourite(choice, ring);
    const shareOf = (otherMs: number) => {
      const serviceMs = (peer: PeerId) => (peer === preferred ? 0.1 : otherMs);
      const asked = load(choice, ring, { depth: 16, count: 5_000, serviceMs, clock });
      return 1 - (asked.get(preferred) ?? 0) / 5_000;
    };
    shareOf(0.1);
    shareOf(100);
    expect(shareOf(100)).toBeLessThan(0.02);
    shareOf(0.1);
    expect(shareOf(0.1)).toBeGreaterThan(0.3);
  });

  test("where one holder may not be asked the others are still asked by what waits at them", () => {
    const ring = ringOf(3, 3);
    const clock = new VirtualClock();
    const choice = new HolderChoice(clock, asVolumeId(3));
    const down = favourite(choice, ring);
    const mayAsk = (peer: PeerId) => peer !== down;
    const slow = ring.peers.find(mayAsk) as PeerId;
    const serviceMs = (peer: PeerId) => (peer === slow ? 2 : 0.1);
    const asked = load(choice, ring, { depth: 16, count: 5_000, serviceMs, clock, mayAsk });
    expect(asked.get(down)).toBeUndefined();
    expect((asked.get(slow) ?? 0) / 5_000).toBeLessThan(0.1);
    expect(choice.choose(ring, testRef(1), () => false)).toBeUndefined();
  });

  test.each([1, 16])(
    "a peer that lacks its blocks costs few reads a second question at depth %d",
    (depth) => {
      const ring = ringOf(3);
      const clock = new VirtualClock();
      const choice = new HolderChoice(clock, asVolumeId(3));
      const lacks = favourite(choice, ring);
      const asked = load(choice, ring, { depth, count: 5_000, serviceMs: () => 0.1, clock, lacks });
      expect((asked.get(lacks) ?? 0) / 5_000).toBeLessThan(0.04);
    },
  );

  test("a peer that does not have what it should is passed by for a while, and then tried by one read", () => {
    const ring = ringOf(2);
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(2));
    const newcomer = choice.choose(ring, testRef(1)) as Holder;
    const one = smallRead();
    choice.begin(one, newcomer);
    choice.ended(one, newcomer, StorageStatus.notFound);
    let passed = 0;
    while (choice.choose(ring, testRef(++passed))?.peer !== newcomer.peer) expect(passed).toBeLessThan(1_000);
    expect(passed).toBe(65);
  });

  test("where no holder has what it should one is asked all the same", () => {
    const ring = ringOf(2);
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(2));
    for (let at = 0; at < 2; at++) {
      const holder = choice.choose(ring, testRef(1)) as Holder;
      const one = smallRead();
      choice.begin(one, holder);
      choice.ended(one, holder, StorageStatus.notFound);
    }
    expect(choice.choose(ring, testRef(1))).toBeDefined();
  });

  test("what waits at a peer is known over a change of the ring, and one that withdraws waits no more", () => {
    const before = ringOf(3);
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(3));
    const reads = Array.from({ length: 100 }, smallRead);
    const holder = choice.choose(before, testRef(1)) as Holder;
    for (const one of reads) choice.begin(one, holder);
    const after = buildRing(createRing({ replication: 2, members: before.spec.members.slice(0) }));
    const other = choice.choose(after, testRef(1)) as Holder;
    expect(other.peer).not.toBe(holder.peer);
    for (const one of reads) choice.ended(one, holder, undefined);
    expect(holder.waiting).toBe(0);
    expect(choice.choose(after, testRef(1))?.peer).toBe(holder.peer);
  });

  test("more copies asked for than there are peers, one peer, and none", () => {
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(1));
    expect(choice.choose(ringOf(2, 3), testRef(1))?.peer).toBeDefined();
    expect(choice.choose(ringOf(1, 1), testRef(1))?.peer).toBe(testPeer(1));
    const empty = buildRing({ version: 1, type: "empty", replication: 2, members: [] });
    expect(choice.choose(empty, testRef(1))).toBeUndefined();
  });

  test("reads of many pages, and of headers, are not its business", () => {
    const choice = new HolderChoice(new VirtualClock(), asVolumeId(1));
    const one = smallRead();
    expect(choice.isFor(one)).toBe(true);
    one.slotCount = 0;
    expect(choice.isFor(one)).toBe(false);
    one.slotCount = 256;
    expect(choice.isFor(one)).toBe(false);
  });
});

describe("a volume", () => {
  const PAGES = 96;
  const page = (number: number): Uint8Array => new Uint8Array(PAGE_BYTES).fill(number + 1);

  test("asks two of three peers for its small reads, others once it has to, and gets every byte", async () => {
    const cluster = await TestCluster.start({ peerCount: 3, replication: 2 });
    await cluster.run(cluster.volumes.create("db", 1024 ** 2));
    const writer = await cluster.client();
    const written = await cluster.run(writer.open("db"));
    for (let at = 0; at < PAGES; at++) {
      await cluster.run(write(written, at * PAGE_BYTES, page(at)));
      await cluster.pass(1_500);
    }
    expect((await cluster.run(written.close())).clean).toBe(true);
    for (const lost of [undefined, ...cluster.peers]) {
      const client = await cluster.client();
      const volume = await cluster.run(client.open("db"));
      const asked = new Set<PeerId>();
      const { transport } = client;
      const send = transport.read.bind(transport);
      transport.read = (peer, request) => {
        if (request.slotCount === 1) asked.add(peer);
        send(peer, request);
      };
      if (lost !== undefined) lost.silent = true;
      // No two in a row follow each other, so that nothing is read ahead.
      for (let at = 0; at < PAGES; at++) {
        const number = (at * 29) % PAGES;
        expect(await cluster.run(read(volume, number * PAGE_BYTES, PAGE_BYTES))).toEqual(page(number));
      }
      if (lost === undefined) expect(asked.size).toBe(2);
      if (lost !== undefined) lost.silent = false;
      client.crash();
      await cluster.pass(30_000);
    }
  });
});
