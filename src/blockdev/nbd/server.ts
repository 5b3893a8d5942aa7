/**
 * An NBD server on one event loop: listens on any number of addresses, shares one budget of request memory over
 * all clients, and ends in order. Devices are shared by the directory behind it, so all connections to an export
 * have one coherent view.
 */
import type { AllocateBuffer, Clock, Timer } from "../../base";
import type { StreamConnection, StreamHandler, StreamListener, StreamNetwork } from "../../base/io";
import type { DeviceDirectory } from "../device";
import { BufferPool } from "./buffers";
import {
  Handshake,
  type HandshakeHost,
  type Negotiated,
  type OpenExport,
  type ResumedHandshake,
  type TlsState,
} from "./handshake";
import { checkedLimits, type NbdLimits } from "./limits";
import { type Request, RequestPool } from "./request";
import { commandNames, NbdStatistics } from "./statistics";
import { type NbdLatency, Transmission, type TransmissionHost } from "./transmission";

/** What happened, for the log. `internal`: a bug of ours or of the directory, not the client's doing. */
export interface NbdEvent {
  readonly kind: "opened" | "closed" | "refused" | "internal";
  readonly remote: string;
  readonly exportName?: string;
  readonly message: string;
  readonly error?: unknown;
}

export interface NbdServerOptions {
  readonly network: StreamNetwork;
  readonly directory: DeviceDirectory;
  readonly clock: Clock;
  readonly allocate: AllocateBuffer;
  readonly limits?: Partial<NbdLimits>;
  readonly onEvent?: (event: NbdEvent) => void;
  /**
   * A client asked for TLS and is waiting for its handshake on this descriptor, which belongs to the receiver. What
   * comes out of TLS is given back to `accept`, as "established" and with `resumed`.
   */
  readonly onStartTls?: (socket: number, remote: string, resumed: ResumedHandshake) => void;
  /** Told how long each request took, by the name of its command. */
  readonly observe?: (command: string, milliseconds: number) => void;
}

/** How often the idle, request and stall limits are looked at. */
const TICK_MS = 1000;
/** A connection refused for their number says so to nobody: NBD has no message before the greeting. */
const REFUSED_REASON = "NBD server: too many connections";

type Phase =
  | { readonly kind: "handshake"; readonly connection: StreamConnection; readonly timeout: Timer }
  | {
      readonly kind: "transmission";
      readonly transmission: Transmission;
      readonly connection: StreamConnection;
    };

