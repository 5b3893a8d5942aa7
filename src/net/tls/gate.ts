/**
 * Listens with TLS on the main thread and hands each trusted client to the event loop as a plain descriptor. Only a
 * client whose certificate the authority signed gets through. Handshakes are bounded in number and time, so that a
 * flood of half-open connections holds nothing but itself.
 *
 * A new certificate is taken without closing anything: a second listener with it opens on the same port before
 * the first one stops. (The port is therefore shared with SO_REUSEPORT; that nobody else has it is tried first.)
 */
import type { Socket, TCPSocketListener, TCPSocketListenOptions } from "bun";
import { formatStreamAddress, parseStreamAddress, type StreamAddress } from "../../base/io";
import { TlsError } from "./errors";
import type { TlsIdentity } from "./identity";
import { openForward, openPipe, type PipeEnd } from "./pipe";

const HANDSHAKE_MS_MAX = 5_000;
const HANDSHAKES_MAX = 256;
const CONNECTIONS_MAX = 4096;

/** Of the client's certificate: who it is, for access lists. */
export interface TlsSubject {
  readonly commonName: string;
  readonly organization: string;
}

export interface TlsClient extends TlsSubject {
  /** For the loop to adopt (`SocketNetwork.adopt`); it belongs to the receiver. */
  readonly socket: number;
  readonly remote: StreamAddress;
}

export interface TlsGateOptions {
  /** Must have a numeric host; port 0 takes a free one. */
  readonly address: StreamAddress;
  readonly identity: TlsIdentity;
  readonly onClient: (client: TlsClient) => void;
  /**
   * Where a client's bytes go instead: the unix socket of a server in this process that serves clients of this
   * kind; undefined turns the client away. `onClient` is not called then.
   */
  readonly routeTo?: (subject: TlsSubject) => string | undefined;
  /** A client was turned away; for a log that folds repetitions. */
  readonly onRefused: (remote: StreamAddress, reason: string) => void;
}

interface Accepted {
  state: "handshake" | "open" | "closed";
  remote: StreamAddress;
  timer: ReturnType<typeof setTimeout> | undefined;
  end: PipeEnd | undefined;
}

/** What the runtime calls; its typings have no name for it. */
type TlsSocket = Socket<Accepted>;

export class TlsGate {
  readonly address: StreamAddress;
  readonly #host: string;
  readonly #port: number;
  #listener: TCPSocketListener<Accepted>;
  #handshakes = 0;
  #connections = 0;

