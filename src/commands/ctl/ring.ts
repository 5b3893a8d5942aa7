/** `torus ctl ring ...`: where blocks belong. */
import { formatSize } from "../../base";
import type { PeerEntry } from "../../meta";
import {
  parseRingSpec,
  type PeerPlan,
  planBlocks,
  planChange,
  copyCount,
  type RingChange,
  type RingPlan,
  nextRing,
  RING_TYPES,
  type RingSpec,
  type RingType,
} from "../../ring";
import {
  CommandError,
  changeRing,
  group,
  leaf,
  type Metadata,
  metaArgs,
  UsageError,
  withMetadata,
} from "../cli";
import { type VolumeFlags, withClient } from "../client";
import { type Column, outputArgs, outputStyle, renderJson, renderList } from "../output";
import { findPeer, parsePeerIds } from "./peer";
import { listAllBlocks, ringCheckCommand } from "./ring-check";
import { peerShortfall, zoneShortfall } from "./shortfall";

interface MemberRow {
  readonly peerId: string;
  readonly weight: number;
  readonly zone: string;
}

const memberColumns: readonly Column<MemberRow>[] = [
  { name: "peerId", title: "UUID", value: (row) => row.peerId },
  { name: "weight", title: "WEIGHT", align: "right", value: (row) => row.weight },
  {
    name: "zone",
    title: "ZONE",
    value: (row) => row.zone,
    text: (row) => (row.zone === "" ? "-" : row.zone),
  },
];

function ringSummary(ring: RingSpec) {
  const { version, type, replication, members } = ring;
  return { version, type, replication, members };
}

export const ringGetCommand = leaf({
  name: "get",
  description: "Show the ring: type, replication, members",
  examples: ["torus ctl ring get", "torus ctl ring get --json"],
  args: { ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const ring = await metadata.ring.current();
      if (style.format === "json") return void process.stdout.write(renderJson(ringSummary(ring)));
      if (style.format === "table")
        console.log(`Ring version ${ring.version}, type ${ring.type}, replication ${ring.replication}`);
      process.stdout.write(renderList(memberColumns, ring.members, style));
    });
  },
});

function parseReplication(text: string): number {
  const replication = Number(text);
  if (!Number.isInteger(replication) || replication < 1)
    throw new UsageError(`Cannot use replication "${text}": give a whole number from 1`);
  return replication;
}

/** More copies than peers can't be held; it is an administrator's slip, not something to grow into. */
function checkEnoughPeers(ring: RingSpec, replication: number): void {
  const placing = ring.members.filter((member) => member.weight > 0).length;
  if (replication > placing)
    throw new CommandError(
      "conflict",
      `Cannot set replication ${replication}: the ring has ${placing} ${placing === 1 ? "peer" : "peers"}; add peers first`,
    );
}

export const ringSetReplicationCommand = leaf({
  name: "set-replication",
  description: "Change how many copies of every block are kept",
  examples: ["torus ctl ring set-replication 2"],
  args: {
    copies: { type: "positional", description: "Number of copies", required: true },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    const replication = parseReplication(args.copies);
    await withMetadata(args, async (metadata) => {
      checkEnoughPeers(await metadata.ring.current(), replication);
      const ring = await changeRing(metadata, { kind: "set-replication", replication });
      console.log(
        args.json
          ? JSON.stringify({ replication, ringVersion: ring.version })
          : `Replication is ${replication}: the ring is at version ${ring.version}`,
      );
    });
  },
});

const changeArgs = {
  type: {
    type: "enum",
    options: [...RING_TYPES].filter((type) => type !== "union"),
    description: "Kind of ring",
  },
  replication: { type: "string", description: "Number of copies", valueHint: "N" },
  uuids: { type: "string", description: "Exactly these members, by UUID", valueHint: "UUID,UUID" },
} as const;

