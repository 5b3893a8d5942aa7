/** What a directed schedule acts with: the machines by name, time, cuts, and a look at the head behind the protocol. */
import { asVolumeId, type BlockKind, type VolumeId } from "../../../src/base";
import type { Head } from "../../../src/engine";
import { type KeyValue, RingAdmin } from "../../../src/meta";
import { decodeHead, keys } from "../../../src/meta/records";
import { nextRing, type RingChange } from "../../../src/ring";
import type { OpenSession, SimClient } from "../actors/client";
import type { SimPeer } from "../actors/peer";
import type { Stage } from "../faults/stage";
import { METADATA } from "../world/metadata";

const POLL_MS = 0.2;
const WAIT_MS_MAX = 60_000;

export class Scene {
  readonly peers: readonly SimPeer[];
  readonly clients: readonly SimClient[];

  constructor(readonly simulation: Stage) {
    this.peers = simulation.peers;
    this.clients = simulation.clients;
  }

  get first(): SimPeer {
    return this.peers[0] as SimPeer;
  }

  get second(): SimPeer {
    return this.peers[1] as SimPeer;
  }

  get third(): SimPeer {
    return this.peers[2] as SimPeer;
  }

  /** The first volume made, which is the one that schedules are about. */
  get volumeId(): VolumeId {
    return asVolumeId(1);
  }

  /** The one that writes first. */
  get writer(): SimClient {
    return this.clients[0] as SimClient;
  }

  /** The one that opens after it. */
  get heir(): SimClient {
    return this.clients[1] as SimClient;
  }

  sleep(durationMs: number): Promise<void> {
    return new Promise((resolve) => this.simulation.world.schedule(durationMs, undefined, resolve));
  }

  /** Waits; throws when it does not come to pass, for then the schedule shows nothing. */
  async until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
    const { world } = this.simulation;
    const untilMs = world.nowMs + WAIT_MS_MAX;
    while (!(await isSo())) {
      if (world.nowMs > untilMs) throw new Error(`the schedule waited for this in vain: ${what}`);
      await this.sleep(POLL_MS);
    }
  }

  /** Opens the volume, which must succeed, by trying again as people do. */
  async open(client: SimClient): Promise<OpenSession> {
    await this.whenUnlocked();
    for (let tries = 0; tries < 40; tries += 1) {
      const open = await client.open();
      if (open !== undefined) return open;
      await this.sleep(500);
    }
    throw new Error(`the schedule waited for this in vain: ${client.name} opens the volume`);
  }

  /** Opens the volume where that should be refused, or find all there is; the checkers see what it finds. */
  async openIfItMay(client: SimClient): Promise<void> {
    await this.whenUnlocked();
    for (let tries = 0; tries < 3; tries += 1) {
      const open = await client.open();
      if (open !== undefined) return open.work.scan().then(() => undefined);
      await this.sleep(500);
    }
  }

  /** Tries to open the volume again and again, which must be refused; the checkers see what is found if it is not. */
  async beRefused(client: SimClient, code: string): Promise<void> {
    for (let tries = 0; tries < 3; tries += 1) {
      await this.whenUnlocked();
      const open = await client.open();
      if (open !== undefined) return open.work.scan();
      if (client.refusal !== code) throw new Error(`${client.name} was refused with ${client.refusal}`);
    }
  }

  /** Begins something whose answer may never come. What a checker says of it ends the run. */
  begin(work: Promise<unknown>): void {
    work.catch((error: unknown) =>
      this.simulation.world.fail(error instanceof Error ? error : new Error(String(error))),
    );
  }

  /** Messages from one machine to another vanish. */
  cut(from: { readonly name: string }, to: { readonly name: string }): void {
    this.simulation.network.block(from.name, to.name);
  }

  join(from: { readonly name: string }, to: { readonly name: string }): void {
    this.simulation.network.unblock(from.name, to.name);
  }

  cutFromMetadata({ name }: { readonly name: string }): void {
    this.simulation.network.block(name, METADATA);
    this.simulation.network.block(METADATA, name);
  }

  /** The lease of whoever was cut off is over, and its lock is gone. */
  leaseEnds(): Promise<void> {
    return this.sleep(this.simulation.leaseTtlMs + 1_500);
  }

  async bootAndServe(...peers: readonly SimPeer[]): Promise<void> {
    for (const peer of peers) peer.boot();
    await this.until("peers serve", () => peers.every((peer) => peer.serving));
  }

  /** A new disk in the old machine. */
  async wipe(peer: SimPeer): Promise<void> {
    peer.process.log("loses its disk");
    peer.crash(true);
    peer.disk.restore(new Map());
    await this.bootAndServe(peer);
  }

  async head(): Promise<Head> {
    const { entries } = await this.simulation.metadata.inner.range(keys.volumesPrefix);
    const entry = entries.find(({ key }) => key.endsWith("/head"));
    if (entry === undefined) throw new Error("there is no volume");
    return decodeHead(entry).head;
  }

  /** The lock of the volume goes, as at the end of its lease. */
  async endLock(): Promise<void> {
    const lock = await this.lock();
    if (lock === undefined) throw new Error("the volume is not locked");
    await this.simulation.metadata.inner.revokeLease(lock.lease);
  }

  whenUnlocked(): Promise<void> {
    return this.until("the lock ends with its lease", async () => (await this.lock()) === undefined);
  }

  async lock(): Promise<KeyValue | undefined> {
    const { entries } = await this.simulation.metadata.inner.range(keys.volumesPrefix);
    return entries.find(({ key }) => key.endsWith("/lock"));
  }

  /** All that the metadata knows of volumes. */
  async volumeRecords(): Promise<readonly KeyValue[]> {
    return (await this.simulation.metadata.inner.range(keys.volumesPrefix)).entries;
  }

  /** The metadata know of volumes just this from now on. */
  async putVolumeRecords(records: readonly KeyValue[]): Promise<void> {
    const { inner, world } = this.simulation.metadata;
    const wanted = new Set(records.map(({ key }) => key));
    const gone = (await this.volumeRecords()).filter(({ key }) => !wanted.has(key));
    await inner.transact({
      compares: [],
      operations: [
        ...gone.map(({ key }) => ({ kind: "delete" as const, key })),
        ...records.map(({ key, value }) => ({ kind: "put" as const, key, value })),
      ],
    });
    world.log("metadata", `${records.length} records of volumes are put back`);
  }

  /** The peers whose stores have a block of this kind and index. */
  holders(kind: BlockKind, index: number): SimPeer[] {
    return this.peers.filter((peer) =>
      peer.store?.list({ limit: 4096 }).blocks.some(({ ref }) => ref.kind === kind && ref.index === index),
    );
  }

  /** The ring is of these peers from now on. */
  placeOn(...peers: readonly SimPeer[]): Promise<void> {
    const members = peers.map(({ peerId }) => ({ peerId, weight: 1, zone: "" }));
    return this.changeRing({ kind: "manual", type: "table", members });
  }

  async changeRing(change: RingChange): Promise<void> {
    const rings = new RingAdmin(this.simulation.context);
    await rings.change(nextRing(await rings.current(), change));
  }
}
