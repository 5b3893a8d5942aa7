/**
 * The metadata service of a simulation: the memory store on the world's clock, and for each process a line to it
 * that is slow, loses requests and answers, stalls behind a partition and delivers watches late or with gaps. What
 * a caller may conclude is kept exact: a request that surely never arrived is "unreachable", anything else that
 * went wrong with a transaction is "unknown-outcome".
 *
 * It may restart: every connection and watch breaks, what is under way arrives no more or stays without an answer, and
 * until it is back nobody listens. No lease ends meanwhile, and each has its full time again from then on, as etcd and
 * the embedded store have it.
 */
import type { Clock } from "../../../src/base";
import {
  type CallOptions,
  type EmbeddedStore,
  type KeyValue,
  type KeyValueStore,
  type LeaseId,
  MetaError,
  openMemoryStore,
  type RangeResult,
  type Transaction,
  type TransactionResult,
  type Watch,
  type WatchEvent,
  type WatchListener,
  type WatchOptions,
} from "../../../src/meta";
import type { SimNetwork } from "./network";
import type { Prng } from "./prng";
import type { SimProcess, World } from "./world";

const DEADLINE_MS = 5_000;
const WATCH_RETRY_MS = 200;
/** The machine that the metadata service runs on. */
export const METADATA = "meta";

export interface MetadataWeather {
  latencyMs: number;
  lostRequestChance: number;
  lostReplyChance: number;
  /** The service does not answer anybody. */
  stopped: boolean;
}

export class SimMetadata {
  readonly weather: MetadataWeather = {
    latencyMs: 1,
    lostRequestChance: 0,
    lostReplyChance: 0,
    stopped: false,
  };
  readonly counts = {
    calls: 0,
    lostRequests: 0,
    lostReplies: 0,
    deadlines: 0,
    watchGaps: 0,
    cutByRestart: 0,
  };
  /** Of watches that are open: what to do when their connection breaks. */
  readonly watchers = new Set<() => void>();
  readonly inner: EmbeddedStore;
  readonly random: Prng;

  private readonly heldMachines = new Set<string>();
  private readonly held: { readonly machine: string; readonly arrive: () => void }[] = [];
  private readonly deafMachines = new Set<string>();
  private readonly leases = new Set<LeaseId>();
  /** Called when the next change arrives, just before or just after it is made. */
  onNextChange: (() => void) | undefined;
  private starts = 1;
  private downSinceMs: number | undefined;
  private downMs = 0;

  constructor(
    readonly world: World,
    readonly network: SimNetwork,
  ) {
    this.random = world.random.fork("metadata");
    const clock: Clock = {
      // For leases no time passes while it is down.
      nowMs: () => (this.downSinceMs ?? world.nowMs) - this.downMs + 5_000_000,
      wallMs: () => 1_704_067_200_000 + world.nowMs,
      schedule: (delayMs, callback) => world.schedule(delayMs, undefined, callback),
    };
    this.inner = openMemoryStore(clock, this.random.fork("store"));
  }

  /** Which process of it answers now: a connection belongs to one. */
  get life(): number {
    return this.starts;
  }

  get isDown(): boolean {
    return this.downSinceMs !== undefined;
  }

  /** It ends; false when it has ended already. */
  goDown(): boolean {
    if (this.isDown) return false;
    this.starts += 1;
    this.downSinceMs = this.world.nowMs;
    for (const breakConnection of this.watchers) breakConnection();
    return true;
  }

  /** It is there again; `forgetful`: watches cannot go on where they stood. */
  comeBack(forgetful: boolean): void {
    if (this.downSinceMs === undefined) return;
    this.downMs += this.world.nowMs - this.downSinceMs;
    this.downSinceMs = undefined;
    if (forgetful) this.inner.compact();
    // One that has ended meanwhile is forgotten here, too.
    for (const lease of this.leases) this.inner.keepLeaseAlive(lease).catch(() => this.leases.delete(lease));
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    const lease = await this.inner.grantLease(ttlMs);
    this.leases.add(lease);
    return lease;
  }

  healAll(): void {
    this.comeBack(false);
    this.onNextChange = undefined;
    this.deafMachines.clear();
    Object.assign(this.weather, { latencyMs: 1, lostRequestChance: 0, lostReplyChance: 0, stopped: false });
  }

  /** What this machine changes stays under way from now on: it arrives when it is let go, whoever still waits for it. */
  hold(machine: string): void {
    this.heldMachines.add(machine);
  }

