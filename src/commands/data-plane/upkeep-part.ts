/**
 * The background work of a peer inside the data worker: collection of dead blocks, moving blocks to where the ring
 * wants them, and scrubbing. All three run on the store's thread, where reading a block crosses no thread. They
 * reach peers as volumes do, but by a service of their own for this peer, so that what they ask is not counted as
 * clients' requests and does not slow them down.
 */
import { type Clock, formatBlockRef, type Timer } from "../../base";
import { type EventLoop, nativeBuffer } from "../../base/io";
import { isLowOnSpace, type VolumeRegistry } from "../../engine";
import { GarbageCollector } from "../../engine/gc";
import { PeerService } from "../../engine/peer";
import { Rebalancer } from "../../engine/rebalance";
import { Scrubber } from "../../engine/scrub";
import type { UpkeepOrders } from "../../meta";
import { LocalTransport } from "../../net/adp";
import type { ClientPart } from "./client-part";
import type { StoragePart } from "./storage-part";
import type { DataWorkerEvents, UpkeepConfig, UpkeepStatus } from "./worker-api";

/** Deleted volumes' space is back within a minute, so collections are closer together. */
const COLLECT_MS = 10_000;
/** With less than this part of the store free, every so much more that is used asks for a collection. */
const SHORT_PART = 1 / 4;
const GROWN_PART = 1 / 64;
const SHORT_LOOK_MS = 500;
/** Between two looks at the counters of clients' requests. */
const ACTIVITY_MS = 250;
/** Fewer requests than these leave the peer idle: a health check, a file system's own ticking. */
const BUSY_REQUESTS_PER_SECOND = 20;

export interface UpkeepPartOptions {
  readonly loop: EventLoop;
  readonly storage: StoragePart;
  readonly client: ClientPart;
  readonly registry: VolumeRegistry;
  readonly config: UpkeepConfig;
  readonly loadScrubProgress: () => Promise<string | undefined>;
  readonly saveScrubProgress: (text: string) => Promise<void>;
  readonly log: (event: DataWorkerEvents["log"]) => void;
}

export class UpkeepPart {
  readonly #options: UpkeepPartOptions;
  readonly #collector: GarbageCollector;
  readonly #rebalancer: Rebalancer;
  readonly #scrubber: Scrubber;
  readonly #service: PeerService;
  readonly #unsubscribe: () => void;
  readonly #keptReasons = new Map<string, string>();
  #orders: UpkeepOrders | undefined;
  #spaceTimer: Timer;
  /** When a collection was last asked for, or what is left since. */
  #usedBytesSeen = 0;

