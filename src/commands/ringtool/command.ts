/** `torus ringtool`: how well a ring balances and how little a change moves, without any cluster. */
import { CommandError, leaf } from "../cli";
import { outputArgs, outputStyle } from "../output";
import { renderComparison, renderSimulation } from "./report";
import { parseScenario, SIMULATED_TYPES } from "./scenario";
import { simulate } from "./simulate";
import { renderSvg } from "./svg";

const args = {
  ring: {
    type: "string",
    description: `Ring type: ${SIMULATED_TYPES.join(", ")}`,
    default: "table",
    valueHint: "TYPE",
  },
  rep: { type: "string", description: "Copies of a block before", default: "2", valueHint: "N" },
  repEnd: { type: "string", description: "Copies after; 0: as before", default: "0", valueHint: "N" },
  nodes: { type: "string", description: "Peers before", default: "10", valueHint: "N" },
  delta: {
    type: "string",
    description: "Peers added, or removed when negative",
    default: "2",
    valueHint: "N",
  },
  "block-size": { type: "string", description: "Size of a block", default: "512KiB", valueHint: "SIZE" },
  "total-data": {
    type: "string",
    description: "Data stored, before replication",
    default: "1TiB",
    valueHint: "SIZE",
  },
  "rewrite-edge": {
    type: "string",
    description: "Percentage of volumes rewritten in small pieces, their blocks scattered over many epochs",
    default: "40",
    valueHint: "PERCENT",
  },
  zones: {
    type: "string",
    description: "Failure domains: their number, or names given to peers in turn",
    valueHint: "3|a,b,c",
  },
  weights: {
    type: "string",
    description: "Weights or capacities, given to peers in turn",
    valueHint: "1,2,4|1TiB,2TiB",
  },
  seed: {
    type: "string",
    description: "Another seed makes other peers and data",
    default: "1",
    valueHint: "N",
  },
  compare: {
    type: "boolean",
    description: "Simulate every ring type and show them side by side",
    default: false,
  },
  svg: { type: "string", description: "Write a picture of the simulation to this file", valueHint: "FILE" },
  ...outputArgs,
} as const;

export const ringtoolCommand = leaf({
  name: "ringtool",
  description: "Show how a ring balances data and what a change of peers or replication moves",
  examples: [
    "torus ringtool --nodes 10 --delta 2                          # grow by two peers",
    "torus ringtool --nodes 20 --delta -1 --rep 3 --compare       # lose one, every ring type",
    "torus ringtool --nodes 12 --weights 1TiB,2TiB,4TiB --zones 3 --rep 3",
    "torus ringtool --nodes 5 --delta 0 --rep 2 --repEnd 3 --svg rings.svg",
  ],
  args,
  async run(flags) {
    const scenario = parseScenario(flags);
    const style = outputStyle(flags);
    const simulation = flags.compare ? undefined : simulate(scenario, scenario.type);
    const text = simulation
      ? renderSimulation(simulation, style)
      : renderComparison(
          SIMULATED_TYPES.map((type) => simulate(scenario, type)),
          style,
        );
    if (flags.svg !== undefined)
      await writePicture(flags.svg, renderSvg(simulation ?? simulate(scenario, scenario.type), style.si));
    process.stdout.write(text);
  },
});

async function writePicture(path: string, svg: string): Promise<void> {
  try {
    await Bun.write(path, svg);
  } catch (cause) {
    throw new CommandError("io", `Cannot write picture to ${path}: ${(cause as Error).message}`, cause);
  }
}
