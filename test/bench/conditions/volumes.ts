/** Several volumes of one client at once, and what many cost that nobody uses. */
import { Cluster, fio, type NbdServer } from "../../e2e/harness";
import { anonymousMebibytes, cpuFromNow, daemonPids, pidsOf, type Stage, sum } from "./figures";

const VOLUMES_AT_ONCE = [1, 4, 16];
/** Of the same load, until its code is compiled. */
const WARM_UP_SECONDS = 10;
const IDLE_VOLUMES = 100;
const IDLE_MS = 10_000;

const startCluster = ({ scene }: Stage, name: string) =>
  Cluster.withEtcd(scene, { name, peerCount: 3, replication: 2, size: "4GiB" });

async function serveVolumes(cluster: Cluster, prefix: string, count: number): Promise<[NbdServer, string[]]> {
  const names = Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
  for (const name of names) await cluster.createVolume(name, "128MiB");
  return [await cluster.serve(prefix, names), names];
}

export async function volumesAtOnce(stage: Stage): Promise<void> {
  const { scene, seconds, say } = stage;
  const cluster = await startCluster(stage, "many");
  const [server, names] = await serveVolumes(cluster, "many", Math.max(...VOLUMES_AT_ONCE));
  const load = { rw: "randwrite", bs: "4k", size: "128m", iodepth: 16, fsync: 16, time_based: 1 };
  const write = (count: number, runtime: number) =>
    Promise.all(
      names.slice(0, count).map((name) => fio(scene, server.uri(name), name, { ...load, runtime })),
    );
  await write(names.length, WARM_UP_SECONDS);
  for (const count of VOLUMES_AT_ONCE) {
    const cpu = cpuFromNow(pidsOf(cluster, server));
    const results = await write(count, seconds);
    const cpuS = sum(cpu());
    const requests = sum(results.map(({ jobs }) => jobs[0]!.write.total_ios));
    const iops = sum(results.map(({ jobs }) => jobs[0]!.write.iops));
    say(
      `${count} volumes, 4k random writes at depth 16 each, fsync every 16`,
      `${iops.toFixed(0)} IOPS together, ${((cpuS * 1e6) / requests).toFixed(0)} us of CPU a write in client and daemons`,
    );
  }
  await server.stop();
  await cluster.destroy();
}

export async function idleVolumes(stage: Stage): Promise<void> {
  const cluster = await startCluster(stage, "idle");
  const shares = async (pids: number[]) => {
    const cpu = cpuFromNow(pids);
    await Bun.sleep(IDLE_MS);
    return cpu().map((cpuS) => `${((cpuS * 1e5) / IDLE_MS).toFixed(1)} %`);
  };
  await Bun.sleep(IDLE_MS);
  stage.say("no volume", `daemons ${(await shares(daemonPids(cluster))).join(", ")} of a core`);
  const [server] = await serveVolumes(cluster, "idle", IDLE_VOLUMES);
  await Bun.sleep(IDLE_MS);
  const [client, ...daemons] = await shares(pidsOf(cluster, server));
  stage.say(
    `${IDLE_VOLUMES} idle volumes`,
    `client ${client} of a core and ${anonymousMebibytes(server.pid)} MiB of its own; daemons ${daemons.join(", ")}`,
  );
  await server.stop();
  await cluster.destroy();
}
