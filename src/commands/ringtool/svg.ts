/**
 * A picture of a simulation as SVG: one pair of bars a peer, what it held before (pale) and holds after (strong), the
 * part that it received marked, and a tick where its share ends. Readable in light and dark, without scripts or fonts
 * from elsewhere.
 */
import { formatSize } from "../../base";
import { type PeerReport, peerReports } from "./report";
import type { Simulation } from "./simulate";

const WIDTH = 960;
const MARGIN = 24;
const NAME_WIDTH = 150;
const VALUE_WIDTH = 170;
const ROW_HEIGHT = 30;
const BAR_HEIGHT = 10;
const HEAD_HEIGHT = 92;

const STYLE = `
  svg { background: #ffffff; font: 13px system-ui, sans-serif; }
  text { fill: #24292f; } .small { font-size: 11px; fill: #57606a; } .title { font-size: 16px; font-weight: 600; }
  .before { fill: #b6c2cf; } .after { fill: #2f6fdb; } .received { fill: #e8833a; } .ideal { stroke: #24292f; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; } text { fill: #e6edf3; } .small { fill: #9da7b3; }
    .before { fill: #3b4654; } .after { fill: #5b95f5; } .ideal { stroke: #e6edf3; }
  }`;

/** The whole SVG document; `si` shows sizes in powers of 1000. */
export function renderSvg(simulation: Simulation, si: boolean): string {
  const rows = peerReports(simulation);
  const height = HEAD_HEIGHT + rows.length * ROW_HEIGHT + MARGIN;
  const largest = Math.max(1, ...rows.flatMap((row) => [row.bytesBefore, row.bytesAfter, row.bytesIdeal]));
  const scale = (WIDTH - 2 * MARGIN - NAME_WIDTH - VALUE_WIDTH) / largest;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">`,
    `<title>${escapeXml(title(simulation))}</title><style>${STYLE}</style>`,
    text(MARGIN, 32, title(simulation), "title"),
    text(MARGIN, 52, moves(simulation, si), "small"),
    legend(),
    ...rows.map((row, index) => renderRow(row, HEAD_HEIGHT + index * ROW_HEIGHT, scale, si)),
    "</svg>\n",
  ].join("\n");
}

function title({ scenario, type }: Simulation): string {
  return `${type} ring: ${scenario.nodesBefore} to ${scenario.nodesAfter} peers, ${scenario.replicationBefore} to ${scenario.replicationAfter} copies`;
}

function moves({ tally, scenario, balanceAfter }: Simulation, si: boolean): string {
  const size = (blocks: number) => formatSize(blocks * scenario.blockSizeBytes, { si });
  return `sent ${size(tally.blocksSent)}, least possible ${size(tally.blocksSentLeast)}; farthest from its share ${(balanceAfter.worstDeviation * 100).toFixed(2)}%`;
}

function legend(): string {
  const items = [
    ["before", "before"],
    ["after", "after, kept"],
    ["received", "after, received"],
  ] as const;
  const place = (index: number) => MARGIN + NAME_WIDTH + index * 130;
  const marks = items.map(([name, label], index) => {
    const x = place(index);
    return `<rect class="${name}" x="${x}" y="66" width="12" height="12"/>${text(x + 18, 76, label, "small")}`;
  });
  const x = place(items.length);
  const tick = `<line class="ideal" x1="${x + 6}" y1="65" x2="${x + 6}" y2="79"/>`;
  return [...marks, tick, text(x + 18, 76, "its share", "small")].join("");
}

function renderRow(row: PeerReport, top: number, scale: number, si: boolean): string {
  const x = MARGIN + NAME_WIDTH;
  const kept = (row.bytesAfter - row.bytesReceived) * scale;
  const received = row.bytesReceived * scale;
  const ideal = x + row.bytesIdeal * scale;
  const lower = top + BAR_HEIGHT + 2;
  const label = row.peer.zone === "" ? row.name : `${row.name} (${row.peer.zone})`;
  return [
    text(MARGIN, top + 15, label, ""),
    bar("before", x, top, row.bytesBefore * scale),
    bar("after", x, lower, kept),
    bar("received", x + kept, lower, received),
    row.bytesIdeal > 0
      ? `<line class="ideal" x1="${ideal.toFixed(1)}" y1="${lower - 2}" x2="${ideal.toFixed(1)}" y2="${lower + BAR_HEIGHT + 2}"/>`
      : "",
    text(
      WIDTH - MARGIN - VALUE_WIDTH + 12,
      top + 15,
      `${formatSize(row.bytesBefore, { si })} \u2192 ${formatSize(row.bytesAfter, { si })}`,
      "",
    ),
  ].join("");
}

function bar(name: string, x: number, y: number, width: number): string {
  return `<rect class="${name}" x="${x.toFixed(1)}" y="${y}" width="${Math.max(0, width).toFixed(1)}" height="${BAR_HEIGHT}"/>`;
}

function text(x: number, y: number, content: string, name: string): string {
  return `<text x="${x}" y="${y}"${name === "" ? "" : ` class="${name}"`}>${escapeXml(content)}</text>`;
}

function escapeXml(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
