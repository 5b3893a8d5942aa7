/**
 * A watch of one prefix that resumes without a gap: it remembers the last revision it delivered whole and asks
 * etcd to go on from the next, on whichever endpoint answers. When etcd has compacted that away, the prefix is
 * read anew and handed over as a snapshot. etcd sends the events of one revision together (fragments are not
 * asked for), so grouping by mod revision yields whole revisions.
 */
import type { Etcd3, IWatchResponse, WatchClient } from "etcd3";
import { type Clock, sleep } from "../../base";
import { MetaError } from "../errors";
import type { RangeResult, Watch, WatchEvent, WatchListener } from "../kv";
import { cancelStream, type EtcdClient } from "./etcd-client";
import { decodeEntry, prefixEnd } from "./etcd-codec";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 2_000;
/** How long opening the stream may take. */
const OPEN_DEADLINE_MS = 5_000;

type StreamOptions = NonNullable<Parameters<WatchClient["watch"]>[0]>;
type WatchStream = Awaited<ReturnType<WatchClient["watch"]>>;
type StreamEnd = "compacted" | "closed" | "failed";

/**
 * With this request header etcd ends the watch when its member has lost the leader, instead of leaving it silent.
 * etcd3 offers no way to set headers, so an interceptor adds it.
 */
const requireLeader: StreamOptions = {
  interceptors: [
    (options, nextCall) => {
      const call = nextCall(options);
      const start = call.start.bind(call);
      call.start = (metadata, listener) => {
        metadata.set("hasleader", "true");
        start(metadata, listener);
      };
      return call as never;
    },
  ],
};

export class EtcdWatch implements Watch {
  readonly #client: EtcdClient;
  readonly #clock: Clock;
  readonly #prefix: string;
  readonly #listener: WatchListener;
  readonly #range: (prefix: string) => Promise<RangeResult>;
  readonly #abort = new AbortController();
  /** Revisions up to this were delivered; undefined: start with a snapshot. */
  #position: number | undefined;
  #connected = false;

  constructor(
    client: EtcdClient,
    clock: Clock,
    prefix: string,
    listener: WatchListener,
    afterRevision: number | undefined,
    range: (prefix: string) => Promise<RangeResult>,
  ) {
    this.#client = client;
    this.#clock = clock;
    this.#prefix = prefix;
    this.#listener = listener;
    this.#position = afterRevision;
    this.#range = range;
    void this.#run();
  }

  close(): void {
    this.#abort.abort();
  }

