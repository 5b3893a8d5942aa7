/**
 * A Worker that runs an EventLoop, seen from both sides. `startLoopWorker` (main thread) makes it and waits until
 * it is set up; `runLoopWorker` (the worker's file, an entry point of the build) sets it up and runs the loop.
 * The main thread makes and owns the eventfd that wakes the loop, so that its number is never another file's
 * while somebody may write to it.
 *
 *   starting --setup done--> running --stop()--> stopped
 *   from anywhere --an exception, the thread's end--> failed: all calls reject and `onFailure` runs once
 */
import { workerData } from "node:worker_threads";
import { sleep } from "../clock";
import { TorusError } from "../errors";
import { IoError } from "./errors";
import { createWakeHandle, EventLoop, kickLoop } from "./event-loop";
import { libc } from "./libc";
import { SocketNetwork, type SocketNetworkOptions } from "./socket-network";
import { systemClock } from "./system";
import { decodeError, encodeError, type MessageChannelEnd, RpcEndpoint, type RpcMethods } from "./worker-rpc";

/** What every loop worker offers beside its own methods. */
interface Lifecycle {
  $start(data: unknown): Promise<void>;
  $stop(argument: undefined): Promise<void>;
}
interface LifecycleEvents {
  $failed: ReturnType<typeof encodeError>;
}

interface LoopWorkerData {
  readonly torusWakeHandle: number;
}

export interface StartLoopWorkerOptions<Local> {
  /** Of the worker's file, by `workerUrl`. */
  readonly url: string;
  /** For messages: "storage worker". */
  readonly name: string;
  /** Handed to the worker's setup; structured-cloneable. */
  readonly data: unknown;
  /** What the worker may call here. */
  readonly methods: Local;
  readonly startTimeoutMs: number;
  /** The worker died by itself, after a successful start. */
  readonly onFailure: (error: TorusError) => void;
}

/** The main thread's hold on a running loop worker. */
export interface LoopWorker<
  Local extends RpcMethods<Local>,
  Remote extends RpcMethods<Remote>,
  LocalEvents,
  RemoteEvents,
> {
  readonly endpoint: RpcEndpoint<Local, Remote, LocalEvents, RemoteEvents>;
  readonly wakeHandle: number;
  /** Runs the worker's own closing, then ends the thread; the thread is ended after `timeoutMs` in any case. */
  stop(timeoutMs: number): Promise<void>;
}

/** The URL of a worker's file, named relative to `src/`, in the source tree and inside the compiled executable. */
export function workerUrl(pathInSource: string): string {
  const here = import.meta.url;
  // Inside the executable everything is bundled below one root, which stands for src/.
  const root = here.startsWith("file:///$bunfs/") ? "file:///$bunfs/root/" : new URL("../../", here).href;
  return new URL(pathInSource, root).href;
}

/** Throws the worker's own error when its setup failed, "worker-timeout" or "worker-gone". */
export async function startLoopWorker<
  Local extends RpcMethods<Local>,
  Remote extends RpcMethods<Remote>,
  LocalEvents = Record<never, never>,
  RemoteEvents = Record<never, never>,
