/** `torus ctl peer ...`: who stores blocks, and the changes of the ring that come with it. */
import { formatBlockRef, formatSize, parsePeerId, type PeerId } from "../../base";
import type { PeerEntry } from "../../meta";
import { placingMembers, type RingChange, type RingSpec } from "../../ring";
import {
  CommandError,
  changePeer,
  changeRing,
  group,
  leaf,
  type Metadata,
  metaArgs,
  type PeerChanged,
  UsageError,
  withMetadata,
} from "../cli";
import { withClient } from "../client";
import { type Column, outputArgs, outputStyle, renderBar, renderList } from "../output";
import { backgroundReport, isSafeToRemove, peerProgress } from "./progress";

export interface PeerRow extends PeerEntry {
  readonly member: "Avail" | "OK" | "DOWN" | "draining" | "drained";
}

/** What the MEMBER column says of a peer. */
export function membership(peer: PeerEntry, ring: RingSpec): PeerRow["member"] {
  const member = ring.members.find((one) => one.peerId === peer.peerId);
  if (member === undefined) return peer.live ? "Avail" : "DOWN";
  if (!peer.live) return "DOWN";
  if (member.weight > 0) return "OK";
  return isSafeToRemove(peer, ring.version) ? "drained" : "draining";
}

export const peerColumns: readonly Column<PeerRow>[] = [
  { name: "address", title: "ADDRESS", value: (row) => row.address },
  { name: "peerId", title: "UUID", value: (row) => row.peerId },
  {
    name: "sizeBytes",
    title: "SIZE",
    align: "right",
    value: (row) => row.capacityBytes,
    text: (row, style) => formatSize(row.capacityBytes, style),
  },
  {
    name: "usedBytes",
    title: "USED",
    align: "right",
    value: (row) => row.usedBytes,
    text: (row, style) => formatSize(row.usedBytes, style),
  },
  {
    name: "usedShare",
    title: "FILL",
    value: (row) => (row.capacityBytes > 0 ? row.usedBytes / row.capacityBytes : 0),
    text: (row) => `[${renderBar(row.usedBytes, row.capacityBytes, 10)}]`,
  },
  { name: "member", title: "MEMBER", value: (row) => row.member },
  { name: "zone", title: "ZONE", value: (row) => row.zone },
  {
    name: "weight",
    title: "WEIGHT",
    align: "right",
    value: (row) => row.weight,
    text: (row) => String(Math.round(row.weight * 100) / 100),
  },
  {
    name: "updatedMs",
    title: "UPDATED",
    value: (row) => row.updatedMs,
    text: (row) => new Date(row.updatedMs).toISOString().replace("T", " ").slice(0, 19),
  },
  {
    name: "rebalanceBytesLeft",
    title: "REB/REP DATA",
    align: "right",
    value: (row) => peerProgress(row)?.bytesLeft ?? 0,
    text: (row, style) => formatSize(peerProgress(row)?.bytesLeft ?? 0, style),
  },
];

export async function peerRows(metadata: Metadata): Promise<{ rows: PeerRow[]; ring: RingSpec }> {
  const [{ peers, damage }, ring] = await Promise.all([metadata.peers.list(), metadata.ring.current()]);
  for (const error of damage) console.error(error.message);
  return { rows: peers.map((peer) => ({ ...peer, member: membership(peer, ring) })), ring };
}

/** How even the fill of the members is: the largest deviation from the mean share, in percent. */
function balanceLine(rows: readonly PeerRow[]): string {
  const members = rows.filter((row) => row.member !== "Avail" && row.capacityBytes > 0);
  const used = members.reduce((sum, row) => sum + row.usedBytes, 0);
  const size = members.reduce((sum, row) => sum + row.capacityBytes, 0);
  const share = size === 0 ? 0 : used / size;
  const worst = Math.max(0, ...members.map((row) => Math.abs(row.usedBytes / row.capacityBytes - share)));
  const moving = rows.some((row) => row.live && (peerProgress(row)?.bytesLeft ?? 0) > 0);
  return `Balanced: ${moving ? "no, data is moving" : worst < 0.05 ? "yes" : `within ${(worst * 100).toFixed(1)} %`}  Usage: ${(share * 100).toFixed(2)} %\n`;
}

