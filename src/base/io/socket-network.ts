/**
 * StreamNetwork over real sockets on an EventLoop: TCP (without Nagle's delay, with keepalive), IPv4 and IPv6 by
 * number, and unix sockets. Listening survives running out of descriptors: it stops accepting for a moment and
 * goes on. Connecting never blocks, ends by its timeout, and does not fall for TCP's self-connect (a client on
 * the same machine may be given the very port that it connects to).
 */
import { lstatSync } from "node:fs";
import { IoError } from "./errors";
import type { EventLoop, FdWatch } from "./event-loop";
import { C, errnoName, libc, must, systemError } from "./libc";
import { nativeBuffer } from "./memory";
import { CHUNK_BYTES, OutputShare } from "./output-queue";
import {
  decodeSocketAddress,
  encodeSocketAddress,
  formatStreamAddress,
  type ParsedAddress,
  parseStreamAddress,
} from "./socket-address";
import { type ConnectionShare, RECEIVE_BUFFER_BYTES, SocketConnection } from "./socket-connection";
import type { StreamAddress, StreamConnection, StreamHandler, StreamListener, StreamNetwork } from "./stream";

const LISTEN_BACKLOG = 1024;
const ACCEPTS_PER_EVENT_MAX = 64;
const ACCEPT_PAUSE_MS = 100;
const KEEPALIVE_IDLE_S = 30;
const KEEPALIVE_INTERVAL_S = 10;
const KEEPALIVE_COUNT = 3;
const SOCKET_FLAGS = C.SOCK_STREAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;

export interface SocketNetworkOptions {
  /** Output above this makes a handler's onDrain run when all of it has left. */
  readonly highWaterBytes?: number;
  /** A connection that lets more than this queue up is closed. */
  readonly queuedBytesMax?: number;
  /** Per listener; more wait in the kernel's backlog until one closes. */
  readonly connectionCountMax?: number;
}

export interface SocketStatistics {
  readonly connectionCount: number;
  readonly sendCalls: number;
  readonly sentBytes: number;
  readonly receiveCalls: number;
  readonly receivedBytes: number;
  /** accept calls that failed for want of descriptors or memory. */
  readonly acceptFailures: number;
}

export class SocketNetwork implements StreamNetwork {
  readonly #share: ConnectionShare;
  readonly #connectionCountMax: number;
  #acceptFailures = 0;
  /** The list of dirty connections that is not in use, so that no turn makes a new one. */
  #settling: SocketConnection[] = [];

  constructor(
    private readonly loop: EventLoop,
    options: SocketNetworkOptions = {},
  ) {
    this.#connectionCountMax = options.connectionCountMax ?? 4096;
    this.#share = {
      loop,
      output: new OutputShare(),
      receiveBuffer: nativeBuffer(RECEIVE_BUFFER_BYTES),
      scrap: nativeBuffer(CHUNK_BYTES),
      dirty: [],
      resumed: [],
      highWaterBytes: options.highWaterBytes ?? 1024 * 1024,
      queuedBytesMax: options.queuedBytesMax ?? 256 * 1024 * 1024,
      sockets: new Set(),
      receiveCalls: 0,
    };
    loop.onTurnEnd(() => this.#endTurn());
  }

  get statistics(): SocketStatistics {
    const share = this.#share;
    return {
      connectionCount: share.sockets.size,
      sendCalls: share.output.sendCalls,
      sentBytes: share.output.sentBytes,
      receiveCalls: share.receiveCalls,
      receivedBytes: share.loop.receivedBytes,
      acceptFailures: this.#acceptFailures,
    };
  }

