/** Every deliberate bug must still fit the source it edits: one that does not would be noticed only by an hour's run. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PLANS } from "../../sim/directed";
import { MUTANTS } from "../../sim/mutants/list";

const ROOT = join(import.meta.dir, "../../..");

test("each mutant's text occurs once, and its schedule exists", () => {
  const plans = new Set(PLANS.map(({ name }) => name));
  for (const mutant of MUTANTS) {
    for (const { file, find } of mutant.also === undefined ? [mutant] : [mutant, mutant.also])
      expect([mutant.name, readFileSync(join(ROOT, file), "utf8").split(find).length - 1]).toEqual([
        mutant.name,
        1,
      ]);
    if (mutant.plan !== undefined) expect(plans).toContain(mutant.plan);
  }
});
