/**
 * How many rounds a test of chance runs, and from which seed. Few by default; `TORUS_CRASH_ROUNDS=50` runs more, and
 * `TORUS_CRASH_SEED` makes the same choices again. What the machine does in between is not in the seed's power: a
 * replay is as near as chance allows.
 */
import { Prng } from "../../sim/world/prng";

export interface Rounds<Kind> {
  readonly chance: Prng;
  readonly kinds: readonly Kind[];
}

/** One kind for each round, all of them equally often, in an order by chance; prints how to run the same again. */
export function planRounds<Kind extends string>(
  file: string,
  kinds: readonly Kind[],
  roundCountDefault: number,
): Rounds<Kind> {
  const seed = Number(process.env.TORUS_CRASH_SEED ?? Math.floor(Math.random() * 2 ** 31));
  const roundCount = Number(process.env.TORUS_CRASH_ROUNDS ?? roundCountDefault);
  const only = process.env.TORUS_CRASH_KIND;
  const wanted = only === undefined ? kinds : kinds.filter((kind) => kind === only);
  if (wanted.length === 0) throw new Error(`There is no kind ${only}; there are: ${kinds.join(", ")}`);
  const chance = new Prng(seed);
  const plan: Kind[] = [];
  while (plan.length < roundCount) {
    const rest = [...wanted];
    while (rest.length > 0) plan.push(rest.splice(chance.below(rest.length), 1)[0] as Kind);
  }
  console.log(
    `${file}: ${roundCount} rounds, seed ${seed}; again: TORUS_CRASH_SEED=${seed} TORUS_CRASH_ROUNDS=${roundCount} bun run e2e ${file}`,
  );
  return { chance, kinds: plan.slice(0, roundCount) };
}
