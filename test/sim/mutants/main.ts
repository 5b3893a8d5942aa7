/**
 * Proves that the simulator bites: for each mutant a copy of the source tree is made, the bug is put in, and seeds
 * are run until one fails. `bun run sim:mutants [--seeds N] [--only TEXT] [--from M] [--count K]` prints a table of
 * rule, mutant, seeds needed and the checker that caught it, and fails when one survives. `--only` takes a part of a
 * name or a whole rule; `--from` and `--count` choose mutants by their number in the list, to run it in slices.
 */
import { cp, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MUTANTS, type Mutant } from "./list";

const ROOT = join(import.meta.dir, "../../..");
const SEEDS_DEFAULT = 300;
/** A mutant that makes a run never end is caught, too. */
const SEED_SECONDS_MAX = 90;
const REASON_CHARS_MAX = 150;

interface Verdict {
  readonly mutant: Mutant;
  /** 0: it survived. */
  readonly seedsNeeded: number;
  readonly reason: string;
}

async function plant(mutant: Mutant): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "torus-mutant-"));
  for (const part of ["src", "test/sim", "package.json", "tsconfig.json"])
    await cp(join(ROOT, part), join(folder, part), { recursive: true });
  await symlink(join(ROOT, "node_modules"), join(folder, "node_modules"));
  for (const edit of mutant.also === undefined ? [mutant] : [mutant, mutant.also]) {
    const path = join(folder, edit.file);
    const source = await Bun.file(path).text();
    const pieces = source.split(edit.find);
    if (pieces.length !== 2)
      throw new Error(`mutant "${mutant.name}": its text occurs ${pieces.length - 1} times in ${edit.file}`);
    await Bun.write(path, pieces.join(edit.replace));
  }
  return folder;
}

/** Runs seeds one by one until one fails. */
async function hunt(mutant: Mutant, seedCount: number): Promise<Verdict> {
  const folder = await plant(mutant);
  try {
    const plan = mutant.plan === undefined ? [] : ["--plan", mutant.plan];
    const words = ["--seeds", String(seedCount), "--progress", ...plan];
    const run = Bun.spawn(["bun", "test/sim/main.ts", ...words], {
      cwd: folder,
      env: { ...process.env, BUN_JSC_useConcurrentGC: "0" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const text = await textWithin(run, SEED_SECONDS_MAX);
    const failure = /^seed (\d+)(?: FAILED)?: (.*)$/m.exec(text);
    const begun = [...text.matchAll(/^seed (\d+) begins$/gm)].at(-1);
    if (failure !== null) {
      const reason = (failure[2] ?? "").slice(0, REASON_CHARS_MAX);
      return { mutant, seedsNeeded: Number(failure[1]), reason };
    }
    if (run.exitCode === 0) return { mutant, seedsNeeded: 0, reason: "survived" };
    if (begun === undefined)
      throw new Error(`mutant "${mutant.name}" ended without a verdict:\n${text.slice(-2000)}`);
    return { mutant, seedsNeeded: Number(begun[1]), reason: "hang: the run did not end" };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** All that the run prints; it is ended when it prints nothing for so long. */
async function textWithin(
  run: Bun.Subprocess<"ignore", "pipe", "pipe">,
  silentSecondsMax: number,
): Promise<string> {
  let text = "";
  let timer = setTimeout(() => run.kill(), silentSecondsMax * 1000);
  const decoder = new TextDecoder();
  for await (const part of run.stdout) {
    text += decoder.decode(part, { stream: true });
    clearTimeout(timer);
    timer = setTimeout(() => run.kill(), silentSecondsMax * 1000);
  }
  await run.exited;
  clearTimeout(timer);
  return text + (await new Response(run.stderr).text());
}

async function main(words: readonly string[]): Promise<number> {
  const value = (name: string): string | undefined => {
    const at = words.indexOf(name);
    return at < 0 ? undefined : words[at + 1];
  };
  const seedCount = Number(value("--seeds") ?? SEEDS_DEFAULT);
  const only = value("--only");
  const from = Number(value("--from") ?? 1);
  const count = Number(value("--count") ?? MUTANTS.length);
  const chosen = MUTANTS.slice(from - 1, from - 1 + count).filter(
    ({ name, rule }) => only === undefined || name.includes(only) || rule === only,
  );
  let survived = 0;
  console.log("| rule | mutant | seeds | caught by |\n|------|--------|-------|-----------|");
  for (const mutant of chosen) {
    const { seedsNeeded, reason } = await hunt(mutant, seedCount);
    if (seedsNeeded === 0) survived += 1;
    console.log(`| ${mutant.rule} | ${mutant.name} | ${seedsNeeded || "-"} | ${reason} |`);
  }
  console.log(`${chosen.length - survived} of ${chosen.length} mutants were caught`);
  return survived === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
