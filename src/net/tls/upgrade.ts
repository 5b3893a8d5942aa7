/**
 * TLS on a connection that began without it (NBD's STARTTLS): the event loop gave its descriptor away, this ends TLS
 * on it as the server on the main thread, and gives the loop a plain descriptor back. The client's certificate must be
 * signed by the authority. Handshakes are bounded in number and time.
 */
import { Duplex } from "node:stream";
import { type PeerCertificate, TLSSocket } from "node:tls";
import type { Socket } from "bun";
import { libc } from "../../base/io";
import type { TlsSubject } from "./gate";
import type { TlsIdentity } from "./identity";
import { openPipe, type PipeSocket } from "./pipe";

const HANDSHAKE_MS_MAX = 10_000;
const HANDSHAKES_MAX = 256;
const CONNECTIONS_MAX = 4096;

export interface UpgradedClient extends TlsSubject {
  /** Plain; it belongs to the receiver. */
  readonly socket: number;
}

export class TlsUpgrader {
  #handshakes = 0;
  #connections = 0;

  constructor(private identity: TlsIdentity) {}

  /** New handshakes use this identity; connections that are open stay. */
  renew(identity: TlsIdentity): void {
    this.identity = identity;
  }

  /**
   * `socket` is a connected descriptor and belongs to this from here on. `onClient` or `onRefused` is called once.
   */
  upgrade(
    socket: number,
    onClient: (client: UpgradedClient) => void,
    onRefused: (reason: string) => void,
  ): void {
    if (this.#handshakes >= HANDSHAKES_MAX || this.#connections >= CONNECTIONS_MAX) {
      libc.close(socket);
      onRefused("too many TLS connections are open");
      return;
    }
    this.#handshakes++;
    const raw = openRaw(socket);
    const { cert, key, ca } = this.identity;
    const tls = new TLSSocket(raw as never, {
      isServer: true,
      cert,
      key,
      ca,
      requestCert: true,
      rejectUnauthorized: true,
    });
    let state: "handshake" | "open" | "over" = "handshake";
    const end = (reason: string) => {
      if (state === "handshake") {
        this.#handshakes--;
        clearTimeout(timer);
        onRefused(reason);
      } else if (state === "open") this.#connections--;
      if (state === "over") return;
      state = "over";
      tls.destroy();
      raw.destroy();
    };
    const timer = setTimeout(() => end(`no handshake in ${HANDSHAKE_MS_MAX} ms`), HANDSHAKE_MS_MAX);
    tls.on("error", (error) => end(error.message));
    tls.on("close", () => end("it closed the connection"));
    raw.on("error", (error) => end(error.message));
    raw.on("close", () => end("it closed the connection"));
    tls.on("secure", () => {
      if (state !== "handshake") return;
      if (!tls.authorized) return end(String(tls.authorizationError ?? "its certificate is not trusted"));
      const { subject } = tls.getPeerCertificate() as Partial<PeerCertificate>;
      if (subject === undefined) return end("it has no certificate");
      state = "open";
      this.#handshakes--;
      this.#connections++;
      clearTimeout(timer);
      onClient({
        socket: carry(tls, () => end("")),
        commonName: text(subject.CN),
        organization: text(subject.O),
      });
    });
  }
}

/** Carries what TLS decrypts to a descriptor for the loop, and back. */
function carry(tls: TLSSocket, onEnd: () => void): number {
  const tlsSide: PipeSocket = {
    write: (data: Uint8Array) => {
      // A client that takes no replies must not fill memory: the loop's end waits then.
      if (tls.writableNeedDrain) return 0;
      tls.write(Buffer.from(data));
      return data.length;
    },
    pause: () => tls.pause(),
    resume: () => tls.resume(),
    end: () => tls.end(),
    terminate: () => onEnd(),
  } as unknown as PipeSocket;
  const { tlsEnd, loopSocket } = openPipe(tlsSide);
  tls.on("data", (data: Buffer) => tlsEnd.receive(data));
  tls.on("drain", () => tlsEnd.drain());
  tls.on("end", () => tlsEnd.close());
  tls.on("close", () => tlsEnd.close());
  return loopSocket;
}

function text(value: string | readonly string[] | undefined): string {
  return typeof value === "string" ? value : (value?.join(",") ?? "");
}

/** The descriptor as a stream: the runtime has no other way to give TLS one. */
function openRaw(descriptor: number): Duplex {
  let socket: Socket<undefined> | undefined;
  let waiting: { bytes: Uint8Array; readonly done: (error?: Error | null) => void } | undefined;
  const send = () => {
    if (waiting === undefined || socket === undefined) return;
    const taken = Math.max(socket.write(waiting.bytes), 0);
    if (taken < waiting.bytes.length) {
      waiting.bytes = waiting.bytes.subarray(taken);
      return;
    }
    const { done } = waiting;
    waiting = undefined;
    done();
  };
  const raw = new Duplex({
    read: () => {
      socket?.resume();
    },
    write: (chunk: Uint8Array, _encoding, done) => {
      waiting = { bytes: chunk, done };
      send();
    },
    final: (done) => {
      socket?.end();
      done();
    },
    destroy: (error, done) => {
      socket?.terminate();
      done(error);
    },
  });
  const options = {
    fd: descriptor,
    socket: {
      open: (opened: Socket<undefined>) => {
        socket = opened;
        if (raw.destroyed) opened.terminate();
        else send();
      },
      data: (_: unknown, data: Uint8Array) => {
        // The runtime may reuse its buffer.
        if (!raw.push(Buffer.from(data))) socket?.pause();
      },
      drain: () => send(),
      end: () => raw.push(null),
      close: () => raw.destroy(),
      error: (_: unknown, error: Error) => raw.destroy(error),
    },
  };
  Bun.connect(options as unknown as Parameters<typeof Bun.connect>[0]).catch((error: unknown) => {
    libc.close(descriptor);
    raw.destroy(error instanceof Error ? error : new Error(String(error)));
  });
  return raw;
}
