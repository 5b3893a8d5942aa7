/**
 * Connects with TLS on the main thread, as a client with a certificate, and gives the event loop a plain
 * descriptor. The other side's certificate must be signed by the authority and name the host that was dialled.
 */
import type { Socket } from "bun";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import { parseStreamAddress, type StreamAddress } from "../../base/io";
import { TlsError } from "./errors";
import type { TlsIdentity } from "./identity";
import { openPipe, type PipeEnd } from "./pipe";

interface Dialled {
  end: PipeEnd | undefined;
}

export class TlsDialer {
  constructor(private identity: TlsIdentity) {}

  /** New connections use this identity; those that are open stay. */
  renew(identity: TlsIdentity): void {
    this.identity = identity;
  }

  /** The descriptor for the loop to adopt. Throws TlsError "connect-failed". */
  dial(address: StreamAddress, timeoutMs: number): Promise<number> {
    const parsed = parseStreamAddress(address);
    const failed = (reason: string, cause?: unknown) =>
      new TlsError("connect-failed", `Cannot connect to ${address} with TLS: ${reason}`, {
        retryable: true,
        cause,
      });
    if (parsed.kind !== "tcp") return Promise.reject(failed("it is no host:port"));
    const { cert, key, ca } = this.identity;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    let isOver = false;
    let opened: Socket<Dialled> | undefined;
    const fail = (reason: string, cause?: unknown) => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      opened?.terminate();
      reject(failed(reason, cause));
    };
    const timer = setTimeout(() => fail(`no answer in ${timeoutMs} ms`), timeoutMs);
    const onHandshake = (socket: Socket<Dialled>, success: boolean, error: Error | null) => {
      if (isOver) return socket.terminate();
      const problem = (error ?? undefined)?.message ?? (success ? undefined : "the handshake failed");
      if (problem !== undefined) return fail(problem, error);
      const mismatch = checkServerIdentity(
        parsed.host,
        socket.getPeerCertificate() as unknown as PeerCertificate,
      );
      if (mismatch !== undefined) return fail(mismatch.message, mismatch);
      isOver = true;
      clearTimeout(timer);
      const pipe = openPipe(socket);
      socket.data.end = pipe.tlsEnd;
      resolve(pipe.loopSocket);
    };
    const onEnd = (socket: Socket<Dialled>, error?: Error) => {
      fail(error?.message ?? "it closed the connection", error);
      socket.data.end?.close();
    };
    const data: Dialled = { end: undefined };
    Bun.connect<Dialled>({
      hostname: parsed.host,
      port: parsed.port,
      data,
      tls: { cert, key, ca, rejectUnauthorized: true, serverName: parsed.host },
      socket: {
        open: (socket) => {
          opened = socket;
          if (isOver) socket.terminate();
        },
        handshake: onHandshake,
        data: (socket, bytes) => socket.data.end?.receive(bytes),
        drain: (socket) => socket.data.end?.drain(),
        end: (socket) => onEnd(socket),
        close: (socket) => onEnd(socket),
        error: (socket, error) => onEnd(socket, error),
        connectError: (_socket, error) => fail(error.message, error),
      },
    }).catch((error: unknown) => fail(error instanceof Error ? error.message : String(error), error));
    return promise;
  }
}
