/**
 * Assigns partitions to members: every row within the bounds of its zones, every member at its target exactly, and
 * as little as possible changed against the previous table. Three steps, all in integers and without chance:
 *
 *   1. keep: take over what the previous table has and may stay;
 *   2. fill: empty slots go to whoever is furthest from its target, ties broken by hash, so that any two members
 *      share partitions and a lost one is rebuilt by all the others;
 *   3. repair: move copies from members above target to members below, directly where some row allows it, else along
 *      the cheapest chain of exchanges (successive shortest paths in the flow network that Garage's layout
 *      computation describes, contracted to members as nodes). Exchanges that cost nothing come first.
 *
 * By flow theory targets that shares.ts gives are always reachable; should the search ever stop short, the table is
 * still valid, and plan.ts shows the remaining imbalance.
 */
import { Assignment, DRAW_RANGE, NO_MEMBER, type PreviousRows } from "./assignment";
import { augment, CHAIN_COST_MAX } from "./augment";
import { roundTargets, type ShareModel } from "./shares";

export interface OptimiserInput {
  readonly model: ShareModel;
  readonly seeds: Uint32Array;
  readonly previous: PreviousRows;
  /** False when only the replication changes: copies are added or dropped, none moves for balance. */
  readonly mayMove: boolean;
}

/** The new table: partitionCount x copies member indexes, the first of each row being the first to be asked. */
export function optimise(input: OptimiserInput): Uint16Array {
  const { model, seeds, previous } = input;
  const targets = roundTargets(model, countEligible(model, previous));
  const assignment = new Assignment(model, targets, previous, seeds);
  keep(assignment);
  fill(assignment);
  repair(assignment, input.mayMove);
  balanceOrder(assignment);
  return assignment.rows;
}

function countEligible(model: ShareModel, previous: PreviousRows): Int32Array {
  const have = new Int32Array(model.idealUnits.length);
  for (const member of previous.rows)
    if (member !== NO_MEMBER && (model.idealUnits[member] as number) > 0) have[member]!++;
  return have;
}

/** Takes over the previous rows, without members that lost their weight and without what breaks a zone's bounds. */
function keep(assignment: Assignment): void {
  const { previous, zoneOf, zoneHigh, copies } = assignment;
  const eligible = (member: number) => member !== NO_MEMBER && assignment.isEligible(member);
  const total = new Int32Array(assignment.memberCount);
  for (const member of previous.rows) if (eligible(member)) total[member]!++;
  const row: number[] = [];
  for (let partition = 0; partition < assignment.partitionCount; partition++) {
    row.length = 0;
    const start = partition * previous.width;
    for (let i = start; i < start + previous.width; i++) {
      const member = previous.rows[i] as number;
      if (eligible(member)) row.push(member);
    }
    for (;;) {
      const crowded = (member: number) => {
        const zone = zoneOf[member] as number;
        return row.filter((other) => zoneOf[other] === zone).length > (zoneHigh[zone] as number);
      };
      const anyCrowded = row.some(crowded);
      if (!anyCrowded && row.length <= copies) break;
      const drop = pickDrop(assignment, total, row, (member) => !anyCrowded || crowded(member));
      total[row[drop] as number]!--;
      row.splice(drop, 1);
    }
    row.forEach((member, slot) => {
      assignment.place(partition, slot, member);
    });
  }
}

/** The position in `row` whose member is furthest above its target, of those that may go and leave the zones whole. */
function pickDrop(
  assignment: Assignment,
  total: Int32Array,
  row: readonly number[],
  mayGo: (member: number) => boolean,
): number {
  const { targets, zoneOf, zoneLow } = assignment;
  let best = -1;
  let bestNeeded = true;
  for (let position = 0; position < row.length; position++) {
    const member = row[position] as number;
    if (!mayGo(member)) continue;
    const zone = zoneOf[member] as number;
    const needed = row.filter((other) => zoneOf[other] === zone).length <= (zoneLow[zone] as number);
    const bestMember = row[best] as number;
    const above = (candidate: number) =>
      (total[candidate] as number) - (targets.members[candidate] as number);
    if (best < 0 || (bestNeeded && !needed) || (bestNeeded === needed && above(member) > above(bestMember))) {
      best = position;
      bestNeeded = needed;
    }
  }
  return best;
}

