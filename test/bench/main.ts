/**
 * `bun run bench`: fio against torus and against nbdkit in the same run, and the ratios between them. `--help` has its
 * options.
 */
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Scene, torusBinary } from "../e2e/harness";
import { type BenchCase, CASES, selectCases } from "./cases";
import { type Measurement, measure, measureKill, prefill, prepare, runIn } from "./measure";
import { type BenchRun, readCommitted, record, renderTable } from "./report";
import { startTarget, TARGET_IDS, type Target, type TargetId, touchMemory } from "./targets";

const HELP = `bun run bench: fio against torus and against nbdkit in the same run, and the ratios between them

  --quick            one window of 1 s a case, nothing run in or warmed up
  --cases A,B        only these: ${CASES.map((one) => one.id).join(", ")}
                     (${CASES.filter((one) => one.onDemand)
                       .map((one) => one.id)
                       .join(", ")} runs only when named)
  --targets A,B      only these: ${TARGET_IDS.join(", ")}; ratios need nbdkit-file
  --seconds N        a window (default 3)
  --rounds N         windows of a case for each target, by turns (default 5)
  --dir FOLDER       data there instead of on tmpfs
  --socket tcp|unix  how fio reaches the export (default tcp)
  --kill             also the longest stall when a daemon is killed
  --json             numbers instead of the table
  --record           writes the table into docs/benchmarks.md

Example: bun run bench --targets nbdkit-file,torus-3 --kill`;

const repository = join(import.meta.dir, "../..");
const TMPFS = "/dev/shm";
const STOP_SIGNALS = ["SIGINT", "SIGTERM"] as const;
const STOPPED_EXIT_CODE = 130;

interface Plan {
  readonly cases: readonly BenchCase[];
  readonly targetIds: readonly TargetId[];
  readonly seconds: number;
  readonly rounds: number;
  readonly folder: string;
  readonly socket: "tcp" | "unix";
  readonly kill: boolean;
  /** Whether each target has some seconds of load before the first case, and before each. */
  readonly runsIn: boolean;
  readonly log: (line: string) => void;
}

function names(text: string | undefined): string[] {
  return text === undefined ? [] : text.split(",").filter((name) => name !== "");
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new Error(`Cannot use --${name} ${text}: give a number above 0`);
  return value;
}

function selectTargets(wanted: readonly string[]): readonly TargetId[] {
  const unknown = wanted.filter((name) => !(TARGET_IDS as readonly string[]).includes(name));
  if (unknown.length > 0)
    throw new Error(`Unknown target ${unknown.join(", ")}: the targets are ${TARGET_IDS.join(", ")}`);
  return TARGET_IDS.filter((id) => wanted.length === 0 || wanted.includes(id));
}

/**
 * All targets run side by side and take turns of some seconds, so that the two numbers of a ratio lie seconds apart: a
 * shared machine is another one a minute later.
 */
async function runGroup(plan: Plan, sizeGib: number, cases: readonly BenchCase[]): Promise<Measurement[]> {
  const results: Measurement[] = [];
  const scene = new Scene("bench", { parentFolder: plan.folder });
  let stopping: Promise<void> | undefined;
  // Nobody is left running, and no GiB lying in memory.
  const onSignal = (): void => {
    stopping ??= scene.end().finally(() => process.exit(STOPPED_EXIT_CODE));
  };
  for (const signal of STOP_SIGNALS) process.on(signal, onSignal);
  try {
    const targets: Target[] = [];
    for (const id of plan.targetIds) {
      targets.push(await startTarget(scene, id, { sizeGib, socket: plan.socket }));
      await prefill(scene, targets.at(-1)!, sizeGib);
      if (plan.folder === TMPFS) touchMemory(targets.at(-1)!.untouchedFiles?.() ?? []);
      plan.log(`${id} is up, first ${sizeGib} GiB written`);
    }
    if (plan.runsIn) for (const target of targets) await runIn(scene, target, sizeGib);
    for (const benchCase of cases) {
      for (const target of targets) await prepare(scene, target, benchCase, plan.runsIn);
      for (let round = 1; round <= plan.rounds; round++)
        for (const target of targets) {
          const one = await measure(scene, target, benchCase, plan.seconds);
          results.push(one);
          plan.log(
            `round ${round}: ${benchCase.id} ${target.id} ${one.value.toFixed(0)} ${benchCase.unit}, p99 ${one.latencyUsP99.toFixed(0)} us, longest ${one.stallMsMax.toFixed(0)} ms`,
          );
        }
    }
    const victim = targets.find((target) => target.killOne !== undefined);
    if (plan.kill && sizeGib === 1 && victim !== undefined) results.push(await measureKill(scene, victim));
    for (const target of targets) await target.stop();
  } catch (error) {
    // What was ended under it is no failure of its own.
    if (stopping !== undefined) await stopping;
    scene.printLogs();
    throw error;
  } finally {
    for (const signal of STOP_SIGNALS) process.off(signal, onSignal);
    await scene.end();
  }
  return results;
}

