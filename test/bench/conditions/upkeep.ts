/**
 * What checkpoints, collection and rebalance cost against the size of a volume: the volume is written whole, then the
 * same amount is changed at each size. A checkpoint is asked for by a snapshot, a collection by `ctl gc run`, and a
 * rebalance by a fourth daemon, at the default rate, with the volume detached.
 */
import { Cluster, freePort, type NbdServer, waitFor } from "../../e2e/harness";
import { cpuFromNow, daemonPids, Metrics, type Stage, sum } from "./figures";
import { fill, scatter } from "./load";
import { withScene } from "./scene";

const MIB = 2 ** 20;
const CHANGED_MIB = 16;
const SETTLE_MS_MAX = 120_000;
const VOLUME = "grown";

interface GcRow {
  readonly state: string;
  readonly runs: number;
  readonly tookMs: number;
  readonly blocksListed: number;
  readonly nodesRead: number;
  readonly memoryBytes: number;
  readonly bytesDeletedTotal: number;
}

interface RebalanceStatus {
  readonly settled: boolean;
  readonly ringVersion: number;
  readonly peers: readonly { readonly bytesMoved: number; readonly ringVersion: number }[];
}

interface RingPlan {
  readonly bytesMoved: number;
  readonly bytesMovedLeast: number;
}

async function checkpoint(
  { scene }: Stage,
  cluster: Cluster,
  server: NbdServer,
  [port, mebibytes]: readonly [number, number],
): Promise<string> {
  const look = async () => {
    const metrics = await Metrics.read(port);
    return {
      count: metrics.value("torus_volume_checkpoints_total"),
      bytes: metrics.value("torus_volume_checkpoint_bytes_total"),
      seconds: metrics.value("torus_volume_stage_duration_seconds_sum", 'stage="checkpoint"'),
    };
  };
  await cluster.ctl("block", "snapshot", "create", `${VOLUME}@before`);
  await scatter(scene, server.uri(VOLUME), mebibytes, CHANGED_MIB);
  const before = await look();
  const cpu = cpuFromNow([server.pid]);
  await cluster.ctl("block", "snapshot", "create", `${VOLUME}@after`);
  const clientS = sum(cpu());
  const after = await look();
  for (const snapshot of ["before", "after"])
    await cluster.ctl("block", "snapshot", "delete", `${VOLUME}@${snapshot}`);
  const [bytes, seconds] = [after.bytes - before.bytes, after.seconds - before.seconds];
  return (
    `checkpoint (${after.count - before.count}) after ${CHANGED_MIB} MiB of 4k writes: ` +
    `${(bytes / MIB).toFixed(2)} MiB, ${(seconds * 1000).toFixed(0)} ms, ${clientS.toFixed(2)} s of CPU in the client`
  );
}

/** One more collection on each daemon. */
async function collection(cluster: Cluster): Promise<string> {
  const rows = () => cluster.ctlJson<GcRow[]>("gc", "status");
  const before = await rows();
  const cpu = cpuFromNow(daemonPids(cluster));
  await cluster.ctl("gc", "run");
  let after = before;
  await waitFor(
    "all daemons to have collected",
    async () => {
      after = await rows();
      return after.every((row, index) => row.runs > before[index]!.runs && row.state === "idle");
    },
    SETTLE_MS_MAX,
  );
  const cpuS = cpu();
  const most = (read: (row: GcRow) => number) => Math.max(...after.map(read));
  const freed = sum(after.map((row, index) => row.bytesDeletedTotal - before[index]!.bytesDeletedTotal));
  return (
    `collection: ${most((row) => row.tookMs).toFixed(0)} ms at most, ${Math.max(...cpuS).toFixed(2)} s of CPU in a daemon, ` +
    `${most((row) => row.blocksListed)} blocks listed, ${most((row) => row.nodesRead)} nodes of the map read, ` +
    `${(most((row) => row.memoryBytes) / MIB).toFixed(1)} MiB for marks, ${(freed / MIB).toFixed(0)} MiB freed by all`
  );
}

/** A fourth daemon comes, of the same size. */
async function rebalance(cluster: Cluster): Promise<string> {
  const daemon = await cluster.addDaemon(cluster.daemons.length, { join: false });
  await daemon.start();
  const peerAddress = `127.0.0.1:${daemon.peerPort}`;
  await waitFor("the fourth daemon to be known", async () =>
    (await cluster.peers()).some(({ address }) => address.endsWith(peerAddress)),
  );
  const plan = await cluster.ctlJson<RingPlan>("ring", "plan", "--exact", "--add", peerAddress);
  const status = () => cluster.ctlJson<RebalanceStatus>("rebalance", "status");
  const movedOf = ({ peers }: RebalanceStatus) => sum(peers.map(({ bytesMoved }) => bytesMoved));
  const movedBefore = movedOf(await status());
  const cpu = cpuFromNow(daemonPids(cluster));
  const startMs = performance.now();
  await cluster.ctl("peer", "add", peerAddress);
  let now = await status();
  await waitFor(
    "the blocks to be where they belong",
    async () => {
      now = await status();
      return now.settled && now.peers.every(({ ringVersion }) => ringVersion === now.ringVersion);
    },
    SETTLE_MS_MAX,
  );
  const tookS = (performance.now() - startMs) / 1000;
  const moved = movedOf(now) - movedBefore;
  return (
    `rebalance to a fourth daemon: ${tookS.toFixed(0)} s, ${(moved / MIB).toFixed(0)} MiB moved, ` +
    `${(plan.bytesMoved / MIB).toFixed(0)} planned, ${(plan.bytesMovedLeast / MIB).toFixed(0)} the least of any ring, ` +
    `${sum(cpu()).toFixed(1)} s of CPU in all daemons`
  );
}

async function upkeepOf(stage: Stage, mebibytes: number): Promise<void> {
  const { scene, say } = stage;
  // Two copies on three daemons, the changes, and a little room.
  const size = `${Math.ceil(mebibytes * 0.8 + 512)}MiB`;
  const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size });
  await cluster.createVolume(VOLUME, `${mebibytes}MiB`);
  const port = await freePort();
  const server = await cluster.serve("blk", [VOLUME], { flags: ["--http", `127.0.0.1:${port}`] });
  await fill(scene, server.uri(VOLUME), mebibytes);
  say(`${mebibytes} MiB`, await checkpoint(stage, cluster, server, [port, mebibytes]));
  await server.stop();
  say(`${mebibytes} MiB`, await collection(cluster));
  say(`${mebibytes} MiB`, await rebalance(cluster));
  await cluster.destroy();
}

export async function upkeep(stage: Stage): Promise<void> {
  for (const mebibytes of stage.volumeSizesMib)
    await withScene(`upkeep-${mebibytes}`, (scene) => upkeepOf({ ...stage, scene }, mebibytes));
}
