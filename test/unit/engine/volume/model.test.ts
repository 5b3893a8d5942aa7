/**
 * Random work on a volume against a naive model, with crashes of the client, of peers, of the metadata and with
 * full peers. The model keeps, for every 512-byte piece, the values that may be read: the one of the last write, and,
 * after a crash, those of a prefix of the log not older than the last flush.
 */
import { describe, expect, test } from "bun:test";
import type { Volume, VolumeOptions } from "../../../../src/engine/volume";
import { flush, read, SeededRandom, type TestClient, TestCluster, trim, write } from "./cluster";

const PIECE = 512;
const SIZE = 4 * 1024 * 1024;
const PIECES = SIZE / PIECE;

/** One write or trim: pieces [first, end) became `stamp` (0: zeroes). */
interface Change {
  readonly first: number;
  readonly end: number;
  readonly stamp: number;
}

class Model {
  readonly pieces = new Uint32Array(PIECES);
  /** Changes since the last flush that was acknowledged, in the order their `done` ran. */
  unflushed: Change[] = [];
  durable = new Uint32Array(PIECES);

  change(change: Change): void {
    this.pieces.fill(change.stamp, change.first, change.end);
    this.unflushed.push(change);
  }

  flushed(): void {
    this.durable = this.pieces.slice();
    this.unflushed = [];
  }
}

function bytesOf(stamp: number, pieceCount: number): Uint8Array {
  const bytes = new Uint8Array(pieceCount * PIECE);
  if (stamp === 0) return bytes;
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 4) view.setUint32(at, stamp, true);
  return bytes;
}

function stampsOf(bytes: Uint8Array): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const stamps = new Uint32Array(bytes.length / PIECE);
  for (let piece = 0; piece < stamps.length; piece++) {
    const stamp = view.getUint32(piece * PIECE, true);
    for (let at = 4; at < PIECE; at += 4)
      if (view.getUint32(piece * PIECE + at, true) !== stamp) throw new Error(`piece ${piece} is torn`);
    stamps[piece] = stamp;
  }
  return stamps;
}

interface RunOptions {
  readonly seed: number;
  readonly steps: number;
  readonly peerCount?: number;
  readonly replication?: number;
  readonly volume?: Partial<VolumeOptions>;
  readonly cacheBytes?: number;
  /** Chances out of 100 per step. */
  readonly crash?: number;
  readonly kill?: number;
  readonly fill?: number;
  readonly reopen?: number;
}

class Run {
  readonly random: SeededRandom;
  readonly model = new Model();
  cluster!: TestCluster;
  client!: TestClient;
  volume!: Volume;
  stamp = 0;
  crashes = 0;

  constructor(readonly options: RunOptions) {
    this.random = new SeededRandom(options.seed * 7919 + 1);
  }

  async run(): Promise<void> {
    const { seed, peerCount = 3, replication = 2 } = this.options;
    this.cluster = await TestCluster.start({ seed, peerCount, replication });
    await this.cluster.run(this.cluster.volumes.create("db", SIZE));
    await this.open();
    for (let step = 0; step < this.options.steps; step++) await this.step();
    await this.heal();
    expect(await this.cluster.run(flush(this.volume))).toBe(0);
    await this.verify();
    expect((await this.cluster.run(this.volume.close())).clean).toBe(true);
    await this.open();
    await this.verify();
  }

  async open(): Promise<void> {
    this.client = await this.cluster.client({ cacheBytes: this.options.cacheBytes ?? 0 });
    this.volume = await this.cluster.run(
      this.client.open("db", {
        checkpointIntervalMs: 400,
        checkpointLogBytes: 400_000,
        sealEarlyBytes: 16 * 1024,
        degradeAfterMs: 200,
        followAfterMs: 1_000,
        mapBytesMax: 64 * 1024,
        ...this.options.volume,
      }),
    );
  }

  async step(): Promise<void> {
    const { crash = 0, kill = 0, fill = 0, reopen = 0 } = this.options;
    let draw = this.random.below(100);
    const chance = (percent: number): boolean => {
      const hit = draw < percent;
      draw -= percent;
      return hit;
    };
    if (chance(crash)) return this.crash();
    if (chance(kill)) return this.killOrRestart();
    if (chance(fill)) return this.fillUp();
    if (chance(reopen)) return this.reopen();
    if (this.random.below(10) === 0) return this.flushNow();
    if (this.random.below(8) === 0) return this.verifySome();
    if (this.random.below(6) === 0) await this.cluster.pass(this.random.below(300));
    return this.changeSome();
  }

