/**
 * The table: a value per target and, for torus, the ratio to nbdkit's file in the same run, beside the ratio of
 * the committed table. Absolute numbers wander between machines, days and minutes; so each ratio is the median of those of
 * windows that lie seconds apart.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { BenchCase } from "./cases";
import type { Measurement } from "./measure";

const REFERENCE = "nbdkit-file";

export interface BenchRun {
  readonly version: 1;
  readonly date: string;
  readonly commit: string;
  readonly machine: string;
  readonly storage: string;
  readonly socket: string;
  readonly secondsPerCase: number;
  readonly rounds: number;
  readonly results: readonly Measurement[];
}

/** The middle one, or the mean of the two in the middle; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

function valuesOf(run: BenchRun, caseId: string, target: string): number[] {
  return run.results.filter((one) => one.caseId === caseId && one.target === target).map((one) => one.value);
}

/** Ratios of a target to nbdkit's file, round by round: the two numbers of each were measured one after the other. */
export function ratiosOf(run: BenchRun, caseId: string, target: string): number[] {
  const reference = valuesOf(run, caseId, REFERENCE);
  return valuesOf(run, caseId, target)
    .slice(0, reference.length)
    .map((value, round) => value / (reference[round] as number));
}

/** The median of the rounds' ratios; undefined where either was not measured. */
export function ratioOf(run: BenchRun, caseId: string, target: string): number | undefined {
  const ratios = ratiosOf(run, caseId, target);
  return ratios.length === 0 ? undefined : median(ratios);
}

/** The median and, of several rounds, the smallest and the largest. */
function ratioText(ratios: readonly number[]): string {
  if (ratios.length === 0) return "-";
  const text = median(ratios).toFixed(2);
  if (ratios.length === 1) return text;
  return `${text} (${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)})`;
}

function targetsOf(run: BenchRun): string[] {
  return [...new Set(run.results.filter((one) => one.caseId !== "kill").map((one) => one.target))];
}

function changeText(ratio: number | undefined, before: number | undefined): string {
  if (ratio === undefined || before === undefined) return "-";
  const percent = (ratio / before - 1) * 100;
  return `${percent >= 0 ? "+" : ""}${percent.toFixed(0)} %`;
}

function row(benchCase: BenchCase, run: BenchRun, committed: BenchRun | undefined): string[] {
  const cells = [`${benchCase.title}, ${benchCase.unit}`];
  for (const target of targetsOf(run)) {
    const values = valuesOf(run, benchCase.id, target);
    cells.push(values.length === 0 ? "-" : Math.round(median(values)).toLocaleString("en-US"));
    if (!target.startsWith("torus")) continue;
    const ratio = ratioOf(run, benchCase.id, target);
    const before = committed && ratioOf(committed, benchCase.id, target);
    cells.push(ratioText(ratiosOf(run, benchCase.id, target)), changeText(ratio, before));
  }
  const stalls = run.results.filter((one) => one.caseId === benchCase.id && one.target === "torus-3");
  cells.push(stalls.length === 0 ? "-" : `${Math.max(...stalls.map((one) => one.stallMsMax)).toFixed(0)} ms`);
  return cells;
}

function heading(run: BenchRun): string[] {
  const targets = targetsOf(run).flatMap((target) =>
    target.startsWith("torus") ? [target, `${target} / file`, "change"] : [target],
  );
  return ["case", ...targets, "longest request, torus-3"];
}

/** A Markdown table with its circumstances. */
export function renderTable(
  run: BenchRun,
  cases: readonly BenchCase[],
  committed: BenchRun | undefined,
): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const head = heading(run);
  const lines = [line(head), line(head.map((_, index) => (index === 0 ? "---" : "---:")))];
  for (const benchCase of cases)
    if (run.results.some((one) => one.caseId === benchCase.id))
      lines.push(line(row(benchCase, run, committed)));
  const kills = run.results.filter((one) => one.caseId === "kill");
  if (kills.length > 0) {
    const longest = Math.max(...kills.map((one) => one.stallMsMax)).toFixed(0);
    lines.push("", `One of three daemons killed -9 under 4k writes at depth 4: longest stall ${longest} ms.`);
  }
  const how = `${run.rounds} windows of ${run.secondsPerCase} s a case, NBD over ${run.socket}, data on ${run.storage}`;
  return `${[`${run.date}, commit ${run.commit}, ${run.machine}; ${how}.`, "", ...lines].join("\n")}\n`;
}

/** The run that was recorded last on this kind of storage. */
export function readCommitted(path: string): BenchRun | undefined {
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as BenchRun) : undefined;
}

const BEGIN = "<!-- bench:";
const END = "<!-- /bench -->";

/** Puts the table between the markers of the page for this storage, and the numbers beside it. */
export function record(page: string, data: string, run: BenchRun, table: string): void {
  const text = readFileSync(page, "utf8");
  const begin = text.indexOf(`${BEGIN}${run.storage} -->`);
  const end = text.indexOf(END, begin);
  if (begin < 0 || end < 0)
    throw new Error(`Cannot record in ${page}: it has no ${BEGIN}${run.storage} --> ... ${END}`);
  const before = text.slice(0, begin + `${BEGIN}${run.storage} -->`.length);
  writeFileSync(page, `${before}\n${table}${text.slice(end)}`);
  writeFileSync(data, `${JSON.stringify(run, null, 2)}\n`);
}
