/** `torus ctl status`: the cluster on one page, and in words what is wrong and what to do about it. */
import { formatSize } from "../../base";
import type { VolumeInfo } from "../../meta";
import type { RingSpec } from "../../ring";
import { leaf, type Metadata, metaArgs, withMetadata } from "../cli";
import { outputArgs, outputStyle, paint, renderBar, renderJson, renderList } from "../output";
import { leavingLines, type PeerRow, peerColumns, peerRows } from "./peer";
import { backgroundReport, collectionProgress, peerProgress, scrubProgress } from "./progress";
import { movementLine, movementOf, type MovementSummary } from "./rebalance";
import { peerShortfall, zoneShortfall } from "./shortfall";

export interface ClusterStatus {
  readonly health: "ok" | "degraded" | "failing";
  /** In words: what is wrong and what to do. */
  readonly problems: readonly string[];
  readonly clusterId: string;
  readonly metadata: string;
  readonly ring: { readonly version: number; readonly type: string; readonly replication: number };
  readonly peers: readonly PeerRow[];
  readonly usedBytes: number;
  readonly sizeBytes: number;
  readonly volumes: readonly VolumeStatus[];
  /** What goes on and is no fault: peers on their way out, orders in force. */
  readonly notes: readonly string[];
  readonly rebalance: MovementSummary;
}

interface VolumeStatus {
  readonly name: string;
  readonly sizeBytes: number;
  readonly attachedTo: string | null;
  readonly logWidth: number | null;
  readonly degraded: boolean;
}

const FULL_SHARE = 0.9;

function volumeStatus(volume: VolumeInfo, ring: RingSpec): VolumeStatus {
  const log = volume.head?.log;
  const wanted = Math.min(ring.replication, Math.max(1, ring.members.length));
  const hasTail = log !== undefined && log.members.length > 0;
  return {
    name: volume.name,
    sizeBytes: volume.sizeBytes,
    attachedTo: volume.attached?.holder ?? null,
    logWidth: hasTail ? log.width : null,
    degraded: hasTail && log.width < wanted,
  };
}

function peerProblems(peers: readonly PeerRow[], ring: RingSpec): string[] {
  const problems: string[] = [];
  for (const peer of peers) {
    const isMember = ring.members.some((member) => member.peerId === peer.peerId);
    if (isMember && !peer.live)
      problems.push(
        `Peer ${peer.address} (${peer.peerId}) is down: start its daemon, or remove it for good with torus ctl peer remove --force ${peer.peerId}; what it held is degraded until then`,
      );
    if (peer.live && peer.capacityBytes > 0 && peer.usedBytes > peer.capacityBytes * FULL_SHARE)
      problems.push(
        `Peer ${peer.address} is ${((peer.usedBytes / peer.capacityBytes) * 100).toFixed(0)} % full: add peers, or delete volumes or snapshots`,
      );
    const suspects = backgroundReport(peer).suspectCount ?? 0;
    if (suspects > 0)
      problems.push(
        `Peer ${peer.address} holds ${suspects} damaged ${suspects === 1 ? "block" : "blocks"}: run torus ctl scrub start, and look at its disk`,
      );
    problems.push(...backgroundProblems(peer));
  }
  for (const member of ring.members)
    if (!peers.some((peer) => peer.peerId === member.peerId))
      problems.push(
        `Peer ${member.peerId} is in the ring but never registered: start its daemon, or remove it`,
      );
  return problems;
}

/** What background work of a peer could not do. */
function backgroundProblems(peer: PeerRow): string[] {
  if (!peer.live) return [];
  const problems: string[] = [];
  const failed = (job: string, error: string | null | undefined) => {
    if (typeof error === "string")
      problems.push(`Peer ${peer.address} cannot go on with ${job} for now: ${error}`);
  };
  const scrub = scrubProgress(peer);
  const gc = collectionProgress(peer);
  failed("moving blocks", peerProgress(peer)?.lastError);
  failed("its scrub", scrub?.lastError);
  failed("collection", gc?.lastError);
  const lost = scrub?.unrepaired.length ?? 0;
  if (lost > 0)
    problems.push(
      `Peer ${peer.address} holds damaged blocks of which no good copy was found: see torus ctl scrub status`,
    );
  if (gc !== undefined && gc.keptCount > 0)
    problems.push(
      `Peer ${peer.address} gives no space back of ${gc.keptCount} volumes with their clones: see torus ctl gc status`,
    );
  return problems;
}

function ringProblems(ring: RingSpec, peers: readonly PeerRow[]): string[] {
  if (ring.members.length === 0) return ["The ring has no peer: add one with torus ctl peer add --all-peers"];
  const short = peerShortfall(ring);
  if (short !== undefined) return [short];
  if (ring.replication === 1 && peers.filter((peer) => peer.live).length > 1)
    return ["Every block has one copy only: keep two with torus ctl ring set-replication 2"];
  return [];
}

