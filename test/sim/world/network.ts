/**
 * The network between processes, and PeerTransports over it. A transport keeps one connection per peer, as adp
 * does: messages of one connection arrive in order, each whole or not at all. What goes wrong with a connection is
 * what goes wrong with TCP and more: it is slow, it stalls (one way or both) until a deadline breaks it, it is
 * reset with everything outstanding, and after its end what was under way may still arrive, late, behind messages
 * of the next connection, or twice.
 */
import { formatBlockRef, heapBuffer, type NativeBuffer, type PeerId, TorusError } from "../../../src/base";
import {
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListReply,
  type ListRequest,
  type OutgoingPut,
  type OutgoingRead,
  type PeerStatistics,
  type PeerTransport,
  type StorageService,
  StorageStatus,
} from "../../../src/engine/ports";
import type { Prng } from "./prng";
import type { SimProcess, World } from "./world";

const REQUEST_DEADLINE_MS = 4_000;
const CONTROL_DEADLINE_MS = 6_000;
const BACKOFF_MS = 300;
/** How late a message of a dead connection may still arrive. */
const ZOMBIE_DELAY_MS_MAX = 8_000;

/** What the whole network is like; faults change it while the run goes on. */
export interface NetworkWeather {
  latencyMs: number;
  /** Of each message: its connection is reset when it should have arrived. */
  resetChance: number;
  /** Of each put delivered: it arrives again later. */
  duplicateChance: number;
  /** Of each read reply: a bit of it is wrong. */
  corruptChance: number;
}

export interface PeerEndpoint {
  readonly process: SimProcess;
  readonly service: StorageService;
}

/** Counted so that it can be seen that the network does hurt. */
export const newNetworkCounts = () => ({
  messages: 0,
  lost: 0,
  resets: 0,
  zombies: 0,
  duplicates: 0,
  corrupted: 0,
  deadlines: 0,
  withdrawn: 0,
});

export class SimNetwork {
  readonly weather: NetworkWeather = { latencyMs: 0.4, resetChance: 0, duplicateChance: 0, corruptChance: 0 };
  readonly counts = newNetworkCounts();
  readonly random: Prng;
  /** Called with every put that leaves a process, before anything can happen to it. */
  onPut: (from: SimProcess, peer: PeerId, put: OutgoingPut) => void = () => undefined;
  /** The same for every fence. */
  onFence: (peer: PeerId) => void = () => undefined;
  private readonly peers = new Map<PeerId, PeerEndpoint>();
  private readonly names = new Map<PeerId, string>();
  private readonly blocked = new Set<string>();
  private readonly slow = new Map<string, number>();

  constructor(readonly world: World) {
    this.random = world.random.fork("network");
  }

  /** The peer's process listens from now on. */
  attach(peer: PeerId, endpoint: PeerEndpoint): void {
    this.peers.set(peer, endpoint);
    this.names.set(peer, endpoint.process.name);
  }

  endpoint(peer: PeerId): PeerEndpoint | undefined {
    const endpoint = this.peers.get(peer);
    return endpoint?.process.alive ? endpoint : undefined;
  }

  nameOf(peer: PeerId): string {
    return this.names.get(peer) ?? peer.slice(0, 8);
  }

  /** Messages from one machine to another vanish (one direction). */
  block(from: string, to: string): void {
    this.blocked.add(`${from}>${to}`);
  }

  unblock(from: string, to: string): void {
    this.blocked.delete(`${from}>${to}`);
  }

  isBlocked(from: string, to: string): boolean {
    return this.blocked.size > 0 && this.blocked.has(`${from}>${to}`);
  }

  slowDown(from: string, to: string, extraMs: number): void {
    if (extraMs === 0) this.slow.delete(`${from}>${to}`);
    else this.slow.set(`${from}>${to}`, extraMs);
  }

  healAll(): void {
    this.blocked.clear();
    this.slow.clear();
    Object.assign(this.weather, { latencyMs: 0.4, resetChance: 0, duplicateChance: 0, corruptChance: 0 });
  }

  delayMs(from: string, to: string): number {
    const extraMs = this.slow.size === 0 ? 0 : (this.slow.get(`${from}>${to}`) ?? 0);
    return 0.05 + this.random.delayMs(this.weather.latencyMs + extraMs);
  }

  transport(process: SimProcess): PeerTransport {
    return new SimTransport(this, process);
  }
}

/** One request under way on a connection. */
interface Call {
  readonly what: string;
  readonly put: boolean;
  /** Until it is withdrawn: then its answer, or that none comes, is nobody's. */
  read?: OutgoingRead | undefined;
  outstanding: boolean;
  /** Runs at the peer; `reply` is called with what to run at the client when the answer arrives. */
  serve(endpoint: PeerEndpoint, reply: (arrive: () => void) => void): void;
  unreachable(): void;
}

class Connection {
  open = true;
  requestArrivalMs = 0;
  replyArrivalMs = 0;
  /** A message was lost: nothing behind it on the stream arrives either. */
  severed = false;
  readonly calls = new Set<Call>();
}

