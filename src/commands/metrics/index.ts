export { type ClusterInput, clusterFigures, MetricsExporter } from "./exporter";
export { type ClientHttpServer, startClientHttp } from "./http-server";
