/**
 * The optimum by brute theory: minimum-cost flow from partitions over zones to members, solved by successive shortest
 * paths (Bellman-Ford with a queue). Slow and independent of the optimiser, which must not send more than this does.
 */
import type { RingSpec } from "../../../src/ring";
import { modelShares } from "../../../src/ring/shares";
import { decodeTable } from "../../../src/ring/table-codec";

class FlowNetwork {
  private readonly targets: number[] = [];
  private readonly capacities: number[] = [];
  private readonly costs: number[] = [];
  private readonly edges: number[][];

  constructor(nodeCount: number) {
    this.edges = Array.from({ length: nodeCount }, () => []);
  }

  add(from: number, to: number, capacity: number, cost: number): void {
    if (capacity === 0) return;
    for (const [a, b, room, price] of [
      [from, to, capacity, cost],
      [to, from, 0, -cost],
    ] as const) {
      this.edges[a]?.push(this.targets.length);
      this.targets.push(b);
      this.capacities.push(room);
      this.costs.push(price);
    }
  }

  /** Pushes as much as possible from source to sink, one unit a path, each by the cheapest path left. */
  solve(source: number, sink: number): { flow: number; cost: number } {
    let flow = 0;
    let cost = 0;
    for (;;) {
      const { distance, via } = this.cheapestPaths(source);
      if (distance[sink] === Number.POSITIVE_INFINITY) return { flow, cost };
      for (let node = sink; node !== source; ) {
        const edge = via[node] as number;
        this.capacities[edge]!--;
        this.capacities[edge ^ 1]!++;
        node = this.targets[edge ^ 1] as number;
      }
      flow++;
      cost += distance[sink] as number;
    }
  }

  private cheapestPaths(source: number): { distance: Float64Array; via: Int32Array } {
    const distance = new Float64Array(this.edges.length).fill(Number.POSITIVE_INFINITY);
    const via = new Int32Array(this.edges.length).fill(-1);
    distance[source] = 0;
    let queue = new Set([source]);
    while (queue.size > 0) {
      const next = new Set<number>();
      for (const node of queue)
        for (const edge of this.edges[node] as number[]) {
          const reached = (distance[node] as number) + (this.costs[edge] as number);
          const target = this.targets[edge] as number;
          if (this.capacities[edge] === 0 || reached >= (distance[target] as number)) continue;
          distance[target] = reached;
          via[target] = edge;
          next.add(target);
        }
      queue = next;
    }
    return { distance, via };
  }
}

/** Cheaper than any number of moves: makes the flow fill every zone's lower bound first. */
const BOUND_REWARD = 1_000_000;

/** The fewest partition copies that must be sent to get from `older` to the loads that `newer` has. */
export function leastCopiesSent(older: RingSpec, newer: RingSpec): number {
  const before = decodeTable(older.payload, older.members.length);
  const after = decodeTable(newer.payload, newer.members.length);
  const partitions = 2 ** after.partitionBits;
  const { bounds, zones, copies } = modelShares(newer.members, newer.replication, partitions);
  const zoneCount = zones.names.length;
  const loads = new Int32Array(newer.members.length);
  for (const member of after.rows) loads[member]!++;

  const partitionNode = (partition: number) => 1 + partition;
  const zoneNode = (partition: number, zone: number) => 1 + partitions + partition * zoneCount + zone;
  const memberNode = (member: number) => 1 + partitions * (1 + zoneCount) + member;
  const sink = memberNode(newer.members.length);
  const network = new FlowNetwork(sink + 1);
  let lowest = 0;
  for (let partition = 0; partition < partitions; partition++) {
    const start = (partition % 2 ** before.partitionBits) * before.copies;
    const had = new Set(
      [...before.rows.subarray(start, start + before.copies)].map((m) => older.members[m]?.peerId),
    );
    network.add(0, partitionNode(partition), copies, 0);
    for (let zone = 0; zone < zoneCount; zone++) {
      const [low, high] = [bounds.low[zone] as number, bounds.high[zone] as number];
      lowest += low;
      network.add(partitionNode(partition), zoneNode(partition, zone), low, -BOUND_REWARD);
      network.add(partitionNode(partition), zoneNode(partition, zone), high - low, 0);
    }
    newer.members.forEach(({ peerId, weight }, member) => {
      if (weight > 0)
        network.add(
          zoneNode(partition, zones.zoneOfMember[member] as number),
          memberNode(member),
          1,
          had.has(peerId) ? 0 : 1,
        );
    });
  }
  loads.forEach((load, member) => {
    network.add(memberNode(member), sink, load, 0);
  });
  const { flow, cost } = network.solve(0, sink);
  if (flow !== partitions * copies)
    throw new Error(`the oracle placed ${flow} of ${partitions * copies} copies`);
  return cost + lowest * BOUND_REWARD;
}