/** Cases over more than the common volume come last, on one target after the other: memory is short. */
async function runAll(plan: Plan): Promise<Measurement[]> {
  const common = plan.cases.filter((one) => one.sizeGib === 1);
  const results = common.length > 0 || plan.kill ? await runGroup(plan, 1, common) : [];
  for (const benchCase of plan.cases.filter((one) => one.sizeGib > 1))
    for (const id of plan.targetIds.filter((one) => one !== "nbdkit-memory"))
      results.push(
        ...(await runGroup({ ...plan, targetIds: [id], rounds: 1 }, benchCase.sizeGib, [benchCase])),
      );
  return results;
}

async function commitOf(binary: string): Promise<string> {
  const child = Bun.spawn([binary, "version", "--json"], { stdout: "pipe" });
  return ((await child.stdout.json()) as { commit: string }).commit.replace(/^([0-9a-f]{12})[0-9a-f]*/, "$1");
}

function machine(): string {
  const [cpu] = cpus();
  return `${cpus().length} cores of ${cpu?.model.trim() ?? "unknown"}, ${Math.round(totalmem() / 2 ** 30)} GiB`;
}

const OPTIONS = {
  help: { type: "boolean", short: "h", default: false },
  quick: { type: "boolean", default: false },
  cases: { type: "string" },
  targets: { type: "string" },
  seconds: { type: "string" },
  rounds: { type: "string" },
  dir: { type: "string" },
  socket: { type: "string", default: "tcp" },
  kill: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
  record: { type: "boolean", default: false },
} as const;

function options() {
  const { values } = parseArgs({ options: OPTIONS });
  const { socket } = values;
  if (socket !== "tcp" && socket !== "unix")
    throw new Error(`Cannot use --socket ${socket}: it is tcp or unix`);
  const plan: Plan = {
    cases: selectCases(names(values.cases)),
    targetIds: selectTargets(names(values.targets)),
    seconds: positive("seconds", values.seconds ?? (values.quick ? "1" : "3")),
    rounds: positive("rounds", values.rounds ?? (values.quick ? "1" : "5")),
    folder: values.dir ?? TMPFS,
    socket,
    kill: values.kill,
    runsIn: !values.quick,
    log: (line) => console.error(line),
  };
  return { plan, values };
}

function optionsOrExit(): ReturnType<typeof options> {
  try {
    return options();
  } catch (error) {
    console.error(`bench: ${(error as Error).message}; --help lists the options`);
    process.exit(2);
  }
}

const { plan, values } = optionsOrExit();
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const storage = values.dir === undefined ? "tmpfs" : "disk";
const needsTorus = plan.targetIds.some((id) => id.startsWith("torus"));
const run: BenchRun = {
  version: 1,
  date: new Date().toISOString().slice(0, 10),
  commit: needsTorus ? await commitOf(await torusBinary()) : "-",
  machine: machine(),
  storage,
  socket: plan.socket,
  secondsPerCase: plan.seconds,
  rounds: plan.rounds,
  results: await runAll(plan),
};
const dataPath = join(repository, `docs/benchmarks-${storage}.json`);
const table = renderTable(run, plan.cases, readCommitted(dataPath));
console.log(values.json ? JSON.stringify(run, null, 1) : table);
if (values.record) record(join(repository, "docs/benchmarks.md"), dataPath, run, table);
