/**
 * A small cluster in one process, on virtual time: peers in memory behind a transport with latency, faults and a
 * seed; the real metadata records over the memory store; and volumes opened on it. Time moves only when nothing
 * else can happen, so a test is as fast as its work and the same seed gives the same run.
 */
import {
  type Clock,
  heapBuffer,
  type Incarnation,
  type PeerId,
  parseIncarnation,
  parsePeerId,
  type Random,
  type Timer,
  type TurnScheduler,
} from "../../../../src/base";
import { ReadCache } from "../../../../src/engine/cache";
import {
  type FenceReply,
  type FenceRequest,
  type OutgoingPut,
  type OutgoingRead,
  type PeerStatistics,
  type PeerTransport,
  StorageStatus,
} from "../../../../src/engine/ports";
import { finishingReserveBytes } from "../../../../src/engine/space";
import {
  BlockPool,
  BufferPool,
  openVolume,
  type Volume,
  type VolumeEvent,
  type VolumeOptions,
  type VolumePorts,
} from "../../../../src/engine/volume";
import {
  ClusterSettings,
  type EmbeddedStore,
  type KeyValueStore,
  MetaError,
  MetaRegistry,
  openMemoryStore,
  PeerDirectory,
  type PeerRegistration,
  RingAdmin,
  VolumeAdmin,
} from "../../../../src/meta";
import { createRing, nextRing, type RingChange } from "../../../../src/ring";
import { MemoryService } from "../../../support/memory-service";

export class VirtualClock implements Clock, TurnScheduler {
  #nowMs = 1_000;
  #order = 0;
  #timers: { dueMs: number; order: number; callback: () => void }[] = [];
  #turns: (() => void)[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs;
  }

  schedule(delayMs: number, callback: () => void): Timer {
    const timer = { dueMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, callback };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((one) => one !== timer);
      },
    };
  }

  afterTurn(callback: () => void): void {
    this.#turns.push(callback);
  }

  /** Runs what is due at the end of a turn, or else the next timer. False: there is nothing to do, ever. */
  step(): boolean {
    if (this.#turns.length > 0) {
      for (const callback of this.#turns.splice(0)) callback();
      return true;
    }
    let next = this.#timers[0];
    if (!next) return false;
    for (const timer of this.#timers)
      if (timer.dueMs < next.dueMs || (timer.dueMs === next.dueMs && timer.order < next.order)) next = timer;
    this.#timers = this.#timers.filter((one) => one !== next);
    this.#nowMs = Math.max(this.#nowMs, next.dueMs);
    next.callback();
    return true;
  }
}

export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  nextU32(): number {
    let x = this.#state;
    x ^= x << 13;
    x >>>= 0;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }

  below(limit: number): number {
    return this.nextU32() % limit;
  }

  hex(lengthBytes: number): string {
    let text = "";
    while (text.length < lengthBytes * 2) text += this.nextU32().toString(16).padStart(8, "0");
    return text.slice(0, lengthBytes * 2);
  }

  uuid(): string {
    const digits = this.hex(16);
    return `${digits.slice(0, 8)}-${digits.slice(8, 12)}-4${digits.slice(13, 16)}-8${digits.slice(17, 20)}-${digits.slice(20)}`;
  }
}

const UNREACHABLE_MS = 1;
const SILENT_DEADLINE_MS = 5_000;

export class TestPeer {
  service: MemoryService;
  registration: PeerRegistration | undefined;
  bootCount = 1;
  /** Refuses connections, as a killed process does. */
  down = false;
  /** Swallows requests, as a cut network does. */
  silent = false;
  full = false;
  /** What it says it takes until it is nearly full; absent: more than anybody writes. */
  roomBytes: number | undefined;
  constructor(
    readonly peerId: PeerId,
    service: MemoryService,
  ) {
    this.service = service;
  }

  get incarnation(): Incarnation {
    return this.service.identity.incarnation;
  }

  /** Flips a byte of the payload of every stored data block that matches. */
  rot(which: (name: string) => boolean): number {
    let count = 0;
    for (const [name, stored] of this.service.blocks)
      if (which(name)) {
        const at = stored.lengthBytes - 1;
        stored.buffer.bytes[at] = (stored.buffer.bytes[at] as number) ^ 0xff;
        count++;
      }
    return count;
  }
}