class SimTransport implements PeerTransport {
  private readonly connections = new Map<PeerId, Connection>();
  private readonly failedMs = new Map<PeerId, number>();

  constructor(
    private readonly network: SimNetwork,
    private readonly process: SimProcess,
  ) {}

  put(peer: PeerId, request: OutgoingPut): void {
    this.network.onPut(this.process, peer, request);
    const { writerEpoch, lengthBytes } = request;
    const sent = request.buffer.bytes.slice(request.offset, request.offset + lengthBytes);
    const end = (incarnation: Parameters<OutgoingPut["done"]>[1], status: StorageStatus) =>
      request.done(peer, incarnation, status);
    this.send(peer, REQUEST_DEADLINE_MS, {
      what: "put",
      put: true,
      outstanding: true,
      unreachable: () => end("", StorageStatus.unreachable),
      serve: ({ service }, reply) => {
        const { incarnation } = service.identity;
        const buffer = heapBuffer(lengthBytes);
        buffer.bytes.set(sent);
        service.put({
          ...{ buffer, offset: 0, lengthBytes, writerEpoch },
          done: (status) => reply(() => end(incarnation, status)),
        });
      },
    });
  }

  read(peer: PeerId, request: OutgoingRead): void {
    const { ref, firstSlot, slotCount, destination, destinationOffset } = request;
    const end = (status: StorageStatus, lengthBytes: number, check: number, bytes?: Uint8Array) => {
      if (call.read === undefined) return;
      if (bytes !== undefined) destination.bytes.set(bytes, destinationOffset);
      request.done(peer, status, lengthBytes, check);
    };
    const call: Call = {
      what: `read ${formatBlockRef(ref)} slots ${firstSlot}+${slotCount}`,
      put: false,
      read: request,
      outstanding: true,
      unreachable: () => end(StorageStatus.unreachable, 0, 0),
      serve: ({ service, process }, reply) => {
        service.read({
          ...{ ref, firstSlot, slotCount },
          done: (status, source, offset, lengthBytes, check, release) => {
            if (source === undefined) {
              release?.();
              reply(() => end(status, 0, check));
              return;
            }
            // Lent memory leaves some time after the answer: it must not change until it is given back.
            this.network.world.schedule(this.network.random.delayMs(0.2), process, () => {
              const bytes = this.copyOut(source, offset, lengthBytes);
              release?.();
              reply(() => end(status, lengthBytes, check, bytes));
            });
          },
        });
      },
    };
    this.send(peer, REQUEST_DEADLINE_MS, call);
  }

  withdrawRead(peer: PeerId, request: OutgoingRead): boolean {
    const connection = this.connections.get(peer);
    if (connection === undefined) return false;
    for (const call of connection.calls)
      if (call.read === request) {
        this.network.counts.withdrawn += 1;
        call.read = undefined;
        return true;
      }
    return false;
  }

  fence(peer: PeerId, request: FenceRequest): Promise<FenceReply> {
    this.network.onFence(peer);
    return this.control(peer, "fence", (service) => service.fence(request));
  }

  list(peer: PeerId, request: ListRequest): Promise<ListReply> {
    return this.control(peer, "list", (service) => service.list(request));
  }

  confirm(peer: PeerId, request: ConfirmRequest): Promise<ConfirmReply> {
    return this.control(peer, "confirm", (service) => service.confirm(request));
  }

  statistics(peer: PeerId): Promise<PeerStatistics> {
    return this.control(peer, "statistics", (service) => service.statistics());
  }

  isLikelyUp(peer: PeerId): boolean {
    return this.connections.get(peer)?.open ?? !this.failedMs.has(peer);
  }

  private copyOut(source: NativeBuffer, offset: number, lengthBytes: number): Uint8Array {
    const bytes = source.bytes.slice(offset, offset + lengthBytes);
    const { random, weather, counts } = this.network;
    if (lengthBytes > 0 && random.chance(weather.corruptChance)) {
      counts.corrupted += 1;
      const at = random.below(lengthBytes);
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
    }
    return bytes;
  }

  private control<Reply>(
    peer: PeerId,
    what: string,
    ask: (service: StorageService) => Promise<Reply>,
  ): Promise<Reply> {
    return new Promise<Reply>((resolve, reject) => {
      this.send(peer, CONTROL_DEADLINE_MS, {
        what,
        put: false,
        outstanding: true,
        unreachable: () =>
          reject(
            new TorusError("unreachable", `Cannot ${what} at ${this.network.nameOf(peer)}: unreachable`, {
              retryable: true,
            }),
          ),
        serve: ({ service }, reply) => {
          ask(service).then(
            (answer) => reply(() => resolve(answer)),
            (error: unknown) => reply(() => reject(error)),
          );
        },
      });
    });
  }

