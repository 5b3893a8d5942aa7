/**
 * Renders what a process knows with prom-client. Values are read from the data path when somebody scrapes, never
 * pushed: between scrapes nothing is kept here but the metric objects.
 */
import { collectDefaultMetrics, Registry } from "prom-client";
import { systemClock } from "../../base/io";
import { type DataPlaneStatus, LatencyHistogram, measureLoopLag } from "../data-plane";
import { buildInfo } from "../executable";
import { type ClusterFigures, FAMILIES, type Family, HISTOGRAMS, type MetricsSource } from "./families";
import { asMetric, histogramValues } from "./metric";

/**
 * How often prom-client's own monitor of the event loop looks: hardly ever, for its figures are removed (torus has one
 * of its own), but it cannot be left out, and by default it wakes an idle process a hundred times a second.
 */
const LOOP_MONITOR_MS = 3_600_000;

/** The part that callers give; version and commit are this executable's. */
export type ClusterInput = Omit<ClusterFigures, "version" | "commit">;

interface ClusterLike {
  readonly ring: {
    readonly version: number;
    readonly replication: number;
    readonly members: readonly { readonly peerId: string }[];
  };
  readonly peers: readonly { readonly peerId: string; readonly live: boolean }[];
}

/** Figures of a cluster view; zero peers of a state are shown, so that a rule can compare. */
export function clusterFigures(
  view: ClusterLike | undefined,
): Pick<ClusterInput, "ringVersion" | "replication" | "peers"> {
  if (view === undefined) return { ringVersion: undefined, replication: undefined, peers: {} };
  const live = new Set(view.peers.filter((peer) => peer.live).map((peer) => peer.peerId));
  const members = new Set(view.ring.members.map((member) => member.peerId));
  return {
    ringVersion: view.ring.version,
    replication: view.ring.replication,
    peers: {
      live: live.size,
      down: [...members].filter((peerId) => !live.has(peerId)).length,
      spare: [...live].filter((peerId) => !members.has(peerId)).length,
    },
  };
}

const EMPTY_STATUS: DataPlaneStatus = {
  storage: undefined,
  volumes: [],
  peers: [],
  nbd: undefined,
  readCache: undefined,
  upkeep: undefined,
  turnCount: 0,
  latencies: [],
};

export interface MetricsExporterOptions {
  /** Undefined while the data path is not open. */
  readonly plane: () => Promise<DataPlaneStatus | undefined>;
  readonly cluster: () => ClusterInput;
}

export class MetricsExporter {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE;
  readonly #registry = new Registry();
  readonly #lag = new LatencyHistogram();
  readonly #stopLag: () => void;
  #source: MetricsSource;

  constructor(private readonly options: MetricsExporterOptions) {
    this.#source = this.#sourceOf(EMPTY_STATUS);
    this.#stopLag = measureLoopLag(systemClock, this.#lag);
    for (const family of FAMILIES) this.#add(family);
    for (const { name, help, label, family } of HISTOGRAMS)
      this.#registry.registerMetric(
        asMetric(name, help, "histogram", () =>
          this.#source.plane.latencies
            .filter((snapshot) => snapshot.family === family)
            .flatMap((snapshot) => histogramValues(name, label, snapshot)),
        ),
      );
    collectDefaultMetrics({ register: this.#registry, eventLoopMonitoringPrecision: LOOP_MONITOR_MS });
    // What prom-client reads from Node.js's own machinery means nothing on this runtime, and its "heap" is the size of
    // all data segments that are mapped, gigabytes of which this runtime only reserves.
    for (const name of this.#registry.getMetricsAsArray().map((metric) => metric.name))
      if (name.startsWith("nodejs_") || name === "process_heap_bytes")
        this.#registry.removeSingleMetric(name);
  }

  /** The text of one scrape. */
  async render(): Promise<string> {
    const plane = (await this.options.plane()) ?? EMPTY_STATUS;
    const latencies = [...plane.latencies, this.#lag.snapshot("loopLag", "main")];
    this.#source = this.#sourceOf({ ...plane, latencies });
    return this.#registry.metrics();
  }

  close(): void {
    this.#stopLag();
    this.#registry.clear();
  }

  #sourceOf(plane: DataPlaneStatus): MetricsSource {
    const { version, commit } = buildInfo;
    return { plane, cluster: { version, commit, ...this.options.cluster() } };
  }

  #add({ name, help, type, values }: Family): void {
    this.#registry.registerMetric(
      asMetric(name, help, type, () =>
        values(this.#source).map(([labelled, value]) => ({ labels: labelled, value })),
      ),
    );
  }
}
