/**
 * The data path over a network on which every packet takes a while: etcd, three daemons and the client each in a network
 * of their own; fio beside the client, so that NBD is not delayed. Over a network of no delay the same way costs what
 * it costs; how much longer a lone request takes over the longer ones, in round trips, tells how many it waits for.
 */
import { Cluster, type FioResult, fio, Network, networkObstacle } from "../../e2e/harness";
import type { Stage } from "./figures";
import { fill } from "./load";
import { withScene } from "./scene";

const VOLUME = "far";
const VOLUME_MIB = 256;
const PEERS = ["peer-1", "peer-2", "peer-3"];

interface Row {
  readonly name: string;
  readonly direction: "read" | "write";
  readonly options: Readonly<Record<string, string | number>>;
  /** Requests that wait for the network together; 1 for a lone one. */
  readonly together: number;
}

const write4k = { rw: "randwrite", bs: "4k" };
const ROWS: readonly Row[] = [
  {
    name: "4k write, fsync each, depth 1",
    direction: "write",
    options: { ...write4k, iodepth: 1, fsync: 1 },
    together: 1,
  },
  {
    name: "4k write, fsync every 16, depth 16",
    direction: "write",
    options: { ...write4k, iodepth: 16, fsync: 16 },
    together: 16,
  },
  {
    name: "4k read, depth 1",
    direction: "read",
    options: { rw: "randread", bs: "4k", iodepth: 1 },
    together: 1,
  },
  {
    name: "4k read, depth 16",
    direction: "read",
    options: { rw: "randread", bs: "4k", iodepth: 16 },
    together: 16,
  },
  {
    name: "1 MiB write, fsync each, depth 1",
    direction: "write",
    options: { rw: "write", bs: "1m", iodepth: 1, fsync: 1 },
    together: 1,
  },
  {
    name: "1 MiB write, depth 4",
    direction: "write",
    options: { rw: "write", bs: "1m", iodepth: 4, end_fsync: 1 },
    together: 4,
  },
  {
    name: "1 MiB read, depth 1",
    direction: "read",
    options: { rw: "randread", bs: "1m", iodepth: 1 },
    together: 1,
  },
  {
    name: "1 MiB read in a row, depth 4",
    direction: "read",
    options: { rw: "read", bs: "1m", iodepth: 4 },
    together: 4,
  },
];

const requestsPerSecond = (row: Row, result: FioResult): number => result.jobs[0]![row.direction].iops;

/** Requests a second of every row, with packets that take so long. */
async function measureAt(stage: Stage, delayMs: number): Promise<number[]> {
  return withScene(`delay-${delayMs}`, async (scene) => {
    const network = await Network.open(scene, ["etcd", ...PEERS, "client", "admin"], { delayMs });
    const cluster = await Cluster.withEtcd(scene, {
      hosts: {
        etcd: network.host("etcd"),
        peers: PEERS.map((name) => network.host(name)),
        admin: network.host("admin"),
      },
      ...{ peerCount: PEERS.length, replication: 2, size: "1GiB" },
    });
    await cluster.createVolume(VOLUME, `${VOLUME_MIB}MiB`);
    const flags = ["--read-cache-size", "0"];
    const server = await cluster.serve("far", [VOLUME], { flags, host: network.host("client") });
    await fill(scene, server.uri(VOLUME), VOLUME_MIB);
    const rates: number[] = [];
    for (const row of ROWS) {
      const load = { ...row.options, size: `${VOLUME_MIB}m`, randrepeat: 0, ramp_time: 1 };
      const timed = { ...load, time_based: 1, runtime: stage.seconds };
      rates.push(requestsPerSecond(row, await fio(scene, server.uri(VOLUME), "delay", timed)));
    }
    await server.stop();
    await cluster.destroy();
    return rates;
  });
}

export async function networkDelay(stage: Stage): Promise<void> {
  const obstacle = networkObstacle();
  if (obstacle !== undefined) return stage.say("network delay", `not measured: ${obstacle}`);
  let nearest: { readonly delayMs: number; readonly rates: readonly number[] } | undefined;
  for (const delayMs of stage.delaysMs) {
    const rates = await measureAt(stage, delayMs);
    nearest ??= { delayMs, rates };
    const { delayMs: leastMs, rates: most } = nearest;
    for (const [index, row] of ROWS.entries()) {
      const waitMs = (each: readonly number[]) => (row.together * 1000) / (each[index] as number);
      const trips = (waitMs(rates) - waitMs(most)) / (2 * (delayMs - leastMs));
      stage.say(
        `${delayMs} ms each way, ${row.name}`,
        `${(rates[index] as number).toFixed(1)} a second, ${waitMs(rates).toFixed(2)} ms for ${row.together}` +
          (delayMs === leastMs ? "" : `, ${trips.toFixed(2)} round trips longer than at ${leastMs} ms`),
      );
    }
  }
}