  /** Several overlapping-free changes at once, in one go. */
  async changeSome(): Promise<void> {
    const count = 1 + this.random.below(6);
    const work: Promise<unknown>[] = [];
    const taken: Change[] = [];
    for (let index = 0; index < count; index++) {
      const length = this.random.below(12) === 0 ? 1 + this.random.below(600) : 1 + this.random.below(20);
      const first = this.random.below(PIECES - length);
      const change = { first, end: first + length, stamp: this.random.below(5) === 0 ? 0 : ++this.stamp };
      if (taken.some((other) => other.first < change.end && change.first < other.end)) continue;
      taken.push(change);
      work.push(this.apply(change));
    }
    await this.cluster.run(Promise.all(work));
  }

  async apply(change: Change): Promise<void> {
    const length = (change.end - change.first) * PIECE;
    const status =
      change.stamp === 0
        ? await trim(this.volume, change.first * PIECE, length)
        : await write(this.volume, change.first * PIECE, bytesOf(change.stamp, change.end - change.first));
    expect(status).toBe(0);
    this.model.change(change);
  }

  async flushNow(): Promise<void> {
    const before = this.model.unflushed.length;
    const status = await this.cluster.run(flush(this.volume));
    expect(status).toBe(0);
    expect(this.model.unflushed.length).toBe(before);
    this.model.flushed();
  }

  async verifySome(): Promise<void> {
    const length = 1 + this.random.below(500);
    const first = this.random.below(PIECES - length);
    const found = stampsOf(await this.cluster.run(read(this.volume, first * PIECE, length * PIECE)));
    expect(found).toEqual(this.model.pieces.slice(first, first + length));
  }

  async verify(): Promise<void> {
    const found = stampsOf(await this.cluster.run(read(this.volume, 0, SIZE)));
    for (let piece = 0; piece < PIECES; piece++)
      if (found[piece] !== this.model.pieces[piece])
        throw new Error(`piece ${piece} is ${found[piece]}, not ${this.model.pieces[piece]}`);
  }

  /** The client dies with writes in flight; what is found then must be a prefix of what it did. */
  async crash(): Promise<void> {
    this.crashes++;
    const pending: Change[] = [];
    for (let index = 0; index < 3; index++) {
      const first = this.random.below(PIECES - 40);
      const change = { first, end: first + 1 + this.random.below(40), stamp: ++this.stamp };
      if (pending.some((other) => other.first < change.end && change.first < other.end)) continue;
      pending.push(change);
      void write(this.volume, change.first * PIECE, bytesOf(change.stamp, change.end - change.first));
    }
    if (this.random.below(3) === 0) {
      // Right after a flush was answered, with nothing else under way.
      await this.cluster.pass(10);
      for (const change of pending.splice(0)) this.model.change(change);
      await this.flushNow();
    } else {
      void flush(this.volume);
      await this.cluster.pass(this.random.below(8));
    }
    this.client.crash();
    await this.heal();
    await this.open();
    const found = stampsOf(await this.cluster.run(read(this.volume, 0, SIZE)));
    this.checkPrefix(found, [...this.model.unflushed, ...pending]);
    this.model.pieces.set(found);
    // What was adopted is durable now.
    this.model.flushed();
  }

  /** Page by page: the content is that after some number of the changes, and no page mixes two moments. */
  checkPrefix(found: Uint32Array, changes: readonly Change[]): void {
    const perPage = 4096 / PIECE;
    for (let page = 0; page < PIECES / perPage; page++) {
      const from = page * perPage;
      const state = this.model.durable.slice(from, from + perPage);
      const wanted = found.slice(from, from + perPage);
      let matches = sameStamps(state, wanted);
      for (const change of changes) {
        if (change.first >= from + perPage || change.end <= from) continue;
        state.fill(change.stamp, Math.max(0, change.first - from), Math.min(perPage, change.end - from));
        if (sameStamps(state, wanted)) matches = true;
      }
      // Two pending writes to one page may have been merged in either order.
      if (!matches && !this.isMerge(page, wanted, changes))
        throw new Error(`page ${page} holds ${wanted.join(" ")} after a crash`);
    }
  }

