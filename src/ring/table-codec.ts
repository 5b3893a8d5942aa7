/**
 * The stored form of a partition table, in RingSpec.payload: `{ partitionBits, copies, table }` where `table` is
 * base64 of partition count x copies member indexes, one byte each for up to 256 members, else two bytes
 * little-endian. 10 peers with replication 2 take 2.7 KB, 100 peers with replication 3 take 33 KB.
 */
import { RingError } from "./errors";
import { PARTITION_BITS_MAX } from "./hash";

export interface PartitionTable {
  readonly partitionBits: number;
  /** Members per row: min(replication, members with weight). */
  readonly copies: number;
  /** 2^partitionBits x copies member indexes. */
  readonly rows: Uint16Array;
}

const ONE_BYTE_MEMBERS_MAX = 256;

export function encodeTable(table: PartitionTable, memberCount: number): Record<string, unknown> {
  const wide = memberCount > ONE_BYTE_MEMBERS_MAX;
  const bytes = new Uint8Array(table.rows.length * (wide ? 2 : 1));
  table.rows.forEach((member, position) => {
    if (wide) {
      bytes[position * 2] = member & 0xff;
      bytes[position * 2 + 1] = member >>> 8;
    } else bytes[position] = member;
  });
  return { partitionBits: table.partitionBits, copies: table.copies, table: bytes.toBase64() };
}

/** Reads a payload from metadata and checks it wholly; throws RingError "bad-spec". */
export function decodeTable(payload: unknown, memberCount: number): PartitionTable {
  const { partitionBits, copies, table } = (payload ?? {}) as Record<string, unknown>;
  if (
    typeof partitionBits !== "number" ||
    !Number.isInteger(partitionBits) ||
    partitionBits < 0 ||
    partitionBits > PARTITION_BITS_MAX
  )
    throw bad(`partitionBits is ${show(partitionBits)}, not 0..${PARTITION_BITS_MAX}`);
  if (typeof copies !== "number" || !Number.isInteger(copies) || copies < 0 || copies > memberCount)
    throw bad(`copies is ${show(copies)}, not 0..${memberCount}`);
  if (typeof table !== "string") throw bad("table is not text");
  const entries = 2 ** partitionBits * copies;
  const wide = memberCount > ONE_BYTE_MEMBERS_MAX;
  const bytes = fromBase64(table);
  if (bytes.length !== entries * (wide ? 2 : 1))
    throw bad(`the table has ${bytes.length} bytes for ${entries} entries`);
  const rows = new Uint16Array(entries);
  for (let position = 0; position < entries; position++)
    rows[position] = wide
      ? (bytes[position * 2] as number) | ((bytes[position * 2 + 1] as number) << 8)
      : (bytes[position] as number);
  checkRows(rows, copies, memberCount);
  return { partitionBits, copies, rows };
}

function checkRows(rows: Uint16Array, copies: number, memberCount: number): void {
  for (let position = 0; position < rows.length; position++) {
    const member = rows[position] as number;
    if (member >= memberCount)
      throw bad(`partition ${Math.floor(position / copies)} names member ${member} of ${memberCount}`);
    for (let other = position - (position % copies); other < position; other++)
      if (rows[other] === member)
        throw bad(`partition ${Math.floor(position / copies)} names member ${member} twice`);
  }
}

function fromBase64(text: string): Uint8Array {
  try {
    return Uint8Array.fromBase64(text, { lastChunkHandling: "strict" });
  } catch (cause) {
    throw new RingError("bad-spec", "Cannot read partition table: it is not base64", { cause });
  }
}

function bad(what: string): RingError {
  return new RingError("bad-spec", `Cannot read partition table: ${what}`);
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "missing";
}
