/**
 * What ringtool tells: one simulation with a bar for every peer, or all ring types side by side; for people, as JSON
 * (one object, or one a type) and as CSV (a row a peer, or a row a type).
 */
import { formatDuration, formatSize } from "../../base";
import type { PeerTally, ZoneTally } from "../../ring";
import {
  type CellValue,
  type Column,
  type OutputStyle,
  paint,
  renderBar,
  renderJson,
  renderList,
} from "../output";
import type { Simulation } from "./simulate";

const BAR_CELLS = 32;
/** Within this of its ideal share a peer is well balanced; the default ring promises it. */
const GOOD_DEVIATION = 0.01;
const FAIR_DEVIATION = 0.05;

/** One peer of a simulation, in bytes. */
export interface PeerReport {
  readonly name: string;
  readonly peer: PeerTally;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly bytesReceived: number;
  readonly bytesDropped: number;
  readonly bytesIdeal: number;
}

/** Peers in the order of the scenario, peer-01 first. */
export function peerReports({ scenario, tally }: Simulation): PeerReport[] {
  const byId = new Map(tally.peers.map((peer) => [peer.peerId, peer]));
  const digits = String(scenario.members.length).length;
  return scenario.members.flatMap(({ peerId }, index) => {
    const peer = byId.get(peerId);
    if (peer === undefined) return [];
    const bytes = (blocks: number) => Math.round(blocks * scenario.blockSizeBytes);
    return {
      name: `peer-${String(index + 1).padStart(Math.max(2, digits), "0")}`,
      peer,
      bytesBefore: bytes(peer.blocksBefore),
      bytesAfter: bytes(peer.blocksAfter),
      bytesReceived: bytes(peer.blocksReceived),
      bytesDropped: bytes(peer.blocksDropped),
      bytesIdeal: bytes(peer.idealAfter),
    };
  });
}

const peerColumns: readonly Column<PeerReport>[] = [
  { name: "peer", title: "PEER", value: (row) => row.name },
  { name: "zone", title: "ZONE", value: (row) => row.peer.zone },
  { name: "weight", title: "WEIGHT", align: "right", value: (row) => row.peer.weight },
  size("bytesBefore", "BEFORE", (row) => row.bytesBefore),
  size("bytesAfter", "AFTER", (row) => row.bytesAfter),
  size("bytesIdeal", "IDEAL", (row) => row.bytesIdeal),
  size("bytesReceived", "RECEIVED", (row) => row.bytesReceived),
  size("bytesDropped", "DROPPED", (row) => row.bytesDropped),
];

function size(name: string, title: string, value: (row: PeerReport) => number): Column<PeerReport> {
  return { name, title, align: "right", value, text: (row, style) => formatSize(value(row), style) };
}

export function renderSimulation(simulation: Simulation, style: OutputStyle): string {
  const rows = peerReports(simulation);
  if (style.format === "json") return renderJson({ ...summary(simulation), peers: renderableRows(rows) });
  if (style.format === "csv") return renderList(peerColumns, rows, style);
  return `${heading(simulation, style)}\n${renderPeers(rows, style)}\n${renderSummary(simulation, style)}`;
}

function renderableRows(rows: readonly PeerReport[]): Record<string, CellValue>[] {
  return rows.map((row) => Object.fromEntries(peerColumns.map((column) => [column.name, column.value(row)])));
}

function heading({ scenario, type }: Simulation, style: OutputStyle): string {
  const nodes =
    scenario.nodesAfter === scenario.nodesBefore
      ? `${scenario.nodesBefore} peers`
      : `${scenario.nodesBefore} to ${scenario.nodesAfter} peers`;
  const copies =
    scenario.replicationAfter === scenario.replicationBefore
      ? `${scenario.replicationBefore} copies`
      : `${scenario.replicationBefore} to ${scenario.replicationAfter} copies`;
  const data = `${formatSize(scenario.totalDataBytes, style)} in ${scenario.blockCount.toLocaleString("en")} blocks of ${formatSize(scenario.blockSizeBytes, style)}`;
  return paint(`${type} ring, ${nodes}, ${copies}, ${data}\n`, "bold", style);
}