async function manualChange(
  metadata: Metadata,
  flags: {
    readonly type?: string | undefined;
    readonly replication?: string | undefined;
    readonly uuids?: string | undefined;
  },
): Promise<RingChange> {
  const ring = await metadata.ring.current();
  const { peers } = await metadata.peers.list();
  const members =
    flags.uuids === undefined
      ? undefined
      : parsePeerIds(flags.uuids).map((peerId) => {
          const present = ring.members.find((member) => member.peerId === peerId);
          const known = peers.find((peer) => peer.peerId === peerId);
          if (present !== undefined) return present;
          if (known === undefined)
            throw new CommandError("not-found", `Cannot find peer ${peerId}: see torus ctl peer list`);
          return { peerId, weight: known.weight, zone: known.zone };
        });
  return {
    kind: "manual",
    type: (flags.type ?? ring.type) as RingType,
    ...(flags.replication === undefined ? {} : { replication: parseReplication(flags.replication) }),
    ...(members === undefined ? {} : { members }),
  };
}

export const ringManualChangeCommand = leaf({
  name: "manual-change",
  description: "Set type, replication and members of the ring outright",
  examples: ["torus ctl ring manual-change --type ketama --replication 2 --uuids 8a1f...,91c2..."],
  args: { ...changeArgs, json: outputArgs.json, ...metaArgs },
  lists: ["uuids"],
  async run(args) {
    await withMetadata(args, async (metadata) => {
      const ring = await changeRing(metadata, await manualChange(metadata, args));
      console.log(
        args.json
          ? JSON.stringify(ringSummary(ring))
          : `The ring is at version ${ring.version}: ${ring.type}, replication ${ring.replication}, ${ring.members.length} members`,
      );
    });
  },
});

export const ringPlanCommand = leaf({
  name: "plan",
  description: "Show what a change would move, before it is made",
  examples: [
    "torus ctl ring plan --add 10.0.0.4:40000",
    "torus ctl ring plan --replication 3",
    "torus ctl ring plan --remove 8a1f --add 10.0.0.5:40000",
    "torus ctl ring plan --weight 8a1f=500 --zone 8a1f=rack-2",
  ],
  args: {
    ...changeArgs,
    add: { type: "string", description: "Peers to add", valueHint: "PEER,PEER" },
    remove: { type: "string", description: "Peers to remove", valueHint: "PEER,PEER" },
    drain: { type: "string", description: "Peers to drain", valueHint: "PEER,PEER" },
    weight: { type: "string", description: "Peers to weigh anew", valueHint: "PEER=N,PEER=N" },
    zone: { type: "string", description: "Peers to put into zones", valueHint: "PEER=ZONE,PEER=ZONE" },
    exact: {
      type: "boolean",
      description:
        "Ask the peers for all their blocks and count those, instead of estimating from the space used",
    },
    ...outputArgs,
    ...metaArgs,
  },
  lists: ["uuids", "add", "remove", "drain", "weight", "zone"],
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const current = parseRingSpec(await metadata.ring.current());
      const { peers } = await metadata.peers.list();
      const next = await plannedRing(metadata, current, args);
      const plan = args.exact
        ? await exactPlan(args, current, next)
        : planChange(current, next, dataBytesOf(peers, current));
      if (style.format === "json") return void process.stdout.write(renderJson(plan));
      process.stdout.write(renderList(planColumns, plan.peers, style));
      if (style.format === "csv") return;
      const estimate = plan.exact ? "" : " (estimated)";
      console.log(
        `Ring version ${plan.fromVersion} -> ${plan.toVersion}: moves ${formatSize(plan.bytesMoved, style)}${estimate}; the least possible is ${formatSize(plan.bytesMovedLeast, style)}`,
      );
      for (const line of [peerShortfall(next), zoneShortfall(next)])
        if (line !== undefined) console.log(line);
    });
  },
});

/** Data before replication, by the space that members use. */
function dataBytesOf(peers: readonly PeerEntry[], ring: RingSpec): number {
  const members = new Set(ring.members.map((member) => member.peerId));
  const usedBytes = peers.reduce((sum, peer) => sum + (members.has(peer.peerId) ? peer.usedBytes : 0), 0);
  return Math.round(usedBytes / Math.max(1, copyCount(ring)));
}

