/**
 * Proves that the simulator bites: for each mutant a copy of the source tree is made, the bug is put in, and seeds
 * are run until one fails. `bun test/sim/mutants/main.ts [--seeds N] [--only TEXT]` prints a table of mutant, seeds
 * needed and the checker that caught it, and fails when one survives.
 */
import { cp, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MUTANTS, type Mutant } from "./list";

const ROOT = join(import.meta.dir, "../../..");
const SEEDS_DEFAULT = 200;
const SEED_SECONDS_MAX = 120;

interface Verdict {
  readonly mutant: Mutant;
  /** 0: it survived. */
  readonly seedsNeeded: number;
  readonly reason: string;
}

async function plant(mutant: Mutant): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "torus-mutant-"));
  for (const part of ["src", "test", "package.json", "tsconfig.json"])
    await cp(join(ROOT, part), join(folder, part), { recursive: true });
  await symlink(join(ROOT, "node_modules"), join(folder, "node_modules"));
  const path = join(folder, mutant.file);
  const source = await Bun.file(path).text();
  const pieces = source.split(mutant.find);
  if (pieces.length !== 2)
    throw new Error(`mutant "${mutant.name}": its text occurs ${pieces.length - 1} times in ${mutant.file}`);
  await Bun.write(path, pieces.join(mutant.replace));
  return folder;
}

/** Runs seeds one by one until one fails. */
async function hunt(mutant: Mutant, seedCount: number): Promise<Verdict> {
  const folder = await plant(mutant);
  try {
    const run = Bun.spawn(["bun", "test/sim/main.ts", "--seeds", String(seedCount)], {
      cwd: folder,
      stdout: "pipe",
      stderr: "pipe",
      timeout: seedCount * SEED_SECONDS_MAX * 1000,
    });
    const text = (await new Response(run.stdout).text()) + (await new Response(run.stderr).text());
    const code = await run.exited;
    const failure = /^seed (\d+)(?: FAILED)?: (.*)$/m.exec(text);
    if (code === 0) return { mutant, seedsNeeded: 0, reason: "survived" };
    if (failure === null)
      throw new Error(`mutant "${mutant.name}" ended without a verdict:\n${text.slice(-2000)}`);
    return { mutant, seedsNeeded: Number(failure[1]), reason: (failure[2] ?? "").slice(0, 140) };
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function main(words: readonly string[]): Promise<number> {
  const value = (name: string): string | undefined =>
    words[words.indexOf(name) + 1] && words.includes(name) ? words[words.indexOf(name) + 1] : undefined;
  const seedCount = Number(value("--seeds") ?? SEEDS_DEFAULT);
  const only = value("--only");
  const chosen = MUTANTS.filter(
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
