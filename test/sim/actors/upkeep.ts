/**
 * The background work of a simulated peer, as the daemon runs it: collection, rebalance and scrub, all production
 * code, acting as clients of the local peer and of the others.
 */
import { heapBuffer, sleep, TorusError } from "../../../src/base";
import { GarbageCollector } from "../../../src/engine/gc";
import type { PeerService } from "../../../src/engine/peer";
import { Rebalancer } from "../../../src/engine/rebalance";
import { Scrubber } from "../../../src/engine/scrub";
import { type MetaContext, MetaRegistry } from "../../../src/meta";
import type { SimNetwork } from "../world/network";
import type { SimProcess } from "../world/world";

const COLLECT_INTERVAL_MS = 2_000;
const INODE_GRACE_MS = 3_000;
const SWEEP_MS = 5_000;
const BYTES_PER_SECOND = 64 * 1024 * 1024;

export class SimUpkeep {
  collector: GarbageCollector | undefined;
  rebalancer: Rebalancer | undefined;
  scrubber: Scrubber | undefined;

  /** `progress` is what the scrub remembers over restarts. */
  constructor(
    private readonly process: SimProcess,
    private readonly network: SimNetwork,
    private readonly service: PeerService,
    private readonly context: MetaContext,
    private readonly progress: { text: string | undefined },
  ) {}

  async start(): Promise<void> {
    const { process, network, service, context } = this;
    const registry = await this.startRegistry();
    const ports = {
      clock: process.clock,
      local: service,
      transport: network.transport(process),
      registry,
      allocate: heapBuffer,
    };
    const collector = new GarbageCollector(ports, {
      intervalMs: COLLECT_INTERVAL_MS,
      inodeGraceMs: INODE_GRACE_MS,
      onKept: (lineage, reason) => process.log(`keeps lineage ${lineage}: ${reason}`),
    });
    this.collector = collector;
    this.rebalancer = new Rebalancer(ports, {
      bytesPerSecond: BYTES_PER_SECOND,
      sweepMs: SWEEP_MS,
      collectFirst: (signal) => collector.collect(signal),
      isDead: (ref) => collector.isCondemned(ref),
      onConflict: (text) => process.world.fail(new Error(`${process.name}: ${text}`)),
    });
    this.scrubber = new Scrubber(ports, {
      bytesPerSecond: BYTES_PER_SECOND,
      intervalMs: 15_000 + (context.random.nextU32() % 15_000),
      progress: {
        load: async () => this.progress.text,
        save: async (text) => {
          this.progress.text = text;
        },
      },
      onBadCopy: (ref, repaired) =>
        process.log(`bad copy of ${JSON.stringify(ref)}: ${repaired ? "repaired" : "left"}`),
    });
    collector.start();
    this.rebalancer.start();
    this.scrubber.start();
  }

  private async startRegistry(): Promise<MetaRegistry> {
    for (;;)
      try {
        return await MetaRegistry.start(this.context);
      } catch (error) {
        if (!(error instanceof TorusError)) throw error;
        await sleep(this.process.clock, 500);
      }
  }
}
