/**
 * The simulator's command: `bun run sim --seeds 200` runs seeds 1 .. 200 and says what was injected; `--seed 17`
 * replays one, with `--trace` every line of it. A failing seed prints its end, the commit and the command; with
 * `--shrink` its schedule of faults is cut off ever earlier, and then kinds of faults are left out one by one, as
 * long as it still fails. `--regressions` runs the seeds that found a bug once, `--minutes` bounds the time.
 * `--plan NAME` runs a directed schedule with these seeds instead, `--plans` all there are.
 */
import { type Plan, PLANS } from "./directed";
import { REGRESSIONS } from "./regressions";
import { Simulation, type SimulationOptions, type SimulationResult } from "./simulation";

interface Arguments {
  readonly seeds: readonly number[];
  readonly trace: boolean;
  readonly twice: boolean;
  readonly keepGoing: boolean;
  readonly shrink: boolean;
  readonly progress: boolean;
  readonly minutesMax: number;
  /** Each seed is run with each of them: chance's, or directed ones. */
  readonly schedules: readonly Schedule[];
}

/** How the schedule of a seed is shortened. */
type Schedule = Pick<SimulationOptions, "faultMs" | "without" | "plan">;

const USAGE =
  "usage: bun run sim [--seeds N] [--from S] [--seed S] [--trace] [--twice] [--keep-going] [--minutes M] [--regressions] [--progress] [--shrink] [--fault-ms MS] [--without KIND]... [--plan NAME] [--plans]";
const TAIL_LINES = 80;
/** Longer than any safety phase. */
const FAULT_MS_MAX = 60_000;

function parseArguments(words: readonly string[]): Arguments {
  const values = {
    from: 1,
    count: 100,
    regressions: false,
    minutesMax: Number.POSITIVE_INFINITY,
    trace: false,
    twice: false,
    keepGoing: false,
    shrink: false,
    progress: false,
    plans: false,
    schedule: {} as Schedule,
  };
  const queue = [...words];
  const number = (): number => {
    const value = Number(queue.shift());
    if (!Number.isSafeInteger(value) || value < 0) throw new Error(USAGE);
    return value;
  };
  for (let word = queue.shift(); word !== undefined; word = queue.shift())
    if (word === "--seeds") values.count = number();
    else if (word === "--from") values.from = number();
    else if (word === "--seed") Object.assign(values, { from: number(), count: 1 });
    else if (word === "--trace") values.trace = true;
    else if (word === "--twice") values.twice = true;
    else if (word === "--keep-going") values.keepGoing = true;
    else if (word === "--shrink") values.shrink = true;
    else if (word === "--plans") values.plans = true;
    else if (word === "--plan") values.schedule = { ...values.schedule, plan: planNamed(queue.shift()) };
    else if (word === "--progress") values.progress = true;
    else if (word === "--regressions") values.regressions = true;
    else if (word === "--minutes") values.minutesMax = number();
    else if (word === "--fault-ms") values.schedule = { ...values.schedule, faultMs: number() };
    else if (word === "--without")
      values.schedule = {
        ...values.schedule,
        without: [...(values.schedule.without ?? []), queue.shift() ?? ""],
      };
    else throw new Error(USAGE);
  const inOrder = Array.from({ length: values.count }, (_, index) => values.from + index);
  const seeds = values.regressions ? REGRESSIONS.map(({ seed }) => seed) : inOrder;
  const { schedule } = values;
  const schedules = values.plans ? PLANS.map((plan) => ({ ...schedule, plan })) : [schedule];
  return { ...values, seeds, schedules };
}

function planNamed(name: string | undefined): Plan {
  const plan = PLANS.find((one) => one.name === name);
  if (plan === undefined)
    throw new Error(`there is no plan "${name}", but ${PLANS.map((one) => `"${one.name}"`).join(", ")}`);
  return plan;
}

function commit(): string {
  const { stdout } = Bun.spawnSync(["git", "rev-parse", "--short", "HEAD"]);
  return stdout.toString().trim() || "unknown";
}