  isMerge(page: number, wanted: Uint32Array, changes: readonly Change[]): boolean {
    const perPage = wanted.length;
    const from = page * perPage;
    const touching = changes.filter((change) => change.first < from + perPage && change.end > from);
    const last = touching.slice(-3);
    const base = this.model.durable.slice(from, from + perPage);
    for (const change of touching.slice(0, -3)) fillPart(base, change, from);
    for (const order of [last, last.slice().reverse(), last.slice(1), last.slice(2)]) {
      const state = base.slice();
      for (const change of order) {
        fillPart(state, change, from);
        if (sameStamps(state, wanted)) return true;
      }
    }
    return false;
  }

  async killOrRestart(): Promise<void> {
    const downCount = this.cluster.peers.filter((peer) => peer.down || peer.silent).length;
    const peer = this.cluster.peers[this.random.below(this.cluster.peers.length)];
    if (!peer) return;
    if (peer.down || peer.silent) {
      if (peer.silent) peer.silent = false;
      else await this.cluster.restart(peer);
      await this.cluster.until(() => !this.volume.health.degraded, "the peer is in the log set again");
      this.cluster.rebalance();
    } else if (downCount === 0) {
      if (this.random.below(2) === 0) this.cluster.kill(peer);
      else peer.silent = true;
    }
  }

  /** No peer takes anything for a while: writers get "no space", lose nothing, and go on. */
  async fillUp(): Promise<void> {
    for (const peer of this.cluster.peers) peer.full = true;
    const first = this.random.below(PIECES - 8);
    const change = { first, end: first + 8, stamp: ++this.stamp };
    const wrote = await this.cluster.run(write(this.volume, first * PIECE, bytesOf(change.stamp, 8)));
    if (wrote === 0) this.model.change(change);
    const status = await this.cluster.run(flush(this.volume));
    if (this.model.unflushed.length > 0) expect(status).toBe(2);
    for (const peer of this.cluster.peers) peer.full = false;
    await this.cluster.until(() => !this.volume.health.full, "space is seen again");
    await this.flushNow();
  }

  async reopen(): Promise<void> {
    await this.heal();
    const outcome = await this.cluster.run(this.volume.close());
    expect(outcome).toEqual({ clean: true, reason: undefined });
    await this.open();
    this.model.flushed();
  }

  async heal(): Promise<void> {
    for (const peer of this.cluster.peers) {
      peer.silent = false;
      peer.full = false;
      if (peer.down) await this.cluster.restart(peer);
    }
    this.cluster.rebalance();
  }
}

function fillPart(state: Uint32Array, change: Change, from: number): void {
  state.fill(
    change.stamp,
    Math.max(0, change.first - from),
    Math.max(0, Math.min(state.length, change.end - from)),
  );
}

function sameStamps(one: Uint32Array, other: Uint32Array): boolean {
  return one.every((stamp, at) => stamp === other[at]);
}

const SEEDS = (process.env.VOLUME_SEEDS ?? "1,2,3").split(",").map(Number);

describe("Volume against a model", () => {
  for (const seed of SEEDS) {
    test(`reads what was written, seed ${seed}`, () => new Run({ seed, steps: 150, reopen: 2 }).run());
    test(`with a small cache, seed ${seed}`, () =>
      new Run({ seed, steps: 150, reopen: 2, cacheBytes: 400_000 }).run());
    test(`through crashes of the client, seed ${seed}`, () =>
      new Run({ seed, steps: 150, crash: 6, reopen: 1 }).run());
    test(`through deaths of peers, seed ${seed}`, () =>
      new Run({ seed, steps: 120, kill: 6, crash: 2 }).run());
    test(`with two peers, of which one may die, seed ${seed}`, () =>
      new Run({ seed, steps: 100, kill: 5, crash: 2, peerCount: 2 }).run());
    test(`with replication 3 and quorum, seed ${seed}`, () =>
      new Run({
        seed,
        steps: 100,
        kill: 4,
        crash: 3,
        peerCount: 4,
        replication: 3,
        volume: { writeLevel: "quorum" },
      }).run());
    test(`when no peer has space, seed ${seed}`, () =>
      new Run({ seed, steps: 120, fill: 4, crash: 2 }).run());
  }
});