/** What is free in the rows not yet visited: tells when a zone or member must be taken now to reach its target. */
interface Openings {
  readonly zone: Int32Array;
  readonly member: Int32Array;
}

function fill(assignment: Assignment): void {
  const { partitionCount, copies, rows } = assignment;
  const zones = listZoneMembers(assignment);
  const heldOfZone = new Int32Array(zones.length);
  for (let member = 0; member < assignment.memberCount; member++)
    heldOfZone[assignment.zoneOf[member] as number]! += assignment.held[member] as number;
  const open: number[] = [];
  for (let step = 0; step < partitionCount; step++) {
    const partition = assignment.partitionInBlockOrder(step);
    if (rows[partition * copies + copies - 1] === NO_MEMBER) open.push(partition);
  }
  const openings: Openings = {
    zone: new Int32Array(zones.length),
    member: new Int32Array(assignment.memberCount),
  };
  for (const partition of open) countOpenings(assignment, zones, partition, openings, 1);
  for (const partition of open) {
    // From here on the openings are those of the rows after this one.
    countOpenings(assignment, zones, partition, openings, -1);
    for (
      let slot = rows.subarray(partition * copies, (partition + 1) * copies).indexOf(NO_MEMBER);
      slot < copies;
      slot++
    ) {
      const zone = pickZone(assignment, zones, heldOfZone, openings, partition, copies - slot);
      const member = pickMember(assignment, zones[zone] as readonly number[], openings, partition);
      assignment.place(partition, slot, member);
      heldOfZone[zone]!++;
    }
  }
}

function listZoneMembers(assignment: Assignment): readonly (readonly number[])[] {
  const zones: number[][] = Array.from({ length: assignment.zoneHigh.length }, () => []);
  for (let member = 0; member < assignment.memberCount; member++)
    if (assignment.isEligible(member)) (zones[assignment.zoneOf[member] as number] as number[]).push(member);
  return zones;
}

/** Adds (or takes away) the chances that a row not yet visited offers to each zone and member. */
function countOpenings(
  assignment: Assignment,
  zones: readonly (readonly number[])[],
  partition: number,
  openings: Openings,
  sign: 1 | -1,
): void {
  zones.forEach((members, zone) => {
    const free = (assignment.zoneHigh[zone] as number) - assignment.countInZone(partition, zone);
    if (free <= 0) return;
    openings.zone[zone]! += sign * free;
    for (const member of members) if (!assignment.holds(partition, member)) openings.member[member]! += sign;
  });
}

function pickZone(
  assignment: Assignment,
  zones: readonly (readonly number[])[],
  heldOfZone: Int32Array,
  openings: Openings,
  partition: number,
  slotsLeft: number,
): number {
  const { targets, zoneLow, zoneHigh } = assignment;
  let owed = 0;
  for (let zone = 0; zone < zones.length; zone++)
    owed += Math.max(0, (zoneLow[zone] as number) - assignment.countInZone(partition, zone));
  const onlyOwed = owed >= slotsLeft;
  let best = -1;
  for (let zone = 0; zone < zones.length; zone++) {
    const count = assignment.countInZone(partition, zone);
    if (count >= (zoneHigh[zone] as number)) continue;
    if (onlyOwed && count >= (zoneLow[zone] as number)) continue;
    if (best < 0 || zoneBefore(zone, best)) best = zone;
  }
  return best;

  function zoneBefore(a: number, b: number): boolean {
    return isBefore(zoneNeed(a), zoneNeed(b));
  }

  function zoneNeed(zone: number): Need {
    const target = targets.zones[zone] as number;
    return {
      lacking: target - (heldOfZone[zone] as number),
      target,
      open: openings.zone[zone] as number,
      draw: assignment.draw(
        partition,
        assignment.seeds[(zones[zone] as readonly number[])[0] as number] as number,
      ),
    };
  }
}

