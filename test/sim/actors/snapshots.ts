/**
 * The administrator of a simulation: takes snapshots of the volume while it is attached or not, deletes them, makes
 * clones; and a reader that opens snapshots and holds what it finds against their models.
 */
import { heapBuffer, sleep, TorusError } from "../../../src/base";
import { BlockPool, BufferPool, openSnapshotVolume, VolumeStatus } from "../../../src/engine/volume";
import { isMetaError, type MetaContext, MetaRegistry, SnapshotAdmin } from "../../../src/meta";
import { PAGE_BYTES, readContent } from "../check/page-bytes";
import { PageModel } from "../check/page-model";
import { SnapshotModel } from "../check/snapshot-model";
import type { SimMetadata } from "../world/metadata";
import type { SimNetwork } from "../world/network";
import type { Prng } from "../world/prng";
import { SimProcess, type World } from "../world/world";
import type { Regions } from "./regions";

const SNAPSHOTS_MAX = 4;
const CLONES_MAX = 2;
const REQUEST_TIMEOUT_MS = 20_000;
/** A volume with a tail must be opened first: some client is going to. */
const TAIL_TRIES = 12;
const TAIL_PAUSE_MS = 700;
const BLOCK_SIZE_BYTES = 64 * 1024;

export interface SnapshotMachine {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  readonly model: PageModel;
  readonly volumeName: string;
  /** Clones are added to these. */
  readonly volumes: PageModel[];
  readonly regions: Regions;
  readonly context: MetaContext;
  readonly random: Prng;
}

export class SimSnapshots {
  readonly list: SnapshotModel[] = [];
  private cloneCount = 0;
  readonly counts = { taken: 0, failed: 0, deleted: 0, cloned: 0, reads: 0, restores: 0 };
  private readonly admin: SnapshotAdmin;
  private nextNumber = 1;

  constructor(private readonly machine: SnapshotMachine) {
    this.admin = new SnapshotAdmin(machine.context);
  }

  /** A snapshot whose content is known, to be restored or cloned; undefined when there is none. */
  pickKnown(): SnapshotModel | undefined {
    const pageCount = this.machine.regions.pages().length;
    const known = this.list.filter((snapshot) => snapshot.isKnown(pageCount));
    return known.length === 0 ? undefined : this.machine.random.pick(known);
  }

  async take(): Promise<void> {
    if (this.list.length >= SNAPSHOTS_MAX) return;
    const { model, regions, world } = this.machine;
    const name = `s${this.nextNumber}`;
    this.nextNumber += 1;
    const oldest = model.beginSnapshot(regions.pages());
    try {
      await this.create(name);
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      this.counts.failed += 1;
      world.log("admin", `no snapshot ${name}: ${error.message}`);
      return;
    }
    this.counts.taken += 1;
    world.log("admin", `took snapshot ${name}`);
    const snapshot = new SnapshotModel(name, model, model.endSnapshot(oldest));
    this.list.push(snapshot);
    // Only what was read once can be restored or cloned, for only then it is known what that must give.
    await this.read(snapshot);
  }

  private async create(name: string): Promise<void> {
    const { volumeName, context } = this.machine;
    for (let tries = 1; ; tries += 1)
      try {
        await this.admin.create(volumeName, name, { timeoutMs: REQUEST_TIMEOUT_MS });
        return;
      } catch (error) {
        if (!isMetaError(error, "volume-has-tail") || tries >= TAIL_TRIES) throw error;
        await sleep(context.clock, TAIL_PAUSE_MS);
      }
  }

  async delete(): Promise<void> {
    const { random, volumeName, world } = this.machine;
    const free = this.list.filter((snapshot) => snapshot.inUse === 0);
    if (free.length === 0) return;
    const snapshot = random.pick(free);
    this.list.splice(this.list.indexOf(snapshot), 1);
    try {
      await this.admin.delete(volumeName, snapshot.name);
      this.counts.deleted += 1;
      world.log("admin", `deleted snapshot ${snapshot.name}`);
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      world.log("admin", `did not delete snapshot ${snapshot.name}: ${error.message}`);
    }
  }

  async clone(): Promise<void> {
    const { volumeName, world } = this.machine;
    if (this.pickKnown() === undefined) await this.take();
    const snapshot = this.pickKnown();
    if (snapshot === undefined || this.cloneCount >= CLONES_MAX) return;
    const name = `clone-of-${snapshot.name}-${this.nextNumber}`;
    this.nextNumber += 1;
    const contents = new Map(snapshot.contents);
    snapshot.inUse += 1;
    try {
      await this.admin.clone(volumeName, snapshot.name, name);
      this.counts.cloned += 1;
      this.cloneCount += 1;
      this.machine.volumes.push(new PageModel(name, contents));
      world.log("admin", `made ${name}`);
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      world.log("admin", `no clone of ${snapshot.name}: ${error.message}`);
    }
    snapshot.inUse -= 1;
  }

  /** Reads a whole snapshot on a machine of its own; returns whether every page could be read. */
  async read(snapshot: SnapshotModel): Promise<boolean> {
    const { world, random } = this.machine;
    const process = new SimProcess(world, "reader", random.fork(`reader ${this.nextNumber}`));
    this.nextNumber += 1;
    snapshot.inUse += 1;
    try {
      return await this.readWith(process, snapshot);
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      process.log(`cannot read snapshot ${snapshot.name}: ${error.message}`);
      return false;
    } finally {
      snapshot.inUse -= 1;
      process.crash();
    }
  }

  private async readWith(process: SimProcess, snapshot: SnapshotModel): Promise<boolean> {
    const { metadata, network, volumeName, regions } = this.machine;
    const context = { store: metadata.connect(process), clock: process.clock, random: process.random };
    const registry = await MetaRegistry.start(context);
    const session = await registry.openSnapshot(volumeName, snapshot.name, "reader");
    const volume = await openSnapshotVolume(
      {
        clock: process.clock,
        turns: process.turns,
        transport: network.transport(process),
        registry,
        allocate: heapBuffer,
        blockPool: new BlockPool(heapBuffer, BLOCK_SIZE_BYTES, 2 * BLOCK_SIZE_BYTES),
        bufferPool: new BufferPool(heapBuffer, BLOCK_SIZE_BYTES, 2),
      },
      session,
    );
    this.counts.reads += 1;
    let complete = true;
    for (const { firstPage, pageCount } of regions.ranges) {
      const destination = heapBuffer(pageCount * PAGE_BYTES);
      const lengthBytes = Math.min(pageCount * PAGE_BYTES, volume.sizeBytes - firstPage * PAGE_BYTES);
      const status = await new Promise<number>((resolve) =>
        volume.read(firstPage * PAGE_BYTES, lengthBytes, destination, 0, resolve),
      );
      complete &&= status === VolumeStatus.ok;
      if (status !== VolumeStatus.ok) continue;
      // Beyond the end of a volume that was cut off there is nothing, which is zeroes when it grows again.
      for (let index = 0; index < pageCount; index += 1) {
        const content = readContent(destination.words, (index * PAGE_BYTES) / 4, firstPage + index);
        snapshot.check(process.name, firstPage + index, content);
      }
    }
    await volume.close();
    await sleep(process.clock, 1);
    registry.close();
    return complete;
  }
}