  /** Throws TlsError "listen-failed". */
  constructor(private readonly options: TlsGateOptions) {
    const parsed = parseStreamAddress(options.address);
    if (parsed.kind !== "tcp")
      throw new TlsError("listen-failed", `Cannot listen with TLS on ${options.address}: give host:port`, {
        exitCode: 2,
      });
    this.#host = parsed.host;
    this.#port = this.#tryPort(parsed.port);
    this.#listener = this.#listen(options.identity);
    this.address = formatStreamAddress({ kind: "tcp", host: this.#host, port: this.#port });
  }

  get connectionCount(): number {
    return this.#connections;
  }

  /** From now on new connections see this identity; those that are open stay. */
  renew(identity: TlsIdentity): void {
    const old = this.#listener;
    this.#listener = this.#listen(identity);
    old.stop(false);
  }

  /** Accepts nobody any more; open connections end with the loop's. */
  close(): void {
    this.#listener.stop(false);
  }

  /** The port, after making sure that nobody listens there. */
  #tryPort(port: number): number {
    try {
      const probe = Bun.listen({ hostname: this.#host, port, socket: { data: () => {} } });
      const found = probe.port;
      probe.stop(true);
      return found;
    } catch (error) {
      throw this.#listenFailed(error);
    }
  }

  #listenFailed(cause: unknown): TlsError {
    const code = (cause as { code?: unknown } | undefined)?.code;
    const problem =
      code === "EADDRINUSE"
        ? "it is in use; choose another or stop whoever listens there"
        : cause instanceof Error
          ? cause.message
          : String(cause);
    return new TlsError("listen-failed", `Cannot listen with TLS on ${this.options.address}: ${problem}`, {
      cause,
    });
  }

  #listen(identity: TlsIdentity): TCPSocketListener<Accepted> {
    const { cert, key, ca } = identity;
    try {
      return Bun.listen<Accepted>({
        hostname: this.#host,
        port: this.#port,
        reusePort: true,
        tls: { cert, key, ca, requestCert: true, rejectUnauthorized: true },
        socket: {
          open: (socket) => this.#onOpen(socket),
          handshake: (socket, success, error) => this.#onHandshake(socket, success, error),
          data: (socket, data) => socket.data.end?.receive(data),
          drain: (socket) => socket.data.end?.drain(),
          end: (socket) => this.#onClose(socket),
          close: (socket) => this.#onClose(socket),
          error: (socket) => this.#onClose(socket),
        },
      } as TCPSocketListenOptions<Accepted>);
    } catch (error) {
      throw this.#listenFailed(error);
    }
  }

  #onOpen(socket: TlsSocket): void {
    const remote = formatStreamAddress({ kind: "tcp", host: socket.remoteAddress, port: socket.remotePort });
    const accepted: Accepted = { state: "handshake", remote, timer: undefined, end: undefined };
    socket.data = accepted;
    this.#handshakes++;
    if (this.#handshakes > HANDSHAKES_MAX) return this.#refuse(socket, "too many handshakes are under way");
    if (this.#connections >= CONNECTIONS_MAX) return this.#refuse(socket, "too many connections are open");
    accepted.timer = setTimeout(
      () => this.#refuse(socket, `no handshake in ${HANDSHAKE_MS_MAX} ms`),
      HANDSHAKE_MS_MAX,
    );
  }

  /** `success` only says that the handshake is over: an untrusted certificate comes with success and an error. */
  #onHandshake(socket: TlsSocket, success: boolean, error: Error | null): void {
    const accepted = socket.data;
    if (accepted.state !== "handshake") return;
    const problem = error !== null && error !== undefined ? error.message : success ? undefined : "it failed";
    const subject = problem === undefined ? subjectOf(socket) : undefined;
    if (problem !== undefined) return this.#refuse(socket, problem);
    if (subject === undefined) return this.#refuse(socket, "it has no certificate");
    const route = this.options.routeTo?.(subject);
    if (this.options.routeTo !== undefined && route === undefined)
      return this.#refuse(socket, "too many different clients came");
    this.#leaveHandshake(accepted, "open");
    this.#connections++;
    if (route !== undefined) {
      accepted.end = openForward(socket, route);
      return;
    }
    const pipe = openPipe(socket);
    accepted.end = pipe.tlsEnd;
    this.options.onClient({ socket: pipe.loopSocket, remote: accepted.remote, ...subject });
  }

  #refuse(socket: TlsSocket, reason: string): void {
    this.#leaveHandshake(socket.data, "closed");
    this.options.onRefused(socket.data.remote, reason);
    socket.terminate();
  }

  #onClose(socket: TlsSocket): void {
    const accepted = socket.data;
    if (accepted === undefined || accepted.state === "closed") return;
    if (accepted.state === "handshake") {
      this.#leaveHandshake(accepted, "closed");
      return;
    }
    accepted.state = "closed";
    this.#connections--;
    accepted.end?.close();
  }

  #leaveHandshake(accepted: Accepted, next: "open" | "closed"): void {
    if (accepted.state !== "handshake") return;
    accepted.state = next;
    clearTimeout(accepted.timer);
    this.#handshakes--;
  }
}

function subjectOf(socket: TlsSocket): TlsSubject | undefined {
  const certificate = socket.getPeerCertificate() as
    | { subject?: { CN?: string; O?: string } }
    | null
    | undefined;
  const subject = certificate?.subject;
  return subject === undefined ? undefined : { commonName: subject.CN ?? "", organization: subject.O ?? "" };
}
