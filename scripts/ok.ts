/**
 * `bun run ok`: everything a change must pass before it is committed, short of the end-to-end tests. Every step
 * runs even when an earlier one failed, so that one run shows all there is to mend.
 *
 *   bun scripts/ok.ts [step...]     only these steps
 */
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const STEP_TIME_MS_MAX = 10 * 60_000;

const STEPS: Readonly<Record<string, readonly string[]>> = {
  format: ["biome", "format", "."],
  lint: ["biome", "lint", "--error-on-warnings", "."],
  oxlint: ["oxlint", "--deny-warnings"],
  rooms: ["scripts/rooms.ts"],
  types: ["tsc", "--noEmit"],
  knip: ["knip", "--no-progress"],
  generated: ["scripts/generate.ts", "--check"],
  reference: ["scripts/reference.ts", "--check"],
  // The limit is for tests that hang: a machine with much else to do must not fail one.
  unit: ["test", "test/unit", "test/contract", "test/fuzz", "--timeout", "120000"],
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in STEPS));
if (unknown.length > 0) {
  console.error(`ok: no step named ${unknown.join(", ")}; the steps are ${Object.keys(STEPS).join(", ")}`);
  process.exit(2);
}

const failed: string[] = [];
for (const [name, command] of Object.entries(STEPS)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const [tool, ...args] = command as [string, ...string[]];
  const isScript = tool === "test" || tool.endsWith(".ts");
  const startedMs = performance.now();
  console.log(`\n== ${name}: ${command.join(" ")}`);
  const child = Bun.spawn(
    [process.execPath, ...(isScript ? [tool] : ["--bun", join("node_modules/.bin", tool)]), ...args],
    {
      cwd: root,
      stdin: "ignore",
      stdout: "inherit",
      stderr: "inherit",
      timeout: STEP_TIME_MS_MAX,
    },
  );
  const exitCode = await child.exited;
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  console.log(`== ${name}: ${exitCode === 0 ? "ok" : `FAILED (exit ${exitCode})`} in ${seconds} s`);
  if (exitCode !== 0) failed.push(name);
}
if (failed.length > 0) console.error(`\nok: failed: ${failed.join(", ")}`);
else console.log("\nok: all steps passed");
process.exit(failed.length === 0 ? 0 : 1);
