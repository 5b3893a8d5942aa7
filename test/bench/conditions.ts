/**
 * `bun run bench:conditions`: what the table of cases does not tell. Three daemons with a real etcd, replication 2, data
 * on tmpfs, unless the condition says otherwise. Prints one line a figure; nothing passes or fails on it.
 *
 *   --seconds N      of load for each figure (default 4)
 *   --only WORD      only the conditions whose names hold it
 *   --sizes A,B      volumes whose upkeep is looked at, in MiB (default 256,1024,4096: 13 GiB of memory)
 *   --blocks A,B     blocks in the stores that are started (default 1000000; 10000000 take 7 GiB of memory)
 *   --delays A,B     milliseconds that a packet takes (default 0,1,10)
 */
import { parseArgs } from "node:util";
import { networkDelay } from "./conditions/delay";
import type { Stage } from "./conditions/figures";
import { openWithTail } from "./conditions/opening";
import { memory, requestCpu } from "./conditions/requests";
import { withScene } from "./conditions/scene";
import { startWithBlocks } from "./conditions/start";
import { upkeep } from "./conditions/upkeep";
import { idleVolumes, volumesAtOnce } from "./conditions/volumes";

const CONDITIONS: Readonly<Record<string, (stage: Stage) => Promise<void>>> = {
  "volumes at once": volumesAtOnce,
  "idle volumes": idleVolumes,
  "cpu of a request": requestCpu,
  memory,
  "opening with a tail": openWithTail,
  "upkeep by volume size": upkeep,
  "start with many blocks": startWithBlocks,
  "network delay": networkDelay,
};

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "4" },
    only: { type: "string", default: "" },
    sizes: { type: "string", default: "256,1024,4096" },
    blocks: { type: "string", default: "1000000" },
    delays: { type: "string", default: "0,1,10" },
  },
});

function numbers(name: "seconds" | "sizes" | "blocks" | "delays", least: number): number[] {
  const list = values[name].split(",").map(Number);
  if (list.some((value) => !(value >= least)))
    throw new Error(`Cannot use --${name} ${values[name]}: give numbers of at least ${least}`);
  return list;
}

const [seconds = 4] = numbers("seconds", 1);
const chosen = Object.entries(CONDITIONS).filter(([name]) => name.includes(values.only));
if (chosen.length === 0)
  throw new Error(`No condition holds ${values.only}; there are: ${Object.keys(CONDITIONS).join(", ")}`);

for (const [, run] of chosen)
  await withScene("conditions", (scene) =>
    run({
      scene,
      seconds,
      say: (what, figure) => console.log(`${what}: ${figure}`),
      volumeSizesMib: numbers("sizes", 64),
      blockCounts: numbers("blocks", 1),
      delaysMs: numbers("delays", 0),
    }),
  );
