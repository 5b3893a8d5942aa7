/**
 * The state that the table optimiser works on: which members hold which partition, how far each is from its target,
 * and what a single exchange would cost. Rows are partitions; a row holds `copies` distinct members. A copy that the
 * previous table had already is free to keep or to take back; every other one means data sent over the network.
 */
import { assert } from "../base";
import { mix, PARTITION_STRIDE } from "./hash";
import type { ShareModel, Targets } from "./shares";

/** No member in this slot. */
export const NO_MEMBER = 0xffff;

/** Draws are 16 bits, so that products with two targets stay below 2^53. */
export const DRAW_RANGE = 2 ** 16;

/** The previous table, seen through the new one's member indexes and partition count; gone members are NO_MEMBER. */
export interface PreviousRows {
  readonly width: number;
  readonly rows: Uint16Array;
}

export class Assignment {
  readonly partitionCount: number;
  private readonly partitionBits: number;
  readonly copies: number;
  readonly memberCount: number;
  readonly rows: Uint16Array;
  /** Copies held now, per member. */
  readonly held: Int32Array;
  readonly zoneOf: Uint16Array;
  readonly zoneLow: Uint16Array;
  readonly zoneHigh: Uint16Array;

  constructor(
    private readonly model: ShareModel,
    readonly targets: Targets,
    readonly previous: PreviousRows,
    /** Hash of each member's identity: breaks ties alike everywhere, whatever the order of members. */
    readonly seeds: Uint32Array,
  ) {
    this.partitionCount = model.partitionCount;
    this.partitionBits = 31 - Math.clz32(model.partitionCount);
    this.copies = model.copies;
    this.memberCount = targets.members.length;
    this.zoneOf = model.zones.zoneOfMember;
    this.zoneLow = model.bounds.low;
    this.zoneHigh = model.bounds.high;
    this.rows = new Uint16Array(this.partitionCount * this.copies).fill(NO_MEMBER);
    this.held = new Int32Array(this.memberCount);
  }

  /** Has weight; its target may still be 0 when it is too light for a single copy. */
  isEligible(member: number): boolean {
    return (this.model.idealUnits[member] as number) > 0;
  }

  holds(partition: number, member: number): boolean {
    const start = partition * this.copies;
    for (let i = start; i < start + this.copies; i++) if (this.rows[i] === member) return true;
    return false;
  }

  heldBefore(partition: number, member: number): boolean {
    const { width, rows } = this.previous;
    const start = partition * width;
    for (let i = start; i < start + width; i++) if (rows[i] === member) return true;
    return false;
  }

  countInZone(partition: number, zone: number): number {
    const start = partition * this.copies;
    let count = 0;
    for (let i = start; i < start + this.copies; i++) {
      const member = this.rows[i] as number;
      if (member !== NO_MEMBER && this.zoneOf[member] === zone) count++;
    }
    return count;
  }

  /** Above 0: holds more than its target. */
  surplus(member: number): number {
    return (this.held[member] as number) - (this.targets.members[member] as number);
  }

  place(partition: number, slot: number, member: number): void {
    const position = partition * this.copies + slot;
    assert(this.rows[position] === NO_MEMBER, "a slot of the table is filled twice");
    this.rows[position] = member;
    this.held[member]!++;
  }

  /** Hands the copy of `from` over to `to`, which takes its place in the row. */
  exchange(partition: number, from: number, to: number): void {
    const start = partition * this.copies;
    const slot = this.rows.subarray(start, start + this.copies).indexOf(from);
    assert(slot >= 0 && !this.holds(partition, to), "an exchange names a copy that is not there");
    this.rows[start + slot] = to;
    this.held[from]!--;
    this.held[to]!++;
  }

  /** Whether `to` may take the place of `from` in this row without breaking the bounds of a zone. */
  mayExchange(partition: number, from: number, to: number): boolean {
    const zoneFrom = this.zoneOf[from] as number;
    const zoneTo = this.zoneOf[to] as number;
    if (zoneFrom === zoneTo) return true;
    return (
      this.countInZone(partition, zoneTo) < (this.zoneHigh[zoneTo] as number) &&
      this.countInZone(partition, zoneFrom) > (this.zoneLow[zoneFrom] as number)
    );
  }

  /** Copies sent more (1), as many (0) or fewer (-1) by the exchange. */
  exchangeCost(partition: number, from: number, to: number): number {
    return (this.heldBefore(partition, to) ? 0 : 1) - (this.heldBefore(partition, from) ? 0 : 1);
  }

  /** Partitions in the order in which consecutive blocks of a volume meet them. */
  partitionInBlockOrder(step: number): number {
    return Math.imul(step, PARTITION_STRIDE) & (this.partitionCount - 1);
  }

  /**
   * Partitions in a reproducible order like a shuffle, another for every seed: what a member takes in this order is
   * scattered over the blocks of a volume. A bijection of the partition number's bits: multiply by odd numbers, fold.
   */
  partitionShuffled(step: number, seed: number): number {
    const mask = this.partitionCount - 1;
    const fold = this.partitionBits >>> 1;
    let partition = (step + seed) & mask;
    partition = Math.imul(partition, 0x2c1b3c6d) & mask;
    partition ^= partition >>> fold;
    partition = Math.imul(partition, (seed >>> 3) | 1) & mask;
    partition ^= partition >>> fold;
    return Math.imul(partition, 0x297a2d39) & mask;
  }

  /** A reproducible number in 0..DRAW_RANGE-1 for this member and row. */
  draw(partition: number, seed: number): number {
    return mix(partition, seed) & (DRAW_RANGE - 1);
  }
}
