/** One case on one target: prefill, rest, fio, and the numbers of its report. */
import { type FioResult, fio, fioCommand, type Scene } from "../e2e/harness";
import type { BenchCase } from "./cases";
import type { Target } from "./targets";

const REST_MS = 1_000;
/** Of the same load, before what is counted: a process just started, or new to a load, has code still to compile. */
const WARM_UP_SECONDS = 12;
/** Once for each target, before all cases. */
const RUN_IN_SECONDS = 20;
const KILL_RUN_SECONDS = 20;
const KILL_AFTER_MS = 5_000;

export interface Measurement {
  readonly caseId: string;
  readonly target: string;
  /** In the unit of the case. */
  readonly value: number;
  /** The longest time that one request took. */
  readonly stallMsMax: number;
  readonly latencyUsP99: number;
}

/** Writes the part of the volume that the cases use, so that reads find data and writes overwrite. */
export async function prefill(scene: Scene, target: Target, sizeGib: number): Promise<void> {
  await fio(scene, target.uri(), "prefill", {
    rw: "write",
    bs: "1m",
    iodepth: 4,
    size: `${sizeGib}g`,
    end_fsync: 1,
  });
}

/**
 * A process compiles its code anew while it runs, by how often it ran, and for that takes a fifth and more of two
 * cores: at depth 1 for ten seconds, which no user waits for again. So every target has that load first.
 */
export async function runIn(scene: Scene, target: Target, sizeGib: number): Promise<void> {
  await fio(scene, target.uri(), "run-in", {
    ...{ rw: "randwrite", bs: "4k", iodepth: 1, fsync: 1, size: `${sizeGib}g`, randrepeat: 0 },
    ...{ time_based: 1, runtime: RUN_IN_SECONDS },
  });
}

async function rest(scene: Scene): Promise<void> {
  await scene.run(["sync"], { timeMsMax: 120_000 });
  await Bun.sleep(REST_MS);
}

function numbersOf(result: FioResult, benchCase: BenchCase, target: Target): Measurement {
  const direction = result.jobs[0]![benchCase.direction];
  return {
    caseId: benchCase.id,
    target: target.id,
    value: benchCase.unit === "IOPS" ? direction.iops : direction.bw_bytes / 1e6,
    stallMsMax: direction.clat_ns.max / 1e6,
    latencyUsP99: (direction.clat_ns.percentile?.["99.000000"] ?? 0) / 1e3,
  };
}

function loadOf(benchCase: BenchCase, seconds: number): Record<string, string | number> {
  const size = `${benchCase.sizeGib}g`;
  return { ...benchCase.options, size, time_based: 1, runtime: seconds, randrepeat: 0 };
}

/** Once a case: its caches cold, where it wants that, and, unless it is long by itself, its code compiled. */
export async function prepare(
  scene: Scene,
  target: Target,
  benchCase: BenchCase,
  warmUp: boolean,
): Promise<void> {
  if (benchCase.coldCache) await target.coolDown();
  if (!warmUp || benchCase.seconds !== undefined) return;
  await rest(scene);
  await fio(scene, target.uri(), `${benchCase.id}-warm-up`, loadOf(benchCase, WARM_UP_SECONDS));
}

export async function measure(
  scene: Scene,
  target: Target,
  benchCase: BenchCase,
  seconds: number,
): Promise<Measurement> {
  await rest(scene);
  const options = loadOf(benchCase, benchCase.seconds ?? seconds);
  return numbersOf(await fio(scene, target.uri(), benchCase.id, options), benchCase, target);
}

/** The longest stall of 4k writes at depth 4 while one of the storage daemons is killed -9. */
export async function measureKill(scene: Scene, target: Target): Promise<Measurement> {
  if (target.killOne === undefined)
    throw new Error(`Cannot kill a daemon of ${target.id}: it has none to spare`);
  await rest(scene);
  const command = fioCommand(target.uri(), "kill", {
    ...{ rw: "randwrite", bs: "4k", iodepth: 4, size: "1g", end_fsync: 1, randrepeat: 0 },
    ...{ time_based: 1, runtime: KILL_RUN_SECONDS },
  });
  const load = scene.run(command, { timeMsMax: KILL_RUN_SECONDS * 4_000 });
  await Bun.sleep(KILL_AFTER_MS);
  await target.killOne();
  const { stdout } = await load;
  const result = JSON.parse(stdout.slice(stdout.indexOf("{"))) as FioResult;
  const write = result.jobs[0]!.write;
  return {
    caseId: "kill",
    target: target.id,
    value: write.iops,
    stallMsMax: write.clat_ns.max / 1e6,
    latencyUsP99: (write.clat_ns.percentile?.["99.000000"] ?? 0) / 1e3,
  };
}