  listen(address: StreamAddress, accept: (connection: StreamConnection) => StreamHandler): StreamListener {
    const parsed = parseStreamAddress(address);
    const socket = openListener(address, parsed);
    const listening = parsed.kind === "unix" ? address : localAddress(socket);
    let open = true;
    let connectionCount = 0;
    let accepting = true;
    const setAccepting = (wanted: boolean) => {
      if (!open || accepting === wanted) return;
      accepting = wanted;
      watch.setEvents(wanted ? C.EPOLLIN : 0);
    };
    const onClosed = () => {
      connectionCount--;
      setAccepting(true);
    };
    const onReady = () => {
      for (let count = 0; count < ACCEPTS_PER_EVENT_MAX && open; count++) {
        if (connectionCount >= this.#connectionCountMax) return setAccepting(false);
        const accepted = libc.accept4(socket, C.SOCK_NONBLOCK | C.SOCK_CLOEXEC);
        if (accepted === -C.EAGAIN) return;
        // A client that gave up meanwhile, and errors of its own network, concern nobody else.
        if (accepted < 0 && !isShortage(accepted)) continue;
        if (accepted < 0) {
          this.#acceptFailures++;
          setAccepting(false);
          this.loop.schedule(ACCEPT_PAUSE_MS, () => setAccepting(true));
          return;
        }
        connectionCount++;
        this.#attach(accepted, parsed.kind, true, accept, onClosed);
      }
    };
    const watch = this.loop.watch(socket, onReady);
    return {
      address: listening,
      close: () => {
        if (!open) return;
        open = false;
        watch.close();
        libc.close(socket);
        if (parsed.kind === "unix") libc.unlink(parsed.path);
      },
    };
  }

  connect(
    address: StreamAddress,
    timeoutMs: number,
    connected: (connection: StreamConnection) => StreamHandler,
    failed: (reason: string) => void,
  ): void {
    const parsed = parseStreamAddress(address);
    const { family, bytes } = encodeSocketAddress(parsed);
    const socket = libc.socket(family, SOCKET_FLAGS, 0);
    const result = socket < 0 ? socket : libc.connect(socket, bytes);
    let watch: FdWatch | undefined;
    let finished = false;
    const finish = (errno: number, reason = errnoName(errno)) => {
      if (finished) return;
      finished = true;
      timer.cancel();
      watch?.close();
      if (errno === 0) return this.#attach(socket, parsed.kind, false, connected, () => {});
      if (socket >= 0) libc.close(socket);
      failed(reason);
    };
    const timer = this.loop.schedule(timeoutMs, () => finish(-1, `no answer in ${timeoutMs} ms`));
    if (result !== -C.EINPROGRESS) {
      this.loop.afterTurn(() => finish(result));
      return;
    }
    watch = this.loop.watch(
      socket,
      () => {
        const errno = socketError(socket);
        finish(errno === 0 && isSelfConnected(socket) ? C.ECONNREFUSED : errno);
      },
      C.EPOLLOUT,
    );
  }

  /** Takes over a connected stream socket, such as one end of a socketpair; the network closes it. */
  adopt(socket: number, remote: string, attach: (connection: StreamConnection) => StreamHandler): void {
    must("make a socket non-blocking", libc.fcntl(socket, C.F_SETFL, C.O_NONBLOCK));
    const connection = new SocketConnection(this.#share, socket, remote, true, false, () => {});
    connection.attach(attach(connection));
  }

  /** Closes every connection now; listeners are closed by their owners. */
  closeAll(reason: string): void {
    for (const connection of [...this.#share.sockets]) connection.destroy(reason);
  }

  #attach(
    socket: number,
    kind: ParsedAddress["kind"],
    isAccepted: boolean,
    attach: (connection: StreamConnection) => StreamHandler,
    closed: () => void,
  ): void {
    const remote = kind === "tcp" ? nameOf(libc.getpeername, socket) : "unix";
    if (kind === "tcp") tuneTcp(socket, remote);
    const isLocal = kind === "unix" || isThisMachine(socket, remote);
    const connection = new SocketConnection(
      this.#share,
      socket,
      remote,
      isLocal,
      isAccepted && isLocal,
      closed,
    );
    connection.attach(attach(connection));
  }

  /** Presents resumed input and sends what was gathered; true when there was any of it. */
  #endTurn(): boolean {
    const share = this.#share;
    const { resumed } = share;
    const worked = resumed.length > 0 || share.dirty.length > 0;
    if (resumed.length > 0) for (const connection of resumed.splice(0)) connection.presentCarry();
    const { dirty } = share;
    if (dirty.length > 0) {
      // Settling may mark connections again (a sent callback that writes); those wait for the next round.
      share.dirty = this.#settling;
      this.#settling = dirty;
      for (const connection of dirty) connection.settle();
      dirty.length = 0;
    }
    return worked;
  }
}

function isShortage(errno: number): boolean {
  const names = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"];
  return names.includes(errnoName(errno));
}

/** Nothing is ever lost or late on the way within a machine: pacing (BBR) only costs there, a quarter of long reads. */
const LOOPBACK_CONGESTION_CONTROL = Buffer.from("cubic");
const LOOPBACK_ADDRESS = /^(127\.|\[::1\]|\[::ffff:127\.)/;

function tuneTcp(socket: number, remote: StreamAddress): void {
  // A socket that was reset meanwhile refuses some of these; its first recv tells.
  libc.setsockopt(socket, C.IPPROTO_TCP, C.TCP_NODELAY, 1);
  libc.setsockopt(socket, C.SOL_SOCKET, C.SO_KEEPALIVE, 1);
  libc.setsockopt(socket, C.IPPROTO_TCP, C.TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
  libc.setsockopt(socket, C.IPPROTO_TCP, C.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
  libc.setsockopt(socket, C.IPPROTO_TCP, C.TCP_KEEPCNT, KEEPALIVE_COUNT);
  // A kernel without it keeps its own.
  if (LOOPBACK_ADDRESS.test(remote))
    libc.setsockoptBytes(socket, C.IPPROTO_TCP, C.TCP_CONGESTION, LOOPBACK_CONGESTION_CONTROL);
}

function nameOf(call: typeof libc.getsockname, socket: number): StreamAddress {
  const bytes = new Uint8Array(112);
  const length = new Int32Array([bytes.length]);
  return call(socket, bytes, length) < 0 ? "unknown" : decodeSocketAddress(bytes);
}

function localAddress(socket: number): StreamAddress {
  return nameOf(libc.getsockname, socket);
}

/** A machine that talks to itself by one of its addresses has it on both ends. */
function isThisMachine(socket: number, remote: StreamAddress): boolean {
  return LOOPBACK_ADDRESS.test(remote) || hostOf(localAddress(socket)) === hostOf(remote);
}

function hostOf(address: StreamAddress): string {
  return address.slice(0, address.lastIndexOf(":"));
}

function isSelfConnected(socket: number): boolean {
  const local = localAddress(socket);
  return local !== "unix" && local !== "unknown" && local === nameOf(libc.getpeername, socket);
}

function socketError(socket: number): number {
  const value = new Int32Array(1);
  const result = libc.getsockopt(socket, C.SOL_SOCKET, C.SO_ERROR, value, new Int32Array([4]));
  return result < 0 ? -result : (value[0] as number);
}

function openListener(address: StreamAddress, parsed: ParsedAddress): number {
  const { family, bytes } = encodeSocketAddress(parsed);
  const socket = libc.socket(family, SOCKET_FLAGS, 0);
  if (socket < 0) throw listenFailed(address, socket);
  if (parsed.kind === "tcp") libc.setsockopt(socket, C.SOL_SOCKET, C.SO_REUSEADDR, 1);
  if (family === C.AF_INET6) libc.setsockopt(socket, C.IPPROTO_IPV6, C.IPV6_V6ONLY, 0);
  let result = libc.bind(socket, bytes);
  if (result === -C.EADDRINUSE && parsed.kind === "unix" && removeStaleSocket(parsed.path, bytes))
    result = libc.bind(socket, bytes);
  if (result === 0) result = libc.listen(socket, LISTEN_BACKLOG);
  if (result === 0) return socket;
  libc.close(socket);
  throw listenFailed(address, result);
}

/** Removes a unix socket that nobody listens on any more; never another kind of file. */
function removeStaleSocket(path: string, address: Uint8Array): boolean {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  const probe = must("make a socket", libc.socket(C.AF_UNIX, SOCKET_FLAGS, 0));
  const result = libc.connect(probe, address);
  libc.close(probe);
  return result === -C.ECONNREFUSED && libc.unlink(path) === 0;
}

function listenFailed(address: StreamAddress, errno: number): IoError {
  const advice =
    errno === -C.EADDRINUSE
      ? "it is in use; choose another or stop whoever listens there"
      : errno === -C.EACCES
        ? "permission denied; choose a port from 1024 on, or a folder you may write to"
        : errno === -C.EADDRNOTAVAIL
          ? "this machine has no such address; choose one of its own, or 0.0.0.0"
          : `${errnoName(errno)}; check the address`;
  return new IoError(
    "listen-failed",
    `Cannot listen on ${formatStreamAddress(parseStreamAddress(address))}: ${advice}`,
    {
      cause: systemError("listen", errno),
      errno: -errno,
    },
  );
}