  private send(peer: PeerId, deadlineMs: number, call: Call): void {
    const { world, random } = this.network;
    // What a process still computes in the moment of its death reaches nobody.
    if (!this.process.alive) return;
    const connection = this.connect(peer);
    if (connection === undefined) {
      world.schedule(0, this.process, () => call.unreachable());
      return;
    }
    this.network.counts.messages += 1;
    connection.calls.add(call);
    const from = this.process.name;
    const to = this.network.nameOf(peer);
    const arrivalMs = Math.max(connection.requestArrivalMs, world.nowMs + this.network.delayMs(from, to));
    connection.requestArrivalMs = arrivalMs;
    const resets = random.chance(this.network.weather.resetChance);
    const deadline = world.schedule(deadlineMs, this.process, () => {
      if (!call.outstanding) return;
      this.network.counts.deadlines += 1;
      this.break(peer, connection, `no answer to ${call.what}`);
    });
    world.schedule(arrivalMs - world.nowMs, undefined, () => {
      if (resets && connection.open) this.reset(peer, connection);
      else this.arrive(peer, connection, call);
      if (!call.outstanding) deadline.cancel();
    });
  }

  private connect(peer: PeerId): Connection | undefined {
    const known = this.connections.get(peer);
    if (known?.open) return known;
    const failedMs = this.failedMs.get(peer);
    if (failedMs !== undefined && this.network.world.nowMs - failedMs < BACKOFF_MS) return undefined;
    const connection = new Connection();
    this.connections.set(peer, connection);
    return connection;
  }

  /** The request is at the peer's machine. */
  private arrive(peer: PeerId, connection: Connection, call: Call): void {
    const { network, process } = this;
    const name = network.nameOf(peer);
    if (!connection.open || connection.severed || network.isBlocked(process.name, name)) {
      connection.severed = true;
      this.loseOrDelay(peer, call);
      return;
    }
    const endpoint = network.endpoint(peer);
    if (endpoint === undefined) {
      // The machine answers that nobody listens.
      network.world.schedule(network.delayMs(name, process.name), process, () =>
        this.break(peer, connection, "refused"),
      );
      return;
    }
    network.world.schedule(0, endpoint.process, () => this.serve(peer, connection, endpoint, call));
    if (call.put && network.random.chance(network.weather.duplicateChance)) {
      network.counts.duplicates += 1;
      this.deliverLate(peer, call);
    }
  }

  private serve(peer: PeerId, connection: Connection, endpoint: PeerEndpoint, call: Call): void {
    const { network, process } = this;
    let replied = false;
    call.serve(endpoint, (arrive) => {
      if (replied) {
        network.world.fail(new Error(`${endpoint.process.name} answered ${call.what} twice`));
        return;
      }
      replied = true;
      if (!endpoint.process.alive) return;
      const delayMs = network.delayMs(endpoint.process.name, process.name);
      const arrivalMs = Math.max(connection.replyArrivalMs, network.world.nowMs + delayMs);
      connection.replyArrivalMs = arrivalMs;
      network.world.schedule(arrivalMs - network.world.nowMs, process, () => {
        const lost =
          !connection.open || connection.severed || network.isBlocked(endpoint.process.name, process.name);
        if (lost) connection.severed = true;
        if (lost || !call.outstanding) {
          network.counts.lost += 1;
          return;
        }
        this.failedMs.delete(peer);
        this.complete(connection, call);
        arrive();
      });
    });
  }

  /** A message whose connection is dead: gone, or lying in some buffer on the way and served after all. */
  private loseOrDelay(peer: PeerId, call: Call): void {
    if (call.put && this.network.random.chance(0.3)) this.deliverLate(peer, call);
    else this.network.counts.lost += 1;
  }

  private deliverLate(peer: PeerId, call: Call): void {
    const { network, process } = this;
    network.world.schedule(network.random.fraction() * ZOMBIE_DELAY_MS_MAX, undefined, () => {
      const endpoint = network.endpoint(peer);
      if (endpoint === undefined || network.isBlocked(process.name, endpoint.process.name)) return;
      network.counts.zombies += 1;
      network.world.schedule(0, endpoint.process, () => call.serve(endpoint, () => undefined));
    });
  }

  private reset(peer: PeerId, connection: Connection): void {
    this.network.counts.resets += 1;
    connection.severed = true;
    this.network.world.schedule(0, this.process, () => this.break(peer, connection, "reset"));
  }

  /** The client learns that the connection is over: everything outstanding on it is unreachable. */
  private break(peer: PeerId, connection: Connection, reason: string): void {
    if (!connection.open) return;
    connection.open = false;
    connection.severed = true;
    this.failedMs.set(peer, this.network.world.nowMs);
    this.process.log(
      `connection to ${this.network.nameOf(peer)} ends: ${reason}, ${connection.calls.size} calls`,
    );
    for (const call of [...connection.calls]) {
      if (!call.outstanding) continue;
      this.complete(connection, call);
      call.unreachable();
    }
  }

  private complete(connection: Connection, call: Call): void {
    call.outstanding = false;
    connection.calls.delete(call);
  }
}