  isHolding(machine: string): boolean {
    return this.held.some((one) => one.machine === machine);
  }

  letGo(machine: string): void {
    this.heldMachines.delete(machine);
    const all = this.held.splice(0);
    this.held.push(...all.filter((one) => one.machine !== machine));
    for (const one of all) if (one.machine === machine) one.arrive();
  }

  /** The watches of this machine tell nothing from now on, while its requests are answered. */
  deafen(machine: string): void {
    this.deafMachines.add(machine);
  }

  isDeaf(machine: string): boolean {
    return this.deafMachines.has(machine);
  }

  /** Whether it was held back. */
  holdBack(machine: string, arrive: () => void): boolean {
    if (!this.heldMachines.has(machine)) return false;
    this.held.push({ machine, arrive });
    return true;
  }

  /** The line of one process. */
  connect(process: SimProcess): KeyValueStore {
    return new SimMetadataClient(this, process);
  }
}

class SimMetadataClient implements KeyValueStore {
  readonly description = "simulated metadata";
  private readonly watches = new Set<SimWatch>();

  constructor(
    private readonly metadata: SimMetadata,
    private readonly process: SimProcess,
  ) {}

  get(key: string, options?: CallOptions): Promise<KeyValue | undefined> {
    return this.call("get", options, () => this.metadata.inner.get(key));
  }

  range(prefix: string, options?: CallOptions): Promise<RangeResult> {
    return this.call("range", options, () => this.metadata.inner.range(prefix));
  }

  transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult> {
    const run = () => this.metadata.inner.transact(transaction);
    return this.call("transact", options, run, transaction.operations.length > 0);
  }

  grantLease(ttlMs: number, options?: CallOptions): Promise<LeaseId> {
    return this.call("grant", options, () => this.metadata.grantLease(ttlMs));
  }

  keepLeaseAlive(lease: LeaseId, options?: CallOptions): Promise<void> {
    return this.call("keepalive", options, () => this.metadata.inner.keepLeaseAlive(lease));
  }

  leaseRemainingMs(lease: LeaseId, options?: CallOptions): Promise<number> {
    return this.call("lease", options, () => this.metadata.inner.leaseRemainingMs(lease));
  }

  revokeLease(lease: LeaseId, options?: CallOptions): Promise<void> {
    return this.call("revoke", options, () => this.metadata.inner.revokeLease(lease));
  }

  watch(prefix: string, listener: WatchListener, options: WatchOptions = {}): Watch {
    const watch = new SimWatch(this.metadata, this.process, prefix, listener, options.afterRevision);
    this.watches.add(watch);
    return {
      close: () => {
        watch.close();
        this.watches.delete(watch);
      },
    };
  }

  async close(): Promise<void> {
    for (const watch of this.watches) watch.close();
    this.watches.clear();
  }

  private call<T>(
    what: string,
    options: CallOptions | undefined,
    run: () => Promise<T>,
    changes = false,
  ): Promise<T> {
    const { metadata, process } = this;
    const { world, network, weather, random, counts } = metadata;
    counts.calls += 1;
    const { life } = metadata;
    return new Promise<T>((resolve, reject) => {
      let over = false;
      const end = (finish: () => void): void => {
        if (over) return;
        over = true;
        deadline.cancel();
        finish();
      };
      const fail = (sent: boolean, reason: string): void => {
        const unknown = what === "transact" ? "unknown-outcome" : "deadline";
        const code = sent ? unknown : "unreachable";
        end(() => reject(new MetaError(code, `Cannot ${what}: ${reason}`, { retryable: true })));
      };
      const deadline = world.schedule(options?.deadlineMs ?? DEADLINE_MS, process, () => {
        counts.deadlines += 1;
        fail(true, "no answer in time");
      });
      options?.signal?.addEventListener("abort", () => end(() => reject(options.signal?.reason)));
      if (!process.alive) return;
      const travelMs = (): number => 0.05 + random.delayMs(weather.latencyMs);
      world.schedule(travelMs(), undefined, () => {
        if (!process.alive || over) return;
        if (random.chance(weather.lostRequestChance)) {
          counts.lostRequests += 1;
          world.schedule(travelMs(), process, () => fail(random.chance(0.5), "connection lost"));
          return;
        }
        // A stopped or cut-off service keeps the caller waiting until the deadline.
        if (weather.stopped || network.isBlocked(process.name, METADATA)) return;
        // Nobody listens; or the connection that it came by is one of a process that has ended.
        const isCut = (): boolean => {
          const sent = metadata.life !== life;
          if (!sent && !metadata.isDown) return false;
          if (sent) counts.cutByRestart += 1;
          world.schedule(travelMs(), process, () => fail(sent, sent ? "connection reset" : "refused"));
          return true;
        };
        if (isCut()) return;
        const answer = (finish: () => void): void => {
          world.schedule(travelMs(), process, () => {
            if (network.isBlocked(METADATA, process.name)) return;
            if (metadata.life !== life) {
              counts.cutByRestart += 1;
              fail(true, "connection reset");
            } else if (random.chance(weather.lostReplyChance)) {
              counts.lostReplies += 1;
              fail(true, "connection lost");
            } else end(finish);
          });
        };
        const arrive = (): void => {
          run().then(
            (value) => answer(() => resolve(value)),
            (error: unknown) => answer(() => reject(error)),
          );
        };
        const strike = changes ? metadata.onNextChange : undefined;
        if (strike !== undefined) {
          metadata.onNextChange = undefined;
          const applied = random.chance(0.5);
          if (applied) arrive();
          strike();
          if (applied || isCut()) return;
        }
        if (!changes || !metadata.holdBack(process.name, arrive)) arrive();
      });
    });
  }
}