class TestTransport implements PeerTransport {
  /** What this client cannot reach, whatever the peers do. */
  cut = new Set<PeerId>();
  closed = false;
  bytesPut = 0;
  readCount = 0;
  /** Reads are never given up: their answers come whatever happens. */
  withdrawsNothing = false;
  readonly #withdraw = new Map<OutgoingRead, () => void>();
  /** The peers that were asked to look at copies, in order. */
  readonly confirmedBy: PeerId[] = [];

  constructor(private readonly cluster: TestCluster) {}

  put(peerId: PeerId, request: OutgoingPut): void {
    this.bytesPut += request.lengthBytes;
    this.#call(
      peerId,
      (peer, answer) => {
        if (peer.full) return answer(() => request.done(peerId, peer.incarnation, StorageStatus.outOfSpace));
        peer.service.put({
          buffer: request.buffer,
          offset: request.offset,
          lengthBytes: request.lengthBytes,
          writerEpoch: request.writerEpoch,
          done: (status) => answer(() => request.done(peerId, peer.incarnation, status)),
        });
      },
      () => request.done(peerId, "", StorageStatus.unreachable),
    );
  }

  withdrawRead(_peerId: PeerId, request: OutgoingRead): boolean {
    const withdraw = this.withdrawsNothing ? undefined : this.#withdraw.get(request);
    this.#withdraw.delete(request);
    withdraw?.();
    return withdraw !== undefined;
  }

  read(peerId: PeerId, request: OutgoingRead): void {
    this.readCount++;
    const end = (status: StorageStatus, lengthBytes: number, check: number): void => {
      this.#withdraw.delete(request);
      request.done(peerId, status, lengthBytes, check);
    };
    const withdraw = this.#call(
      peerId,
      (peer, answer) =>
        peer.service.read({
          ref: request.ref,
          firstSlot: request.firstSlot,
          slotCount: request.slotCount,
          done: (status, source, offset, lengthBytes, check, release) => {
            const bytes = source?.bytes.slice(offset, offset + lengthBytes);
            release?.();
            answer(() => {
              if (bytes) request.destination.bytes.set(bytes, request.destinationOffset);
              end(status, lengthBytes, check);
            });
          },
        }),
      () => end(StorageStatus.unreachable, 0, 0),
    );
    this.#withdraw.set(request, withdraw);
  }

  fence(peerId: PeerId, request: FenceRequest): Promise<FenceReply> {
    return this.#ask(peerId, (peer) => peer.service.fence(request));
  }

  list(peerId: PeerId, request: Parameters<PeerTransport["list"]>[1]): ReturnType<PeerTransport["list"]> {
    return this.#ask(peerId, (peer) => peer.service.list(request));
  }

  confirm(
    peerId: PeerId,
    request: Parameters<PeerTransport["confirm"]>[1],
  ): ReturnType<PeerTransport["confirm"]> {
    this.confirmedBy.push(peerId);
    return this.#ask(peerId, (peer) => peer.service.confirm(request));
  }

  statistics(peerId: PeerId): Promise<PeerStatistics> {
    return this.#ask(peerId, async (peer) => {
      const figures = await peer.service.statistics();
      if (peer.roomBytes === undefined) return figures;
      const leftBytes = finishingReserveBytes(figures.capacityBytes) + peer.roomBytes;
      return { ...figures, usedBytes: figures.capacityBytes - leftBytes };
    });
  }

  isLikelyUp(peerId: PeerId): boolean {
    return !this.cluster.peer(peerId).down;
  }

  #ask<T>(peerId: PeerId, ask: (peer: TestPeer) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#call(
        peerId,
        (peer, answer) => {
          ask(peer).then(
            (reply) => answer(() => resolve(reply)),
            (error: unknown) => answer(() => reject(error as Error)),
          );
        },
        () => reject(new Error(`peer ${peerId} is unreachable`)),
      );
    });
  }

  /** A request arrives after some latency and its answer after some more; each ends once, or when it is given up. */
  #call(
    peerId: PeerId,
    serve: (peer: TestPeer, answer: (run: () => void) => void) => void,
    lost: () => void,
  ): () => void {
    const { clock, random } = this.cluster;
    const latencyMs = (): number => (random.below(100) / 100) * this.cluster.latencyMsMax;
    let ended = false;
    const end = (run: () => void): void => {
      if (ended) return;
      ended = true;
      deadline.cancel();
      if (!this.closed) run();
    };
    const deadline = clock.schedule(SILENT_DEADLINE_MS, () => end(lost));
    clock.schedule(latencyMs(), () => {
      const peer = this.cluster.peer(peerId);
      if (this.closed || peer.silent || this.cut.has(peerId)) return;
      if (peer.down) {
        clock.schedule(UNREACHABLE_MS, () => end(lost));
        return;
      }
      serve(peer, (run) => {
        clock.schedule(latencyMs(), () => {
          if (!peer.silent && !this.cut.has(peerId)) end(peer.down ? lost : run);
        });
      });
    });
    return () => end(() => undefined);
  }
}