/** Returns the result, or undefined after it told why the seed failed. */
function runSeed(seed: number, trace: boolean, schedule: Schedule): SimulationResult | undefined {
  const print = trace ? (line: string) => console.log(line) : undefined;
  const simulation = new Simulation({ seed, ...(print && { print }), ...schedule });
  try {
    return simulation.run();
  } catch (error) {
    if (!trace) for (const line of simulation.world.trace.tail(TAIL_LINES)) console.log(line);
    console.log(`\nseed ${seed} FAILED: ${error instanceof Error ? error.message : String(error)}`);
    if (error instanceof Error && error.name !== "Violation") console.log(error.stack);
    console.log(`commit ${commit()}; replay with: ${commandFor(seed, schedule)} --trace`);
    return undefined;
  }
}

function commandFor(seed: number, { faultMs, without = [], plan }: Schedule): string {
  const cut = faultMs === undefined ? "" : ` --fault-ms ${faultMs}`;
  const directed = plan === undefined ? "" : ` --plan "${plan.name}"`;
  return `bun run sim --seed ${seed}${directed}${cut}${without.map((kind) => ` --without "${kind}"`).join("")}`;
}

function report(results: readonly SimulationResult[], elapsedMs: number): void {
  const totals: Record<string, number> = {};
  let events = 0;
  let virtualMs = 0;
  for (const result of results) {
    events += result.eventCount;
    virtualMs += result.virtualMs;
    for (const [name, count] of Object.entries(result.counts)) totals[name] = (totals[name] ?? 0) + count;
  }
  for (const [name, count] of Object.entries(totals).sort(([a], [b]) => (a < b ? -1 : 1)))
    console.log(`${name.padEnd(32)} ${count}`);
  const rate = (results.length / elapsedMs) * 1000;
  console.log(
    `${results.length} seeds, ${events} events, ${(virtualMs / 60_000).toFixed(0)} min of virtual time, ${rate.toFixed(2)} seeds/s`,
  );
}

function fails(seed: number, schedule: Schedule): boolean {
  try {
    new Simulation({ seed, ...schedule }).run();
    return false;
  } catch {
    // Whatever it is: the shortest schedule that still goes wrong is looked for.
    return true;
  }
}

/** The shortest safety phase, to a tenth of a second, and the fewest kinds of faults with which the seed still fails. */
function shrink(seed: number): void {
  let low = 0;
  let high = FAULT_MS_MAX;
  while (high - low > 100) {
    const middle = Math.floor((low + high) / 2);
    if (fails(seed, { faultMs: middle })) high = middle;
    else low = middle;
  }
  const without: string[] = [];
  for (const kind of new Simulation({ seed }).faultKinds)
    if (fails(seed, { faultMs: high, without: [...without, kind] })) without.push(kind);
  console.log(`shrunk: ${commandFor(seed, { faultMs: high, without })} --trace`);
}

const rejections: unknown[] = [];
process.on("unhandledRejection", (reason) => rejections.push(reason));

async function main(): Promise<number> {
  const {
    seeds,
    minutesMax,
    trace,
    twice,
    keepGoing,
    shrink: shrinks,
    progress,
    schedules,
  } = parseArguments(process.argv.slice(2));
  const startMs = performance.now();
  const results: SimulationResult[] = [];
  const failed: number[] = [];
  const runs = seeds.flatMap((seed) => schedules.map((schedule) => ({ seed, schedule })));
  for (const { seed, schedule } of runs) {
    if (performance.now() - startMs > minutesMax * 60_000) {
      console.log(`the time is over before seed ${seed}`);
      break;
    }
    if (progress) console.log(`seed ${seed} begins`);
    const result = runSeed(seed, trace, schedule);
    // Rejections nobody handled are reported between macrotasks.
    await new Promise((resolve) => setImmediate(resolve));
    const unhandled = rejections.splice(0);
    for (const reason of unhandled) console.log(`seed ${seed}: a rejection was not handled:`, reason);
    const again = twice && result !== undefined ? runSeed(seed, false, schedule) : result;
    const differs = result !== undefined && again?.traceHash !== result.traceHash;
    if (differs) console.log(`seed ${seed} FAILED: two runs of it gave different traces`);
    if (result === undefined || differs || unhandled.length > 0) {
      failed.push(seed);
      if (shrinks && result === undefined) shrink(seed);
      if (!keepGoing) break;
    } else results.push(result);
  }
  if (results.length > 0) report(results, performance.now() - startMs);
  if (failed.length > 0) console.log(`failed seeds: ${failed.join(" ")}`);
  return failed.length === 0 ? 0 : 1;
}

if (process.argv.includes("--help")) {
  console.log(USAGE);
  process.exit(0);
}
process.exitCode = await main();
