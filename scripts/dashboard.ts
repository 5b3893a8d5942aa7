/**
 * Writes scripts/monitoring/dashboard.json, the Grafana dashboard, from the list of its panels below.
 *
 *   bun scripts/dashboard.ts
 */
import { join } from "node:path";

interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly kind?: "timeseries" | "stat";
  /** Query and legend. */
  readonly queries: readonly (readonly [string, string])[];
}

interface Row {
  readonly title: string;
  readonly panels: readonly Panel[];
}

const RANGE = "$__rate_interval";
const rate = (name: string, by: string) => `sum by (${by}) (rate(${name}[${RANGE}]))`;
const quantile = (share: number, name: string, by: string) =>
  `histogram_quantile(${share}, sum by (le, ${by}) (rate(${name}_bucket[${RANGE}])))`;
const latency = (title: string, name: string, by: string): Panel => ({
  title,
  unit: "s",
  queries: [
    [quantile(0.5, name, by), `{{${by}}} median`],
    [quantile(0.99, name, by), `{{${by}}} 99 %`],
  ],
});

const ROWS: readonly Row[] = [
  {
    title: "Now",
    panels: [
      {
        title: "Peers up",
        unit: "short",
        kind: "stat",
        queries: [['max(torus_cluster_peers{state="live"})', "up"]],
      },
      {
        title: "Ring members down",
        unit: "short",
        kind: "stat",
        queries: [['max(torus_cluster_peers{state="down"})', "down"]],
      },
      {
        title: "Space used",
        unit: "percentunit",
        kind: "stat",
        queries: [["sum(torus_store_used_bytes) / sum(torus_store_capacity_bytes)", "used"]],
      },
      {
        title: "Volumes open",
        unit: "short",
        kind: "stat",
        queries: [["count(torus_volume_degraded)", "open"]],
      },
      {
        title: "Volumes degraded",
        unit: "short",
        kind: "stat",
        queries: [["sum(torus_volume_degraded)", "degraded"]],
      },
      {
        title: "Damaged blocks",
        unit: "short",
        kind: "stat",
        queries: [["sum(torus_store_suspect_blocks)", "damaged"]],
      },
    ],
  },
  {
    title: "Volumes",
    panels: [
      {
        title: "Throughput",
        unit: "Bps",
        queries: [
          [rate("torus_volume_read_bytes_total", "volume"), "{{volume}} read"],
          [rate("torus_volume_written_bytes_total", "volume"), "{{volume}} written"],
        ],
      },
      {
        title: "Requests",
        unit: "ops",
        queries: [[rate("torus_nbd_requests_total", "command"), "{{command}}"]],
      },
      latency("Latency of NBD requests", "torus_nbd_request_duration_seconds", "command"),
      latency("Latency by stage", "torus_volume_stage_duration_seconds", "stage"),
      {
        title: "Where pages read came from",
        unit: "ops",
        queries: [[rate("torus_volume_pages_read_total", "source"), "{{source}}"]],
      },
      {
        title: "Read cache hits",
        unit: "percentunit",
        queries: [
          [
            `sum(rate(torus_read_cache_hits_total[${RANGE}])) / (sum(rate(torus_read_cache_hits_total[${RANGE}])) + sum(rate(torus_read_cache_misses_total[${RANGE}])) > 0) or vector(0)`,
            "hits",
          ],
        ],
      },
      {
        title: "Log since the last checkpoint",
        unit: "bytes",
        queries: [["torus_volume_tail_bytes", "{{volume}}"]],
      },
      {
        title: "Writer's lease left",
        unit: "s",
        queries: [["torus_volume_lease_remaining_seconds", "{{volume}}"]],
      },
      {
        title: "Bytes held for each live byte",
        unit: "short",
        queries: [["torus_volume_space_ratio", "{{volume}}"]],
      },
    ],
  },
  {
    title: "Peers",
    panels: [
      {
        title: "Filled",
        unit: "percentunit",
        queries: [["torus_store_used_bytes / torus_store_capacity_bytes", "{{instance}}"]],
      },
      {
        title: "Traffic",
        unit: "Bps",
        queries: [
          [rate("torus_peer_received_bytes_total", "instance"), "{{instance}} received"],
          [rate("torus_peer_sent_bytes_total", "instance"), "{{instance}} sent"],
        ],
      },
      latency("Latency of puts and reads", "torus_peer_request_duration_seconds", "operation"),
      latency("Latency of syncs", "torus_store_sync_duration_seconds", "instance"),
      {
        title: "Syncs",
        unit: "ops",
        queries: [[rate("torus_store_syncs_total", "instance"), "{{instance}}"]],
      },
      {
        title: "Links up, as clients see them",
        unit: "short",
        queries: [["sum by (peer) (torus_peer_link_up)", "{{peer}}"]],
      },
    ],
  },
  {
    title: "Upkeep",
    panels: [
      {
        title: "Left to rebalance",
        unit: "bytes",
        queries: [["torus_rebalance_left_bytes", "{{instance}}"]],
      },
      {
        title: "Moved",
        unit: "Bps",
        queries: [[rate("torus_rebalance_moved_bytes_total", "instance"), "{{instance}}"]],
      },
      {
        title: "Freed by collection",
        unit: "Bps",
        queries: [[rate("torus_gc_deleted_bytes_total", "instance"), "{{instance}}"]],
      },
      { title: "Verified by scrub", unit: "bytes", queries: [["torus_scrub_checked_bytes", "{{instance}}"]] },
      {
        title: "Cleaned blocks",
        unit: "ops",
        queries: [[rate("torus_volume_blocks_cleaned_total", "volume"), "{{volume}}"]],
      },
      { title: "Ring version", unit: "short", queries: [["torus_ring_version", "{{instance}}"]] },
    ],
  },
  {
    title: "Processes",
    panels: [
      {
        title: "CPU",
        unit: "short",
        queries: [['rate(process_cpu_seconds_total{job="torus"}[$__rate_interval])', "{{instance}}"]],
      },
      {
        title: "Memory",
        unit: "bytes",
        queries: [['process_resident_memory_bytes{job="torus"}', "{{instance}}"]],
      },
      latency("Lateness of loops", "torus_loop_lag_duration_seconds", "thread"),
    ],
  },
];

