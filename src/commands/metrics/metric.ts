/**
 * Metrics whose values come from a status, not from observations made here. prom-client's own classes only take
 * increments and single observations; its registry takes any object that has a name and answers `get`, and these do.
 */
import type { Metric } from "prom-client";
import { LATENCY_BOUNDS_MS, type LatencySnapshot } from "../data-plane";

export interface MetricValue {
  /** For the series of a histogram; otherwise the metric's own. */
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/** `values` is called at every scrape. */
export function asMetric(
  name: string,
  help: string,
  type: "counter" | "gauge" | "histogram",
  values: () => readonly MetricValue[],
): Metric {
  const metric = { name, get: () => Promise.resolve({ name, help, type, values: values() }) };
  return metric as unknown as Metric;
}

const MS_PER_SECOND = 1000;

/** The series of one histogram: cumulative buckets, sum and count. */
export function histogramValues(name: string, labelName: string, snapshot: LatencySnapshot): MetricValue[] {
  const labels = { [labelName]: snapshot.label };
  let count = 0;
  const values = snapshot.counts.map((inBucket, index): MetricValue => {
    count += inBucket;
    const boundMs = LATENCY_BOUNDS_MS[index];
    const le = boundMs === undefined ? "+Inf" : boundMs / MS_PER_SECOND;
    return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: count };
  });
  values.push({ metricName: `${name}_sum`, labels, value: snapshot.sumMs / MS_PER_SECOND });
  values.push({ metricName: `${name}_count`, labels, value: count });
  return values;
}
