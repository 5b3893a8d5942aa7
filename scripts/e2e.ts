/**
 * Runs the end-to-end tests, each file in a process of its own, two at a time: most of their time is waiting for
 * leases, restarts and disks. The output of a file is printed whole when it ends.
 *
 *   bun scripts/e2e.ts [WORD...]    only the files whose names hold one of the words
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";

const AT_ONCE = 2;
const TEST_TIMEOUT_MS = 600_000;
/** The longest first, so that none of them is left alone at the end. */
const LONGEST_FIRST = [
  "three-nodes",
  "placement",
  "volume-life-snapshots",
  "volume-life-backup",
  "crash-disks",
  "crash-kills",
  "crash-pauses",
  "crash-etcd",
];

const root = join(import.meta.dir, "..");
const words = process.argv.slice(2);

function rank(file: string): number {
  const position = LONGEST_FIRST.findIndex((name) => file === `${name}.test.ts`);
  return position < 0 ? LONGEST_FIRST.length : position;
}

const files = readdirSync(join(root, "test/e2e"))
  .filter((file) => file.endsWith(".test.ts"))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  .toSorted((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));

if (files.length === 0) {
  console.error(`e2e: no file of test/e2e holds ${words.join(" or ")}`);
  process.exit(1);
}

async function run(file: string): Promise<boolean> {
  const startedMs = performance.now();
  const test = Bun.spawn(
    [process.execPath, "test", `./test/e2e/${file}`, "--timeout", String(TEST_TIMEOUT_MS)],
    { cwd: root, stdout: "pipe", stderr: "pipe" },
  );
  const [output, errors, code] = await Promise.all([
    new Response(test.stdout).text(),
    new Response(test.stderr).text(),
    test.exited,
  ]);
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
  console.log(
    `\n== ${file}: ${code === 0 ? "ok" : `FAILED (exit ${code})`} in ${seconds} s\n${output}${errors}`,
  );
  return code === 0;
}

// The executable is built once, before anybody needs it.
if (process.env.TORUS_BINARY === undefined) {
  const build = Bun.spawnSync([process.execPath, "scripts/build.ts"], {
    cwd: root,
    stdout: "inherit",
    stderr: "inherit",
  });
  if (build.exitCode !== 0) process.exit(1);
}

const failed: string[] = [];
const queue = [...files];
async function worker(): Promise<void> {
  for (let file = queue.shift(); file !== undefined; file = queue.shift())
    if (!(await run(file))) failed.push(file);
}
await Promise.all(Array.from({ length: AT_ONCE }, worker));
console.log(failed.length === 0 ? `e2e: ${files.length} files passed` : `e2e: failed: ${failed.join(", ")}`);
process.exit(failed.length === 0 ? 0 : 1);
