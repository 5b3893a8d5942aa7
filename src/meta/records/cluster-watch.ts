/**
 * The cluster as it is now: settings, ring and peers followed by one watch, so that everybody who places or finds
 * blocks sees a change within moments. A damaged record leaves the last good one of its key in force.
 */
import { sleep } from "../../base";
import type { ClusterView } from "../../engine";
import type { RingSpec } from "../../ring";
import { MetaError } from "../errors";
import type { KeyValue, Watch } from "../kv";
import { notInitialised } from "./cluster-settings";
import { type ClusterSettingsRecord, decodePeer, decodeRing, decodeSettings, type StoredPeer } from "./codec";
import type { MetaContext } from "./context";
import { keys } from "./layout";
import { type PeerEntry, peerEntry } from "./peer-directory";

const START_DEADLINE_MS = 10_000;

export interface ClusterState extends ClusterView {
  readonly peers: readonly PeerEntry[];
  readonly blockSpec: string;
}

export class ClusterWatch {
  readonly #context: MetaContext;
  readonly #listeners = new Set<(state: ClusterState) => void>();
  readonly #damage = new Map<string, MetaError>();
  #watch: Watch | undefined;
  #settings: ClusterSettingsRecord | undefined;
  #ring: RingSpec | undefined;
  #peers = new Map<string, StoredPeer>();
  #live = new Set<string>();
  #state: ClusterState | undefined;
  #signature = "";
  #isConnected = false;

  private constructor(context: MetaContext) {
    this.#context = context;
  }

  /** Throws "not-initialised", or "deadline" when the store does not answer. */
  static async start(context: MetaContext): Promise<ClusterWatch> {
    // A plain read first: it says why when the store cannot be reached.
    if ((await context.store.get(keys.settings)) === undefined)
      throw notInitialised(context.store.description);
    const cluster = new ClusterWatch(context);
    const abort = new AbortController();
    const started = new Promise<void>((resolve) => cluster.#begin(resolve));
    const late = sleep(context.clock, START_DEADLINE_MS, abort.signal).then(
      () => true,
      () => false,
    );
    const isLate = await Promise.race([started.then(() => false), late]);
    abort.abort();
    if (isLate) {
      cluster.close();
      throw new MetaError(
        "deadline",
        `Cannot follow the cluster in ${context.store.description}: no answer in time`,
        {
          retryable: true,
        },
      );
    }
    if (cluster.#state === undefined) {
      cluster.close();
      throw [...cluster.#damage.values()][0] ?? notInitialised(context.store.description);
    }
    return cluster;
  }

  get state(): ClusterState {
    if (this.#state === undefined) throw notInitialised(this.#context.store.description);
    return this.#state;
  }

  /** Whether the watch is up; while not, the state may be old. */
  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** Records that could not be read, by key. */
  get damage(): readonly MetaError[] {
    return [...this.#damage.values()];
  }

  /** Calls back when ring, membership, addresses or liveness changed; not for figures alone. */
  onChange(listener: (state: ClusterState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#watch?.close();
    this.#listeners.clear();
  }

  #begin(onStarted: () => void): void {
    this.#watch = this.#context.store.watch(keys.clusterPrefix, {
      onSnapshot: (entries) => {
        this.#peers = new Map();
        this.#live = new Set();
        this.#damage.clear();
        for (const entry of entries) this.#put(entry);
        this.#refresh();
        onStarted();
      },
      onEvents: (events) => {
        for (const event of events)
          if (event.kind === "put") this.#put(event.entry);
          else this.#delete(event.key);
        this.#refresh();
      },
      onConnection: (connected) => {
        this.#isConnected = connected;
      },
    });
  }

  #put(entry: KeyValue): void {
    try {
      if (entry.key === keys.settings) this.#settings = decodeSettings(entry);
      else if (entry.key === keys.ring) this.#ring = decodeRing(entry).spec;
      else if (entry.key.startsWith(keys.peersPrefix))
        this.#peers.set(entry.key.slice(keys.peersPrefix.length), decodePeer(entry));
      else if (entry.key.startsWith(keys.livePrefix)) this.#live.add(entry.key.slice(keys.livePrefix.length));
      this.#damage.delete(entry.key);
    } catch (error) {
      if (!(error instanceof MetaError)) throw error;
      this.#damage.set(entry.key, error);
    }
  }

  #delete(key: string): void {
    this.#damage.delete(key);
    if (key.startsWith(keys.peersPrefix)) this.#peers.delete(key.slice(keys.peersPrefix.length));
    else if (key.startsWith(keys.livePrefix)) this.#live.delete(key.slice(keys.livePrefix.length));
  }

  #refresh(): void {
    if (this.#settings === undefined || this.#ring === undefined) return;
    const peers = [...this.#peers.values()].map((peer) => peerEntry(peer, this.#live.has(peer.peerId)));
    this.#state = {
      clusterId: this.#settings.clusterId,
      blockSizeBytes: this.#settings.blockSizeBytes,
      blockSpec: this.#settings.blockSpec,
      ring: this.#ring,
      peers,
    };
    const signature = JSON.stringify([
      this.#ring.version,
      peers.map((peer) => [
        peer.peerId,
        peer.address,
        peer.incarnation,
        peer.zone,
        peer.capacityBytes,
        peer.live,
      ]),
    ]);
    if (signature === this.#signature) return;
    this.#signature = signature;
    for (const listener of this.#listeners) listener(this.#state);
  }
}
