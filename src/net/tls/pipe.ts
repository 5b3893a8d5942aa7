/**
 * Carries bytes between a TLS socket, which the runtime ends on the main thread, and one end of a socketpair,
 * whose other end the event loop has adopted. Each direction keeps what the receiving socket did not take and
 * stops reading until it has: at most one read of the runtime is held per direction.
 */
import type { Socket } from "bun";
import { C, libc, must } from "../../base/io";

/** What the pipe needs of a runtime socket. */
export type PipeSocket = Pick<Socket<unknown>, "write" | "pause" | "resume" | "end" | "terminate">;

/** One end: what waits to be written to it, and whether the bytes towards it have ended. */
export class PipeEnd {
  socket: PipeSocket | undefined;
  other!: PipeEnd;
  #waiting: Uint8Array[] = [];
  #ended = false;
  #closed = false;

  /** The socket is there; what came for it earlier leaves now. */
  attach(socket: PipeSocket): void {
    this.socket = socket;
    if (this.#closed) socket.terminate();
    else this.drain();
  }

  /** Bytes arrived at this end: pass them to the other. */
  receive(data: Uint8Array): void {
    if (!this.other.send(data)) this.socket?.pause();
  }

  /** This end's socket can take more. */
  drain(): void {
    while (this.#waiting.length > 0) {
      const first = this.#waiting[0] as Uint8Array;
      const taken = Math.max(this.socket?.write(first) ?? 0, 0);
      if (taken < first.length) {
        this.#waiting[0] = first.subarray(taken);
        return;
      }
      this.#waiting.shift();
    }
    if (this.#ended) this.socket?.end();
    else this.other.socket?.resume();
  }

  /** This end's socket has ended or failed: the other gets what is still on the way, then ends. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#waiting = [];
    this.other.finish();
  }

  /** Returns whether all was taken. */
  send(data: Uint8Array): boolean {
    if (this.#closed || this.#ended) return true;
    const taken =
      this.#waiting.length === 0 && this.socket !== undefined ? Math.max(this.socket.write(data), 0) : 0;
    if (taken === data.length) return true;
    // The runtime may reuse its buffer.
    this.#waiting.push(data.slice(taken));
    return false;
  }

  finish(): void {
    if (this.#ended || this.#closed) return;
    this.#ended = true;
    if (this.#waiting.length === 0) this.socket?.end();
  }
}

/**
 * Carries a TLS socket's bytes to a server that listens on a unix socket of this process. Returns the TLS socket's
 * end, to be fed by its handlers.
 */
export function openForward(tlsSocket: PipeSocket, path: string): PipeEnd {
  const { tlsEnd, plainEnd } = pair(tlsSocket);
  Bun.connect({ unix: path, socket: handlersOf(plainEnd) }).catch(() => {
    // The server is stopping: the client sees its connection end.
    plainEnd.close();
  });
  return tlsEnd;
}

function pair(tlsSocket: PipeSocket): { readonly tlsEnd: PipeEnd; readonly plainEnd: PipeEnd } {
  const tlsEnd = new PipeEnd();
  const plainEnd = new PipeEnd();
  tlsEnd.other = plainEnd;
  plainEnd.other = tlsEnd;
  tlsEnd.attach(tlsSocket);
  return { tlsEnd, plainEnd };
}

function handlersOf(end: PipeEnd) {
  return {
    open: (socket: PipeSocket) => end.attach(socket),
    data: (_socket: PipeSocket, data: Uint8Array) => end.receive(data),
    drain: () => end.drain(),
    end: () => end.close(),
    close: () => end.close(),
    error: () => end.close(),
  };
}

/**
 * Makes the way from a TLS socket to the event loop. Returns the TLS socket's end, to be fed by its handlers, and
 * the descriptor for the loop to adopt, which then belongs to the loop.
 */
export function openPipe(tlsSocket: PipeSocket): { readonly tlsEnd: PipeEnd; readonly loopSocket: number } {
  const sockets = new Int32Array(2);
  const type = C.SOCK_STREAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
  must("make a socket pair", libc.socketpair(C.AF_UNIX, type, sockets));
  const [mine, loopSocket] = sockets as unknown as [number, number];
  const { tlsEnd, plainEnd } = pair(tlsSocket);
  // The runtime takes a connected descriptor, which its types do not say.
  const options = { fd: mine, socket: handlersOf(plainEnd) };
  Bun.connect(options as unknown as Parameters<typeof Bun.connect>[0]).catch(() => {
    libc.close(mine);
    plainEnd.close();
  });
  return { tlsEnd, loopSocket };
}
