/**
 * Makes the payload of a table ring: chooses how fine the table is, translates the previous table into the new
 * members and lets the optimiser do the rest.
 */
import { NO_MEMBER, type PreviousRows } from "./assignment";
import { hashText } from "./hash";
import { optimise } from "./optimiser";
import type { RingMember, RingSpec } from "./ring";
import { modelShares, weightUnits } from "./shares";
import { decodeTable, encodeTable, type PartitionTable } from "./table-codec";

export const TABLE_BITS_MIN = 8;
export const TABLE_BITS_MAX = 15;
/** The lightest member counts at least this many copies, so that rounding to whole ones stays below 1 %. */
const COPIES_PER_MEMBER_MIN = 128;
/** Members lighter than this share of the average are not worth a finer table. */
const LIGHT_SHARE = 1 / 16;

/** Bits of the partition number for these members: fine enough to balance within 1 %, no finer. */
export function tableBits(members: readonly RingMember[], copies: number): number {
  const weights = members.map((member) => weightUnits(member.weight)).filter((weight) => weight > 0);
  if (weights.length === 0) return TABLE_BITS_MIN;
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const lightest = Math.max(Math.min(...weights), Math.floor((sum / weights.length) * LIGHT_SHARE));
  let bits = TABLE_BITS_MIN;
  while (bits < TABLE_BITS_MAX && 2 ** bits * copies * lightest < COPIES_PER_MEMBER_MIN * sum) bits++;
  return bits;
}

export interface TableRequest {
  readonly members: readonly RingMember[];
  readonly replication: number;
  /** The ring before, if it was a table: what it has is kept as far as possible. */
  readonly previous?: RingSpec;
  /** False when only the replication changes. */
  readonly mayMove: boolean;
}

export function makeTablePayload(request: TableRequest): Record<string, unknown> {
  const { members, replication } = request;
  const before = request.previous && decodeTable(request.previous.payload, request.previous.members.length);
  const placing = members.filter((member) => member.weight > 0).length;
  const copies = Math.min(replication, placing);
  // Never coarser than before: joining partitions would move data.
  const partitionBits = Math.max(before?.partitionBits ?? 0, tableBits(members, copies));
  const model = modelShares(members, replication, 2 ** partitionBits);
  const previous = before
    ? translateRows(before, request.previous as RingSpec, members, partitionBits)
    : { width: 0, rows: new Uint16Array(0) };
  const rows = optimise({
    model,
    seeds: Uint32Array.from(members, (member) => hashText(member.peerId)),
    previous,
    mayMove: request.mayMove,
  });
  return encodeTable({ partitionBits, copies, rows }, members.length);
}

function translateRows(
  table: PartitionTable,
  spec: RingSpec,
  members: readonly RingMember[],
  partitionBits: number,
): PreviousRows {
  const indexOf = new Map(members.map((member, index) => [member.peerId, index]));
  const memberOf = spec.members.map((member) => indexOf.get(member.peerId) ?? NO_MEMBER);
  const width = table.copies;
  const rows = new Uint16Array(2 ** partitionBits * width);
  const mask = 2 ** table.partitionBits - 1;
  for (let partition = 0; partition < 2 ** partitionBits; partition++)
    for (let slot = 0; slot < width; slot++)
      rows[partition * width + slot] = memberOf[
        table.rows[(partition & mask) * width + slot] as number
      ] as number;
  return { width, rows };
}