async function exactPlan(flags: VolumeFlags, current: RingSpec, next: RingSpec): Promise<RingPlan> {
  return withClient(flags, async (client) => {
    const { blocks, unasked } = await listAllBlocks(client);
    for (const { peerId, reason } of unasked)
      console.error(`Blocks that only peer ${peerId} holds are not counted: ${reason}`);
    return planBlocks(current, next, blocks.values());
  });
}

const planColumns: readonly Column<PeerPlan>[] = [
  { name: "peerId", title: "UUID", value: (row) => row.peerId },
  { name: "zone", title: "ZONE", value: (row) => row.zone },
  bytesColumn("bytesBefore", "NOW", (row) => row.bytesBefore),
  bytesColumn("bytesAfter", "THEN", (row) => row.bytesAfter),
  bytesColumn("bytesReceived", "RECEIVES", (row) => row.bytesReceived),
  bytesColumn("bytesDropped", "DROPS", (row) => row.bytesDropped),
];

function bytesColumn(name: string, title: string, value: (row: PeerPlan) => number): Column<PeerPlan> {
  return { name, title, align: "right", value, text: (row, style) => formatSize(value(row), style) };
}

interface PlanFlags {
  readonly add?: string | undefined;
  readonly remove?: string | undefined;
  readonly drain?: string | undefined;
  readonly weight?: string | undefined;
  readonly zone?: string | undefined;
  readonly type?: string | undefined;
  readonly replication?: string | undefined;
  readonly uuids?: string | undefined;
}

/** All changes that the flags name, one after the other, as the commands for them would make them. */
async function plannedRing(metadata: Metadata, current: RingSpec, flags: PlanFlags): Promise<RingSpec> {
  const { peers } = await metadata.peers.list();
  const changes = plannedChanges(peers, flags);
  if (flags.type !== undefined || flags.uuids !== undefined) {
    if (changes.length > 0)
      throw new UsageError(
        "Cannot plan --type or --uuids together with changes of single peers: plan them one after the other",
      );
    return nextRing(current, await manualChange(metadata, flags));
  }
  if (flags.replication !== undefined)
    changes.push({ kind: "set-replication", replication: parseReplication(flags.replication) });
  if (changes.length === 0)
    throw new UsageError(
      "Say what to plan: --add, --remove, --drain, --weight, --zone, --replication, --type or --uuids",
    );
  return changes.reduce(nextRing, current);
}

function plannedChanges(peers: readonly PeerEntry[], flags: PlanFlags): RingChange[] {
  const listed = (text: string | undefined) => text?.split(",") ?? [];
  const members = listed(flags.add)
    .map((one) => findPeer(peers, one))
    .map(({ peerId, weight, zone }) => ({ peerId, weight, zone }));
  const peerIds = listed(flags.remove).map((one) => findPeer(peers, one).peerId);
  return [
    ...(members.length > 0 ? [{ kind: "add", members } as const] : []),
    ...listed(flags.weight).map((one) => {
      const [peer, weight] = setting("weight", one);
      return { kind: "set-weight", peerId: findPeer(peers, peer).peerId, weight: Number(weight) } as const;
    }),
    ...listed(flags.zone).map((one) => {
      const [peer, zone] = setting("zone", one);
      return {
        kind: "set-zone",
        peerId: findPeer(peers, peer).peerId,
        zone: zone === "-" ? "" : zone,
      } as const;
    }),
    ...listed(flags.drain).map((one) => ({ kind: "drain", peerId: findPeer(peers, one).peerId }) as const),
    ...(peerIds.length > 0 ? [{ kind: "remove", peerIds } as const] : []),
  ];
}

/** PEER=VALUE; the peer may hold any character but the last equals sign. */
function setting(flag: string, text: string): readonly [peer: string, value: string] {
  const at = text.lastIndexOf("=");
  if (at <= 0 || at === text.length - 1)
    throw new UsageError(`Cannot use --${flag} ${text}: give PEER=${flag === "zone" ? "ZONE" : "N"}`);
  return [text.slice(0, at), text.slice(at + 1)];
}

export const ringCommand = group("ring", "The ring: where blocks belong", {
  get: ringGetCommand,
  "set-replication": ringSetReplicationCommand,
  "manual-change": ringManualChangeCommand,
  plan: ringPlanCommand,
  check: ringCheckCommand,
});