/** The clock and turns of one process: when it is killed, nothing of it runs any more. */
class ProcessClock implements Clock, TurnScheduler {
  dead = false;

  constructor(private readonly clock: VirtualClock) {}

  nowMs(): number {
    return this.clock.nowMs();
  }

  wallMs(): number {
    return this.clock.wallMs();
  }

  schedule(delayMs: number, callback: () => void): Timer {
    return this.clock.schedule(delayMs, () => {
      if (!this.dead) callback();
    });
  }

  afterTurn(callback: () => void): void {
    this.clock.afterTurn(() => {
      if (!this.dead) callback();
    });
  }
}

/** The metadata as one process sees it: a killed one hears no answers; a cut one gets errors. */
class ProcessStore implements KeyValueStore {
  dead = false;
  cut = false;
  /** The next transaction is applied, but its answer is lost. */
  loseNextAnswer = false;

  constructor(private readonly store: KeyValueStore) {}

  get description(): string {
    return this.store.description;
  }

  get(...args: Parameters<KeyValueStore["get"]>): ReturnType<KeyValueStore["get"]> {
    return this.#pass(() => this.store.get(...args));
  }

  range(...args: Parameters<KeyValueStore["range"]>): ReturnType<KeyValueStore["range"]> {
    return this.#pass(() => this.store.range(...args));
  }

  async transact(...args: Parameters<KeyValueStore["transact"]>): ReturnType<KeyValueStore["transact"]> {
    const result = await this.#pass(() => this.store.transact(...args));
    if (!this.loseNextAnswer || args[0].operations.length === 0) return result;
    this.loseNextAnswer = false;
    throw new MetaError("unknown-outcome", "Cannot tell whether the transaction was applied", {
      retryable: true,
    });
  }

  watch(...args: Parameters<KeyValueStore["watch"]>): ReturnType<KeyValueStore["watch"]> {
    const [prefix, listener, options] = args;
    return this.store.watch(
      prefix,
      {
        onEvents: (events, revision) => {
          if (!this.dead) listener.onEvents(events, revision);
        },
        onSnapshot: (entries, revision) => {
          if (!this.dead) listener.onSnapshot(entries, revision);
        },
      },
      options,
    );
  }

  grantLease(...args: Parameters<KeyValueStore["grantLease"]>): ReturnType<KeyValueStore["grantLease"]> {
    return this.#pass(() => this.store.grantLease(...args));
  }

  keepLeaseAlive(
    ...args: Parameters<KeyValueStore["keepLeaseAlive"]>
  ): ReturnType<KeyValueStore["keepLeaseAlive"]> {
    return this.#pass(() => this.store.keepLeaseAlive(...args));
  }

  leaseRemainingMs(
    ...args: Parameters<KeyValueStore["leaseRemainingMs"]>
  ): ReturnType<KeyValueStore["leaseRemainingMs"]> {
    return this.#pass(() => this.store.leaseRemainingMs(...args));
  }

  revokeLease(...args: Parameters<KeyValueStore["revokeLease"]>): ReturnType<KeyValueStore["revokeLease"]> {
    return this.#pass(() => this.store.revokeLease(...args));
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #pass<T>(call: () => Promise<T>): Promise<T> {
    if (this.dead) return new Promise<T>(() => {});
    if (this.cut)
      throw new MetaError("unreachable", "Cannot reach the metadata: it is cut off", { retryable: true });
    const result = await call();
    return this.dead ? new Promise<T>(() => {}) : result;
  }
}

