import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type BlockRef, formatBlockRef } from "../../../../src/base";
import { Scrubber, type ScrubOptions } from "../../../../src/engine/scrub";
import { decodeProgress, encodeProgress } from "../../../../src/engine/scrub/progress";
import { dataRef, Harness, type HarnessPeer, sealedBlock } from "../upkeep/harness";

const BLOCK_BYTES = sealedBlock(dataRef(1, 5, 1)).lengthBytes;
const HOUR_MS = 3_600_000;

class TextStore {
  text: string | undefined;
  saves = 0;
  async load(): Promise<string | undefined> {
    return this.text;
  }
  async save(text: string): Promise<void> {
    this.saves++;
    this.text = text;
  }
}

async function scene(blockCount: number): Promise<{ harness: Harness; refs: BlockRef[]; peer: HarnessPeer }> {
  const harness = new Harness(3, 2);
  harness.setVolume(1, { epoch: 5, dataIndex: blockCount });
  const refs = Array.from({ length: blockCount }, (_, index) => dataRef(1, 5, index + 1));
  for (const ref of refs) await harness.write(ref);
  const peer = harness.peers[0] as HarnessPeer;
  await harness.time.until(peer.service.adoptRingVersion(1));
  return { harness, refs, peer };
}

function scrubber(harness: Harness, peer: HarnessPeer, options: Partial<ScrubOptions> = {}): Scrubber {
  return new Scrubber(harness.ports(peer), {
    bytesPerSecond: 1e9,
    intervalMs: HOUR_MS,
    progress: new TextStore(),
    ...options,
  });
}

