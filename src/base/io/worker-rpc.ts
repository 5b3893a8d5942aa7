/**
 * Typed calls and events between two threads over postMessage, the same at both ends: the main thread asks a loop
 * worker to open a volume, the worker asks the main thread to commit a head. Each call has a deadline on its own
 * side's Clock and completes once; an error crosses with its code, retryable and exit code. This is the control
 * path: a call costs some 50 us and a structured clone.
 */
import type { Clock, Timer } from "../clock";
import { type ExitCode, TorusError } from "../errors";
import { IoError } from "./errors";

/** What one side offers: every method takes one argument (structured-cloneable) and may return a promise. */
// biome-ignore lint/suspicious/noExplicitAny: any argument type must be assignable to the constraint
export type RpcMethods<Api> = { [Name in keyof Api]: (argument: any) => unknown };
type ArgumentOf<Method> = Method extends (argument: infer Argument) => unknown ? Argument : never;
type ResultOf<Method> = Method extends (argument: never) => infer Result ? Awaited<Result> : never;

/** The part of Worker, MessagePort and a worker's `self` that is used. */
export interface MessageChannelEnd {
  postMessage(message: unknown): void;
  addEventListener(type: "message", listener: (event: MessageEvent) => void): void;
}

interface WireError {
  readonly code: string;
  readonly name: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly exitCode: ExitCode;
  readonly stack: string;
}

type Message =
  | { readonly kind: "call"; readonly id: number; readonly method: string; readonly argument: unknown }
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "error"; readonly id: number; readonly error: WireError }
  | { readonly kind: "event"; readonly name: string; readonly payload: unknown };

/** Turns anything thrown into what can be cloned; what is no TorusError becomes "worker-failed". */
export function encodeError(error: unknown): WireError {
  if (error instanceof TorusError)
    return {
      code: error.code,
      name: error.name,
      message: error.message,
      retryable: error.retryable,
      exitCode: error.exitCode,
      stack: error.stack ?? "",
    };
  const text = error instanceof Error ? error.message : String(error);
  return {
    code: "worker-failed",
    name: "IoError",
    message: `Cannot go on in another thread: ${text}`,
    retryable: false,
    exitCode: 1,
    stack: (error instanceof Error && error.stack) || "",
  };
}

export function decodeError(wire: WireError): TorusError {
  const error = new TorusError(wire.code, wire.message, {
    retryable: wire.retryable,
    exitCode: wire.exitCode,
  });
  error.name = wire.name;
  error.stack = `${wire.stack}\n    -- asked for by another thread --\n${error.stack ?? ""}`;
  return error;
}

interface PendingCall {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: TorusError) => void;
  readonly timer: Timer;
}

export interface RpcEndpointOptions<Local> {
  readonly channel: MessageChannelEnd;
  readonly clock: Clock;
  readonly methods: Local;
  /** Called after each message: wakes an event loop that does not see messages by itself. */
  readonly kick?: () => void;
  /** Deadline of a call that names none. */
  readonly timeoutMsDefault?: number;
  /** A listener for an event threw, or a message made no sense: a bug on this side. */
  readonly onBug: (error: unknown) => void;
}

/** Calls waiting for an answer at once, per direction: beyond that something is stuck. */
const PENDING_CALLS_MAX = 65_536;

/**
 * `Local` is what this side offers, `Remote` what the other side does; the events are maps from name to payload.
 */
export class RpcEndpoint<
  Local extends RpcMethods<Local>,
  Remote extends RpcMethods<Remote>,
  LocalEvents = Record<never, never>,
  RemoteEvents = Record<never, never>,
> {
  readonly #pending = new Map<number, PendingCall>();
  readonly #listeners = new Map<keyof RemoteEvents, ((payload: never) => void)[]>();
  readonly #tables: object[];
  #idNext = 1;
  #closed: TorusError | undefined;

  constructor(private readonly options: RpcEndpointOptions<Local>) {
    this.#tables = [options.methods as object];
    options.channel.addEventListener("message", (event) => this.#onMessage(event.data as Message));
  }

  /** Rejects with the other side's error, "worker-timeout" (retryable), or the reason of `close`. */
  call<Name extends keyof Remote & string>(
    method: Name,
    argument: ArgumentOf<Remote[Name]>,
    timeoutMs = this.options.timeoutMsDefault ?? 30_000,
  ): Promise<ResultOf<Remote[Name]>> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) return reject(this.#closed);
      if (this.#pending.size >= PENDING_CALLS_MAX)
        return reject(new IoError("worker-timeout", `Cannot call ${method}: too many calls wait already`));
      const id = this.#idNext++;
      const timer = this.options.clock.schedule(timeoutMs, () => {
        this.#pending.delete(id);
        reject(
          new IoError(
            "worker-timeout",
            `Cannot finish ${method}: no answer from its thread in ${timeoutMs} ms`,
            {
              retryable: true,
            },
          ),
        );
      });
      this.#pending.set(id, { resolve: resolve as (value: unknown) => void, reject, timer });
      this.#post({ kind: "call", id, method, argument });
    });
  }

  /** Offers more methods from now on. */
  extend(methods: object): void {
    this.#tables.push(methods);
  }

  emit<Name extends keyof LocalEvents & string>(name: Name, payload: LocalEvents[Name]): void {
    if (this.#closed === undefined) this.#post({ kind: "event", name, payload });
  }

  on<Name extends keyof RemoteEvents>(name: Name, listener: (payload: RemoteEvents[Name]) => void): void {
    const listeners = this.#listeners.get(name) ?? [];
    listeners.push(listener as (payload: never) => void);
    this.#listeners.set(name, listeners);
  }

  /** Fails every waiting and future call with this error. */
  close(error: TorusError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    for (const call of this.#pending.values()) {
      call.timer.cancel();
      call.reject(error);
    }
    this.#pending.clear();
  }

  #post(message: Message): void {
    this.options.channel.postMessage(message);
    this.options.kick?.();
  }

  #onMessage(message: Message): void {
    if (this.#closed !== undefined) return;
    switch (message.kind) {
      case "call":
        void this.#answer(message.id, message.method, message.argument);
        return;
      case "event":
        return this.#deliver(message.name as keyof RemoteEvents, message.payload);
      case "result":
      case "error": {
        const call = this.#pending.get(message.id);
        // Absent: it came after its deadline.
        if (call === undefined) return;
        this.#pending.delete(message.id);
        call.timer.cancel();
        if (message.kind === "result") call.resolve(message.value);
        else call.reject(decodeError(message.error));
      }
    }
  }

  async #answer(id: number, method: string, argument: unknown): Promise<void> {
    let reply: Message;
    try {
      const table = this.#tables.find((candidate) => method in candidate);
      if (table === undefined) throw new IoError("worker-failed", `Cannot call ${method}: no such method`);
      const handler = (table as Record<string, (argument: unknown) => unknown>)[method] as (
        argument: unknown,
      ) => unknown;
      reply = { kind: "result", id, value: await handler.call(table, argument) };
    } catch (error) {
      reply = { kind: "error", id, error: encodeError(error) };
    }
    if (this.#closed !== undefined) return;
    try {
      this.#post(reply);
    } catch (error) {
      // The result cannot be cloned: the caller learns that instead of waiting for its deadline.
      this.#post({ kind: "error", id, error: encodeError(error) });
    }
  }

  #deliver(name: keyof RemoteEvents, payload: unknown): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(payload as never);
      } catch (error) {
        this.options.onBug(error);
      }
    }
  }
}