/** One client process: its volumes die with it. */
export class TestClient {
  readonly transport: TestTransport;
  readonly ports: VolumePorts;
  readonly events: VolumeEvent[] = [];
  readonly cache: ReadCache;
  readonly opened: Volume[] = [];

  constructor(
    readonly cluster: TestCluster,
    readonly registry: MetaRegistry,
    readonly clock: ProcessClock,
    readonly store: ProcessStore,
    options: { readonly cacheBytes?: number; readonly writeBufferBytes?: number } = {},
  ) {
    this.transport = new TestTransport(cluster);
    this.cache = new ReadCache(heapBuffer, options.cacheBytes ?? 0);
    const blockSizeBytes = cluster.blockSizeBytes;
    this.ports = {
      clock: this.clock,
      turns: this.clock,
      transport: this.transport,
      registry,
      allocate: heapBuffer,
      blockPool: new BlockPool(
        heapBuffer,
        blockSizeBytes,
        options.writeBufferBytes ?? 8 * (blockSizeBytes + 32768),
      ),
      bufferPool: new BufferPool(heapBuffer, blockSizeBytes, 8),
      makeCache: () => this.cache.openSpace(),
      onEvent: (event) => this.events.push(event),
    };
  }

  async open(
    name: string,
    options: Partial<VolumeOptions> & { readonly restoreSnapshot?: string } = {},
  ): Promise<Volume> {
    const { restoreSnapshot, ...rest } = options;
    const session = await this.registry.openVolume(name, "test", {
      waitForLockMs: 120_000,
      ...(restoreSnapshot !== undefined && { restoreSnapshot }),
    });
    const volume = await openVolume(this.ports, session, rest);
    this.opened.push(volume);
    return volume;
  }

  /** The process is gone: nothing it sends or is sent arrives any more. */
  crash(): void {
    this.clock.dead = true;
    this.store.dead = true;
    this.transport.closed = true;
    this.transport.cut = new Set(this.cluster.peers.map((peer) => peer.peerId));
  }
}

export class TestCluster {
  readonly clock = new VirtualClock();
  readonly random: SeededRandom;
  readonly peers: TestPeer[] = [];
  latencyMsMax = 2;
  blockSizeBytes = 64 * 1024;
  store!: EmbeddedStore;
  volumes!: VolumeAdmin;

  private constructor(seed: number) {
    this.random = new SeededRandom(seed);
  }

  static async start(
    options: { readonly peerCount?: number; readonly replication?: number; readonly seed?: number } = {},
  ): Promise<TestCluster> {
    const cluster = new TestCluster(options.seed ?? 1);
    await cluster.run(cluster.#init(options.peerCount ?? 3, options.replication ?? 2));
    return cluster;
  }

  get context(): { store: EmbeddedStore; clock: Clock; random: Random } {
    return { store: this.store, clock: this.clock, random: this.random };
  }

  async #init(peerCount: number, replication: number): Promise<void> {
    this.store = openMemoryStore(this.clock, this.random);
    const ids = Array.from({ length: peerCount }, () => parsePeerId(this.random.uuid()));
    const { version: _version, ...ring } = createRing({
      type: "rendezvous",
      replication,
      members: ids.map((peerId) => ({ peerId, weight: 1, zone: "" })),
    });
    const settings = await new ClusterSettings(this.context).init({
      blockSizeBytes: this.blockSizeBytes,
      blockSpec: "crc,base",
      ring,
    });
    this.volumes = new VolumeAdmin(this.context);
    for (const peerId of ids) {
      const incarnation = parseIncarnation(this.random.hex(8));
      const peer = new TestPeer(
        peerId,
        new MemoryService({ clusterId: settings.clusterId, peerId, incarnation }),
      );
      this.peers.push(peer);
      await this.#register(peer);
    }
  }

