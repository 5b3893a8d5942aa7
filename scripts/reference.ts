/**
 * Writes docs/reference.md from the commands themselves; with --check only says whether it is current.
 *
 *   bun scripts/reference.ts [--check]
 */
import { join } from "node:path";
import { readTree, renderReference } from "../src/commands/reference";
import { rootCommand } from "../src/commands/root";

const path = join(import.meta.dir, "../docs/reference.md");
const text = renderReference(await readTree(rootCommand, ["torus"]));
if (!process.argv.includes("--check")) await Bun.write(path, text);
else if ((await Bun.file(path).text()) !== text) {
  console.error("docs/reference.md is not what the commands say: run bun scripts/reference.ts");
  process.exit(1);
}