function renderPeers(rows: readonly PeerReport[], style: OutputStyle): string {
  const largest = Math.max(...rows.map((row) => Math.max(row.bytesAfter, row.bytesIdeal)));
  const deviation = (row: PeerReport) => (row.bytesIdeal === 0 ? 0 : row.bytesAfter / row.bytesIdeal - 1);
  const tone = (row: PeerReport) => {
    const off = Math.abs(deviation(row));
    return off <= GOOD_DEVIATION ? "good" : off <= FAIR_DEVIATION ? "warn" : "bad";
  };
  const columns: readonly Column<PeerReport>[] = [
    ...peerColumns.filter(
      (column) =>
        (column.name !== "zone" || rows.some((row) => row.peer.zone !== "")) &&
        column.name !== "bytesDropped",
    ),
    {
      name: "deviation",
      title: "OFF",
      align: "right",
      value: deviation,
      text: (row) =>
        row.bytesIdeal === 0 ? "" : `${deviation(row) < 0 ? "" : "+"}${percent(deviation(row))}`,
    },
    {
      name: "bar",
      title: "HOLDS AFTER",
      value: () => "",
      text: (row) => paint(renderBar(row.bytesAfter, largest, BAR_CELLS), tone(row), style),
    },
  ];
  return renderList(columns, rows, style);
}