>(options: StartLoopWorkerOptions<Local>): Promise<LoopWorker<Local, Remote, LocalEvents, RemoteEvents>> {
  const wakeHandle = createWakeHandle();
  const kick = () => kickLoop(wakeHandle);
  const data: LoopWorkerData = { torusWakeHandle: wakeHandle };
  const worker = new Worker(options.url, { workerData: data } as WorkerOptions);
  let state: "starting" | "running" | "over" = "starting";
  let gone: (() => void) | undefined;
  const fail = (error: TorusError) => {
    if (state === "over") return;
    const wasRunning = state === "running";
    state = "over";
    endpoint.close(error);
    worker.terminate();
    kick();
    if (wasRunning) options.onFailure(error);
  };
  const workerGone = (how: string) =>
    new IoError("worker-gone", `Cannot go on: the ${options.name} ${how}`, { retryable: false });
  const endpoint = new RpcEndpoint<Local, Remote & Lifecycle, LocalEvents, RemoteEvents & LifecycleEvents>({
    channel: worker,
    clock: systemClock,
    methods: options.methods,
    kick,
    onBug: (error) => fail(decodeError(encodeError(error))),
  });
  endpoint.on("$failed", ((error: ReturnType<typeof encodeError>) => fail(decodeError(error))) as never);
  worker.addEventListener("error", (event) => {
    const text = event instanceof ErrorEvent ? event.message : "failed";
    fail(workerGone(`failed: ${text}`));
  });
  worker.addEventListener("close", () => {
    fail(workerGone("ended by itself"));
    gone?.();
    // Only now is nobody left who could read the number.
    libc.close(wakeHandle);
  });
  try {
    await endpoint.call("$start", options.data as never, options.startTimeoutMs);
  } catch (error) {
    fail(error instanceof TorusError ? error : workerGone(String(error)));
    throw error;
  }
  state = "running";
  return {
    endpoint: endpoint as unknown as RpcEndpoint<Local, Remote, LocalEvents, RemoteEvents>,
    wakeHandle,
    stop: async (timeoutMs) => {
      if (state !== "running") return;
      const ended = new Promise<void>((resolve) => {
        gone = resolve;
      });
      try {
        await endpoint.call("$stop", undefined as never, timeoutMs);
      } finally {
        state = "over";
        endpoint.close(workerGone("was stopped"));
        worker.terminate();
        kick();
        await Promise.race([ended, sleep(systemClock, timeoutMs)]);
      }
    },
  };
}

/** What a loop worker's setup is given. */
export interface LoopWorkerContext<
  Local extends RpcMethods<Local>,
  Remote extends RpcMethods<Remote>,
  LocalEvents,
  RemoteEvents,
> {
  readonly loop: EventLoop;
  readonly network: SocketNetwork;
  /** The main thread, for calls and events; calls to this worker are answered once setup has returned. */
  readonly endpoint: RpcEndpoint<Local, Remote, LocalEvents, RemoteEvents>;
}

export interface LoopWorkerParts<Local> {
  readonly methods: Local;
  /** Run by `stop`: closes listeners, detaches volumes, syncs. */
  readonly close: () => Promise<void>;
}

/**
 * The body of a worker's file: waits for the main thread's data, sets up, and runs the loop until it is stopped.
 * What `setup` throws becomes the error of startLoopWorker.
 */
export function runLoopWorker<
  Data,
  Local extends RpcMethods<Local>,
  Remote extends RpcMethods<Remote>,
  LocalEvents = Record<never, never>,
  RemoteEvents = Record<never, never>,
>(
  setup: (
    data: Data,
    context: LoopWorkerContext<Local, Remote, LocalEvents, RemoteEvents>,
  ) => Promise<LoopWorkerParts<Local>>,
  networkOptions: SocketNetworkOptions = {},
): void {
  const { torusWakeHandle } = workerData as LoopWorkerData;
  const loop = new EventLoop({ wakeHandle: torusWakeHandle });
  const network = new SocketNetwork(loop, networkOptions);
  const channel = self as unknown as MessageChannelEnd;
  let parts: LoopWorkerParts<Local> | undefined;
  const methods = {
    $start: async (data: Data) => {
      parts = await setup(data, { loop, network, endpoint: shared });
      endpoint.extend(parts.methods as object);
    },
    $stop: async () => {
      await parts?.close();
      network.closeAll("the worker stops");
      loop.afterTurn(() => loop.stop());
    },
  };
  const endpoint = new RpcEndpoint<never, never, LifecycleEvents, never>({
    channel,
    clock: loop,
    methods: methods as never,
    onBug: (error) => endpoint.emit("$failed", encodeError(error)),
  });
  const shared = endpoint as unknown as RpcEndpoint<Local, Remote, LocalEvents, RemoteEvents>;
  loop.run().catch((error: unknown) => endpoint.emit("$failed", encodeError(error)));
}
