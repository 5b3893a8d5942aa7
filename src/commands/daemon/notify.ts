/**
 * Telling systemd how the daemon is: sd_notify's datagrams to the socket that $NOTIFY_SOCKET names (sd_notify(3)).
 * The runtime has no unix datagram sockets, so this makes the system calls itself. Without the variable every call
 * does nothing. A datagram that is not taken is no reason to stop serving: it is said once.
 */
import { C, errnoName, libc, must, nativeBuffer } from "../../base/io";
import type { Clock, Timer } from "../../base";

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
/** A status line longer than this says nothing more. */
const MESSAGE_BYTES_MAX = 2048;
const PATH_BYTES_MAX = 107;

export interface NotifyEnvironment {
  readonly NOTIFY_SOCKET?: string | undefined;
  readonly WATCHDOG_USEC?: string | undefined;
  readonly WATCHDOG_PID?: string | undefined;
}

/** The sockaddr_un of a path, or of an abstract name that begins with `@`; undefined for what systemd never gives. */
export function notifyAddress(name: string): Uint8Array | undefined {
  const isAbstract = name.startsWith("@");
  const path = Buffer.from(name);
  if ((!isAbstract && !name.startsWith("/")) || path.length > PATH_BYTES_MAX) return undefined;
  // A path ends with a NUL; an abstract name begins with one and ends where the length says.
  const bytes = Buffer.alloc(2 + path.length + (isAbstract ? 0 : 1));
  bytes.writeUInt16LE(AF_UNIX, 0);
  path.copy(bytes, 2);
  if (isAbstract) bytes[2] = 0;
  return bytes;
}

/** How often to say WATCHDOG=1, or undefined when systemd does not watch this process. */
export function watchdogIntervalMs(environment: NotifyEnvironment, processId: number): number | undefined {
  const { WATCHDOG_USEC, WATCHDOG_PID } = environment;
  if (WATCHDOG_PID !== undefined && Number(WATCHDOG_PID) !== processId) return undefined;
  const limitMs = Number(WATCHDOG_USEC) / 1000;
  // A third, so that one late word is not the end.
  return limitMs >= 3 ? Math.floor(limitMs / 3) : undefined;
}

export class ServiceNotifier {
  readonly #socket: number | undefined;
  readonly #buffer = nativeBuffer(MESSAGE_BYTES_MAX);
  #watchdog: Timer | undefined;
  #status = "";
  #complained = false;

  constructor(
    private readonly environment: NotifyEnvironment,
    private readonly onProblem: (message: string) => void,
  ) {
    const name = environment.NOTIFY_SOCKET;
    if (name === undefined || name === "") return;
    const address = notifyAddress(name);
    if (address === undefined) {
      this.#complain(`it is no socket: ${name}`);
      return;
    }
    const socket = must(
      "make a socket for systemd",
      libc.socket(AF_UNIX, SOCK_DGRAM | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC, 0),
    );
    const result = libc.connect(socket, address);
    if (result < 0) {
      libc.close(socket);
      this.#complain(errnoName(result));
      return;
    }
    this.#socket = socket;
  }

  /** Everything is up; `status` is what `systemctl status` shows. */
  ready(status: string): void {
    this.#send(`READY=1\nSTATUS=${this.#line(status)}`);
  }

  status(status: string): void {
    if (this.#line(status) !== this.#status) this.#send(`STATUS=${this.#line(status)}`);
  }

  reloading(): void {
    // systemd compares with CLOCK_MONOTONIC, which is what hrtime reads.
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  /** The end of `reloading`; the status is what it was. */
  reloaded(): void {
    this.#send("READY=1");
  }

  stopping(): void {
    this.#watchdog?.cancel();
    this.#send("STOPPING=1\nSTATUS=Stopping");
  }

  /** Says that this process lives, as often as systemd asked for, whenever `isAlive` resolves. */
  startWatchdog(clock: Clock, isAlive: () => Promise<unknown>): void {
    const intervalMs = watchdogIntervalMs(this.environment, process.pid);
    if (this.#socket === undefined || intervalMs === undefined) return;
    const beat = () => {
      isAlive().then(
        () => this.#send("WATCHDOG=1"),
        (error: unknown) =>
          this.onProblem(
            `The data path does not answer, so systemd is not told that it lives: ${error instanceof Error ? error.message : String(error)}`,
          ),
      );
      this.#watchdog = clock.schedule(intervalMs, beat);
    };
    beat();
  }

  close(): void {
    this.#watchdog?.cancel();
    if (this.#socket !== undefined) libc.close(this.#socket);
  }

  #line(status: string): string {
    return status.replaceAll("\n", "; ").slice(0, MESSAGE_BYTES_MAX / 4);
  }

  #send(message: string): void {
    if (this.#socket === undefined) return;
    const status = /^STATUS=(.*)$/m.exec(message)?.[1];
    if (status !== undefined) this.#status = status;
    const bytes = Buffer.from(message).subarray(0, MESSAGE_BYTES_MAX);
    this.#buffer.bytes.set(bytes);
    const result = libc.send(this.#socket, this.#buffer.address, bytes.length, C.MSG_NOSIGNAL);
    if (result < 0) this.#complain(errnoName(result));
  }

  #complain(reason: string): void {
    if (this.#complained) return;
    this.#complained = true;
    this.onProblem(`Cannot tell systemd how this daemon is: ${reason}`);
  }
}