  /** Ends only with close: a watch outlives every outage, pausing up to BACKOFF_MS_MAX between attempts. */
  async #run(): Promise<void> {
    let backoffMs = BACKOFF_MS_MIN;
    while (!this.#abort.signal.aborted && !this.#client.closed) {
      const end = await this.#runOnce(() => {
        backoffMs = BACKOFF_MS_MIN;
      }).catch((error: unknown) => {
        // Unreachable, late, refused for now: what MetaErrors stand for here is told by onConnection(false).
        if (error instanceof MetaError || this.#abort.signal.aborted) return "failed" as const;
        throw error;
      });
      this.#setConnected(false);
      if (end === "closed") return;
      if (end === "compacted") {
        this.#position = undefined;
        continue;
      }
      await sleep(this.#clock, backoffMs, this.#abort.signal).catch(() => undefined);
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
    }
  }

  async #runOnce(onProgress: () => void): Promise<StreamEnd> {
    // Reading first renews a stale token and finds an endpoint that answers, which a stream alone does not.
    if (this.#position === undefined) {
      const { entries, revision } = await this.#range(this.#prefix);
      this.#deliver(() => this.#listener.onSnapshot(entries, revision));
      this.#position = revision;
    } else if ((await this.#latestRevision()) < this.#position) {
      // etcd was restored from a backup: what was delivered no longer holds.
      this.#position = undefined;
      return "compacted";
    }
    onProgress();
    return this.#follow(this.#position, onProgress);
  }

  #latestRevision(): Promise<number> {
    return this.#client.call({
      what: `watch ${this.#prefix}`,
      idempotent: true,
      run: async (client, deadline) => {
        const key = Buffer.from(this.#prefix);
        const response = await client.kv.range({ key, keys_only: true }, deadline);
        this.#client.checkHeader(response.header);
        return Number(response.header.revision);
      },
    });
  }

  async #follow(position: number, onProgress: () => void): Promise<StreamEnd> {
    const { client, endpointIndex } = this.#client.currentClient();
    const stream = await this.#openStream(client);
    if (stream === undefined) {
      this.#client.markFailed(endpointIndex);
      return "failed";
    }
    return new Promise((resolve) => {
      let opened = false;
      const finish = (end: StreamEnd) => {
        openTimer.cancel();
        this.#abort.signal.removeEventListener("abort", onClose);
        if (end === "failed") this.#client.markFailed(endpointIndex);
        cancelStream(stream);
        resolve(end);
      };
      const onClose = () => finish("closed");
      const openTimer = this.#clock.schedule(OPEN_DEADLINE_MS, () => {
        if (!opened) finish("failed");
      });
      if (this.#abort.signal.aborted) return finish("closed");
      this.#abort.signal.addEventListener("abort", onClose, { once: true });
      // Errors after `finish` (our own cancel among them) have nobody left to tell.
      stream.on("error", () => finish("failed"));
      stream.on("end", () => finish("failed"));
      stream.on("data", (response: IWatchResponse) => {
        if (this.#abort.signal.aborted) return;
        if (Number(response.compact_revision) > 0) return finish("compacted");
        if (response.canceled) return finish("failed");
        opened = true;
        onProgress();
        this.#setConnected(true);
        this.#onResponse(response);
      });
      stream.write({
        create_request: {
          key: Buffer.from(this.#prefix),
          range_end: prefixEnd(this.#prefix),
          start_revision: String(position + 1),
          progress_notify: true,
        },
      });
    });
  }

  /** Undefined when etcd did not let us, or not in time; the next attempt's read says why. */
  async #openStream(client: Etcd3): Promise<WatchStream | undefined> {
    let isLate = false;
    const opening = client.watchClient.watch(requireLeader).then(
      (stream) => {
        if (!isLate) return stream;
        cancelStream(stream);
        return undefined;
      },
      () => undefined,
    );
    const timeout = sleep(this.#clock, OPEN_DEADLINE_MS, this.#abort.signal).then(
      () => undefined,
      () => undefined,
    );
    const stream = await Promise.race([opening, timeout]);
    isLate = stream === undefined;
    return stream;
  }

  #onResponse(response: IWatchResponse): void {
    let group: WatchEvent[] = [];
    let groupRevision = 0;
    const flush = () => {
      if (group.length === 0 || groupRevision <= (this.#position ?? 0)) return;
      const events = group;
      const revision = groupRevision;
      this.#position = revision;
      this.#deliver(() => this.#listener.onEvents(events, revision));
    };
    for (const { type, kv } of response.events) {
      const modRevision = Number(kv.mod_revision);
      if (modRevision !== groupRevision) {
        flush();
        group = [];
        groupRevision = modRevision;
      }
      group.push(
        type === "Delete" || (type as string) === "DELETE"
          ? { kind: "delete", key: kv.key.toString(), modRevision }
          : { kind: "put", entry: decodeEntry(kv) },
      );
    }
    flush();
    // A progress notification: nothing below its revision is still to come.
    if (response.events.length === 0 && !response.created)
      this.#position = Math.max(this.#position ?? 0, Number(response.header.revision));
  }

  #setConnected(connected: boolean): void {
    if (this.#connected === connected) return;
    this.#connected = connected;
    this.#deliver(() => this.#listener.onConnection?.(connected));
  }

  /** Outside of gRPC's callbacks, where an exception of the listener would be taken for the stream's. */
  #deliver(body: () => void): void {
    queueMicrotask(() => {
      if (!this.#abort.signal.aborted) body();
    });
  }
}