/** In words, for peers that an administrator is taking out. */
export function leavingLines(rows: readonly PeerRow[], ring: RingSpec): string[] {
  return rows.flatMap((row) => {
    const isMember = ring.members.some((member) => member.peerId === row.peerId);
    const held = backgroundReport(row).blockCount ?? 0;
    if (row.member === "drained")
      return [
        `Peer ${row.address} holds no blocks: it is safe to remove (torus ctl peer remove ${row.peerId})`,
      ];
    if (row.member === "draining") return [`Peer ${row.address} is draining: ${held} blocks are left`];
    if (!isMember && row.live && held > 0)
      return [
        `Peer ${row.address} is no member and still holds ${held} blocks: leave it running until they have moved`,
      ];
    if (!isMember && row.live && isSafeToRemove(row, ring.version))
      return [`Peer ${row.address} is no member and holds no blocks: it may be switched off, or added`];
    return [];
  });
}

export const peerListCommand = leaf({
  name: "list",
  alias: ["list-peers"],
  description: "List peers: those in the ring, and those that could join",
  examples: ["torus ctl peer list", "torus ctl peer list --json"],
  args: { ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const { rows, ring } = await peerRows(metadata);
      process.stdout.write(renderList(peerColumns, rows, style));
      if (style.format !== "table") return;
      process.stdout.write(balanceLine(rows));
      for (const line of leavingLines(rows, ring)) console.log(line);
    });
  },
});