const STAT = { width: 4, height: 4 };
const CHART = { width: 8, height: 8 };
const GRID_COLUMNS = 24;
const DATASOURCE = { type: "prometheus", uid: "$datasource" };

function layout(rows: readonly Row[]): unknown[] {
  const panels: unknown[] = [];
  let y = 0;
  for (const row of rows) {
    panels.push({
      id: panels.length + 1,
      type: "row",
      title: row.title,
      collapsed: false,
      panels: [],
      gridPos: { x: 0, y, w: GRID_COLUMNS, h: 1 },
    });
    y += 1;
    let x = 0;
    let height = 0;
    for (const { title, unit, kind = "timeseries", queries } of row.panels) {
      const { width, height: h } = kind === "stat" ? STAT : CHART;
      if (x + width > GRID_COLUMNS) {
        x = 0;
        y += height;
      }
      height = h;
      panels.push({
        id: panels.length + 1,
        type: kind,
        title,
        datasource: DATASOURCE,
        gridPos: { x, y, w: width, h },
        fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
        targets: queries.map(([expr, legendFormat], index) => ({
          refId: String.fromCharCode(65 + index),
          datasource: DATASOURCE,
          expr,
          legendFormat,
        })),
      });
      x += width;
    }
    y += height;
  }
  return panels;
}

const dashboard = {
  title: "torus",
  uid: "torus",
  tags: ["torus", "storage"],
  schemaVersion: 39,
  timezone: "browser",
  refresh: "10s",
  time: { from: "now-1h", to: "now" },
  templating: {
    list: [{ name: "datasource", type: "datasource", query: "prometheus", label: "Prometheus" }],
  },
  panels: layout(ROWS),
};

const file = join(import.meta.dir, "monitoring/dashboard.json");
await Bun.write(file, `${JSON.stringify(dashboard, null, 2)}\n`);
console.log(`dashboard: ${file} (${dashboard.panels.length} panels)`);