/** A watch that is re-established after every cut: where it stood if history reaches back, else by a snapshot. */
class SimWatch {
  private inner: Watch | undefined;
  private position: number | undefined;
  private closed = false;
  private broken = false;
  private lastArrivalMs = 0;
  private generation = 0;

  constructor(
    private readonly metadata: SimMetadata,
    private readonly process: SimProcess,
    private readonly prefix: string,
    private readonly listener: WatchListener,
    afterRevision: number | undefined,
  ) {
    this.position = afterRevision;
    metadata.watchers.add(this.reset);
    this.start();
  }

  close(): void {
    this.closed = true;
    this.metadata.watchers.delete(this.reset);
    this.inner?.close();
  }

  /** The service is gone: nothing comes any more, and the process learns of it a little later. */
  private readonly reset = (): void => {
    const { metadata, process, generation } = this;
    if (!process.alive) {
      this.close();
      return;
    }
    if (this.broken || this.inner === undefined) return;
    this.inner.close();
    metadata.world.schedule(0.05 + metadata.random.delayMs(1), process, () => {
      if (!this.closed && !this.broken && generation === this.generation) this.break();
    });
  };

  private start(): void {
    const { metadata, process } = this;
    const { network, weather } = metadata;
    if (this.closed || !process.alive) return;
    if (
      weather.stopped ||
      metadata.isDown ||
      metadata.isDeaf(process.name) ||
      network.isBlocked(process.name, METADATA) ||
      network.isBlocked(METADATA, process.name)
    ) {
      metadata.world.schedule(WATCH_RETRY_MS, process, () => this.start());
      return;
    }
    this.generation += 1;
    const { generation } = this;
    this.broken = false;
    const gap = this.position !== undefined && metadata.random.chance(0.5);
    if (gap) metadata.counts.watchGaps += 1;
    this.inner = metadata.inner.watch(
      this.prefix,
      {
        onSnapshot: (entries, revision) =>
          this.deliver(generation, revision, () => this.listener.onSnapshot(entries, revision)),
        onEvents: (events: readonly WatchEvent[], revision) =>
          this.deliver(generation, revision, () => this.listener.onEvents(events, revision)),
        onConnection: () => this.deliver(generation, undefined, () => this.listener.onConnection?.(true)),
      },
      this.position === undefined || gap ? {} : { afterRevision: this.position },
    );
  }

  private deliver(generation: number, revision: number | undefined, run: () => void): void {
    const { world, network, random, weather } = this.metadata;
    const arrivalMs = Math.max(this.lastArrivalMs, world.nowMs + 0.05 + random.delayMs(weather.latencyMs));
    this.lastArrivalMs = arrivalMs;
    world.schedule(arrivalMs - world.nowMs, this.process, () => {
      if (this.closed || generation !== this.generation || this.broken) return;
      if (
        weather.stopped ||
        this.metadata.isDeaf(this.process.name) ||
        network.isBlocked(METADATA, this.process.name)
      ) {
        this.break();
        return;
      }
      run();
      if (revision !== undefined) this.position = revision;
    });
  }

  private break(): void {
    this.broken = true;
    this.inner?.close();
    this.listener.onConnection?.(false);
    this.metadata.world.schedule(WATCH_RETRY_MS, this.process, () => this.start());
  }
}
