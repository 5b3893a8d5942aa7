/**
 * `torus ctl ring check`: whether every block has as many copies as the ring asks for, on the peers it asks for. It
 * asks the peers themselves for what they hold and trusts no figure of anybody's. A block takes some 200 bytes of this
 * command's memory meanwhile.
 */
import { type BlockRef, formatBlockRef, parseDuration, type PeerId } from "../../base";
import { buildRing, copyCount, type RingSpec } from "../../ring";
import { type Client, withClient } from "../client";
import { CommandError, leaf, metaArgs } from "../cli";
import { type Column, outputArgs, outputStyle, renderJson, renderList } from "../output";
import { peerRows } from "./peer";

export interface HeldBlock {
  readonly ref: BlockRef;
  readonly lengthBytes: number;
  readonly holders: PeerId[];
  readonly damagedAt: PeerId[];
}

export interface RingCheck {
  readonly ringVersion: number;
  readonly replication: number;
  readonly blocks: number;
  readonly copies: number;
  /** Blocks with a peer that should hold them and does not. */
  readonly missing: readonly Misplaced[];
  /** Blocks held by peers that need not: they go when the others confirmed their copies. */
  readonly surplus: readonly Misplaced[];
  readonly damaged: readonly Misplaced[];
  /** Peers that could not be asked. */
  readonly unasked: readonly { readonly peerId: PeerId; readonly reason: string }[];
  /** As many as the ring asks for copies. */
  readonly hasEnoughPeers: boolean;
  /** Every block lies exactly where it should. */
  readonly converged: boolean;
}

interface Misplaced {
  readonly block: string;
  readonly peerIds: readonly PeerId[];
}