export class NbdServer {
  readonly statistics = new NbdStatistics();
  readonly #options: NbdServerOptions;
  readonly #limits: NbdLimits;
  readonly #buffers: BufferPool<Request>;
  readonly #requests = new RequestPool();
  readonly #listeners: StreamListener[] = [];
  readonly #phases = new Map<StreamConnection, Phase>();
  readonly #releasing = new Set<Promise<void>>();
  readonly #latency: NbdLatency | undefined;
  #tick: Timer | undefined;
  #shuttingDown = false;
  #onEmpty: (() => void) | undefined;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#limits = checkedLimits(options.limits ?? {});
    const { observe, clock } = options;
    if (observe !== undefined) {
      const names = commandNames();
      this.#latency = {
        nowMs: () => clock.nowMs(),
        observe: (command, milliseconds) => observe(names[command] ?? "unknown", milliseconds),
      };
    }
    this.#buffers = new BufferPool(options.allocate, this.#limits.bufferBytesMax);
  }

  /** Request memory taken from the system so far. */
  get bufferBytes(): number {
    return this.#buffers.allocatedBytes;
  }

  /** Pieces of request memory in use; 0 when nothing is in flight. */
  get bufferPieceCount(): number {
    return this.#buffers.takenCount;
  }

  /** Starts to serve on one more address; answers where it really listens. Throws "listen-failed". */
  listen(address: string, tls: TlsState = "none"): string {
    const listener = this.#options.network.listen(address, (connection) => this.accept(connection, tls));
    this.#listeners.push(listener);
    return listener.address;
  }

  /** Serves a connection that came from elsewhere (a socket pair, a TLS front). */
  accept(connection: StreamConnection, tls: TlsState = "none", resumed?: ResumedHandshake): StreamHandler {
    if (this.#shuttingDown || this.#phases.size >= this.#limits.connectionCountMax) {
      this.statistics.connectionsRefused++;
      return this.#refused(connection);
    }
    this.statistics.connectionsTotal++;
    this.statistics.connectionsOpen++;
    const timeout = this.#options.clock.schedule(this.#limits.handshakeTimeoutMs, () =>
      connection.destroy(`NBD handshake: not finished within ${this.#limits.handshakeTimeoutMs} ms`),
    );
    this.#phases.set(connection, { kind: "handshake", connection, timeout });
    this.#startTick();
    return new Handshake(connection, this.#handshakeHost(connection, timeout), tls, resumed);
  }

  /**
   * Serves a connection that is in transmission from its first byte, with simple replies: the kernel's own client,
   * for which this process negotiated with itself. `open` is released when the connection is over.
   */
  serve(connection: StreamConnection, open: OpenExport): StreamHandler {
    this.statistics.connectionsTotal++;
    this.statistics.connectionsOpen++;
    this.#startTick();
    return this.#transmit(connection, { open, style: "simple", allocationContext: false });
  }

  /**
   * Stops listening, answers what is in flight, refuses what is new, and closes; what has not ended after
   * `timeoutMs` is cut off. Resolves when every connection is gone and every device is given back.
   */
  async close(timeoutMs: number): Promise<void> {
    this.#shuttingDown = true;
    for (const listener of this.#listeners.splice(0)) listener.close();
    const phases = [...this.#phases.values()];
    const cut = this.#options.clock.schedule(timeoutMs, () => {
      for (const { connection } of [...this.#phases.values()])
        connection.destroy(`NBD server: not drained within ${timeoutMs} ms of shutdown`);
    });
    for (const phase of phases) {
      if (phase.kind === "transmission") phase.transmission.drain();
      else phase.connection.end();
    }
    if (this.#phases.size > 0)
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    cut.cancel();
    this.#tick?.cancel();
    this.#tick = undefined;
    await Promise.all(this.#releasing);
  }

  #refused(connection: StreamConnection): StreamHandler {
    this.#event({ kind: "refused", remote: connection.remote, message: REFUSED_REASON });
    // Not inside accept: the connection has no handler yet.
    const timer = this.#options.clock.schedule(0, () => connection.destroy(REFUSED_REASON));
    return {
      onData: (_buffer, start, end) => end - start,
      onReceived: () => undefined,
      onClose: () => timer.cancel(),
    };
  }

  #handshakeHost(connection: StreamConnection, timeout: Timer): HandshakeHost {
    const { onStartTls } = this.#options;
    return {
      directory: this.#options.directory,
      negotiated: (result) => {
        timeout.cancel();
        const host = this.#transmissionHost(connection, result.open.device.name);
        const transmission = new Transmission(connection, host, result, this.#options.clock.nowMs());
        connection.handler = transmission;
        this.#phases.set(connection, { kind: "transmission", transmission, connection });
        const exportName = result.open.device.name;
        this.#event({
          kind: "opened",
          remote: connection.remote,
          exportName,
          message: `${result.style} replies`,
        });
        if (this.#shuttingDown) transmission.drain();
      },
      closed: (reason) => {
        timeout.cancel();
        this.#gone(connection);
        if (reason !== undefined) this.#event({ kind: "closed", remote: connection.remote, message: reason });
      },
      startTls:
        onStartTls === undefined
          ? undefined
          : (resumed) =>
              connection.handOver?.((socket) => {
                timeout.cancel();
                this.#gone(connection);
                onStartTls(socket, connection.remote, resumed);
              }),
      failed: (action, error) => {
        const message = `Cannot ${action}: ${error instanceof Error ? error.message : String(error)}`;
        this.#event({ kind: "internal", remote: connection.remote, message, error });
      },
    };
  }

  #transmit(connection: StreamConnection, result: Negotiated): Transmission {
    const exportName = result.open.device.name;
    const host = this.#transmissionHost(connection, exportName);
    const transmission = new Transmission(connection, host, result, this.#options.clock.nowMs());
    this.#phases.set(connection, { kind: "transmission", transmission, connection });
    this.#event({
      kind: "opened",
      remote: connection.remote,
      exportName,
      message: `${result.style} replies`,
    });
    if (this.#shuttingDown) transmission.drain();
    return transmission;
  }

  #transmissionHost(connection: StreamConnection, exportName: string): TransmissionHost {
    return {
      limits: this.#limits,
      buffers: this.#buffers,
      requests: this.#requests,
      statistics: this.statistics,
      latency: this.#latency,
      finished: (open, reason) => {
        this.#release(connection, exportName, open);
        const message = reason ?? "closed by the client";
        this.#event({ kind: "closed", remote: connection.remote, exportName, message });
      },
    };
  }

  #release(connection: StreamConnection, exportName: string, open: OpenExport): void {
    const releasing = open
      .release()
      .catch((error: unknown) => {
        const message = `Cannot release export "${exportName}": ${error instanceof Error ? error.message : String(error)}`;
        this.#event({ kind: "internal", remote: connection.remote, exportName, message, error });
      })
      .finally(() => {
        this.#releasing.delete(releasing);
      });
    this.#releasing.add(releasing);
    this.#gone(connection);
  }

  #gone(connection: StreamConnection): void {
    if (!this.#phases.delete(connection)) return;
    this.statistics.connectionsOpen--;
    if (this.#phases.size > 0) return;
    this.#tick?.cancel();
    this.#tick = undefined;
    this.#onEmpty?.();
  }

  #startTick(): void {
    if (this.#tick !== undefined) return;
    const { clock } = this.#options;
    const tick = () => {
      const nowMs = clock.nowMs();
      for (const phase of [...this.#phases.values()])
        if (phase.kind === "transmission") phase.transmission.tick(nowMs, TICK_MS);
      this.#tick = this.#phases.size > 0 ? clock.schedule(TICK_MS, tick) : undefined;
    };
    this.#tick = clock.schedule(TICK_MS, tick);
  }

  #event(event: NbdEvent): void {
    this.#options.onEvent?.(event);
  }
}
