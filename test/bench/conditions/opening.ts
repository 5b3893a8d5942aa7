/**
 * Opening a volume whose writer was killed: the log since its last checkpoint is fenced, read, copied and checkpointed.
 * By itself the tail grows to a quarter of what the volume holds, 256 MiB at most. It grows beyond only while no
 * checkpoint can be made: while etcd is away and the writer goes on. That is how 1 GiB of it comes about here.
 */
import { Cluster, fioCommand, freePort, type NbdServer, waitFor } from "../../e2e/harness";
import { cpuFromNow, cpuSeconds, daemonPids, Metrics, type Stage, sum } from "./figures";
import { fill } from "./load";

const VOLUME_MIB = 1024;
/** The most that the checkpoints of a volume of 1 GiB leave, and little enough less to be seen between two of them. */
const BOUND_MIB = 256;
const NEAR_BOUND = 0.9;
const OUTAGE_TAIL_MIB = 1024;
const MIB = 2 ** 20;
const LOCK_MS_MAX = 60_000;
const TAIL_MS_MAX = 60_000;

interface Tail {
  readonly volume: string;
  readonly tailMib: number;
  /** The metadata is away while the tail grows. */
  readonly outage: boolean;
}

const TAILS: readonly Tail[] = [
  { volume: "bound", tailMib: BOUND_MIB * NEAR_BOUND, outage: false },
  { volume: "outage", tailMib: OUTAGE_TAIL_MIB, outage: true },
];

async function writeTail({ scene }: Stage, server: NbdServer, port: number, tail: Tail): Promise<number> {
  const load = { rw: "randwrite", bs: "4k", size: `${VOLUME_MIB}m`, iodepth: 16, fsync: 256 };
  const options = { ...load, time_based: 1, runtime: 600 };
  const writer = await scene.start(
    `fio-${tail.volume}`,
    fioCommand(server.uri(tail.volume), "tail", options),
  );
  let mebibytes = 0;
  await waitFor(
    `a tail of ${tail.tailMib} MiB`,
    async () => {
      if (!writer.running) throw new Error(`the writer ended: ${writer.output()}`);
      mebibytes = (await Metrics.read(port)).value("torus_volume_tail_bytes") / MIB;
      return mebibytes >= tail.tailMib;
    },
    TAIL_MS_MAX,
  );
  await server.kill();
  await writer.kill();
  return mebibytes;
}

async function lockIsFree(cluster: Cluster, volume: string): Promise<void> {
  await waitFor(
    "the killed client's lock to end",
    async () => {
      const { volumes } = await cluster.ctlJson<{ volumes: { name: string; attachedTo: string | null }[] }>(
        "status",
      );
      return volumes.some(({ name, attachedTo }) => name === volume && attachedTo === null);
    },
    LOCK_MS_MAX,
  );
}

async function timeToServe(cluster: Cluster, server: NbdServer): Promise<string> {
  const cpu = cpuFromNow(daemonPids(cluster));
  const startMs = performance.now();
  await server.start();
  const tookS = (performance.now() - startMs) / 1000;
  return `${tookS.toFixed(1)} s from exec to serving, CPU client ${cpuSeconds(server.pid).toFixed(1)} s, daemons together ${sum(cpu()).toFixed(1)} s`;
}

export async function openWithTail(stage: Stage): Promise<void> {
  const { scene, say } = stage;
  const cluster = await Cluster.withEtcd(scene, {
    name: "tail",
    peerCount: 3,
    replication: 2,
    size: "4500MiB",
  });
  for (const tail of TAILS) {
    const { volume, outage } = tail;
    await cluster.createVolume(volume, `${VOLUME_MIB}MiB`);
    const port = await freePort();
    const server = await cluster.serve(volume, [volume], { flags: ["--http", `127.0.0.1:${port}`] });
    await fill(scene, server.uri(volume), VOLUME_MIB);
    await server.stop();
    say(`opening ${VOLUME_MIB} MiB without a tail`, await timeToServe(cluster, server));
    if (outage) cluster.etcd!.pause();
    const mebibytes = await writeTail(stage, server, port, tail);
    if (outage) cluster.etcd!.resume();
    await lockIsFree(cluster, volume);
    say(
      `opening with a tail of ${mebibytes.toFixed(0)} MiB of 4k writes${outage ? ", grown while etcd was away" : ", close to what checkpoints leave at most"}`,
      await timeToServe(cluster, server),
    );
    await server.stop();
    await cluster.ctl("volume", "delete", volume);
  }
  await cluster.destroy();
}
