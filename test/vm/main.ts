/**
 * Runs the tests that need a real kernel's block clients, in a small virtual machine (see machine/machine.ts):
 * `bun test/vm/main.ts [--machine uml|qemu] [NAME...]`, where NAME is a script of test/vm/guest without its ending, or
 * `--script FILE` for a script of somebody's own. `--jobs N` runs N machines at once. With `--if-possible` a host that cannot run the machine is told so by
 * a line and the exit code 77, instead of a failure.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { type BootEnd, Machine, MACHINE_KINDS, type MachineKind } from "./machine/machine";

const guestFolder = join(import.meta.dir, "guest");
const programFolder = join(import.meta.dir, "programs");
const BOOT_MS_MAX: Readonly<Record<MachineKind, number>> = { uml: 10 * 60_000, qemu: 25 * 60_000 };
const PROBE_MS_MAX = 3 * 60_000;
const SKIPPED = 77;
const scratch = mkdtempSync(join(tmpdir(), "torus-vm-"));
const share = join(scratch, "share");

const { values: flags, positionals: asked } = parseArgs({
  allowPositionals: true,
  options: {
    machine: { type: "string", default: process.env.TORUS_VM_MACHINE ?? "uml" },
    script: { type: "string" },
    jobs: { type: "string", default: "1" },
    "if-possible": { type: "boolean", default: false },
  },
});

function fail(message: string): never {
  console.error(`vm: ${message}`);
  process.exit(1);
}

/** For what is the host's doing, not ours. */
function impossible(reason: string): never {
  if (!flags["if-possible"]) fail(reason);
  console.log(`vm: not run: ${reason.replaceAll(/\s+/g, " ")}`);
  process.exit(SKIPPED);
}

const jobs = Number(flags.jobs);
if (!Number.isInteger(jobs) || jobs < 1) fail(`cannot run ${flags.jobs} machines at once`);
const kind =
  MACHINE_KINDS.find((one) => one === flags.machine) ?? fail(`there is no machine ${flags.machine}`);

/** A test is one script NAME.sh, or several boots NAME.1.sh, NAME.2.sh ... with one disk, of which all but the last end by a reset. */
const scripts = [...new Bun.Glob("*.sh").scanSync({ cwd: guestFolder })].sort();
const nameOf = (file: string) => file.replace(/(\.\d+)?\.sh$/, "");
const known = [...new Set(scripts.map(nameOf))].filter((name) => name !== "library");
/** A selection of the others for every test run: not run with them, only when asked for. */
const SHORT = "short";

/** `# program: NAME` in a script asks for programs/NAME.ts, compiled with its workers into the shared folder. */
function compile(script: string, share: string): void {
  for (const [, name = ""] of script.matchAll(/^# program: ([a-z-]+)$/gm)) {
    const outfile = join(share, name);
    if (existsSync(outfile)) continue;
    const files = [...new Bun.Glob(`${name}{,.*}.ts`).scanSync({ cwd: programFolder, absolute: true })].sort(
      (one, other) => one.length - other.length,
    );
    const command = [process.execPath, "build", "--compile", "--minify", ...files, "--outfile", outfile];
    const build = Bun.spawnSync(command);
    if (build.exitCode !== 0) fail(`cannot compile ${name}: ${build.stderr}`);
  }
}

interface Test {
  readonly name: string;
  readonly files: readonly string[];
}

function testOf(name: string): Test {
  const files = scripts.filter((file) => nameOf(file) === name).map((file) => join(guestFolder, file));
  return { name, files };
}

/** `# disk: 6G` in a script's first line asks for a second disk. */
function makeDisk(script: string, disk: string): string[] {
  const size = /^# disk: (\d+)G$/m.exec(script)?.[1];
  if (size !== undefined) {
    rmSync(disk, { force: true });
    writeFileSync(disk, "");
    truncateSync(disk, Number(size) * 2 ** 30);
  }
  return existsSync(disk) ? [disk] : [];
}

/** Undefined when the test passed. */
async function runTest(machine: Machine, { name, files }: Test, onConsole: (text: string) => void) {
  const disk = join(scratch, `${name}.img`);
  const library = readFileSync(join(guestFolder, "library.sh"), "utf8");
  try {
    for (const [index, file] of files.entries()) {
      const script = readFileSync(file, "utf8");
      const end = await machine.boot({
        script: `MACHINE=${machine.kind}\n${library}\n${script}`,
        share,
        scratch,
        disks: makeDisk(script, disk),
        timeMsMax: BOOT_MS_MAX[machine.kind],
        onConsole,
      });
      const expected: BootEnd = index === files.length - 1 ? 0 : "reset";
      if (end !== expected) return `${basename(file)} ended with ${end}, not ${expected}`;
    }
    return undefined;
  } finally {
    rmSync(disk, { force: true });
  }
}

/** Runs tests until there is none left; with several such jobs at once each test's console comes in one piece. */
async function runJob(machine: Machine, left: Test[], failed: string[]): Promise<void> {
  for (let test = left.shift(); test !== undefined; test = left.shift()) {
    let said = `\n== ${test.name}\n`;
    const say = (text: string) => {
      if (jobs === 1) process.stdout.write(text);
      else said += text;
    };
    if (jobs === 1) say(said);
    const startMs = performance.now();
    const failure = await runTest(machine, test, say);
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    say(
      failure === undefined
        ? `(pass) ${test.name}, ${seconds} s\n`
        : `(fail) ${test.name}, ${seconds} s: ${failure}\n`,
    );
    if (jobs > 1) process.stdout.write(said);
    if (failure !== undefined) failed.push(test.name);
  }
}

async function main(): Promise<number> {
  const unknown = asked.filter((name) => !known.includes(name));
  if (unknown.length > 0) fail(`there is no script ${unknown.join(", ")}; there are ${known.join(", ")}`);
  const executable = process.env.TORUS_EXECUTABLE ?? join(import.meta.dir, "../../dist/torus");
  if (!existsSync(executable)) fail(`there is no ${executable}: bun run build`);
  const obstacle = Machine.obstacle(kind);
  if (obstacle !== undefined) impossible(obstacle);
  let machine: Machine;
  try {
    machine = Machine.build(kind);
  } catch (error) {
    impossible(error instanceof Error ? error.message : String(error));
  }
  mkdirSync(share);
  let said = "";
  const onConsole = (text: string) => {
    said += text;
  };
  const probe = await machine.boot({ script: "exit 42", share, scratch, timeMsMax: PROBE_MS_MAX, onConsole });
  if (probe !== 42) {
    console.log(said.slice(-2000));
    impossible(`the machine does not boot here (${probe})`);
  }
  copyFileSync(executable, join(share, "torus"));
  const tests =
    flags.script === undefined
      ? (asked.length > 0 ? asked : known.filter((name) => name !== SHORT)).map(testOf)
      : [{ name: basename(flags.script), files: [flags.script] }];
  for (const file of tests.flatMap(({ files }) => files)) compile(readFileSync(file, "utf8"), share);
  const failed: string[] = [];
  const left = [...tests];
  await Promise.all(Array.from({ length: jobs }, () => runJob(machine, left, failed)));
  console.log(` ${tests.length - failed.length} pass\n ${failed.length} fail`);
  return failed.length === 0 ? 0 : 1;
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => process.exit(1));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
process.exit(await main());