  constructor(options: UpkeepPartOptions) {
    this.#options = options;
    const { loop, storage, client, registry, config, log } = options;
    const service = new PeerService({ store: storage.store, clock: loop });
    this.#service = service;
    const ports = {
      clock: loop,
      local: service,
      transport: new LocalTransport(service, loop, client.remote),
      registry,
      allocate: nativeBuffer,
    };
    const activity = new ClientActivity(loop, () => storage.service.clientRequestCount);
    const isClientBusy = () => activity.isBusy();
    this.#collector = new GarbageCollector(ports, {
      intervalMs: COLLECT_MS,
      onKept: (lineageId, reason) => this.#warnOfKept(lineageId, reason),
    });
    this.#rebalancer = new Rebalancer(ports, {
      bytesPerSecond: config.rebalanceBytesPerSecond,
      isClientBusy,
      collectFirst: (signal) => this.#collector.collect(signal),
      isDead: (ref) => this.#collector.isCondemned(ref),
      onConflict: (message) => log({ level: "error", message }),
    });
    this.#scrubber = new Scrubber(ports, {
      bytesPerSecond: config.scrubBytesPerSecond,
      intervalMs: config.scrubIntervalMs,
      progress: { load: options.loadScrubProgress, save: options.saveScrubProgress },
      isClientBusy,
      onBadRecords: (problem) =>
        log({
          level: "warn",
          message: `Scrub found rot in the store's own records, written anew: ${problem}`,
        }),
      onBadCopy: (ref, repaired) =>
        log({
          level: repaired ? "warn" : "error",
          message: repaired
            ? `Scrub rewrote a damaged copy of block ${formatBlockRef(ref)} from another peer`
            : `Scrub found a damaged copy of block ${formatBlockRef(ref)} and no good one on any peer`,
        }),
    });
    // At once, not when a pass begins: others may drop a copy only when this peer is known to place by the same ring.
    this.#unsubscribe = registry.onClusterChange((view) => this.#adoptRing(view.ring.version));
    this.#adoptRing(registry.cluster().ring.version);
    this.#collector.start();
    this.#spaceTimer = this.#watchSpace();
    this.#rebalancer.start();
    this.#scrubber.start();
  }

  /** Does as an administrator said; what was asked for before this start of the process is not done again. */
  order(orders: UpkeepOrders): void {
    const before = this.#orders;
    this.#orders = orders;
    const { config } = this.#options;
    const { rebalance, scrub, gc } = orders;
    this.#rebalancer.setRate(rebalance.bytesPerSecond ?? config.rebalanceBytesPerSecond);
    this.#scrubber.setRate(scrub.bytesPerSecond ?? config.scrubBytesPerSecond);
    if (rebalance.paused !== (before?.rebalance.paused ?? false))
      this.#setPaused(this.#rebalancer, rebalance.paused);
    if (scrub.paused !== (before?.scrub.paused ?? false)) this.#setPaused(this.#scrubber, scrub.paused);
    if (before === undefined) return;
    if (scrub.requests > before.scrub.requests) this.#scrubber.request();
    if (gc.requests > before.gc.requests) this.#collector.request();
    if (rebalance.requests > before.rebalance.requests) this.#rebalancer.recheck();
  }

  status(): UpkeepStatus {
    return {
      rebalance: this.#rebalancer.status(),
      scrub: this.#scrubber.status(),
      gc: this.#collector.status(),
    };
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    this.#spaceTimer.cancel();
    await Promise.all([this.#rebalancer.stop(), this.#scrubber.stop()]);
    await this.#collector.stop();
  }

  /** A fast writer overwrites a small pool's worth between two collections: it would find no room among the dead. */
  #watchSpace(): Timer {
    const { loop, storage } = this.#options;
    return loop.schedule(SHORT_LOOK_MS, () => {
      const { capacityBytes, usedBytes } = storage.store.statistics();
      this.#usedBytesSeen = Math.min(this.#usedBytesSeen, usedBytes);
      const hasGrown = usedBytes - this.#usedBytesSeen >= capacityBytes * GROWN_PART;
      const isShort = capacityBytes - usedBytes < capacityBytes * SHORT_PART;
      // Writers are held up meanwhile.
      const isLow = isLowOnSpace({ capacityBytes, usedBytes });
      if (isLow || (hasGrown && isShort)) {
        this.#usedBytesSeen = usedBytes;
        this.#collector.hurry();
      }
      this.#spaceTimer = this.#watchSpace();
    });
  }

  #setPaused(job: Rebalancer | Scrubber, paused: boolean): void {
    if (paused) job.pause();
    else job.resume();
  }

  #adoptRing(version: number): void {
    this.#service.adoptRingVersion(version).catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      this.#options.log({ level: "warn", message: `Cannot record ring version ${version}: ${reason}` });
    });
  }

  /** A collection comes round every few seconds: said once for each reason. */
  #warnOfKept(lineageId: number | undefined, reason: string): void {
    const name = String(lineageId ?? "all");
    if (this.#keptReasons.get(name) === reason) return;
    this.#keptReasons.set(name, reason);
    const whose = lineageId === undefined ? "any volume" : `the volumes of lineage ${lineageId}`;
    this.#options.log({ level: "warn", message: `Collecting no blocks of ${whose}: ${reason}` });
  }
}

/** Whether clients ask this peer for something, by a counter of their requests. */
export class ClientActivity {
  #atMs: number;
  #count: number;
  #isBusy = false;

  constructor(
    private readonly clock: Clock,
    private readonly requestCount: () => number,
  ) {
    this.#atMs = clock.nowMs();
    this.#count = requestCount();
  }

  isBusy(): boolean {
    const elapsedMs = this.clock.nowMs() - this.#atMs;
    if (elapsedMs < ACTIVITY_MS) return this.#isBusy;
    const count = this.requestCount();
    this.#isBusy = ((count - this.#count) * 1000) / elapsedMs >= BUSY_REQUESTS_PER_SECOND;
    this.#atMs += elapsedMs;
    this.#count = count;
    return this.#isBusy;
  }
}