function pickMember(
  assignment: Assignment,
  members: readonly number[],
  openings: Openings,
  partition: number,
): number {
  let best = -1;
  for (const member of members) {
    if (assignment.holds(partition, member)) continue;
    if (best < 0 || isBefore(memberNeed(member), memberNeed(best))) best = member;
  }
  return best;

  function memberNeed(member: number): Need {
    return {
      lacking: -assignment.surplus(member),
      target: assignment.targets.members[member] as number,
      open: openings.member[member] as number,
      draw: assignment.draw(partition, assignment.seeds[member] as number),
    };
  }
}

/** How much a zone or member needs the next copy. */
interface Need {
  readonly lacking: number;
  readonly target: number;
  /** Copies that the rows after this one could still give it. */
  readonly open: number;
  readonly draw: number;
}

/**
 * Whoever could no longer reach its target by the rows left goes first; then the larger lacking share of the target.
 * The draw is worth up to one copy: without it, near ties would always fall the same way and pair the same members.
 */
function isBefore(a: Need, b: Need): boolean {
  const mustA = a.lacking > a.open;
  const mustB = b.lacking > b.open;
  if (mustA !== mustB) return mustA;
  if (a.lacking > 0 !== b.lacking > 0) return a.lacking > 0;
  // A member too light for a single copy has target 0, and comes last by the line above.
  const shareA = (a.lacking * DRAW_RANGE + a.draw) * Math.max(1, b.target);
  const shareB = (b.lacking * DRAW_RANGE + b.draw) * Math.max(1, a.target);
  return shareA > shareB;
}

function repair(assignment: Assignment, mayMove: boolean): void {
  takeDirectly(assignment, 0);
  augment(assignment, 0);
  if (!mayMove) return;
  takeDirectly(assignment, 1);
  augment(assignment, 1);
  // Only tables that pair the same members again and again need dearer chains to come into balance.
  augment(assignment, CHAIN_COST_MAX);
}

/** Members below target take copies straight from members above it, wherever that costs at most `costMax`. */
function takeDirectly(assignment: Assignment, costMax: number): void {
  const { partitionCount, copies, rows, seeds } = assignment;
  for (let member = 0; member < assignment.memberCount; member++) {
    for (let step = 0; step < partitionCount && assignment.surplus(member) < 0; step++) {
      const partition = assignment.partitionShuffled(step, seeds[member] as number);
      if (assignment.holds(partition, member)) continue;
      let giver = -1;
      for (let slot = 0; slot < copies; slot++) {
        const holder = rows[partition * copies + slot] as number;
        if (
          assignment.surplus(holder) <= 0 ||
          (giver >= 0 && assignment.surplus(holder) <= assignment.surplus(giver))
        )
          continue;
        if (
          assignment.mayExchange(partition, holder, member) &&
          assignment.exchangeCost(partition, holder, member) <= costMax
        )
          giver = holder;
      }
      if (giver >= 0) assignment.exchange(partition, giver, member);
    }
  }
}

/**
 * Reads ask a row's first member first, and a width below the replication stops before the last: so each position of
 * the rows is shared out in proportion too. Only the order within rows changes; no data moves.
 */
function balanceOrder(assignment: Assignment): void {
  const { partitionCount, copies, rows, targets } = assignment;
  for (let slot = 0; slot < copies - 1; slot++) {
    const counts = new Int32Array(assignment.memberCount);
    for (let partition = 0; partition < partitionCount; partition++)
      counts[rows[partition * copies + slot] as number]!++;
    const excess = (member: number) =>
      (counts[member] as number) * copies - (targets.members[member] as number);
    for (let step = 0; step < partitionCount; step++) {
      const start = assignment.partitionShuffled(step, slot) * copies;
      const first = rows[start + slot] as number;
      let best = slot;
      for (let other = slot + 1; other < copies; other++)
        if (excess(rows[start + other] as number) < excess(rows[start + best] as number)) best = other;
      // A swap shifts the difference of the two by 2 x copies; less than that apart, it would only swing over.
      const second = rows[start + best] as number;
      if (excess(first) - excess(second) < 2 * copies) continue;
      rows[start + slot] = second;
      rows[start + best] = first;
      counts[first]!--;
      counts[second]!++;
    }
  }
}
