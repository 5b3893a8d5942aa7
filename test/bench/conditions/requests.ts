/**
 * CPU of a 4 KiB request, in the client and in the daemons, when all code is compiled; and what a client and daemons
 * keep in memory after every load of the benchmark.
 */
import { Cluster, fio, fioCommand, freePort } from "../../e2e/harness";
import { CASES } from "../cases";
import { anonymousMebibytes, cpuFromNow, daemonPids, Metrics, pidsOf, type Stage, sum } from "./figures";
import { fill } from "./load";

const WARM_UP_MS = 15_000;
const VOLUME = "requests";
const VOLUME_MIB = 1024;
/** The defaults of `--read-cache-size` and `--write-cache-size`. */
const CACHES_MIB = 64 + 32;

const startCluster = ({ scene }: Stage, name: string) =>
  Cluster.withEtcd(scene, { name, peerCount: 3, replication: 2, size: "2GiB" });

export async function requestCpu(stage: Stage): Promise<void> {
  const { scene, seconds, say } = stage;
  const cluster = await startCluster(stage, "cpu");
  await cluster.createVolume(VOLUME, `${VOLUME_MIB}MiB`);
  const port = await freePort();
  const flags = ["--read-cache-size", "0", "--http", `127.0.0.1:${port}`];
  const server = await cluster.serve("cpu", [VOLUME], { flags });
  await fill(scene, server.uri(VOLUME), VOLUME_MIB);
  for (const command of ["read", "write"]) {
    const load = { rw: `rand${command}`, bs: "4k", iodepth: 16, size: `${VOLUME_MIB}m`, randrepeat: 0 };
    const runtime = WARM_UP_MS / 1000 + seconds + 2;
    const fioRun = scene.run(fioCommand(server.uri(VOLUME), command, { ...load, time_based: 1, runtime }));
    await Bun.sleep(WARM_UP_MS);
    const answered = async () =>
      (await Metrics.read(port)).value("torus_nbd_requests_total", `command="${command}"`);
    const before = await answered();
    const cpu = cpuFromNow(pidsOf(cluster, server));
    await Bun.sleep(seconds * 1000);
    const cpuS = cpu();
    const requests = (await answered()) - before;
    await fioRun;
    const us = (value: number) => ((value * 1e6) / requests).toFixed(1);
    say(
      `4k random ${command} at depth 16, code compiled`,
      `${us(sum(cpuS))} us of CPU a request: client ${us(cpuS[0] as number)}, daemons together ${us(sum(cpuS.slice(1)))}; ${Math.round(requests / seconds)} IOPS`,
    );
  }
  await server.stop();
  await cluster.destroy();
}

export async function memory(stage: Stage): Promise<void> {
  const { scene, seconds, say } = stage;
  const cluster = await startCluster(stage, "memory");
  await cluster.createVolume(VOLUME, `${VOLUME_MIB}MiB`);
  const server = await cluster.serve("memory", [VOLUME]);
  const tell = (when: string) => {
    const own = anonymousMebibytes(server.pid);
    say(
      `memory of their own ${when}`,
      `client ${own} MiB, of which ${CACHES_MIB} are its caches' at most; daemons ${daemonPids(cluster).map(anonymousMebibytes).join(", ")} MiB`,
    );
  };
  tell("at the start");
  await fill(scene, server.uri(VOLUME), VOLUME_MIB);
  let mostMib = 0;
  for (const { id, options, onDemand } of CASES) {
    if (onDemand === true) continue;
    const load = { ...options, size: `${VOLUME_MIB}m`, time_based: 1, runtime: seconds, randrepeat: 0 };
    await fio(scene, server.uri(VOLUME), id, load);
    mostMib = Math.max(mostMib, anonymousMebibytes(server.pid));
  }
  tell(`after all cases (client at most ${mostMib} MiB after one)`);
  await server.stop();
  await cluster.destroy();
}
