/**
 * The optimiser's last resort: chains of exchanges. Members are the nodes of a graph; there is an edge from A to B
 * where some row would let B take A's place, at the cost of the cheapest such row. The cheapest chains from members
 * above target to members below it are found by Bellman-Ford over a bounded number of edges and carried out row by
 * row, each step tested again on the state as it is; a chain that breaks is undone.
 */
import { NO_MEMBER, type Assignment } from "./assignment";

/** Longer chains were never needed in tests; each one more costs a pass over the pairs of members. */
const CHAIN_EDGES_MAX = 8;
/** Every edge of a chain costs at most one copy sent. */
export const CHAIN_COST_MAX = CHAIN_EDGES_MAX;
/** A phase that brings nothing ends the search; this bounds those that bring little. */
const PHASES_MAX = 1000;
const NO_EDGE = 127;

interface Step {
  readonly partition: number;
  readonly from: number;
  readonly to: number;
}

/** Applies chains whose whole cost (copies sent more) is at most `costMax`. */
export function augment(assignment: Assignment, costMax: number): void {
  for (let phase = 0; phase < PHASES_MAX; phase++) {
    if (!hasImbalance(assignment)) return;
    const costs = edgeCosts(assignment);
    const chains = cheapestChains(assignment, costs, costMax);
    let applied = 0;
    for (const chain of chains) applied += applyChain(assignment, costs, chain);
    if (applied === 0) return;
  }
}

function hasImbalance(assignment: Assignment): boolean {
  for (let member = 0; member < assignment.memberCount; member++)
    if (assignment.surplus(member) < 0) return true;
  return false;
}

function edgeCosts(assignment: Assignment): Int8Array {
  const { partitionCount, copies, rows, memberCount, targets } = assignment;
  const costs = new Int8Array(memberCount * memberCount).fill(NO_EDGE);
  for (let partition = 0; partition < partitionCount; partition++) {
    for (let slot = 0; slot < copies; slot++) {
      const from = rows[partition * copies + slot] as number;
      if (from === NO_MEMBER) continue;
      for (let to = 0; to < memberCount; to++) {
        const edge = from * memberCount + to;
        if (costs[edge] === -1 || targets.members[to] === 0 || assignment.holds(partition, to)) continue;
        const cost = assignment.exchangeCost(partition, from, to);
        if (cost < (costs[edge] as number) && assignment.mayExchange(partition, from, to)) costs[edge] = cost;
      }
    }
  }
  return costs;
}

/** For every member below target the cheapest chain that ends there, cheapest first. */
function cheapestChains(assignment: Assignment, costs: Int8Array, costMax: number): number[][] {
  const { memberCount } = assignment;
  const unreached = CHAIN_EDGES_MAX + 2;
  const distances: Int16Array[] = [new Int16Array(memberCount).fill(unreached)];
  const parents: Int16Array[] = [new Int16Array(memberCount).fill(-1)];
  for (let member = 0; member < memberCount; member++)
    if (assignment.surplus(member) > 0) (distances[0] as Int16Array)[member] = 0;
  for (let edges = 1; edges <= CHAIN_EDGES_MAX; edges++) {
    const before = distances[edges - 1] as Int16Array;
    const distance = new Int16Array(memberCount).fill(unreached);
    const parent = new Int16Array(memberCount).fill(-1);
    for (let from = 0; from < memberCount; from++) {
      if (before[from] === unreached) continue;
      for (let to = 0; to < memberCount; to++) {
        const cost = costs[from * memberCount + to] as number;
        if (cost === NO_EDGE || (before[from] as number) + cost >= (distance[to] as number)) continue;
        distance[to] = (before[from] as number) + cost;
        parent[to] = from;
      }
    }
    distances.push(distance);
    parents.push(parent);
  }
  const found: { chain: number[]; cost: number }[] = [];
  for (let member = 0; member < memberCount; member++) {
    if (assignment.surplus(member) >= 0) continue;
    let best: { chain: number[]; cost: number } | undefined;
    for (let edges = 1; edges <= CHAIN_EDGES_MAX; edges++) {
      const cost = (distances[edges] as Int16Array)[member] as number;
      if (cost > costMax || (best && cost >= best.cost)) continue;
      const chain = traceChain(parents, member, edges);
      if (new Set(chain).size === chain.length) best = { chain, cost };
    }
    if (best) found.push(best);
  }
  return found.sort((a, b) => a.cost - b.cost || a.chain.length - b.chain.length).map((entry) => entry.chain);
}

function traceChain(parents: readonly Int16Array[], end: number, edges: number): number[] {
  const chain = [end];
  for (let layer = edges; layer > 0; layer--)
    chain.push((parents[layer] as Int16Array)[chain.at(-1) as number] as number);
  return chain.reverse();
}

/** Carries the chain out as often as its ends need it and rows allow it; returns how often. */
function applyChain(assignment: Assignment, costs: Int8Array, chain: readonly number[]): number {
  const source = chain[0] as number;
  const sink = chain.at(-1) as number;
  const cursors = new Int32Array(chain.length - 1);
  let applied = 0;
  while (assignment.surplus(source) > 0 && assignment.surplus(sink) < 0) {
    const done: Step[] = [];
    for (let edge = 0; edge < cursors.length; edge++) {
      const from = chain[edge] as number;
      const to = chain[edge + 1] as number;
      const costMax = costs[from * assignment.memberCount + to] as number;
      const partition = nextRow(assignment, cursors, edge, from, to, costMax);
      if (partition < 0) break;
      assignment.exchange(partition, from, to);
      done.push({ partition, from, to });
    }
    if (done.length < cursors.length) {
      for (const step of done.reverse()) assignment.exchange(step.partition, step.to, step.from);
      return applied;
    }
    applied++;
  }
  return applied;
}

function nextRow(
  assignment: Assignment,
  cursors: Int32Array,
  edge: number,
  from: number,
  to: number,
  costMax: number,
): number {
  for (; (cursors[edge] as number) < assignment.partitionCount; cursors[edge]!++) {
    const partition = assignment.partitionShuffled(cursors[edge] as number, assignment.seeds[to] as number);
    if (
      assignment.holds(partition, from) &&
      !assignment.holds(partition, to) &&
      assignment.mayExchange(partition, from, to) &&
      assignment.exchangeCost(partition, from, to) <= costMax
    )
      return partition;
  }
  return -1;
}
