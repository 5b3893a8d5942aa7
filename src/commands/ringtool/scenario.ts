/**
 * What ringtool simulates: peers with weights and zones, a ring before and after a change of their number or of the
 * replication, and how much data there is. Flags are checked here, before anything is allocated.
 */
import { assert, parsePeerId, parseSize, UnitError } from "../../base";
import {
  DEFAULT_RING_TYPE,
  createRing,
  nextRing,
  REPLICATION_MAX,
  RING_MEMBERS_MAX,
  type RingMember,
  type RingSpec,
  type RingType,
} from "../../ring";
import { UsageError } from "../cli";
import { seededRandom } from "./random";

/** Ring types that place data on many peers and can be compared. */
export const SIMULATED_TYPES = [
  "table",
  "rendezvous",
  "ketama",
  "mod",
] as const satisfies readonly RingType[];
export type SimulatedType = (typeof SIMULATED_TYPES)[number];

export interface RingtoolFlags {
  readonly ring?: string | undefined;
  readonly rep?: string | undefined;
  readonly repEnd?: string | undefined;
  readonly nodes?: string | undefined;
  readonly delta?: string | undefined;
  readonly "block-size"?: string | undefined;
  readonly "total-data"?: string | undefined;
  readonly "rewrite-edge"?: string | undefined;
  readonly zones?: string | undefined;
  readonly weights?: string | undefined;
  readonly seed?: string | undefined;
}

export interface Scenario {
  readonly type: SimulatedType;
  readonly replicationBefore: number;
  readonly replicationAfter: number;
  readonly nodesBefore: number;
  readonly nodesAfter: number;
  readonly blockSizeBytes: number;
  readonly totalDataBytes: number;
  readonly blockCount: number;
  /** Share of the volumes that were written in small pieces, so that their blocks come from many epochs. */
  readonly rewrittenPercent: number;
  readonly seed: number;
  /** Members before and after together, named peer-01 ... in this order. */
  readonly members: readonly RingMember[];
}

const BLOCK_COUNT_MAX = 2 ** 40;

/** Reads and checks the flags; throws UsageError or UnitError (exit code 2). */
export function parseScenario(flags: RingtoolFlags): Scenario {
  const type = (flags.ring ?? DEFAULT_RING_TYPE) as SimulatedType;
  if (!SIMULATED_TYPES.includes(type))
    throw new UsageError(`Cannot simulate ring "${type}": give one of ${SIMULATED_TYPES.join(", ")}`);
  const nodesBefore = integer(flags, "nodes", "10", 1, RING_MEMBERS_MAX);
  const delta = integer(flags, "delta", "2", 1 - nodesBefore, RING_MEMBERS_MAX - nodesBefore);
  const replicationBefore = integer(flags, "rep", "2", 1, REPLICATION_MAX);
  const replicationEnd = integer(flags, "repEnd", "0", 0, REPLICATION_MAX);
  const seed = integer(flags, "seed", "1", 0, 2 ** 32 - 1);
  const blockSizeBytes = parseSize(flags["block-size"] ?? "512KiB");
  const totalDataBytes = parseSize(flags["total-data"] ?? "1TiB");
  if (blockSizeBytes === 0)
    throw new UsageError("Cannot simulate blocks of no size: give --block-size 512KiB");
  const blockCount = Math.floor(totalDataBytes / blockSizeBytes);
  if (blockCount < 1 || blockCount > BLOCK_COUNT_MAX)
    throw new UsageError(`Cannot simulate ${blockCount} blocks: give --total-data of 1 to 2^40 blocks`);
  return {
    type,
    replicationBefore,
    replicationAfter: replicationEnd === 0 ? replicationBefore : replicationEnd,
    nodesBefore,
    nodesAfter: nodesBefore + delta,
    blockSizeBytes,
    totalDataBytes,
    blockCount,
    rewrittenPercent: integer(flags, "rewrite-edge", "40", 0, 100),
    seed,
    members: makeMembers(Math.max(nodesBefore, nodesBefore + delta), seed, flags),
  };
}

/** The rings of a scenario before and after; `type` may differ from the scenario's (--compare). */
export function scenarioRings(
  scenario: Scenario,
  type: SimulatedType,
): { before: RingSpec; after: RingSpec } {
  const { nodesBefore, nodesAfter, members } = scenario;
  const before = createRing({
    type,
    replication: scenario.replicationBefore,
    members: members.slice(0, nodesBefore),
  });
  let after = before;
  if (nodesAfter > nodesBefore) after = nextRing(after, { kind: "add", members: members.slice(nodesBefore) });
  if (nodesAfter < nodesBefore)
    after = nextRing(after, {
      kind: "remove",
      peerIds: members.slice(nodesAfter).map((member) => member.peerId),
    });
  if (scenario.replicationAfter !== scenario.replicationBefore)
    after = nextRing(after, { kind: "set-replication", replication: scenario.replicationAfter });
  return { before, after };
}

function makeMembers(count: number, seed: number, flags: RingtoolFlags): RingMember[] {
  const random = seededRandom(seed);
  const zones = parseZones(flags.zones);
  const weights = parseWeights(flags.weights);
  return Array.from({ length: count }, (_, index) => ({
    peerId: parsePeerId(random.uuid()),
    weight: cycle(weights, index),
    zone: cycle(zones, index),
  }));
}

function cycle<T>(values: readonly T[], index: number): T {
  const value = values[index % values.length];
  assert(value !== undefined, "a list to take turns in is empty");
  return value;
}

/** `3` for three zones in turn, or their names in turn: `a,a,b`. */
function parseZones(text: string | undefined): readonly string[] {
  if (text === undefined) return [""];
  if (/^\d+$/.test(text)) {
    const count = Number(text);
    if (count < 1 || count > RING_MEMBERS_MAX)
      throw new UsageError(`Cannot make ${text} zones: give 1 to ${RING_MEMBERS_MAX}, or names like a,b,c`);
    return Array.from({ length: count }, (_, index) => `zone-${index + 1}`);
  }
  return text.split(",").map((name) => name.trim());
}

/** `1,2,4` or capacities `1TiB,2TiB`, in turn. */
function parseWeights(text: string | undefined): readonly number[] {
  if (text === undefined) return [100];
  return text.split(",").map((part) => {
    const weight = parseWeight(part.trim());
    if (weight <= 0 || weight > 2 ** 40)
      throw new UsageError(
        `Cannot weigh a peer at "${part}": give a number above 0 or a capacity, like 1,2,4 or 1TiB,2TiB`,
      );
    return weight;
  });
}

function parseWeight(part: string): number {
  if (/^\d+(\.\d+)?$/.test(part)) return Number(part);
  try {
    return parseSize(part) / 2 ** 30;
  } catch (error) {
    if (error instanceof UnitError) return 0;
    throw error;
  }
}

function integer(
  flags: RingtoolFlags,
  name: keyof RingtoolFlags,
  fallback: string,
  min: number,
  max: number,
): number {
  const text = flags[name] ?? fallback;
  const value = /^-?\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max))
    throw new UsageError(`Cannot take --${name} "${text}": give a whole number from ${min} to ${max}`);
  return value;
}