function renderSummary(simulation: Simulation, style: OutputStyle): string {
  const { tally, scenario, balanceBefore, balanceAfter } = simulation;
  const bytes = (blocks: number) => formatSize(blocks * scenario.blockSizeBytes, style);
  const balance = (what: typeof balanceAfter) =>
    `mean ${formatSize(what.mean, style)}, stddev ${formatSize(what.stddev, style)}, min ${formatSize(what.min, style)}, max ${formatSize(what.max, style)}, farthest from its share ${percent(what.worstDeviation)}`;
  const copies = tally.blocksKept + tally.blocksSent;
  const lines = [
    `Before   ${balance(balanceBefore)}`,
    `After    ${balance(balanceAfter)}`,
    `Kept     ${bytes(tally.blocksKept)} of copies (${tally.blocksKept.toLocaleString("en")} blocks)`,
    `Sent     ${bytes(tally.blocksSent)}, ${percent(tally.blocksSent / copies)} of all copies (${tally.blocksSent.toLocaleString("en")} blocks)`,
    `Least    ${bytes(tally.blocksSentLeast)}, ${percent(tally.blocksSentLeast / copies)}: ${sentRatio(simulation)}`,
    `Zones    ${zones(tally.after, tally.blocks)}`,
    `Took     ${formatDuration(simulation.elapsedMs)}${simulation.sampling > 1 ? `, every ${simulation.sampling}th block` : ""}`,
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function sentRatio({ tally }: Simulation): string {
  if (tally.blocksSentLeast < 1)
    return tally.blocksSent < 1 ? "nothing has to move" : "nothing would have to move";
  return `sent ${(tally.blocksSent / tally.blocksSentLeast).toFixed(3)} times that`;
}

function zones(tally: ZoneTally, blocks: number): string {
  const short = tally.copiesShort > 0 ? `; ${tally.copiesShort} of the copies asked for find no peer` : "";
  if (tally.blocksViolating > 0)
    return `${percent(tally.blocksViolating / blocks)} of blocks in fewer than the ${tally.zonesPossible} failure domains possible${short}`;
  if (tally.blocksSharing > 0)
    return `every block in all ${tally.zonesPossible} failure domains there are, fewer than its ${tally.copies} copies${short}`;
  return `no two copies of a block in one failure domain${short}`;
}

interface Summary {
  readonly ring: string;
  readonly nodesBefore: number;
  readonly nodesAfter: number;
  readonly replicationBefore: number;
  readonly replicationAfter: number;
  readonly blocks: number;
  readonly blockSizeBytes: number;
  readonly meanBytesBefore: number;
  readonly stddevBytesBefore: number;
  readonly deviationBefore: number;
  readonly meanBytesAfter: number;
  readonly stddevBytesAfter: number;
  readonly minBytesAfter: number;
  readonly maxBytesAfter: number;
  readonly deviationAfter: number;
  readonly blocksKept: number;
  readonly blocksSent: number;
  readonly blocksSentLeast: number;
  readonly sentShare: number;
  readonly leastShare: number;
  readonly zonesPossible: number;
  readonly blocksViolatingZones: number;
  readonly blocksSharingZones: number;
  readonly copiesShort: number;
  readonly sampling: number;
  readonly elapsedMs: number;
}

/** The fields of JSON and of the CSV of --compare: stable. */
function summary(simulation: Simulation): Summary {
  const { scenario, tally, balanceBefore, balanceAfter } = simulation;
  const copies = tally.blocksKept + tally.blocksSent;
  return {
    ring: simulation.type,
    nodesBefore: scenario.nodesBefore,
    nodesAfter: scenario.nodesAfter,
    replicationBefore: scenario.replicationBefore,
    replicationAfter: scenario.replicationAfter,
    blocks: tally.blocks,
    blockSizeBytes: scenario.blockSizeBytes,
    meanBytesBefore: Math.round(balanceBefore.mean),
    stddevBytesBefore: Math.round(balanceBefore.stddev),
    deviationBefore: balanceBefore.worstDeviation,
    meanBytesAfter: Math.round(balanceAfter.mean),
    stddevBytesAfter: Math.round(balanceAfter.stddev),
    minBytesAfter: Math.round(balanceAfter.min),
    maxBytesAfter: Math.round(balanceAfter.max),
    deviationAfter: balanceAfter.worstDeviation,
    blocksKept: tally.blocksKept,
    blocksSent: tally.blocksSent,
    blocksSentLeast: Math.round(tally.blocksSentLeast),
    sentShare: tally.blocksSent / copies,
    leastShare: tally.blocksSentLeast / copies,
    zonesPossible: tally.after.zonesPossible,
    blocksViolatingZones: tally.after.blocksViolating,
    blocksSharingZones: tally.after.blocksSharing,
    copiesShort: tally.after.copiesShort,
    sampling: simulation.sampling,
    elapsedMs: Math.round(simulation.elapsedMs),
  };
}

const compareColumns: readonly Column<Summary>[] = (
  [
    ["ring", "RING", (row) => row.ring],
    ["stddevBytesAfter", "STDDEV", (row, style) => formatSize(row.stddevBytesAfter, style)],
    ["meanBytesAfter", "MEAN", (row, style) => formatSize(row.meanBytesAfter, style)],
    ["minBytesAfter", "MIN", (row, style) => formatSize(row.minBytesAfter, style)],
    ["maxBytesAfter", "MAX", (row, style) => formatSize(row.maxBytesAfter, style)],
    ["deviationAfter", "FARTHEST", (row) => percent(row.deviationAfter)],
    ["sentShare", "SENT", (row) => percent(row.sentShare)],
    ["leastShare", "LEAST", (row) => percent(row.leastShare)],
    [
      "sentRatio",
      "SENT/LEAST",
      (row) => (row.blocksSentLeast > 0 ? (row.blocksSent / row.blocksSentLeast).toFixed(3) : ""),
    ],
    ["blocksViolatingZones", "ZONES BROKEN", (row) => percent(row.blocksViolatingZones / row.blocks)],
    ["elapsedMs", "TIME", (row) => formatDuration(row.elapsedMs)],
  ] as const satisfies readonly (readonly [string, string, (row: Summary, style: OutputStyle) => string])[]
).map(([name, title, text]) => ({
  name,
  title,
  align: name === "ring" ? "left" : "right",
  value: (row) => (name === "sentRatio" ? row.blocksSent / row.blocksSentLeast : row[name]),
  text,
}));

/** All types side by side. */
export function renderComparison(simulations: readonly Simulation[], style: OutputStyle): string {
  const rows = simulations.map(summary);
  if (style.format === "json") return renderJson(rows);
  if (style.format === "csv") {
    const names = Object.keys(rows[0] ?? {}) as (keyof Summary)[];
    return renderList(
      names.map((name): Column<Summary> => ({ name, title: name, value: (row) => row[name] })),
      rows,
      style,
    );
  }
  const [first] = simulations;
  const title = first === undefined ? "" : heading(first, style).replace(`${first.type} ring, `, "");
  return `${title}\n${renderList(compareColumns, rows, style)}`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(2)}%`;
}
