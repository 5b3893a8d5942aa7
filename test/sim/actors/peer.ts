/**
 * A simulated peer machine: a disk that outlives the processes, and a process made of the production store, the
 * production peer service and the production registration, put together as the daemon does: identity from the disk,
 * registration first (a disk that was rolled back is found out there, R5), and only then does it listen.
 */
import {
  type ClusterId,
  type Disk,
  heapBuffer,
  type Incarnation,
  type PeerId,
  TorusError,
} from "../../../src/base";
import { StorageStatus } from "../../../src/engine";
import { PeerService } from "../../../src/engine/peer";
import { openSegmentStore, type SegmentStore } from "../../../src/engine/store";
import { RECORD_BYTES, segmentGeometry } from "../../../src/engine/store/layout";
import { isMetaError, type KeyValueStore, PeerDirectory, type PeerRegistration } from "../../../src/meta";
import { SimulatedDisk } from "../simulated-disk";
import type { SimMetadata } from "../world/metadata";
import type { SimNetwork } from "../world/network";
import type { Prng } from "../world/prng";
import { SimProcess, type World } from "../world/world";
import { SimUpkeep } from "./upkeep";

/** Small, so that journals wrap, segments fill and new ones are begun all the time. */
const SEGMENT_BYTES = 512 * 1024;
/** Of the index in memory. */
const CHUNK_ROWS = 64;
const BOOT_RETRY_MS = 700;
const POISON_RESTART_MS = 1_000;
/** As the daemon does, a peer reports that often. */
export const HEARTBEAT_MS = 2_000;

export interface PeerMachine {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  readonly clusterId: ClusterId;
  readonly storeBytes: number;
  /** Mean time of a sync while the disk is well. */
  readonly syncMs: number;
  /** What the disk writes whole. */
  readonly unitBytes: number;
}

/** How far a store had come. */
export type DiskMoment = Pick<SegmentStore, "incarnation" | "bootCount" | "progress">;

export class SimPeer {
  readonly disk: SimulatedDisk;
  process: SimProcess;
  store: SegmentStore | undefined;
  /** Mean time of a sync on this disk. */
  syncMs: number;
  /** Listens and is registered. */
  serving = false;
  readonly counts = { boots: 0, crashes: 0, poisoned: 0, renewed: 0, damaged: 0 };
  /** Its disk lost something: the operator opens it with accept-loss when it says that it is damaged. */
  lostData = false;
  /** What its store reads at a start alone has changed unseen: nobody knows whether it opens whole. */
  isDoubtful = false;
  private readonly reported = new Map<Incarnation, Omit<DiskMoment, "incarnation">>();
  private readonly random: Prng;
  upkeep: SimUpkeep | undefined;
  private readonly scrubProgress: { text: string | undefined } = { text: undefined };
  private registration: PeerRegistration | undefined;
  private life = 0;

  constructor(
    private readonly machine: PeerMachine,
    readonly name: string,
    readonly peerId: PeerId,
    readonly zone: string,
  ) {
    const { world } = machine;
    this.syncMs = machine.syncMs;
    this.random = world.random.fork(name);
    this.process = new SimProcess(world, name, this.random.fork("process 0"));
    this.process.crash();
    this.disk = new SimulatedDisk({
      random: this.random.fork("disk"),
      unitBytes: machine.unitBytes,
      // A sync of a dead process completes for nobody; one of a paused process is noticed when it wakes.
      clock: {
        nowMs: () => world.nowMs,
        wallMs: () => world.nowMs,
        schedule: (delayMs, callback) => world.schedule(delayMs, this.process, callback),
      },
      syncMs: () => 0.05 + this.random.delayMs(this.syncMs),
    });
  }

  get alive(): boolean {
    return this.process.alive;
  }

  /** The disk is as quick as it was. */
  recoverDisk(): void {
    this.syncMs = this.machine.syncMs;
  }

  /** Whether a byte lies where the store has no record yet: what rots there shows when the journal comes to it, much later. */
  isUnwrittenMetadata(fileName: string, offsetBytes: number): boolean {
    const { dataOffset } = segmentGeometry(this.disk.sizeOf(fileName), this.machine.unitBytes);
    if (offsetBytes >= dataOffset) return false;
    const start = offsetBytes - (offsetBytes % RECORD_BYTES);
    return this.disk
      .bytesOf(fileName)
      .subarray(start, start + RECORD_BYTES)
      .every((byte) => byte === 0);
  }

  /** Bytes of a segment changed in silence, from here on. */
  noteChange(fileName: string, offsetBytes: number): void {
    this.lostData = true;
    const { dataOffset } = segmentGeometry(this.disk.sizeOf(fileName), this.machine.unitBytes);
    if (offsetBytes < dataOffset) this.isDoubtful = true;
  }

  boot(): void {
    if (this.process.alive) return;
    this.life += 1;
    this.counts.boots += 1;
    const process = new SimProcess(this.machine.world, this.name, this.random.fork(`process ${this.life}`));
    this.process = process;
    process.log("boots");
    this.openStore(process, this.disk.attach(), false);
  }

  private openStore(process: SimProcess, disk: Disk, acceptLoss: boolean): void {
    const random = this.random.fork(`store ${this.life}`);
    openSegmentStore({
      acceptLoss,
      disk,
      clusterId: this.machine.clusterId,
      peerId: this.peerId,
      sizeBytes: this.machine.storeBytes,
      segmentBytes: SEGMENT_BYTES,
      reserveSpace: false,
      indexChunkRows: CHUNK_ROWS,
      allocate: heapBuffer,
      clock: process.clock,
      random,
      turns: process.turns,
      onPoison: (reason) => this.poisoned(process, reason),
    }).then(
      (store) => {
        if (!process.alive) return;
        this.store = store;
        this.isDoubtful = false;
        const { blockCount } = store.statistics();
        process.log(
          `store is open: boot ${store.bootCount}, incarnation ${store.incarnation}, ${blockCount} blocks`,
        );
        this.register(process, store, this.machine.metadata.connect(process)).catch((error: unknown) => {
          if (process.alive)
            this.machine.world.fail(error instanceof Error ? error : new Error(String(error)));
        });
      },
      (error: unknown) => this.bootFailed(process, error),
    );
  }

