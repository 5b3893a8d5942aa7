/**
 * `bun run bench:conditions`: what the table of cases does not tell. Three daemons with a real etcd, replication 2, data
 * on tmpfs: several volumes at once, what idle volumes cost, how long a volume with a tail takes to open after its
 * writer was killed, and the CPU of a request. Prints one line a figure; nothing passes or fails on it.
 *
 *   --seconds N   of load for each figure (default 4)
 *   --only WORD   only the conditions whose names hold it
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Cluster, fio, type NbdServer, Scene } from "../e2e/harness";

const TMPFS = "/dev/shm";
const CLOCK_TICKS_PER_SECOND = 100;
const VOLUMES_AT_ONCE = [1, 4, 16];
const IDLE_VOLUMES = 100;
const IDLE_MS = 10_000;
const TAIL_MEBIBYTES = 200;

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "4" }, only: { type: "string", default: "" } },
});
const seconds = Number(values.seconds);
if (!(seconds > 0)) throw new Error(`Cannot use --seconds ${values.seconds}: give a number above 0`);

const say = (name: string, figure: string) => console.log(`${name}: ${figure}`);
const wants = (name: string) => name.includes(values.only);

/** CPU that a process has used, in seconds, to a hundredth. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) / CLOCK_TICKS_PER_SECOND;
}

/** Memory of its own: what maps the stores' files or the executable is not counted. */
function anonymousMebibytes(pid: number): number {
  const line = readFileSync(`/proc/${pid}/status`, "utf8").match(/RssAnon:\s+(\d+) kB/);
  return Math.round(Number(line?.[1] ?? 0) / 1024);
}

const pidsOf = (cluster: Cluster, server: NbdServer) => [
  server.pid,
  ...cluster.daemons.map((daemon) => daemon.pid),
];

async function serveVolumes(cluster: Cluster, prefix: string, count: number): Promise<[NbdServer, string[]]> {
  const names = Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
  for (const name of names) await cluster.createVolume(name, "128MiB");
  return [await cluster.serve(prefix, names), names];
}

async function volumesAtOnce(scene: Scene, cluster: Cluster): Promise<void> {
  const [server, names] = await serveVolumes(cluster, "many", Math.max(...VOLUMES_AT_ONCE));
  for (const count of VOLUMES_AT_ONCE) {
    const load = { rw: "randwrite", bs: "4k", size: "128m", iodepth: 16, fsync: 16 };
    const before = pidsOf(cluster, server).map(cpuSeconds);
    const results = await Promise.all(
      names
        .slice(0, count)
        .map((name) => fio(scene, server.uri(name), name, { ...load, time_based: 1, runtime: seconds })),
    );
    const after = pidsOf(cluster, server).map(cpuSeconds);
    const requests = results.reduce((sum, { jobs }) => sum + jobs[0]!.write.total_ios, 0);
    const iops = results.reduce((sum, { jobs }) => sum + jobs[0]!.write.iops, 0);
    const cpu = after.reduce((sum, each, index) => sum + each - before[index]!, 0);
    say(
      `${count} volumes, 4k random writes at depth 16 each, fsync every 16`,
      `${iops.toFixed(0)} IOPS together, ${((cpu * 1e6) / requests).toFixed(0)} us of CPU a write in client and daemons`,
    );
  }
  await server.stop();
}

async function idleVolumes(cluster: Cluster): Promise<void> {
  const [server] = await serveVolumes(cluster, "idle", IDLE_VOLUMES);
  await Bun.sleep(IDLE_MS);
  const pids = pidsOf(cluster, server);
  const before = pids.map(cpuSeconds);
  await Bun.sleep(IDLE_MS);
  const shares = pids.map((pid, index) => ((cpuSeconds(pid) - before[index]!) * 1e5) / IDLE_MS);
  const [client = 0, ...daemons] = shares;
  say(
    `${IDLE_VOLUMES} idle volumes`,
    `client ${client.toFixed(1)} % of a core and ${anonymousMebibytes(server.pid)} MiB of its own; ` +
      `daemons ${daemons.map((share) => `${share.toFixed(1)} %`).join(", ")}`,
  );
  await server.stop();
}

async function openWithTail(scene: Scene, cluster: Cluster): Promise<void> {
  await cluster.createVolume("tail", "1GiB");
  const server = await cluster.serve("tail", ["tail"]);
  const load = { rw: "randwrite", bs: "4k", size: "1g", io_size: `${TAIL_MEBIBYTES}m`, iodepth: 16 };
  await fio(scene, server.uri("tail"), "tail", { ...load, fsync: 256 });
  await server.kill();
  const startMs = performance.now();
  await server.start();
  const tookS = ((performance.now() - startMs) / 1000).toFixed(1);
  say(
    `opening after kill -9 with up to ${TAIL_MEBIBYTES} MiB of tail, in blocks of 1 MiB or less`,
    `${tookS} s`,
  );
  await server.stop();
}

const scene = new Scene("conditions", { parentFolder: TMPFS });
try {
  const cluster = await Cluster.withEtcd(scene, {
    name: "conditions",
    peerCount: 3,
    replication: 2,
    size: "4GiB",
  });
  if (wants("volumes at once")) await volumesAtOnce(scene, cluster);
  if (wants("tail")) await openWithTail(scene, cluster);
  if (wants("idle")) await idleVolumes(cluster);
  await cluster.destroy();
} catch (error) {
  scene.printLogs();
  throw error;
} finally {
  await scene.end();
}