/** What all live peers and all members hold, by block; a member that does not answer is named. */
export async function listAllBlocks(client: Client): Promise<{
  readonly blocks: ReadonlyMap<string, HeldBlock>;
  readonly unasked: RingCheck["unasked"];
  readonly ring: RingSpec;
}> {
  const { rows, ring } = await peerRows(client.metadata);
  const blocks = new Map<string, HeldBlock>();
  const unasked: { peerId: PeerId; reason: string }[] = [];
  for (const { peerId, live } of rows) {
    const isMember = ring.members.some((member) => member.peerId === peerId);
    if (!live && !isMember) continue;
    if (!live) {
      unasked.push({ peerId, reason: "it is down" });
      continue;
    }
    try {
      for await (const page of client.plane.peerBlocks(peerId))
        for (const { ref, lengthBytes, suspect } of page) {
          const name = formatBlockRef(ref);
          const known = blocks.get(name) ?? { ref, lengthBytes, holders: [], damagedAt: [] };
          blocks.set(name, known);
          (suspect ? known.damagedAt : known.holders).push(peerId);
        }
    } catch (error) {
      unasked.push({ peerId, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return { blocks, unasked, ring };
}

/** Judges what is held by where the ring wants it. */
export function checkPlacement(
  ring: RingSpec,
  blocks: ReadonlyMap<string, HeldBlock>,
  unasked: RingCheck["unasked"],
): RingCheck {
  const placement = buildRing(ring);
  const copies = copyCount(ring);
  const row = new Uint16Array(Math.max(1, placement.peers.length));
  const [missing, surplus, damaged]: [Misplaced[], Misplaced[], Misplaced[]] = [[], [], []];
  let held = 0;
  for (const [block, { ref, holders, damagedAt }] of blocks) {
    held += holders.length;
    const count = placement.permutation(ref, copies, row);
    const desired = Array.from(row.subarray(0, count), (index) => placement.peers[index] as PeerId);
    const lacking = desired.filter((peer) => !holders.includes(peer));
    const needless = holders.filter((peer) => !desired.includes(peer));
    if (lacking.length > 0) missing.push({ block, peerIds: lacking });
    if (needless.length > 0) surplus.push({ block, peerIds: needless });
    if (damagedAt.length > 0) damaged.push({ block, peerIds: damagedAt });
  }
  const isWhole = missing.length + surplus.length + damaged.length + unasked.length === 0;
  return {
    ringVersion: ring.version,
    replication: ring.replication,
    blocks: blocks.size,
    copies: held,
    missing,
    surplus,
    damaged,
    unasked,
    hasEnoughPeers: copies === ring.replication,
    converged: isWhole && copies === ring.replication,
  };
}

/** Between two listings while waiting. */
const LIST_AGAIN_MS = 5_000;

function stillMisplaced(before: readonly Misplaced[], now: readonly Misplaced[]): Misplaced[] {
  const known = new Map(before.map(({ block, peerIds }) => [block, peerIds]));
  return now.flatMap(({ block, peerIds }) => {
    const still = peerIds.filter((peerId) => known.get(block)?.includes(peerId));
    return still.length === 0 ? [] : [{ block, peerIds: still }];
  });
}

/** What was wrong before and still is, with everything else as it is now. */
export function whatStays(before: RingCheck, now: RingCheck): RingCheck {
  const missing = stillMisplaced(before.missing, now.missing);
  const surplus = stillMisplaced(before.surplus, now.surplus);
  const damaged = stillMisplaced(before.damaged, now.damaged);
  const isWhole = missing.length + surplus.length + damaged.length + now.unasked.length === 0;
  return { ...now, missing, surplus, damaged, converged: isWhole && now.hasEnoughPeers };
}

async function look(client: Client): Promise<RingCheck> {
  const { blocks, unasked, ring } = await listAllBlocks(client);
  return checkPlacement(ring, blocks, unasked);
}

/** While volumes are written to, some block is always on its way; only what stays wrong is wrong. */
async function lookUntil(client: Client, waitMs: number): Promise<RingCheck> {
  const endMs = performance.now() + waitMs;
  let check = await look(client);
  while (!check.converged && performance.now() + LIST_AGAIN_MS < endMs) {
    await Bun.sleep(LIST_AGAIN_MS);
    const now = await look(client);
    check = now.ringVersion === check.ringVersion ? whatStays(check, now) : now;
  }
  return check;
}

/** Named on a terminal; all of them are in the JSON. */
const NAMED_MAX = 10;

function describe(check: RingCheck): string {
  const { blocks, copies, replication, ringVersion } = check;
  const lines = [
    `${blocks} blocks with ${copies} copies; ring version ${ringVersion} asks for ${replication} of each`,
  ];
  const list = (title: string, entries: readonly Misplaced[]) => {
    if (entries.length === 0) return;
    lines.push(`${title}: ${entries.length} blocks`);
    for (const { block, peerIds } of entries.slice(0, NAMED_MAX))
      lines.push(`  ${block}  ${peerIds.join(" ")}`);
    if (entries.length > NAMED_MAX) lines.push(`  ... (all of them with --json)`);
  };
  list("Lacking at", check.missing);
  list("Needless at", check.surplus);
  list("Damaged at", check.damaged);
  for (const { peerId, reason } of check.unasked) lines.push(`Peer ${peerId} was not asked: ${reason}`);
  if (check.converged) lines.push("Every block lies exactly where the ring wants it");
  return `${lines.join("\n")}\n`;
}

interface WrongCopy {
  readonly block: string;
  readonly peerId: PeerId;
  readonly wrong: "missing" | "surplus" | "damaged";
}

const wrongColumns: readonly Column<WrongCopy>[] = [
  { name: "block", title: "BLOCK", value: (row) => row.block },
  { name: "peerId", title: "UUID", value: (row) => row.peerId },
  { name: "wrong", title: "WRONG", value: (row) => row.wrong },
];

/** One row a copy that is not as the ring wants it. */
function wrongCopies(check: RingCheck): WrongCopy[] {
  return (["missing", "surplus", "damaged"] as const).flatMap((wrong) =>
    check[wrong].flatMap(({ block, peerIds }) => peerIds.map((peerId) => ({ block, peerId, wrong }))),
  );
}

export const ringCheckCommand = leaf({
  name: "check",
  description:
    "Ask every peer what it holds, and compare it with the ring; ends with exit code 1 where they differ",
  examples: ["torus ctl ring check", "torus ctl ring check --wait 2m", "torus ctl ring check --json"],
  args: {
    wait: {
      type: "string",
      description: "List again until all that was wrong at first is right, at most this long",
      valueHint: "T",
    },
    json: outputArgs.json,
    csv: outputArgs.csv,
    ...metaArgs,
  },
  async run(args) {
    const style = outputStyle(args);
    const waitMs = args.wait === undefined ? 0 : parseDuration(args.wait);
    await withClient(args, async (client) => {
      const check = await lookUntil(client, waitMs);
      process.stdout.write(
        style.format === "json"
          ? renderJson(check)
          : style.format === "csv"
            ? renderList(wrongColumns, wrongCopies(check), style)
            : describe(check),
      );
      if (!check.converged)
        throw new CommandError(
          "conflict",
          "Cannot call the placement right: see torus ctl rebalance status for what is on its way",
        );
    });
  },
});