  /** The process ends at once; with `power` the machine does, and unsynced writes are kept, dropped or torn. */
  crash(power: boolean): void {
    if (!this.process.alive) return;
    this.counts.crashes += 1;
    this.process.log(power ? "loses power" : "is killed");
    this.stop();
    if (power) this.disk.powerLoss();
    else this.disk.kill();
  }

  /** A store that answers nothing at all: before the first boot, or poisoned. */
  private stop(): void {
    this.serving = false;
    this.store = undefined;
    this.upkeep = undefined;
    this.registration = undefined;
    this.process.crash();
  }

  private poisoned(process: SimProcess, reason: string): void {
    if (process !== this.process || !process.alive) return;
    this.counts.poisoned += 1;
    process.log(`store is poisoned and the process ends: ${reason}`);
    // The callback runs inside the store: let it return first.
    this.machine.world.schedule(0, process, () => {
      this.stop();
      this.disk.kill();
    });
    this.machine.world.schedule(POISON_RESTART_MS, undefined, () => this.boot());
  }

  private bootFailed(process: SimProcess, error: unknown): void {
    if (process !== this.process || !process.alive) return;
    process.log(`cannot open its store: ${error instanceof Error ? error.message : String(error)}`);
    if (!(error instanceof TorusError)) {
      this.machine.world.fail(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    if (error.code === "damaged" && this.lostData) {
      this.counts.damaged += 1;
      this.openStore(process, this.disk.attach(), true);
      return;
    }
    this.stop();
    this.disk.kill();
    if (error.code === "io-failed")
      this.machine.world.schedule(POISON_RESTART_MS, undefined, () => this.boot());
    else this.machine.world.fail(new Error(`${this.name} cannot open its store: ${error.message}`));
  }

  private async register(process: SimProcess, store: SegmentStore, metadata: KeyValueStore): Promise<void> {
    const directory = new PeerDirectory({ store: metadata, clock: process.clock, random: process.random });
    while (process.alive) {
      const { bootCount, progress, incarnation } = store;
      const { capacityBytes, usedBytes } = store.statistics();
      const description = {
        ...{ peerId: this.peerId, address: `sim://${this.name}`, incarnation, bootCount, progress },
        ...{ zone: this.zone, weight: 1, capacityBytes, usedBytes },
      };
      try {
        this.registration = await directory.register(description);
        this.noteReport({ incarnation, bootCount, progress });
        break;
      } catch (error) {
        if (!(error instanceof TorusError)) throw error;
        if (isMetaError(error, "peer-rolled-back")) await this.renew(process, store);
        else if (!isMetaError(error, "peer-registered")) {
          this.giveUp(process, error.message);
          return;
        }
        await new Promise<void>((resolve) => process.clock.schedule(BOOT_RETRY_MS, resolve));
      }
    }
    const { registration } = this;
    registration?.onLost((reason) => process.log(`registration lost: ${reason}`));
    process.clock.schedule(HEARTBEAT_MS, () => this.beat(process, store));
    const service = new PeerService({ store, clock: process.clock });
    this.machine.network.attach(this.peerId, { process, service });
    this.serving = true;
    process.log("serves");
    const context = { store: metadata, clock: process.clock, random: process.random };
    this.upkeep = new SimUpkeep(process, this.machine.network, service, context, this.scrubProgress);
    await this.upkeep.start();
  }

  private beat(process: SimProcess, store: SegmentStore): void {
    store.advance((status) => {
      if (status !== StorageStatus.ok) return;
      const { incarnation, bootCount, progress } = store;
      const { usedBytes } = store.statistics();
      this.registration
        ?.report({ usedBytes, progress })
        .then(() => this.noteReport({ incarnation, bootCount, progress }))
        .catch((error: unknown) => {
          if (!(error instanceof TorusError)) throw error;
        })
        .finally(() => process.clock.schedule(HEARTBEAT_MS, () => this.beat(process, store)));
    });
  }

  /** The metadata surely know this much of the disk. */
  private noteReport({ incarnation, bootCount, progress }: DiskMoment): void {
    this.reported.set(incarnation, { bootCount, progress });
  }

  /** Whether the metadata can tell that the disk has gone on since it was like this (R5). */
  hasGoneOnSince({ incarnation, bootCount, progress }: DiskMoment): boolean {
    const reported = this.reported.get(incarnation);
    return reported !== undefined && (reported.bootCount > bootCount || reported.progress > progress);
  }

  /** Without the metadata the daemon ends and is started again: every registration is a start of its own. */
  private giveUp(process: SimProcess, reason: string): void {
    if (!process.alive) return;
    process.log(`cannot register, and ends: ${reason}`);
    this.stop();
    this.disk.kill();
    this.machine.world.schedule(BOOT_RETRY_MS, undefined, () => this.boot());
  }

  private async renew(process: SimProcess, store: SegmentStore): Promise<void> {
    this.counts.renewed += 1;
    const incarnation = process.random.hex(8) as Incarnation;
    process.log(`was rolled back: takes incarnation ${incarnation}`);
    await new Promise((resolve) => store.renewIncarnation(incarnation, resolve));
  }
}
