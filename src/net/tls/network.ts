/**
 * The StreamNetwork of a loop that has TLS in front of it: an address that begins with `tls:` is dialled by the
 * main thread (`dial`, by way of the worker's RPC) and its plain end adopted here; all others go straight to the
 * sockets below. Protocol code sees no difference.
 */
import type {
  SocketNetwork,
  StreamAddress,
  StreamConnection,
  StreamHandler,
  StreamListener,
  StreamNetwork,
} from "../../base/io";
import { IoError, libc } from "../../base/io";

/** In front of the `host:port` of a stream address that is to be dialled with TLS. */
export const TLS_PREFIX = "tls:";

/** Resolves to a descriptor that the caller then owns; rejects by `timeoutMs` at the latest. */
type Dial = (address: StreamAddress, timeoutMs: number) => Promise<number>;

export class TlsNetwork implements StreamNetwork {
  constructor(
    private readonly sockets: SocketNetwork,
    private readonly dial: Dial,
  ) {}

  listen(address: StreamAddress, accept: (connection: StreamConnection) => StreamHandler): StreamListener {
    return this.sockets.listen(address, accept);
  }

  connect(
    address: StreamAddress,
    timeoutMs: number,
    connected: (connection: StreamConnection) => StreamHandler,
    failed: (reason: string) => void,
  ): void {
    if (!address.startsWith(TLS_PREFIX)) return this.sockets.connect(address, timeoutMs, connected, failed);
    const target = address.slice(TLS_PREFIX.length);
    this.dial(target, timeoutMs).then(
      (socket) => {
        try {
          this.sockets.adopt(socket, target, connected);
        } catch (error) {
          if (!(error instanceof IoError)) throw error;
          libc.close(socket);
          failed(error.message);
        }
      },
      (error: unknown) => failed(error instanceof Error ? error.message : String(error)),
    );
  }
}