describe("Scrubber", () => {
  test("finds planted rot, repairs it from another peer, and says so", async () => {
    const { harness, peer } = await scene(100);
    const bad = peer.refs().slice(3, 8);
    for (const ref of bad) peer.rot(ref);
    const seen: string[] = [];
    const job = scrubber(harness, peer, {
      onBadCopy: (ref, repaired) => seen.push(`${formatBlockRef(ref)} ${repaired}`),
    });
    job.start();
    await harness.time.advance(60_000);
    const held = peer.refs();
    expect(job.status()).toMatchObject({
      state: "idle",
      blocksChecked: held.length,
      blocksCorrupt: 5,
      blocksRepaired: 5,
      unrepaired: [],
      lastError: null,
    });
    expect(seen).toEqual(bad.map((ref) => `${formatBlockRef(ref)} true`));
    const reply = await harness.time.until(peer.service.confirm({ refs: held, ringVersion: 1 }));
    expect(reply.statuses.every((status) => status === 0)).toBe(true);
    await harness.time.until(job.stop());
  });

  test("looks at the store's own records before the blocks, and says what was wrong", async () => {
    const { harness, peer } = await scene(20);
    const problems = ["state holds no readable snapshot", undefined, "blocks-00001 has lost its superblock"];
    const asked: number[] = [];
    peer.service.checkRecords = async (part) => {
      asked.push(part);
      return { bytesChecked: 100, problem: problems[part], isLast: part === 2 };
    };
    const seen: string[] = [];
    const job = scrubber(harness, peer, { onBadRecords: (problem) => seen.push(problem) });
    job.start();
    await harness.time.advance(60_000);
    expect(asked).toEqual([0, 1, 2]);
    expect(seen).toEqual(problems.filter((problem) => problem !== undefined));
    expect(job.status()).toMatchObject({
      state: "idle",
      blocksChecked: peer.refs().length,
      blocksCorrupt: 0,
    });
    await harness.time.until(job.stop());
  });

  test("names what it cannot repair, and repairs it when a good copy can be read again", async () => {
    const { harness, peer } = await scene(30);
    const bad = peer.refs()[0] as BlockRef;
    peer.rot(bad);
    const others = harness.peers.filter((other) => other !== peer);
    for (const other of others) other.down = true;
    const job = scrubber(harness, peer);
    job.start();
    await harness.time.advance(60_000);
    expect(job.status()).toMatchObject({
      blocksCorrupt: 1,
      blocksRepaired: 0,
      unrepaired: [formatBlockRef(bad)],
    });
    for (const other of others) harness.setDown(other, false);
    // Long before the next scrub is due, and without being asked.
    await harness.time.advance(120_000);
    expect(job.status()).toMatchObject({ blocksCorrupt: 1, blocksRepaired: 1, unrepaired: [] });
    job.request();
    await harness.time.advance(60_000);
    expect(job.status()).toMatchObject({ blocksCorrupt: 0, unrepaired: [] });
    await harness.time.until(job.stop());
  });

  test("names a bad copy no longer once collection has taken it away", async () => {
    const { harness, peer } = await scene(30);
    const bad = peer.refs()[0] as BlockRef;
    peer.rot(bad);
    for (const other of harness.peers) if (other !== peer) other.down = true;
    const job = scrubber(harness, peer);
    job.start();
    await harness.time.advance(60_000);
    expect(job.status().unrepaired).toEqual([formatBlockRef(bad)]);
    await harness.time.until(peer.service.deleteBlocks([bad]));
    await harness.time.advance(60_000);
    expect(job.status()).toMatchObject({
      blocksCorrupt: 1,
      blocksRepaired: 0,
      unrepaired: [],
      lastError: null,
    });
    await harness.time.until(job.stop());
  });

  test("runs again after its interval, and at once when asked", async () => {
    const { harness, peer } = await scene(10);
    const job = scrubber(harness, peer);
    job.start();
    await harness.time.advance(10_000);
    const first = job.status().finishedWallMs;
    expect(first).toBeGreaterThan(0);
    await harness.time.advance(HOUR_MS - 30_000);
    expect(job.status().finishedWallMs).toBe(first);
    await harness.time.advance(60_000);
    const second = job.status().finishedWallMs;
    expect(second).toBeGreaterThan(first);
    job.request();
    await harness.time.advance(10_000);
    expect(job.status().finishedWallMs).toBeGreaterThan(second);
    await harness.time.until(job.stop());
  });

  test("holds its rate, pauses, and goes on after a restart where it was", async () => {
    const { harness, peer } = await scene(900);
    const held = peer.refs().length;
    const progress = new TextStore();
    const slow = { bytesPerSecond: 20 * BLOCK_BYTES, progress };
    const first = scrubber(harness, peer, slow);
    first.start();
    await harness.time.advance(15_000);
    const early = first.status();
    expect(early.state).toBe("running");
    expect(early.blocksChecked).toBeWithin(280, 330);
    expect(early.blocksLeft).toBe(held - early.blocksChecked);
    expect(early.secondsLeft).toBeWithin(
      Math.floor((early.blocksLeft as number) / 25),
      Math.ceil((early.blocksLeft as number) / 16),
    );
    first.pause();
    await harness.time.advance(1_000);
    const paused = first.status();
    expect(paused.state).toBe("paused");
    await harness.time.advance(20_000);
    expect(first.status().blocksChecked).toBe(paused.blocksChecked);
    await harness.time.until(first.stop());
    const second = scrubber(harness, peer, { ...slow, bytesPerSecond: 1e9 });
    second.start();
    await harness.time.advance(30_000);
    const done = second.status();
    expect(done.state).toBe("idle");
    // All of it, and what a part under way had done before the restart is not counted twice.
    expect(done.blocksChecked).toBe(held);
    await harness.time.until(second.stop());
  });

  test("leaves rot of deleted volumes to collection", async () => {
    const { harness, peer } = await scene(10);
    peer.rot(peer.refs()[0] as BlockRef);
    harness.deleteVolume(1);
    const job = scrubber(harness, peer);
    job.start();
    await harness.time.advance(10_000);
    expect(job.status()).toMatchObject({ blocksCorrupt: 0, unrepaired: [] });
    await harness.time.until(job.stop());
  });

  test("with interval 0 it scrubs only when asked", async () => {
    const { harness, peer } = await scene(5);
    const job = scrubber(harness, peer, { intervalMs: 0 });
    job.start();
    await harness.time.advance(10 * HOUR_MS);
    expect(job.status().blocksChecked).toBe(0);
    job.request();
    await harness.time.advance(10_000);
    expect(job.status().blocksChecked).toBe(peer.refs().length);
    await harness.time.until(job.stop());
  });
});

test("decodeProgress takes back what was encoded, and nothing else", () => {
  const progress = {
    parts: 7,
    partsDone: 3,
    startedWallMs: 1,
    blocksChecked: 2,
    bytesChecked: 3,
    blocksCorrupt: 4,
    blocksRepaired: 5,
    finishedWallMs: 6,
  };
  expect(decodeProgress(encodeProgress(progress))).toMatchObject(progress);
  expect(decodeProgress(undefined)).toBeUndefined();
  for (const wrong of [{ parts: 65 }, { partsDone: 8 }, { parts: -1 }, { blocksChecked: 1.5 }])
    expect(decodeProgress(encodeProgress({ ...progress, ...wrong }))).toBeUndefined();
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => decodeProgress(text) === undefined),
    { numRuns: 300 },
  );
});
