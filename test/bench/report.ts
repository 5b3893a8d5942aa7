/**
 * The table: a value per target and, for torus, the ratio to nbdkit's file in the same run, beside the ratio of
 * the committed table. Absolute numbers wander between machines and days; the ratios hold.
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

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function valuesOf(run: BenchRun, caseId: string, target: string): number[] {
  return run.results.filter((one) => one.caseId === caseId && one.target === target).map((one) => one.value);
}

/** Ratio of a target to nbdkit's file, of the means over all rounds; undefined where either was not measured. */
export function ratioOf(run: BenchRun, caseId: string, target: string): number | undefined {
  const [own, reference] = [valuesOf(run, caseId, target), valuesOf(run, caseId, REFERENCE)];
  return own.length === 0 || reference.length === 0 ? undefined : mean(own) / mean(reference);
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
    cells.push(values.length === 0 ? "-" : Math.round(mean(values)).toLocaleString("en-US"));
    if (!target.startsWith("torus")) continue;
    const ratio = ratioOf(run, benchCase.id, target);
    const before = committed && ratioOf(committed, benchCase.id, target);
    cells.push(ratio?.toFixed(2) ?? "-", changeText(ratio, before));
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
  const how = `${run.secondsPerCase} s a case, ${run.rounds} rounds, NBD over ${run.socket}, data on ${run.storage}`;
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
