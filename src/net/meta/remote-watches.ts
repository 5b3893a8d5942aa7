/**
 * All watches of one remote store on one stream, because every stream costs a connection and the runtime allows
 * few. Each watch knows the last revision it delivered; a lost, silent or outdated stream (a watch was added) is
 * replaced by a new one that resumes them all, so nothing is missed and nothing comes twice.
 */
import { create } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import { type Clock, sleep, type Timer } from "../../base";
import type { KeyValue, Watch, WatchEvent, WatchListener } from "../../meta";
import { type MetaService, WatchRequestSchema, type WatchResponse } from "../gen/meta_pb";
import { entryFromMessage, eventFromMessage } from "./codec";
import { SILENCE_MS_MAX } from "./limits";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 2_000;

class RemoteWatch {
  /** Parts of a snapshot that is still coming. */
  pending: KeyValue[] = [];
  isConnected = false;
  isClosed = false;

  constructor(
    readonly id: number,
    readonly prefix: string,
    readonly listener: WatchListener,
    /** Everything up to here was delivered; undefined: a snapshot comes first. */
    public position: number | undefined,
  ) {}

  setConnected(connected: boolean): void {
    if (this.isConnected === connected || this.isClosed) return;
    this.isConnected = connected;
    this.listener.onConnection?.(connected);
  }

  onSnapshot(entries: readonly KeyValue[], revision: number, more: boolean): void {
    this.pending.push(...entries);
    if (more) return;
    const all = this.pending;
    this.pending = [];
    this.position = revision;
    this.setConnected(true);
    this.listener.onSnapshot(all, revision);
  }

  onEvents(events: readonly WatchEvent[], revision: number): void {
    if (this.position !== undefined && revision <= this.position) return;
    this.position = revision;
    this.setConnected(true);
    this.listener.onEvents(events, revision);
  }
}

export class RemoteWatches {
  readonly #client: Client<typeof MetaService>;
  readonly #clock: Clock;
  readonly #watches = new Map<number, RemoteWatch>();
  readonly #closing = new AbortController();
  #nextId = 1;
  /** Of the stream in use; aborted to replace it. */
  #stream: AbortController | undefined;
  #isOutdated = false;
  #isRunning = false;

  constructor(client: Client<typeof MetaService>, clock: Clock) {
    this.#client = client;
    this.#clock = clock;
  }

  add(prefix: string, listener: WatchListener, afterRevision: number | undefined): Watch {
    const watch = new RemoteWatch(this.#nextId++, prefix, listener, afterRevision);
    this.#watches.set(watch.id, watch);
    this.#replaceStream();
    return {
      close: () => {
        watch.isClosed = true;
        this.#watches.delete(watch.id);
        // The stream goes on carrying it until the next replacement; without any watch it ends.
        if (this.#watches.size === 0) this.#stream?.abort();
      },
    };
  }

  close(): void {
    for (const watch of this.#watches.values()) watch.isClosed = true;
    this.#watches.clear();
    this.#closing.abort();
    this.#stream?.abort();
  }

  /** Once for all watches that are added in the same turn. */
  #replaceStream(): void {
    if (this.#isOutdated) return;
    this.#isOutdated = true;
    queueMicrotask(() => {
      this.#stream?.abort();
      if (!this.#isRunning) void this.#run();
    });
  }

  /** Ends only with close or when no watch is left; pauses up to BACKOFF_MS_MAX between attempts. */
  async #run(): Promise<void> {
    this.#isRunning = true;
    let backoffMs = BACKOFF_MS_MIN;
    while (!this.#closing.signal.aborted && this.#watches.size > 0) {
      this.#isOutdated = false;
      const wasAlive = await this.#follow();
      if (this.#isOutdated || this.#watches.size === 0) continue;
      for (const watch of this.#watches.values()) watch.setConnected(false);
      if (wasAlive) backoffMs = BACKOFF_MS_MIN;
      await sleep(this.#clock, backoffMs, this.#closing.signal).catch(() => undefined);
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
    }
    this.#isRunning = false;
  }

  /** One stream from its beginning to its end; whether anything came on it. */
  async #follow(): Promise<boolean> {
    const stream = new AbortController();
    this.#stream = stream;
    let wasAlive = false;
    let silence: Timer | undefined;
    const restartSilence = () => {
      silence?.cancel();
      silence = this.#clock.schedule(SILENCE_MS_MAX, () => stream.abort());
    };
    for (const watch of this.#watches.values()) watch.pending = [];
    const request = create(WatchRequestSchema, {
      targets: [...this.#watches.values()].map(({ id, prefix, position }) => ({
        ...{ id, prefix, afterRevision: BigInt(position ?? 0) },
      })),
    });
    restartSilence();
    try {
      for await (const response of this.#client.watch(request, { signal: stream.signal })) {
        if (stream.signal.aborted) break;
        wasAlive = true;
        restartSilence();
        this.#onResponse(response);
      }
    } catch (error) {
      // A stream that ends badly is replaced; its watches were told by setConnected(false). Bugs are not swallowed.
      if (error instanceof TypeError || error instanceof RangeError) throw error;
    } finally {
      silence?.cancel();
      stream.abort();
    }
    return wasAlive;
  }

  #onResponse(response: WatchResponse): void {
    const watch = this.#watches.get(response.id);
    if (watch === undefined) return;
    const { kind } = response;
    if (kind.case === "connected") watch.setConnected(kind.value);
    else if (kind.case === "snapshot")
      watch.onSnapshot(
        kind.value.entries.map(entryFromMessage),
        Number(kind.value.revision),
        kind.value.more,
      );
    else if (kind.case === "events") {
      const revision = Number(kind.value.revision);
      const events = kind.value.events.map((event) => eventFromMessage(event, revision));
      watch.onEvents(
        events.filter((event) => event !== undefined),
        revision,
      );
    }
  }
}