/** A peer by UUID, by an unambiguous beginning of it, or by address with or without scheme. */
export function findPeer<Peer extends PeerEntry>(peers: readonly Peer[], text: string): Peer {
  const bare = text.replace(/^[a-z]+:\/\//, "");
  const found = peers.filter(
    (peer) =>
      peer.peerId === text.toLowerCase() ||
      (text.length >= 4 && peer.peerId.startsWith(text.toLowerCase())) ||
      peer.address.replace(/^[a-z]+:\/\//, "") === bare,
  );
  if (found.length === 1) return found[0] as Peer;
  if (found.length > 1) throw new UsageError(`"${text}" names ${found.length} peers: give the whole UUID`);
  throw new CommandError("not-found", `Cannot find peer "${text}": see torus ctl peer list`);
}

const peersArgs = { json: outputArgs.json, ...metaArgs };
const variadic = "ADDRESS|UUID...";

async function onePeerChange(
  flags: Parameters<typeof withMetadata>[0] & { readonly json?: boolean | undefined },
  text: string,
  change: (peer: PeerEntry) => RingChange,
  done: (peer: PeerEntry, takesEffect: PeerChanged["takesEffect"]) => string,
): Promise<void> {
  await withMetadata(flags, async (metadata) => {
    const { peers } = await metadata.peers.list();
    const peer = findPeer(peers, text);
    const wanted = change(peer);
    const { ring, takesEffect } =
      wanted.kind === "set-weight" || wanted.kind === "set-zone"
        ? await changePeer(metadata, wanted)
        : { ring: await changeRing(metadata, wanted), takesEffect: "now" as const };
    console.log(
      flags.json
        ? JSON.stringify({ peerId: peer.peerId, ringVersion: ring.version, takesEffect })
        : done(peer, takesEffect),
    );
  });
}

const later = (takesEffect: PeerChanged["takesEffect"]) => (takesEffect === "now" ? "" : ` ${takesEffect}`);

export const peerAddCommand = leaf({
  name: "add",
  description: "Add peers to the ring",
  examples: ["torus ctl peer add 10.0.0.4:40000", "torus ctl peer add --all-peers"],
  args: {
    "all-peers": { type: "boolean", description: "Add every peer that is up and not yet a member" },
    ...peersArgs,
  },
  variadic,
  async run(args, rest) {
    if (!args["all-peers"] && rest.length === 0) throw new UsageError(`Give ${variadic} or --all-peers`);
    await withMetadata(args, async (metadata) => {
      const { rows } = await peerRows(metadata);
      const chosen = args["all-peers"]
        ? rows.filter((row) => row.member === "Avail")
        : rest.map((text) => findPeer(rows, text));
      if (chosen.length === 0)
        throw new CommandError("not-found", "No peer to add: all that are up are members");
      const members = chosen.map(({ peerId, weight, zone }) => ({ peerId, weight, zone }));
      const ring = await changeRing(metadata, { kind: "add", members });
      console.log(
        args.json
          ? JSON.stringify({ added: chosen.map((peer) => peer.peerId), ringVersion: ring.version })
          : `Added ${chosen.length} ${chosen.length === 1 ? "peer" : "peers"}: the ring is at version ${ring.version} with ${ring.members.length} members`,
      );
    });
  },
});

/**
 * Taking out peers whose blocks nobody else could give, or the last ones that take blocks, is refused unless forced;
 * fewer peers than copies is said.
 */
function checkRemaining(
  ring: RingSpec,
  rows: readonly PeerRow[],
  chosen: readonly PeerRow[],
  force: boolean,
): void {
  const isChosen = new Set<PeerId>(chosen.map((peer) => peer.peerId));
  const placing = placingMembers(ring).filter((member) => !isChosen.has(member.peerId));
  // All that are down count, chosen or not: what they hold together may be held by nobody else.
  const isMember = new Set<PeerId>(ring.members.map((member) => member.peerId));
  const down = rows.filter(
    (peer) => peer.member === "DOWN" && isMember.has(peer.peerId) && !isSafeToRemove(peer, ring.version),
  );
  if (!force && placing.length === 0)
    throw new CommandError(
      "conflict",
      "Cannot remove these peers: none that takes blocks would be left; add others first, or use --force",
    );
  if (!force && down.length >= ring.replication && down.some((peer) => isChosen.has(peer.peerId)))
    throw new CommandError(
      "conflict",
      down.length === 1
        ? `Cannot remove peer ${down[0]?.address}: it is down, and with replication ${ring.replication} nobody else holds what it holds; start it again, or use --force when its disk is lost`
        : `Cannot remove a peer that is down while ${down.length} are: with replication ${ring.replication} there may be blocks that only they hold; start them again one by one, or use --force when their disks are lost`,
    );
  if (placing.length < ring.replication)
    console.error(
      `Only ${placing.length} ${placing.length === 1 ? "peer takes" : "peers take"} blocks from now on: no block can have its ${ring.replication} copies until others are added`,
    );
}

export const peerRemoveCommand = leaf({
  name: "remove",
  description: "Remove peers from the ring; what they held is copied from elsewhere",
  examples: ["torus ctl peer remove 10.0.0.4:40000", "torus ctl peer remove --force 8a1f"],
  args: { force: { type: "boolean", description: "Although it is up and still holds blocks" }, ...peersArgs },
  variadic,
  async run(args, rest) {
    if (rest.length === 0) throw new UsageError(`Give ${variadic}`);
    await withMetadata(args, async (metadata) => {
      const { rows, ring } = await peerRows(metadata);
      const chosen = rest.map((text) => findPeer(rows, text));
      checkRemaining(ring, rows, chosen, args.force === true);
      for (const peer of chosen)
        if (
          peer.live &&
          !args.force &&
          peer.member !== "drained" &&
          (backgroundReport(peer).blockCount ?? 0) > 0
        )
          throw new CommandError(
            "conflict",
            peer.member === "draining"
              ? `Cannot remove peer ${peer.address} yet: it still holds ${backgroundReport(peer).blockCount} blocks; wait until torus ctl peer list calls it drained, or use --force`
              : `Cannot remove peer ${peer.address}: it is up and holds ${formatSize(peer.usedBytes)}; drain it first (torus ctl peer drain), or use --force`,
          );
      const next = await changeRing(metadata, { kind: "remove", peerIds: chosen.map((peer) => peer.peerId) });
      console.log(
        args.json
          ? JSON.stringify({ removed: chosen.map((peer) => peer.peerId), ringVersion: next.version })
          : `Removed ${chosen.length} from the ring: it is at version ${next.version} with ${next.members.length} members`,
      );
    });
  },
});

export const peerForgetCommand = leaf({
  name: "forget",
  description: "Remove the record of a peer that is gone for good",
  examples: ["torus ctl peer forget 8a1f"],
  args: { peer: { type: "positional", description: "UUID or address", required: true }, ...peersArgs },
  async run(args) {
    await withMetadata(args, async (metadata) => {
      const { peers } = await metadata.peers.list();
      const peer = findPeer(peers, args.peer);
      await metadata.peers.forget(peer.peerId);
      console.log(args.json ? JSON.stringify({ peerId: peer.peerId }) : `Forgot peer ${peer.peerId}`);
    });
  },
});

export const peerDrainCommand = leaf({
  name: "drain",
  description: "Move everything off a peer; it stays readable meanwhile",
  examples: ["torus ctl peer drain 10.0.0.4:40000"],
  args: { peer: { type: "positional", description: "UUID or address", required: true }, ...peersArgs },
  run: (args) =>
    onePeerChange(
      args,
      args.peer,
      (peer) => ({ kind: "drain", peerId: peer.peerId }),
      (peer) =>
        `Draining ${peer.address}: see torus ctl rebalance status; it is safe to remove when it holds no blocks`,
    ),
});

export const peerUndrainCommand = leaf({
  name: "undrain",
  description: "Let a drained peer take blocks again",
  examples: ["torus ctl peer undrain 10.0.0.4:40000"],
  args: { peer: { type: "positional", description: "UUID or address", required: true }, ...peersArgs },
  run: (args) =>
    onePeerChange(
      args,
      args.peer,
      (peer) => ({ kind: "undrain", peerId: peer.peerId, weight: peer.weight }),
      (peer) => `${peer.address} takes blocks again, with weight ${peer.weight}`,
    ),
});

export const peerSetWeightCommand = leaf({
  name: "set-weight",
  description: "Change a peer's share of the data",
  examples: ["torus ctl peer set-weight 10.0.0.4:40000 500"],
  args: {
    peer: { type: "positional", description: "UUID or address", required: true },
    weight: {
      type: "positional",
      description: "A number above 0; by default the size in GiB",
      required: true,
    },
    ...peersArgs,
  },
  run(args) {
    const weight = Number(args.weight);
    if (!(weight > 0)) throw new UsageError(`Cannot use weight "${args.weight}": give a number above 0`);
    return onePeerChange(
      args,
      args.peer,
      ({ peerId }) => ({ kind: "set-weight", peerId, weight }),
      (peer, takesEffect) => `${peer.address} has weight ${weight}${later(takesEffect)}`,
    );
  },
});

export const peerSetZoneCommand = leaf({
  name: "set-zone",
  description: "Put a peer into a failure domain",
  examples: ["torus ctl peer set-zone 10.0.0.4:40000 rack-2"],
  args: {
    peer: { type: "positional", description: "UUID or address", required: true },
    zone: { type: "positional", description: "Name of the zone; - for none", required: true },
    ...peersArgs,
  },
  run(args) {
    const zone = args.zone === "-" ? "" : args.zone;
    return onePeerChange(
      args,
      args.peer,
      ({ peerId }) => ({ kind: "set-zone", peerId, zone }),
      (peer, takesEffect) =>
        `${peer.address} is in ${zone === "" ? "a zone of its own" : `zone ${zone}`}${later(takesEffect)}`,
    );
  },
});

interface BlockRow {
  readonly peerId: PeerId;
  readonly block: string;
  readonly lengthBytes: number;
  readonly suspect: boolean;
}

const blockColumns: readonly Column<BlockRow>[] = [
  { name: "peerId", title: "UUID", value: (row) => row.peerId },
  { name: "block", title: "BLOCK", value: (row) => row.block },
  { name: "lengthBytes", title: "BYTES", align: "right", value: (row) => row.lengthBytes },
  {
    name: "suspect",
    title: "DAMAGED",
    value: (row) => row.suspect,
    text: (row) => (row.suspect ? "yes" : ""),
  },
];

export const peerBlocksCommand = leaf({
  name: "blocks",
  description: "List the blocks that peers hold, as the peers themselves say",
  examples: ["torus ctl peer blocks 10.0.0.4:40000", "torus ctl peer blocks --json"],
  args: { ...outputArgs, ...metaArgs },
  variadic: "[ADDRESS|UUID...]",
  async run(args, rest) {
    const style = outputStyle(args);
    await withClient(args, async ({ metadata, plane }) => {
      const { rows: peers } = await peerRows(metadata);
      const chosen =
        rest.length === 0 ? peers.filter((peer) => peer.live) : rest.map((text) => findPeer(peers, text));
      const rows: BlockRow[] = [];
      for (const { peerId } of chosen)
        for await (const page of plane.peerBlocks(peerId))
          for (const { ref, lengthBytes, suspect } of page)
            rows.push({ peerId, block: formatBlockRef(ref), lengthBytes, suspect });
      process.stdout.write(renderList(blockColumns, rows, style));
    });
  },
});

export const peerCommand = group("peer", "Peers and their part in the ring", {
  list: peerListCommand,
  add: peerAddCommand,
  remove: peerRemoveCommand,
  drain: peerDrainCommand,
  undrain: peerUndrainCommand,
  "set-weight": peerSetWeightCommand,
  "set-zone": peerSetZoneCommand,
  forget: peerForgetCommand,
  blocks: peerBlocksCommand,
});

export function parsePeerIds(text: string): PeerId[] {
  return text
    .split(",")
    .filter((one) => one !== "")
    .map(parsePeerId);
}