/** Reads everything and judges it. `failing`: data may be out of reach now; `degraded`: one more failure could. */
export async function clusterStatus(metadata: Metadata): Promise<ClusterStatus> {
  const [settings, { rows, ring }, { volumes, damage }, orders, damagedLists] = await Promise.all([
    metadata.settings.get(),
    peerRows(metadata),
    metadata.volumes.list(),
    metadata.upkeep.get(),
    metadata.access.damage(),
  ]);
  const states = volumes.map((volume) => volumeStatus(volume, ring));
  const problems = [...ringProblems(ring, rows), ...peerProblems(rows, ring)];
  for (const error of damage) problems.push(error.message);
  for (const { volumeId } of damagedLists) {
    const name = volumes.find((volume) => volume.volumeId === volumeId)?.name;
    problems.push(
      name === undefined
        ? `The access list of volume number ${volumeId}, which is deleted, cannot be read: its clones are left to peers and administrators`
        : `The access list of volume ${name} cannot be read, so that only peers and administrators may use it: set it anew with torus ctl volume access`,
    );
  }
  for (const volume of states)
    if (volume.degraded)
      problems.push(
        `Volume ${volume.name} writes ${volume.logWidth} copies instead of ${ring.replication} for now`,
      );
  const members = rows.filter((row) => ring.members.some((member) => member.peerId === row.peerId));
  const rebalance = movementOf(rows, ring.version);
  if (rebalance.bytesLeft > 0)
    problems.push(
      `${formatSize(rebalance.bytesLeft)} are still to be moved or copied: see torus ctl rebalance status`,
    );
  const notes = leavingLines(rows, ring);
  const shared = zoneShortfall(ring);
  if (shared !== undefined) notes.push(shared);
  if (orders.rebalance.paused) notes.push("Moving blocks is paused: torus ctl rebalance resume goes on");
  if (orders.scrub.paused) notes.push("Scrubbing is paused: torus ctl scrub resume goes on");
  const down = ring.members.filter(
    (member) => !rows.some((row) => row.peerId === member.peerId && row.live),
  ).length;
  const failing = ring.members.length === 0 || down >= ring.replication;
  const onlyAdvice = problems.length === 1 && problems[0]?.startsWith("Every block has one copy") === true;
  return {
    health: failing ? "failing" : problems.length > 0 && !onlyAdvice ? "degraded" : "ok",
    problems,
    clusterId: settings.clusterId,
    metadata: metadata.context.store.description,
    ring: { version: ring.version, type: ring.type, replication: ring.replication },
    peers: rows,
    usedBytes: members.reduce((sum, row) => sum + row.usedBytes, 0),
    sizeBytes: members.reduce((sum, row) => sum + row.capacityBytes, 0),
    volumes: states,
    notes,
    rebalance,
  };
}

const TONES = { ok: "good", degraded: "warn", failing: "bad" } as const;

export function renderStatus(status: ClusterStatus, style: ReturnType<typeof outputStyle>): string {
  const lines = [
    `Cluster  ${status.clusterId} (metadata in ${status.metadata})`,
    `Health   ${paint(status.health.toUpperCase(), TONES[status.health], style)}`,
    ...status.problems.map((problem) => `         - ${problem}`),
    `Ring     version ${status.ring.version}, ${status.ring.type}, replication ${status.ring.replication}`,
    `Space    [${renderBar(status.usedBytes, status.sizeBytes, 20)}] ${formatSize(status.usedBytes, style)} of ${formatSize(status.sizeBytes, style)}`,
    `Volumes  ${status.volumes.length}, ${status.volumes.filter((volume) => volume.attachedTo !== null).length} attached`,
  ];
  if (!status.rebalance.settled) lines.push(`Moving   ${movementLine(status.rebalance, style)}`);
  for (const note of status.notes) lines.push(`Note     ${note}`);
  return `${lines.join("\n")}\n\n${renderList(peerColumns, status.peers, style)}`;
}

/** As CSV the peers, which is what repeats. */
function printed(status: ClusterStatus, style: ReturnType<typeof outputStyle>): string {
  if (style.format === "json") return renderJson(status);
  return style.format === "csv" ? renderList(peerColumns, status.peers, style) : renderStatus(status, style);
}

const WATCH_INTERVAL_MS = 1_000;

export const statusCommand = leaf({
  name: "status",
  description: "Show the cluster on one page: health, peers, space, volumes, what is moving",
  examples: ["torus ctl status", "torus ctl status --watch", "torus ctl status --json"],
  args: {
    watch: { type: "boolean", alias: "w", description: "Show it anew every second until interrupted" },
    ...outputArgs,
    ...metaArgs,
  },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      for (;;) {
        const status = await clusterStatus(metadata);
        const text = printed(status, style);
        process.stdout.write(args.watch && process.stdout.isTTY ? `\u001b[H\u001b[2J${text}` : text);
        if (!args.watch) return;
        await Bun.sleep(WATCH_INTERVAL_MS);
      }
    });
  },
});