  async #register(peer: TestPeer): Promise<void> {
    peer.registration = await new PeerDirectory(this.context).register({
      peerId: peer.peerId,
      address: "adp://127.0.0.1:1",
      incarnation: peer.incarnation,
      bootCount: peer.bootCount++,
      progress: 0,
      capacityBytes: 2 ** 40,
      usedBytes: 0,
    });
  }

  peer(peerId: PeerId): TestPeer {
    const found = this.peers.find((one) => one.peerId === peerId);
    if (!found) throw new Error(`no peer ${peerId}`);
    return found;
  }

  /** Moves virtual time until the promise settles. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const watched = promise.finally(() => {
      settled = true;
    });
    watched.catch(() => undefined);
    for (;;) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (settled) return watched;
      if (!this.clock.step()) throw new Error("nothing is left to do, and the promise has not settled");
    }
  }

  async pass(ms: number): Promise<void> {
    await this.run(new Promise<void>((resolve) => this.clock.schedule(ms, resolve)));
  }

  /** Moves virtual time until the condition holds; fails after a minute of it. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const endMs = this.clock.nowMs() + 60_000;
    while (!condition()) {
      if (this.clock.nowMs() > endMs) throw new Error(`${what}: not within a minute`);
      await this.pass(20);
    }
  }

  async client(options: ConstructorParameters<typeof TestClient>[4] = {}): Promise<TestClient> {
    const clock = new ProcessClock(this.clock);
    const store = new ProcessStore(this.store);
    const registry = await this.run(MetaRegistry.start({ store, clock, random: this.random }));
    return new TestClient(this, registry, clock, store, options);
  }

  /** As kill -9: what is stored stays, the registration ends with its lease. */
  kill(peer: TestPeer): void {
    peer.down = true;
  }

  async restart(peer: TestPeer): Promise<void> {
    peer.down = false;
    const { registration } = peer;
    if (registration) await this.run(registration.close().catch(() => undefined));
    await this.run(this.#register(peer));
  }

  /** What the peers' rebalance and repair do in the end: here every peer gets every block. */
  rebalance(): void {
    for (const peer of this.peers)
      for (const other of this.peers)
        if (!peer.down && !other.down)
          for (const [name, stored] of other.service.blocks)
            if (!peer.service.blocks.has(name)) peer.service.blocks.set(name, stored);
  }

  /** Comes back with an empty disk: another incarnation. */
  async replaceDisk(peer: TestPeer): Promise<void> {
    const incarnation = parseIncarnation(this.random.hex(8));
    peer.service = new MemoryService({ ...peer.service.identity, incarnation });
    await this.restart(peer);
  }

  async changeRing(change: RingChange): Promise<void> {
    const rings = new RingAdmin(this.context);
    await this.run(rings.current().then((current) => rings.change(nextRing(current, change))));
  }

  /** Adds a peer outside the ring. */
  async addPeer(): Promise<TestPeer> {
    const peerId = parsePeerId(this.random.uuid());
    const incarnation = parseIncarnation(this.random.hex(8));
    const { clusterId } = (this.peers[0] as TestPeer).service.identity;
    const peer = new TestPeer(peerId, new MemoryService({ clusterId, peerId, incarnation }));
    this.peers.push(peer);
    await this.run(this.#register(peer));
    return peer;
  }
}

/** Promise forms of a volume's calls. */
export function write(
  volume: Volume,
  offsetBytes: number,
  bytes: Uint8Array,
  forceUnitAccess = false,
): Promise<number> {
  const source = heapBuffer(bytes.length);
  source.bytes.set(bytes);
  return new Promise((resolve) => {
    volume.write(offsetBytes, bytes.length, source, 0, forceUnitAccess, (status) => {
      source.bytes.fill(0xee);
      resolve(status);
    });
  });
}

export async function read(volume: Volume, offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
  const destination = heapBuffer(lengthBytes + 8);
  destination.bytes.fill(0xdd);
  const status = await new Promise<number>((resolve) => {
    volume.read(offsetBytes, lengthBytes, destination, 4, resolve);
  });
  if (status !== 0) throw new Error(`read of ${lengthBytes} bytes at ${offsetBytes} ended with ${status}`);
  for (const at of [0, 3, 4 + lengthBytes, 7 + lengthBytes])
    if (destination.bytes[at] !== 0xdd) throw new Error("a read wrote outside its destination");
  return destination.bytes.slice(4, 4 + lengthBytes);
}

export function flush(volume: Volume): Promise<number> {
  return new Promise((resolve) => volume.flush(resolve));
}

export function trim(volume: Volume, offsetBytes: number, lengthBytes: number): Promise<number> {
  return new Promise((resolve) => volume.trim(offsetBytes, lengthBytes, false, resolve));
}
